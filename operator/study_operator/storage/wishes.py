"""What people wish, as the operator reads and answers it."""

from __future__ import annotations

from study_operator.model.wish import Wish
from study_operator.storage.database import Database, one_row
from study_operator.storage.readable_rows import WISH_COLUMNS, wish_of

# A wish is kept for so long after its answer.
_KEPT = "interval '1 day'"


class Wishes:
    """The wishes for the studies of one cluster. The methods block.

    Every method raises `StorageUnavailable` when the connection fails, and `StorageError` when the database refuses.

    Args:
        database: as the operator's own login.
        cluster_id: the UID of the cluster's namespace kube-system.
    """

    def __init__(self, database: Database, cluster_id: str) -> None:
        self._database, self._cluster_id = database, cluster_id

    def open_of(self, study_id: int, most: int = 100) -> list[Wish]:
        """Return the wishes for a study that have no answer yet, the earliest first, `most` at most."""
        with self._database.transaction() as cursor:
            cursor.execute(
                f"SELECT {WISH_COLUMNS} FROM study_operator.wishes WHERE study_id = %s AND cluster_id = %s"
                " AND answered_at IS NULL ORDER BY wish_id LIMIT %s",
                (study_id, self._cluster_id, most),
            )
            return [wish_of(row) for row in cursor.fetchall()]

    def answer(self, wish: Wish, granted: bool, words: str) -> bool:
        """Answer a wish. May be repeated: the first answer stands.

        Args:
            wish: the wish.
            granted: whether it was done.
            words: what was done, or why it was not, in a sentence.

        Returns:
            Whether this is the first answer.

        Raises:
            NotHeld: another replica serves the study.
        """
        (answered,) = self._database.write(
            wish.study_id,
            "WITH answered AS (UPDATE study_operator.wishes"
            " SET answered_at = clock_timestamp(), granted = %s, answer = %s"
            " WHERE wish_id = %s AND answered_at IS NULL RETURNING 1) SELECT count(*) FROM answered",
            (granted, words, wish.wish_id),
        )
        return bool(answered)

    def grant_purges(self) -> int:
        """Let the rows go that people want purged: those of Studies that are deleted, and that were kept.

        From then on they are as if the Study had been deleted with `deletionPolicy: Delete`, and the reconciliations
        remove them piece by piece. A Study that goes on with its rows meanwhile keeps them, and the wish is refused.

        Returns:
            How many wishes were answered.
        """
        with self._database.transaction() as cursor:
            cursor.execute(
                "WITH wished AS (SELECT wish_id, study_id FROM study_operator.wishes WHERE cluster_id = %s"
                " AND act = 'purge' AND answered_at IS NULL ORDER BY wish_id LIMIT 100 FOR UPDATE),"
                " purged AS (UPDATE study_operator.access a SET deletion_policy = 'Delete' FROM wished w"
                " WHERE a.study_id = w.study_id AND a.key_hash IS NULL RETURNING w.wish_id)"
                " UPDATE study_operator.wishes w SET answered_at = clock_timestamp(),"
                " granted = w.wish_id IN (SELECT p.wish_id FROM purged p),"
                " answer = CASE WHEN w.wish_id IN (SELECT p.wish_id FROM purged p)"
                " THEN 'what the study has stored is being removed'"
                " ELSE 'the Study exists again, and goes on with its rows' END"
                " FROM wished WHERE w.wish_id = wished.wish_id",
                (self._cluster_id,),
            )
            return cursor.rowcount

    def forget(self, most: int = 10_000) -> bool:
        """Forget wishes that were answered a day ago, and those for studies that are gone, `most` at most.

        Returns:
            Whether there may be more.
        """
        with self._database.transaction() as cursor:
            cursor.execute(
                "WITH gone AS (DELETE FROM study_operator.wishes WHERE wish_id IN ("
                f" SELECT w.wish_id FROM study_operator.wishes w WHERE w.answered_at < clock_timestamp() - {_KEPT}"
                " OR NOT EXISTS (SELECT FROM study_operator.access a WHERE a.study_id = w.study_id) LIMIT %s)"
                " RETURNING 1) SELECT count(*) FROM gone",
                (most,),
            )
            return one_row(cursor)[0] == most

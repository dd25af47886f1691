"""Note what users wish, as the reader's login, by the functions of wishes.sql. The operator does it when it looks."""

from __future__ import annotations

from datetime import UTC, datetime

from study_operator.model.trial import StopWish, TrialState
from study_operator.storage.database import one_row
from study_operator.storage.reader_pool import ReaderPool


class WishRefused(Exception):
    """What is wished for cannot be. The message says why, as "it has ended already"."""


class Wishes:
    """Wishes about the studies of one cluster. All methods block, so call them from threads.

    Every method raises `StorageUnavailable` when the database does not answer or every connection is in use, and
    `StorageError` when it refuses a statement.

    Args:
        pool: the reader's connections.
        cluster_id: the UID of the cluster's namespace kube-system. Clusters may share a database.
    """

    def __init__(self, pool: ReaderPool, cluster_id: str) -> None:
        self._pool, self._cluster_id = pool, cluster_id

    def stop(self, trial_id: int, state: TrialState, by: str) -> StopWish:
        """Note that a running trial is to end now.

        Args:
            state: as what it is to be told: PRUNED, with its last report, or FAIL.
            by: the user.

        Returns:
            The wish: that of whoever has asked first.

        Raises:
            WishRefused: it does not run, or the operator does not run it.
        """
        with self._pool.lend() as connection, connection, connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION READ WRITE")
            cursor.execute(
                "SELECT refused, told_as, told_by, told_at FROM study_reading.stop_trial(%s, %s, %s, %s)",
                (self._cluster_id, trial_id, state.name, by),
            )
            refused, told_as, told_by, told_at = one_row(cursor)
        if refused is not None:
            raise WishRefused(refused)
        return StopWish(TrialState[told_as], told_by, told_at.astimezone(UTC))

    def purge(self, study_id: int, by: str) -> tuple[str, datetime]:
        """Note that the rows of a deleted Study are to be removed.

        Args:
            by: the user.

        Returns:
            Who has asked first, and when, aware, UTC.

        Raises:
            WishRefused: the Study has not been deleted.
        """
        with self._pool.lend() as connection, connection, connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION READ WRITE")
            cursor.execute(
                "SELECT refused, told_by, told_at FROM study_reading.purge_study(%s, %s, %s)",
                (self._cluster_id, study_id, by),
            )
            refused, told_by, told_at = one_row(cursor)
        if refused is not None:
            raise WishRefused(refused)
        return told_by, told_at.astimezone(UTC)

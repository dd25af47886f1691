"""Studies in the database: their creation, who may report to them, and their removal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg2.extensions import cursor

from study_operator import fence
from study_operator.storage.database import Database, StorageError
from study_operator.storage.migrate import check_versions

# Where Optuna keeps what `study.set_metric_names` was given. Its samplers and pruners do not read it.
METRIC_NAMES_ATTR = "study:metric_names"
# Children before parents: Optuna's foreign keys do not cascade.
_TRIAL_TABLES = (
    "trial_heartbeats",
    "trial_intermediate_values",
    "trial_params",
    "trial_system_attributes",
    "trial_user_attributes",
    "trial_values",
)
_STUDY_TABLES = (
    "trials",
    "study_directions",
    "study_system_attributes",
    "study_user_attributes",
    "study_operator.changes",
)


@dataclass(frozen=True)
class KnownStudy:
    """A Study that the database has rows of."""

    study_id: int
    namespace: str
    name: str
    uid: str
    deletion_policy: str


class Studies:
    """The studies of one cluster in one database. Every method blocks; call from the storage threads."""

    def __init__(self, database: Database, cluster_id: str) -> None:
        self._database = database
        self._cluster_id = cluster_id

    def check(self) -> datetime:
        """Checks that the database answers and has the tables that this version knows.

        Returns:
            The time by the database's clock, aware.

        Raises:
            StorageUnavailable, StorageError: as their names say.
            StorageFull: there is no room on its disk, not even for 200 kB.
        """
        with self._database.transaction() as cursor:
            check_versions(cursor)
            # Pods may be unable to store what they report while the operator, which waits for it, has nothing to write.
            # What does not fit into work_mem goes to a file, and nothing stays.
            cursor.execute("SET LOCAL work_mem = '64kB'; SELECT count(*) FROM generate_series(1, 10000)")
            cursor.execute("SELECT clock_timestamp()")
            return cursor.fetchone()[0]

    def ensure(
        self,
        study_name: str,
        directions: list[str],
        namespace: str,
        name: str,
        uid: str,
        deletion_policy: str,
        key_hash: bytes,
        metric_names: Sequence[str] | None = None,
    ) -> int:
        """Creates the study with its access row, or brings the access row up to date.

        Args:
            study_name: its name in Optuna.
            directions: Optuna's names, MINIMIZE or MAXIMIZE, one per objective.
            key_hash: SHA-256 of the key that its pods report with.
            metric_names: the objectives' names, which Optuna's plots and dashboards show; for a new study only.

        Returns:
            Optuna's study_id.

        Raises:
            StorageError: when the name belongs to another Study.
            NotHeld: another replica serves the Study.
        """
        hold = fence.current()
        fence.check()
        with self._database.transaction() as cursor:
            cursor.execute(
                "INSERT INTO studies (study_name) VALUES (%s) ON CONFLICT (study_name) DO NOTHING RETURNING study_id",
                (study_name,),
            )
            created = cursor.fetchone()
            if created:
                for objective, direction in enumerate(directions):
                    cursor.execute(
                        "INSERT INTO study_directions (study_id, direction, objective) VALUES (%s, %s, %s)",
                        (created[0], direction, objective),
                    )
                if metric_names is not None:
                    set_attribute(cursor, created[0], METRIC_NAMES_ATTR, list(metric_names))
            cursor.execute("SELECT study_id FROM studies WHERE study_name = %s", (study_name,))
            (study_id,) = cursor.fetchone()
            cursor.execute(
                "INSERT INTO study_operator.access AS a"
                " (study_id, key_hash, cluster_id, namespace, name, uid, deletion_policy, objectives, holder)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (study_id) DO UPDATE"
                " SET key_hash = excluded.key_hash, deletion_policy = excluded.deletion_policy,"
                " objectives = excluded.objectives,"
                " holder = CASE excluded.holder WHEN 0 THEN a.holder ELSE excluded.holder END"
                " WHERE a.cluster_id = excluded.cluster_id AND a.uid = excluded.uid"
                " AND (excluded.holder = 0 OR abs(a.holder) <= excluded.holder)",
                (
                    *(study_id, key_hash, self._cluster_id, namespace, name, uid, deletion_policy, len(directions)),
                    0 if hold is None else hold.epoch,
                ),
            )
            if cursor.rowcount != 1:
                cursor.execute(
                    "SELECT FROM study_operator.access WHERE study_id = %s AND cluster_id = %s AND uid = %s",
                    (study_id, self._cluster_id, uid),
                )
                if hold is not None and cursor.rowcount == 1:
                    hold.superseded = True
                    raise fence.NotHeld("another replica has taken the study over")
                raise StorageError(
                    f"the database has a study {study_name!r} already, of another cluster or another Study; rename "
                    "this one, or delete that one with `optuna delete-study`"
                )
            return study_id

    def claim(self, namespace: str, name: str, epoch: int) -> list[int]:
        """Notes who holds the Studies that have or had a name. From then on the database refuses what earlier holders
        write to them; what they are just writing is waited for.

        Args:
            epoch: the number of the hold.

        Returns:
            The numbers of the holds before, negative where the study had been let go of; 0 if there was none.

        Raises:
            NotHeld: there is a later hold.
        """
        of_name = (self._cluster_id, namespace, name)
        with self._database.transaction() as cursor:
            cursor.execute(
                "SELECT holder FROM study_operator.access WHERE cluster_id = %s AND namespace = %s AND name = %s"
                " ORDER BY study_id FOR NO KEY UPDATE",
                of_name,
            )
            before = [holder for (holder,) in cursor.fetchall()]
            if any(abs(holder) > epoch for holder in before):
                raise fence.NotHeld("another replica has taken the study over")
            if before:
                cursor.execute(
                    "UPDATE study_operator.access SET holder = %s"
                    " WHERE cluster_id = %s AND namespace = %s AND name = %s",
                    (epoch, *of_name),
                )
            return before

    def release(self, epochs: list[int], of: tuple[str, str] | None = None) -> None:
        """Notes that studies are let go of, so that whoever takes them over need not wait.

        Args:
            epochs: the numbers of their holds.
            of: namespace and name of the only one that is meant; None for all of these holds.
        """
        with self._database.transaction() as cursor:
            cursor.execute(
                "UPDATE study_operator.access SET holder = -holder WHERE cluster_id = %s AND holder = ANY(%s)"
                + ("" if of is None else " AND namespace = %s AND name = %s"),
                (self._cluster_id, epochs, *(of or ())),
            )

    def pause(self, study_id: int, now: datetime) -> None:
        """Stops the clock of `activeDeadlineSeconds`; doing so again changes nothing."""
        with self._database.transaction(study_id) as cursor:
            cursor.execute(
                "UPDATE study_operator.access SET paused_at = %s WHERE study_id = %s AND paused_at IS NULL",
                (now, study_id),
            )

    def resume(self, study_id: int, now: datetime) -> None:
        """Lets the clock go on; doing so again changes nothing."""
        with self._database.transaction(study_id) as cursor:
            cursor.execute(
                "UPDATE study_operator.access SET paused_at = NULL,"
                " paused_seconds = paused_seconds + greatest(extract(epoch FROM %s - paused_at), 0)"
                " WHERE study_id = %s AND paused_at IS NOT NULL",
                (now, study_id),
            )

    def known(self, of: tuple[str, str] | None = None) -> list[KnownStudy]:
        """The Studies of this cluster that may still report or still have rows to be removed.

        Args:
            of: namespace and name of those that are meant; None for all.
        """
        with self._database.transaction() as cursor:
            cursor.execute(
                "SELECT study_id, namespace, name, uid, deletion_policy FROM study_operator.access"
                " WHERE cluster_id = %s AND (key_hash IS NOT NULL OR deletion_policy = 'Delete')"
                + ("" if of is None else " AND namespace = %s AND name = %s"),
                (self._cluster_id, *(of or ())),
            )
            return [KnownStudy(*row) for row in cursor.fetchall()]

    def forget(self, study: KnownStudy) -> None:
        """Revokes the key of a deleted Study and, if its policy says so, removes its rows."""
        with self._database.transaction(study.study_id) as cursor:
            if study.deletion_policy == "Delete":
                _delete_rows(cursor, study.study_id)
            else:
                cursor.execute(
                    "UPDATE study_operator.access SET key_hash = NULL WHERE study_id = %s", (study.study_id,)
                )


def set_attribute(cursor: cursor, study_id: int, key: str, value: Any) -> None:
    """Sets a system attribute that the study has not yet. What follows in this transaction is the operator's own too:
    nobody has to notice it."""
    cursor.execute("SET LOCAL study_operator.own = 'on'")
    cursor.execute(
        "INSERT INTO study_system_attributes (study_id, key, value_json) VALUES (%s, %s, %s)",
        (study_id, key, json.dumps(value)),
    )


def _delete_rows(cursor: cursor, study_id: int) -> None:
    for table in _TRIAL_TABLES:
        cursor.execute(
            f"DELETE FROM {table} WHERE trial_id IN (SELECT trial_id FROM trials WHERE study_id = %s)",
            (study_id,),
        )
    for table in (*_STUDY_TABLES, "studies"):
        cursor.execute(f"DELETE FROM {table} WHERE study_id = %s", (study_id,))

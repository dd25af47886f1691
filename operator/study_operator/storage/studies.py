"""Studies in the database: creating them, who may report to them, which replica serves them, and removing them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg2.extensions import cursor

from study_operator import fence
from study_operator.model.mark import Place
from study_operator.storage.database import Database, StorageError, StorageUnavailable, one_row
from study_operator.storage.migrate import check_versions

# The system attribute in which Optuna keeps the names of `study.set_metric_names`. No sampler or pruner reads it.
METRIC_NAMES_ATTR = "study:metric_names"
# Reports that are removed in one transaction: they take a tenth of a second.
REMOVED_AT_ONCE = 10_000
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
    """A Study of which the database has rows.

    Attributes:
        study_id: Optuna's.
        namespace: the Study's namespace.
        name: the Study's name.
        uid: the UID of the Study object.
        deletion_policy: Delete or Retain, which says whether the rows are removed with the Study. Delete also if it is
            gone, and a user wants them removed.
        purged_by: that user, as the API server knows them; empty if there is none.
    """

    study_id: int
    namespace: str
    name: str
    uid: str
    deletion_policy: str
    purged_by: str = ""


class Studies:
    """The studies of one cluster in one database. All methods block, so call them from the pool's threads.

    Every method raises `StorageUnavailable` when the connection fails, and `StorageError` when the database refuses a
    statement. Each method is one transaction.

    Args:
        database: where the studies are.
        cluster_id: the UID of the cluster's namespace kube-system. Clusters may share a database.
    """

    def __init__(self, database: Database, cluster_id: str) -> None:
        self._database = database
        self._cluster_id = cluster_id

    def check(self) -> datetime:
        """Check that the database answers, has the tables that this version knows, and has room on its disk.

        Returns:
            The time of the database's clock, aware.

        Raises:
            StorageUnavailable: when the database cannot be reached.
            StorageFull: when the database's disk has no room for another 200 kB.
            StorageError: when the tables have another version, or the database refuses a statement.
        """
        with self._database.transaction() as cursor:
            check_versions(cursor)
            # With a full disk pods cannot store their reports, while the operator may have nothing to write and would
            # not notice. Rows that do not fit into work_mem go to a temporary file, which is deleted at once.
            cursor.execute("SET LOCAL work_mem = '64kB'; SELECT count(*) FROM generate_series(1, 10000)")
            cursor.execute("SELECT clock_timestamp()")
            (now,) = one_row(cursor)
            return now

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
        at: Place | None = None,
        may_create: bool = True,
    ) -> int:
        """Create the study with its access row, or update the access row of an existing study.

        Args:
            study_name: the study's name in Optuna.
            directions: MINIMIZE or MAXIMIZE, one per objective.
            namespace: the Study's namespace.
            name: the Study's name.
            uid: the UID of the Study object.
            deletion_policy: Delete or Retain.
            key_hash: SHA-256 of the key with which the study's pods report, 32 bytes.
            metric_names: the objectives' names, which Optuna's plots and dashboards show. Stored for a new study only.
            at: the database that this must be; None for any.
            may_create: whether the study may be made if it is not there.

        Returns:
            Optuna's study_id.

        Raises:
            StorageUnavailable: when this is another database than `at`, or the study is not there and may not be made:
                the database has been exchanged since it was last asked.
            StorageError: when a study of this name belongs to another Study or another cluster.
            NotHeld: when another replica serves the Study.
        """
        hold = fence.current()
        fence.check()
        with self._database.transaction() as cursor:
            _check_place(cursor, at, self._cluster_id, None if may_create else uid)
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
            (study_id,) = one_row(cursor)
            cursor.execute(
                "INSERT INTO study_operator.access AS a"
                " (study_id, key_hash, cluster_id, namespace, name, uid, deletion_policy, objectives, holder, token)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, gen_random_uuid()) ON CONFLICT (study_id) DO UPDATE"
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
                    f"the database has a study {study_name!r} already, of another cluster or another Study: create "
                    "this Study under another name. That one's trials are not this Study's to delete"
                )
            return study_id

    def take_over(self, namespace: str, name: str, epoch: int) -> list[int]:
        """Store that this replica takes over all Studies that have or had a name.

        Waits for transactions of the earlier hold that are under way. From then on the database refuses its writes.

        Args:
            namespace: the Studies' namespace.
            name: the Studies' name.
            epoch: the fencing token of this replica's hold.

        Returns:
            The epoch of the hold before, for each of the Studies. It is negative if that replica had handed the study
            over, and 0 if no replica had served it.

        Raises:
            NotHeld: when there is a later hold.
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
        """Store that this replica hands over studies, so that the next replica need not wait for it.

        Args:
            epochs: the epochs of this replica's holds of these studies.
            of: namespace and name of the only Study to hand over, None for all studies of these holds.
        """
        with self._database.transaction() as cursor:
            cursor.execute(
                "UPDATE study_operator.access SET holder = -holder WHERE cluster_id = %s AND holder = ANY(%s)"
                + ("" if of is None else " AND namespace = %s AND name = %s"),
                (self._cluster_id, epochs, *(of or ())),
            )

    def pause(self, study_id: int, now: datetime) -> None:
        """Stop the clock of `activeDeadlineSeconds`. Do nothing if it is stopped already.

        Args:
            study_id: the study.
            now: the time at which the study stops being active, aware.

        Raises:
            NotHeld: when another replica serves the study.
        """
        with self._database.transaction(study_id) as cursor:
            cursor.execute(
                "UPDATE study_operator.access SET paused_at = %s WHERE study_id = %s AND paused_at IS NULL",
                (now, study_id),
            )

    def resume(self, study_id: int, now: datetime) -> None:
        """Let the clock of `activeDeadlineSeconds` go on. Do nothing if it is running already.

        Args:
            study_id: the study.
            now: the time from which the study is active again, aware.

        Raises:
            NotHeld: when another replica serves the study.
        """
        with self._database.transaction(study_id) as cursor:
            cursor.execute(
                "UPDATE study_operator.access SET paused_at = NULL,"
                " paused_seconds = paused_seconds + greatest(extract(epoch FROM %s - paused_at), 0)"
                " WHERE study_id = %s AND paused_at IS NOT NULL",
                (now, study_id),
            )

    def known(self, of: tuple[str, str] | None = None) -> list[KnownStudy]:
        """Return this cluster's Studies whose pods may still report, or whose rows are still to be removed.

        Args:
            of: namespace and name of the Studies to return, None for all.
        """
        with self._database.transaction() as cursor:
            cursor.execute(
                "SELECT a.study_id, a.namespace, a.name, a.uid,"
                " CASE WHEN w.wish_id IS NULL THEN a.deletion_policy ELSE 'Delete' END, coalesce(w.wished_by, '')"
                " FROM study_operator.access a LEFT JOIN study_operator.wishes w ON w.study_id = a.study_id"
                " AND w.kind = 'Purge' AND w.content ->> 'uid' = a.uid AND a.key_hash IS NULL"
                " WHERE a.cluster_id = %s"
                " AND (a.key_hash IS NOT NULL OR a.deletion_policy = 'Delete' OR w.wish_id IS NOT NULL)"
                + ("" if of is None else " AND a.namespace = %s AND a.name = %s"),
                (self._cluster_id, *(of or ())),
            )
            return [KnownStudy(*row) for row in cursor.fetchall()]

    def remove_reports(self, study: KnownStudy) -> bool:
        """Remove some reports of a deleted Study whose deletion policy is Delete. Return whether there may be more.

        To be repeated before `forget`: a million rows in one transaction would hold locks and a thread for long.

        Raises:
            NotHeld: when another replica serves the Study.
        """
        if study.deletion_policy != "Delete":
            return False
        with self._database.transaction(study.study_id) as cursor:
            if not _still_gone(cursor, study):
                return False
            cursor.execute(
                "DELETE FROM trial_intermediate_values WHERE trial_intermediate_value_id IN ("
                " SELECT v.trial_intermediate_value_id FROM trials t JOIN trial_intermediate_values v USING (trial_id)"
                " WHERE t.study_id = %s LIMIT %s)",
                (study.study_id, REMOVED_AT_ONCE),
            )
            return cursor.rowcount == REMOVED_AT_ONCE

    def forget(self, study: KnownStudy) -> None:
        """Revoke the key of a deleted Study, and remove its rows if its deletion policy is Delete.

        Raises:
            NotHeld: when another replica serves the Study.
        """
        with self._database.transaction(study.study_id) as cursor:
            if not _still_gone(cursor, study):
                return
            if study.deletion_policy == "Delete":
                _delete_rows(cursor, study.study_id)
            else:
                cursor.execute(
                    "UPDATE study_operator.access SET key_hash = NULL WHERE study_id = %s", (study.study_id,)
                )


def _check_place(cursor: cursor, at: Place | None, cluster_id: str, uid: str | None) -> None:
    """Check that this is the database that it should be, and that it knows the Study if `uid` is given."""
    if at is None:
        return
    cursor.execute(
        "SELECT h.server, h.database, h.id,"
        " EXISTS (SELECT FROM study_operator.access a WHERE a.cluster_id = %s AND a.uid = %s)"
        " FROM study_operator.here() h",
        (cluster_id, uid),
    )
    *place, known = one_row(cursor)
    if Place(cluster_id, *place) != at or not (known or uid is None):
        raise StorageUnavailable("it is another database than a moment ago")


def set_attribute(cursor: cursor, study_id: int, key: str, value: Any) -> None:
    """Insert a system attribute; the study must not have it yet.

    Also turns off change notes (mirror.sql) for the rest of this transaction, because the operator makes these changes
    itself.

    Args:
        cursor: the transaction.
        study_id: the study.
        key: the attribute's name.
        value: what is stored as JSON.

    Raises:
        psycopg2.errors.UniqueViolation: when the study has the attribute.
    """
    cursor.execute("SET LOCAL study_operator.own = 'on'")
    cursor.execute(
        "INSERT INTO study_system_attributes (study_id, key, value_json) VALUES (%s, %s, %s)",
        (study_id, key, json.dumps(value)),
    )


def _still_gone(cursor: cursor, study: KnownStudy) -> bool:
    """Return whether rows that a user wants removed are still those of the Study that is gone: another one may have
    been made meanwhile that goes on with them. No Study can take them before the transaction ends."""
    if not study.purged_by:
        return True
    cursor.execute(
        "SELECT FROM study_operator.access WHERE study_id = %s AND uid = %s AND key_hash IS NULL FOR UPDATE",
        (study.study_id, study.uid),
    )
    return cursor.rowcount == 1


def _delete_rows(cursor: cursor, study_id: int) -> None:
    """Delete the study and everything that belongs to it. The operator's rows about its trials cascade."""
    for table in _TRIAL_TABLES:
        cursor.execute(
            f"DELETE FROM {table} WHERE trial_id IN (SELECT trial_id FROM trials WHERE study_id = %s)",
            (study_id,),
        )
    for table in (*_STUDY_TABLES, "studies"):
        cursor.execute(f"DELETE FROM {table} WHERE study_id = %s", (study_id,))

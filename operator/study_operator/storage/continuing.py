"""Let a Study that was created again go on with the rows of the one before: CRD deleted by mistake, cluster lost."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from study_operator import fence
from study_operator.model.study import Study
from study_operator.model.trial import JOB_ATTR, Failure, FailureClass, attempt_of
from study_operator.storage.database import Database

_LEFT = Failure(
    "StudyContinued",
    "the Study was created again, and the Job of the trial was that of the one before",
    kind=FailureClass.INFRASTRUCTURE,
)


@dataclass(frozen=True)
class Earlier:
    """A stored study that may be continued.

    Attributes:
        study_id: Optuna's.
        name: the name of the Study object that it was made for.
        uid: that object's UID.
        directions: MINIMIZE or MAXIMIZE, one per objective.
    """

    study_id: int
    name: str
    uid: str
    directions: list[str]


class Continuing:
    """Stored studies of one cluster, and of clusters that are declared lost. The methods block.

    Args:
        database: where the studies are.
        cluster_id: the UID of the cluster's namespace kube-system.
    """

    def __init__(self, database: Database, cluster_id: str) -> None:
        self._database, self._cluster_id = database, cluster_id

    def find(self, name: str, namespace: str) -> Earlier | None:
        """Return a stored study by its name in Optuna; None if this namespace of this cluster has none.

        Raises:
            StorageUnavailable: the database does not answer.
            StorageError: the database refuses the query.
        """
        with self._database.transaction() as cursor:
            cursor.execute(
                "SELECT a.study_id, a.name, a.uid, (SELECT array_agg(d.direction::text ORDER BY d.objective)"
                " FROM study_directions d WHERE d.study_id = a.study_id)"
                " FROM study_operator.access a JOIN studies s USING (study_id)"
                " WHERE s.study_name = %s AND a.namespace = %s AND (a.cluster_id = %s"
                " OR a.cluster_id IN (SELECT l.cluster_id FROM study_operator.lost_clusters l))",
                (name, namespace, self._cluster_id),
            )
            row = cursor.fetchone()
            return None if row is None else Earlier(*row)

    def bind(self, study: Study, earlier: Earlier, key_hash: bytes) -> bool:
        """Make a stored study that of another Study object. Its running trials run again, under that one's Jobs.

        Returns:
            False, and nothing is changed, if the study belongs to another object by now.

        Raises:
            StorageUnavailable: it may be stored, or not.
            StorageError: the database refuses it.
            NotHeld: another replica serves the Study.
        """
        hold = fence.current()
        fence.check()
        with self._database.transaction() as cursor:
            cursor.execute(
                "UPDATE study_operator.access SET cluster_id = %s, name = %s, uid = %s, deletion_policy = %s,"
                " key_hash = %s, token = gen_random_uuid(), holder = %s WHERE study_id = %s AND uid = %s",
                (
                    *(self._cluster_id, study.name, study.uid, study.deletion_policy, key_hash),
                    *(0 if hold is None else hold.epoch, earlier.study_id, earlier.uid),
                ),
            )
            if cursor.rowcount != 1:
                return False
            cursor.execute(
                "SELECT t.trial_id, t.number, a.value_json::jsonb #>> '{}' FROM trials t"
                " JOIN trial_system_attributes a ON a.trial_id = t.trial_id AND a.key = %s"
                " WHERE t.study_id = %s AND t.state = 'RUNNING' AND NOT EXISTS"
                " (SELECT FROM study_operator.results r WHERE r.trial_id = t.trial_id AND NOT r.provisional)"
                " FOR UPDATE OF t",
                (JOB_ATTR, earlier.study_id),
            )
            failure = asdict(_LEFT)
            for trial_id, number, job in cursor.fetchall():
                cursor.execute(
                    "INSERT INTO study_operator.incidents"
                    " (study_id, trial_id, source, kind, reason, message, last_log_line)"
                    " VALUES (%s, %s, %s, %s, %s, %s, '') ON CONFLICT DO NOTHING",
                    (earlier.study_id, trial_id, job, str(failure["kind"]), failure["reason"], failure["message"]),
                )
                cursor.execute("DELETE FROM study_operator.results WHERE trial_id = %s", (trial_id,))
                cursor.execute(
                    "UPDATE trial_system_attributes SET value_json = to_json(%s::text)::text"
                    " WHERE trial_id = %s AND key = %s",
                    (study.job_name(number, attempt_of(job) + 1), trial_id, JOB_ATTR),
                )
            return True

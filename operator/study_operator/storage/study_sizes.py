"""How much studies take in the database."""

from __future__ import annotations

from typing import NamedTuple

from study_operator.storage.database import Database

# One index scan of the trials: tens of milliseconds for a hundred thousand of them.
_SIZES = """
    SELECT a.namespace, a.name, sum(t.trials)::bigint, sum(u.reports)::bigint, sum(s.bytes)::bigint
    FROM study_operator.access a
    JOIN (SELECT study_id, count(*) AS trials FROM trials GROUP BY 1) t USING (study_id)
    LEFT JOIN (SELECT study_id, sum(reports) AS reports FROM study_operator.trial_usage GROUP BY 1) u USING (study_id)
    LEFT JOIN study_operator.study_usage s USING (study_id)
    WHERE a.key_hash IS NOT NULL AND a.cluster_id = %s
    GROUP BY 1, 2
"""


class StudySize(NamedTuple):
    """What one study takes. `reports` and `bytes` count since the database knows limits; `bytes` is about right."""

    trials: int
    reports: int
    bytes: int


def study_sizes(database: Database, cluster_id: str) -> dict[tuple[str, str], StudySize]:
    """Return what each study of a cluster takes that may still report, by namespace and name.

    Raises:
        StorageUnavailable: the database does not answer.
        StorageError: the database refuses the query.
    """
    with database.transaction() as cursor:
        cursor.execute(_SIZES, (cluster_id,))
        return {
            (namespace, name): StudySize(trials, reports or 0, taken or 0)
            for namespace, name, trials, reports, taken in cursor.fetchall()
        }

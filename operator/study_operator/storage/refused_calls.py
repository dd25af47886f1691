"""Counts of the calls from pods that the database has refused."""

from __future__ import annotations

from study_operator.storage.database import Database

# The SQLSTATEs of reporting.sql and the reasons that the metric gives for them. A sequence counts each.
_REASONS = {
    "so001": "WrongKey",
    "so002": "NotRunning",
    "so003": "BadArgument",
    "so004": "SeveralObjectives",
    "so005": "Repeated",
    "so006": "LimitReached",
}


def refusals(database: Database) -> dict[str, int]:
    """Count the refused calls of all studies together, since the schema study_operator was created.

    Returns:
        The number of refused calls by reason.

    Raises:
        StorageUnavailable: when the database cannot be reached.
        StorageError: when the database refuses the query, for example because a sequence is missing.
    """
    counts = " UNION ALL ".join(
        f"SELECT '{reason}', CASE WHEN is_called THEN last_value ELSE 0 END FROM study_operator.refused_{code}"
        for code, reason in _REASONS.items()
    )
    with database.transaction() as cursor:
        cursor.execute(counts)
        return dict(cursor.fetchall())

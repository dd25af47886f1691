"""How often the database has refused what pods sent."""

from __future__ import annotations

from study_operator.storage.database import Database

# The SQLSTATEs of reporting.sql, each with a sequence that counts it, as the metric names them.
_REASONS = {
    "so001": "WrongKey",
    "so002": "NotRunning",
    "so003": "BadArgument",
    "so004": "SeveralObjectives",
    "so005": "Repeated",
}


def refusals(database: Database) -> dict[str, int]:
    """The number of refused calls by reason since the database was made, of all studies together.

    Raises:
        StorageUnavailable, StorageError: as their names say.
    """
    counts = " UNION ALL ".join(
        f"SELECT '{reason}', CASE WHEN is_called THEN last_value ELSE 0 END FROM study_operator.refused_{code}"
        for code, reason in _REASONS.items()
    )
    with database.transaction() as cursor:
        cursor.execute(counts)
        return dict(cursor.fetchall())

"""How much of the database server is in use: connections, and room on its disk."""

from __future__ import annotations

from typing import NamedTuple

from study_operator.storage.database import Database


class Usage(NamedTuple):
    """What is in use.

    Attributes:
        own: connections of the operator's own login, of all its replicas, to this database.
        others: all other connections of clients to the server: trials' pods, poolers, administrators.
        most: how many the server takes.
        size: of the database, in bytes.
    """

    own: int
    others: int
    most: int
    size: int


def usage(database: Database) -> Usage:
    """Ask the server.

    Raises:
        StorageUnavailable: the database cannot be reached.
        StorageError: the database refuses the query.
    """
    with database.transaction() as cursor:
        cursor.execute(
            "SELECT count(*) FILTER (WHERE ours), count(*) FILTER (WHERE NOT ours),"
            " current_setting('max_connections')::int, pg_database_size(current_database())"
            " FROM (SELECT usename = session_user AND datname = current_database() AS ours FROM pg_stat_activity"
            "       WHERE backend_type = 'client backend') AS clients"
        )
        ((own, others, most, size),) = cursor.fetchall()
    return Usage(own, others, most, size)

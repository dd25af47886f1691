"""Operators of an earlier version, which end when they find that the database has been migrated."""

from __future__ import annotations

import logging
import time

from psycopg2.extensions import connection

# An operator looks at the schema's version every 5 s and ends when it is not its own. One that hangs is not waited for.
PATIENCE = 30.0

log = logging.getLogger(__name__)


def wait_for_earlier_operators(lock: connection, patience: float = PATIENCE) -> None:
    """Waits until the operators that were connected when the database was migrated have gone: in a rolling update the
    earlier one still runs, and 0.1.0 knows nothing of the locks by which later ones keep out of each other's way.

    Args:
        lock: the connection that holds the lock of the migration, which is committed. Others that wait for that lock
            are no operators at work.
        patience: in seconds.
    """
    with lock, lock.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        (migrated,) = cursor.fetchone()
    deadline = time.monotonic() + patience
    while True:
        with lock, lock.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename = current_user"
                " AND application_name = current_setting('application_name') AND backend_start < %s"
                " AND pid <> pg_backend_pid() AND wait_event IS DISTINCT FROM 'advisory'",
                (migrated,),
            )
            (connections,) = cursor.fetchone()
        if not connections:
            return
        if time.monotonic() > deadline:
            log.warning("an operator of an earlier version has not ended: %d of its connections are open", connections)
            return
        time.sleep(0.2)

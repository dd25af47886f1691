"""Operators of an earlier version. They end when they find that the database has been migrated."""

from __future__ import annotations

import logging
import time

from psycopg2.extensions import connection

from study_operator.storage.database import one_row

# An operator checks the schema's version every 5 s and ends when it is not its own. The migration does not wait longer
# than this for an operator that hangs.
PATIENCE_SECONDS = 30.0

log = logging.getLogger(__name__)


def wait_for_earlier_operators(lock: connection, patience: float = PATIENCE_SECONDS) -> None:
    """Wait until the operators that were connected when the database was migrated have ended.

    In a rolling update the earlier operator still runs. Version 0.1.0 does not know the locks by which later versions
    share the studies, so both would serve the same study.

    Args:
        lock: the connection that holds the migration's lock; the migration is committed. Connections that wait for
            this lock belong to other migrations, so they do not count.
        patience: how long to wait at most, in seconds.
    """
    with lock, lock.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        (migrated,) = one_row(cursor)
    deadline = time.monotonic() + patience
    while True:
        with lock, lock.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename = current_user"
                " AND application_name = current_setting('application_name') AND backend_start < %s"
                " AND pid <> pg_backend_pid() AND wait_event IS DISTINCT FROM 'advisory'",
                (migrated,),
            )
            (connections,) = one_row(cursor)
        if not connections:
            return
        if time.monotonic() > deadline:
            log.warning("an operator of an earlier version has not ended: %d of its connections are open", connections)
            return
        time.sleep(0.2)

"""Ends sessions of pods, and of people who read, that keep a migration waiting for a lock.

A pod may keep a transaction open as long as it likes, and with it a lock on a trial's row. The guard ends such a
session, but while the tables are migrated there may be no operator, and no guard.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

import psycopg2

from study_operator.storage.database import Database, StorageUnavailable
from study_operator.storage.roles import ADDRESS

_LOOK_SECONDS = 1.0  # a report holds its locks for milliseconds, and is sent again if its session ends

log = logging.getLogger(__name__)


@contextmanager
def without_blockers(database: Database, *logins: str) -> Iterator[None]:
    """Look every second, while the context lasts, for pods that block the operator's login, and end their sessions.

    Args:
        database: as the operator's own login.
        logins: the login that pods share, and others whose sessions may be ended.
    """
    stop = threading.Event()
    thread = threading.Thread(target=_watch, args=(database, logins, stop), name="blockers", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _watch(database: Database, logins: Sequence[str], stop: threading.Event) -> None:
    said = ""
    while not stop.wait(_LOOK_SECONDS):
        try:
            for user, address in end_blockers(database, *logins):
                log.warning("ended a session of %s from %s: the migration waited for its lock", user, address)
        except (StorageUnavailable, psycopg2.Error) as error:
            if str(error) != said:
                log.warning("sessions that hold the migration up cannot be ended: %s", error)
            said = str(error)


def end_blockers(database: Database, *logins: str) -> list[tuple[str, str]]:
    """End the sessions of pods that a session of the operator's login waits for.

    Returns:
        Login and client's address of each session that was ended.

    Raises:
        StorageUnavailable: when the database cannot be reached.
        psycopg2.Error: when the operator's login may not end the sessions.
    """
    with closing(database.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('study_operator.logins') IS NOT NULL")
        ((has_logins,),) = cursor.fetchall()
        own = "OR usename IN (SELECT role FROM study_operator.logins)" if has_logins else ""
        # MATERIALIZED: else the planner may end sessions before it looks at whose they are.
        cursor.execute(
            "WITH blocking AS MATERIALIZED (SELECT DISTINCT unnest(pg_blocking_pids(pid)) AS pid FROM pg_stat_activity"
            " WHERE usename = current_user AND wait_event_type = 'Lock'),"
            f" session AS MATERIALIZED (SELECT pid, usename, {ADDRESS} AS address FROM pg_stat_activity"
            f" JOIN blocking USING (pid) WHERE usename = ANY (%s) {own})"
            " SELECT usename, address FROM session WHERE pg_terminate_backend(pid)",
            (list(logins),),
        )
        return cursor.fetchall()

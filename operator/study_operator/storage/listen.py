"""Wakes the operator when a pod has reported, or a user wishes something: PostgreSQL's LISTEN on a connection."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import Executor

import psycopg2
from psycopg2.extensions import ISOLATION_LEVEL_AUTOCOMMIT, connection

from study_operator.backoff import delays
from study_operator.storage.database import Database, StorageUnavailable, one_line

# The channel's name: see tables.sql.
CHANNEL = "SELECT channel FROM study_operator.installation"
WISH = "wish "  # what a notification of a wish begins with, before the study_id
# Before a connection is opened again: the first and the longest delay. After a connection that has lasted, the first.
_FIRST_DELAY_SECONDS, _LONGEST_DELAY_SECONDS, _LASTING_SECONDS = 0.5, 10.0, 10.0

log = logging.getLogger(__name__)


async def listen(
    database: Database,
    executor: Executor,
    reported: Callable[[int], None],
    wished: Callable[[int], None],
    connected: Callable[[], None],
) -> None:
    """Listen until cancelled, and open a lost connection again.

    A server, or a proxy in front of it, may accept each connection and drop it at once. So there is a pause after a
    lost connection too, and the pauses grow until a connection has lasted.

    Args:
        database: where to listen.
        executor: where connections are opened.
        reported: called in the event loop with the study_id of each report.
        wished: called in the same way with the study_id of each wish (wishes.sql).
        connected: called after each connection, the first too, because reports may have been missed before it.
    """
    waits = delays(_FIRST_DELAY_SECONDS, _LONGEST_DELAY_SECONDS)
    while True:
        try:
            opened = await asyncio.get_running_loop().run_in_executor(executor, _open, database)
        except StorageUnavailable as error:
            delay = next(waits)
            log.warning("cannot listen for reports, trying again in %.1f s: %s", delay, error)
            await asyncio.sleep(delay)
            continue
        begun = time.monotonic()
        connected()
        try:
            await _receive(opened, reported, wished)
        except psycopg2.Error as error:
            log.warning("lost the connection that listens for reports: %s", one_line(error))
        finally:
            opened.close()
        if time.monotonic() - begun > _LASTING_SECONDS:
            waits = delays(_FIRST_DELAY_SECONDS, _LONGEST_DELAY_SECONDS)
        await asyncio.sleep(next(waits))


def _open(database: Database) -> connection:
    """Return a connection that listens.

    Raises:
        StorageUnavailable: the database cannot be reached, or drops the connection.
    """
    opened = database.connect()
    try:
        opened.set_isolation_level(ISOLATION_LEVEL_AUTOCOMMIT)
        with opened.cursor() as cursor:
            cursor.execute(CHANNEL)
            for (channel,) in cursor.fetchall():
                cursor.execute(f"LISTEN {channel}")
    except psycopg2.Error as error:
        opened.close()
        raise StorageUnavailable(one_line(error)) from None
    return opened


async def _receive(opened: connection, reported: Callable[[int], None], wished: Callable[[int], None]) -> None:
    """Call `reported` or `wished` for each notification, until the connection is lost.

    Raises:
        psycopg2.Error: the connection is lost.
    """
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    descriptor = opened.fileno()  # cannot be asked for any more once the connection is lost
    loop.add_reader(descriptor, readable.set)
    try:
        while True:
            opened.poll()  # raises when the server has gone
            # Many reports of one study are one reason to reconcile it.
            for payload in {notice.payload for notice in opened.notifies}:
                study_id = payload.removeprefix(WISH)
                if study_id.isdecimal():
                    (wished if payload.startswith(WISH) else reported)(int(study_id))
            opened.notifies.clear()
            await readable.wait()
            readable.clear()
    finally:
        loop.remove_reader(descriptor)

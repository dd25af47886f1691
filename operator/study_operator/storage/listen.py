"""Wakes the operator when a pod has reported: PostgreSQL's LISTEN on a connection of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor

import psycopg2
from psycopg2.extensions import ISOLATION_LEVEL_AUTOCOMMIT, connection

from study_operator.storage.database import Database, StorageUnavailable

CHANNEL = "study_operator"

log = logging.getLogger(__name__)


async def listen(
    database: Database, executor: Executor, reported: Callable[[int], None], connected: Callable[[], None]
) -> None:
    """Listens until it is cancelled; a lost connection is opened again.

    Args:
        reported: called with the study_id of each report, in the event loop.
        connected: called after each connection, the first too: reports may have been missed before it.
    """
    delay = 0.5
    while True:
        try:
            opened = await asyncio.get_running_loop().run_in_executor(executor, _open, database)
        except StorageUnavailable as error:
            log.warning("cannot listen for reports, trying again in %.1f s: %s", delay, error)
            await asyncio.sleep(delay)
            delay = min(delay * 2, 10.0)
            continue
        delay = 0.5
        connected()
        try:
            await _receive(opened, reported)
        except psycopg2.Error as error:
            log.warning("lost the connection that listens for reports: %s", " ".join(str(error).split()))
        finally:
            opened.close()


def _open(database: Database) -> connection:
    opened = database.connect()
    opened.set_isolation_level(ISOLATION_LEVEL_AUTOCOMMIT)
    with opened.cursor() as cursor:
        cursor.execute(f"LISTEN {CHANNEL}")
    return opened


async def _receive(opened: connection, reported: Callable[[int], None]) -> None:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    descriptor = opened.fileno()  # cannot be asked for any more once the connection is lost
    loop.add_reader(descriptor, readable.set)
    try:
        while True:
            opened.poll()  # raises when the server has gone
            # Many reports of one study are one reason to look at it.
            for study_id in {int(notice.payload) for notice in opened.notifies if notice.payload.isdecimal()}:
                reported(study_id)
            opened.notifies.clear()
            await readable.wait()
            readable.clear()
    finally:
        loop.remove_reader(descriptor)

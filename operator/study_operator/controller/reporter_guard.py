"""Watches the reporter, the login that all trials' pods share, and counts the calls that the database refuses them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from study_operator import metrics
from study_operator.settings import Settings
from study_operator.storage.database import Database, StorageError, StorageUnavailable
from study_operator.storage.refused_calls import refusals
from study_operator.storage.reporter import Guard

INTERVAL_SECONDS = 5.0
_ROUNDS_PER_LOGIN = 3  # a login costs both sides some milliseconds of computing

log = logging.getLogger(__name__)


async def guard(settings: Settings, leads: Callable[[], bool]) -> None:
    """Watch the reporter every few seconds until cancelled.

    Args:
        settings: name the reporter, and say whether its password and limits are the operator's to set.
        leads: whether this replica sets the password and the limits again. Every replica ends sessions, because the
            locks that they hold may keep all replicas from leading.
    """
    # A thread of its own: the storage threads may all be waiting for a lock of a session that has to be ended.
    executor = ThreadPoolExecutor(1, thread_name_prefix="guard")
    watch, database = Guard(settings), Database(settings.dsn)
    loop, round_, said = asyncio.get_running_loop(), 0, ""
    try:
        while True:
            try:
                await loop.run_in_executor(executor, _end_sessions, watch, settings.reporter_user)
                metrics.REFUSED_CALLS.counts = await loop.run_in_executor(executor, refusals, database)
                if settings.manage_reporter and leads() and round_ % _ROUNDS_PER_LOGIN == 0:
                    await loop.run_in_executor(executor, _make_good, watch, settings.reporter_user)
                said = ""
            except StorageUnavailable:
                pass  # readiness says so
            except StorageError as error:
                if str(error) != said:
                    log.warning("cannot watch the login of the trials' pods: %s", error)
                said = str(error)
            round_ += 1
            await asyncio.sleep(INTERVAL_SECONDS)
    finally:
        executor.shutdown(wait=False)


def _end_sessions(watch: Guard, role: str) -> None:
    for ended in watch.end_sessions():
        log.warning("ended a session of %s from %s: it had %s", role, ended.address, ended.why)


def _make_good(watch: Guard, role: str) -> None:
    if watch.is_changed():
        watch.renew()
        log.warning("password and limits of %s were not as they should be, and have been set again", role)

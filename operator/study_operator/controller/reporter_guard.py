"""Watches the logins of trials' pods and of the trials API, and counts what pods store and what they are refused."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

from study_operator import metrics
from study_operator.settings import Settings
from study_operator.storage.database import Database, StorageError, StorageUnavailable
from study_operator.storage.reader_login import heal_reader, prune_changes
from study_operator.storage.refused_calls import refusals
from study_operator.storage.reporter import Guard, Healed
from study_operator.storage.study_sizes import study_sizes
from study_operator.storage.wishes import Wishes

INTERVAL_SECONDS = 5.0
_SECONDS_PER_LOGIN = 15.0
# While somebody changes a login again and again, it is looked at so often, until it has been left alone for so long.
_HURRY_SECONDS, _HURRY_LASTS_SECONDS = 0.5, 60.0
_SECONDS_PER_DROP = 60.0
_SECONDS_PER_COUNT = 60.0  # counting reads the index of all trials

log = logging.getLogger(__name__)


async def guard(
    settings: Settings, cluster_id: str, leads: Callable[[], bool], tell: Callable[[str], Awaitable[None]]
) -> None:
    """Watch the logins every few seconds until cancelled.

    Args:
        settings: name the reporter, and say whether logins are the operator's to set.
        cluster_id: the UID of the cluster's kube-system namespace.
        leads: whether this replica sets logins right again. Every replica ends sessions, because the locks that they
            hold may keep all replicas from leading.
        tell: called with a sentence about each login that was set right.
    """
    # A thread of its own: the storage threads may all be waiting for a lock of a session that has to be ended.
    executor = ThreadPoolExecutor(1, thread_name_prefix="guard")
    watch, database = Guard(settings, cluster_id), Database(settings.dsn)
    wishes = Wishes(database, cluster_id)
    loop, said = asyncio.get_running_loop(), ""
    look = drop = count = read = hurry = float("-inf")  # when to look at what again, and until when to hurry
    try:
        while True:
            now = time.monotonic()
            try:
                for _ in await loop.run_in_executor(executor, watch.end_sessions):
                    metrics.SESSIONS_ENDED.inc()
                metrics.REFUSED_CALLS.counts = await loop.run_in_executor(executor, refusals, database)
                if now >= count:
                    count = now + _SECONDS_PER_COUNT
                    metrics.STUDY_SIZES.taken = await loop.run_in_executor(executor, study_sizes, database, cluster_id)
                if settings.reader_password is not None and leads() and now >= read:
                    read = now + _SECONDS_PER_LOGIN
                    await loop.run_in_executor(executor, prune_changes, database)
                    await loop.run_in_executor(executor, wishes.grant_purges)
                    await loop.run_in_executor(executor, wishes.forget)
                    for told in await loop.run_in_executor(executor, heal_reader, database, settings):
                        await tell(f"the login of the trials API was not as it must be, and has been set right: {told}")
                if settings.manage_reporter and leads() and (now >= look or now < hurry):
                    look = now + _SECONDS_PER_LOGIN
                    healed = await loop.run_in_executor(executor, watch.heal)
                    if healed:
                        hurry = now + _HURRY_LASTS_SECONDS
                    for one in healed:
                        metrics.LOGINS_HEALED.labels(one.namespace).inc()
                        await tell(_sentence(one))
                    if now >= drop:
                        drop = now + _SECONDS_PER_DROP
                        for role in await loop.run_in_executor(executor, watch.drop_unused):
                            log.info("no trial's pod uses the login %s any more: it has been dropped", role)
                said = ""
            except StorageUnavailable:
                pass  # readiness says so
            except StorageError as error:
                hurry = now + _HURRY_LASTS_SECONDS
                if str(error) != said:
                    log.warning("cannot watch the logins of trials' pods and of the trials API: %s", error)
                said = str(error)
            await asyncio.sleep(_HURRY_SECONDS if now < hurry else INTERVAL_SECONDS)
    finally:
        executor.shutdown(wait=False)


def _sentence(healed: Healed) -> str:
    """Return what happened to a login, and log it."""
    clients = ", ".join(healed.addresses) or "none was open"
    text = (
        f"{healed.words} was not as it must be ({'; '.join(healed.changes)}), and has been set right. Its sessions have"
        f" been ended; clients: {clients}. A pod has done it, or another installation has a login of the same name"
    )
    log.warning("%s", text)
    return text

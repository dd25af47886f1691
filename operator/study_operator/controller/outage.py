"""Decides who may say in the statuses that the database is away, and how often.

While the database is away, no replica serves the studies.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from study_operator.controller.replicas import Replicas
from study_operator.kube.api_server import ApiError

# After how long an outage is told; how often at most in other words; how often Kubernetes is asked.
TOLD_AFTER_SECONDS, REWORDED_AFTER_SECONDS, ASK_INTERVAL_SECONDS = 5.0, 30.0, 5.0

log = logging.getLogger(__name__)


class Outage:
    """What one replica knows of an outage of the database.

    A replica that has lost the database cannot tell whether another replica still serves a study, so it must not report
    an outage on its own. It asks Kubernetes whether any replica is ready.

    Args:
        replicas: says whether this replica has lost the database, and since when.
        nobody_ready: asks Kubernetes whether no replica is ready; None when Kubernetes does not know the replicas.
            Several replicas then say nothing.
        tell: called when each Study is to say what `words` says.
    """

    def __init__(
        self, replicas: Replicas, nobody_ready: Callable[[], Awaitable[bool]] | None, tell: Callable[[], None]
    ) -> None:
        self._replicas, self._nobody_ready, self._tell = replicas, nobody_ready, tell
        self._unready, self._asked = False, float("-inf")

    def words(self) -> str | None:
        """Return why no replica serves the studies; None if one does or may do, or if the outage has just begun."""
        seconds = self._replicas.without_locks()
        if seconds is None or seconds <= TOLD_AFTER_SECONDS or not (self._alone() or self._unready):
            return None
        return self._replicas.trouble

    async def watch(self) -> None:
        """Have each outage told once, and again when its words have changed, until cancelled."""
        told, at = None, float("-inf")
        while True:
            await asyncio.sleep(1.0)
            await self._ask()
            words = self.words()
            if words == told or (words and told and time.monotonic() - at < REWORDED_AFTER_SECONDS):
                continue
            told, at = words, time.monotonic()
            if words:
                self._tell()

    def _alone(self) -> bool:
        alone = self._replicas.alone
        return self._nobody_ready is None if alone is None else alone

    async def _ask(self) -> None:
        seconds = self._replicas.without_locks()
        if seconds is None or self._alone() or self._nobody_ready is None:
            self._unready = False
        elif seconds > TOLD_AFTER_SECONDS and time.monotonic() - self._asked > ASK_INTERVAL_SECONDS:
            self._asked = time.monotonic()
            try:
                self._unready = await self._nobody_ready()
            except ApiError as error:
                log.warning("cannot ask whether another replica is ready: %s", error)

"""Bounds how fast logs are read, for each study and for each namespace: a pod that floods its log hurts its own study.

What is over the bound waits in the node's file. Nothing of it is held in memory, because a stream that is not read is
not sent.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from study_operator.model.study import StudyKey

# What may be read in a second of the logs of one study, and of one namespace. A line costs LINE_COST besides its bytes,
# because most of the work is for the line. So the lines of one namespace, some 15,000 a second, take a third of a core.
STUDY_RATE, NAMESPACE_RATE, LINE_COST = 2 << 20, 4 << 20, 200
# What may be read at once after a quiet time, in seconds of the rate: a program prints much when an epoch ends.
BURST_SECONDS = 4.0


class _Bucket:
    """What may still be read now; below 0 it has been read in advance."""

    def __init__(self, rate: float, now: float) -> None:
        self._rate, self._left, self._at = rate, rate * BURST_SECONDS, now

    def take(self, cost: float, now: float) -> float:
        """Take something out. Return for how many seconds to wait then."""
        self._left = min(self._left + (now - self._at) * self._rate, self._rate * BURST_SECONDS) - cost
        self._at = now
        return max(-self._left / self._rate, 0.0)


class Flows:
    """The flows of all studies' logs.

    Args:
        clock: seconds, monotonic.
        sleep: waits for so many seconds.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._clock, self._sleep = clock, sleep
        self._studies: dict[StudyKey, _Bucket] = {}
        self._namespaces: dict[str, _Bucket] = {}

    async def passed(self, key: StudyKey, size: int, lines: int) -> None:
        """Note that a part of a study's log has been read, and wait until more may be read.

        Args:
            size: in bytes.
            lines: how many lines it had.
        """
        now, cost = self._clock(), size + lines * LINE_COST
        if key not in self._studies:
            self._studies[key] = _Bucket(STUDY_RATE, now)
        if key.namespace not in self._namespaces:
            self._namespaces[key.namespace] = _Bucket(NAMESPACE_RATE, now)
        wait = max(self._studies[key].take(cost, now), self._namespaces[key.namespace].take(cost, now))
        if wait > 0:
            await self._sleep(wait)

    def forget(self, key: StudyKey) -> None:
        """Hold nothing in memory of a study any more."""
        self._studies.pop(key, None)
        if not any(other.namespace == key.namespace for other in self._studies):
            self._namespaces.pop(key.namespace, None)

"""A work queue: each key at most once in it, one worker per key at a time, delayed and rate-limited additions.

Workers are shared among the owners of keys. A key that takes more than its share of time waits for the others.

Otherwise the rules are those of client-go's workqueue. A key that is added while a worker has it is worked on again
afterwards, so that no event is lost and no two workers ever have the same key.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import random
import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from study_operator.backoff import delay
from study_operator.shares import Rounds, Shares

Key = TypeVar("Key", bound=Hashable)

# A key is heavy if it has kept a worker busy for more than half of the time lately; its time counts with a half-life of
# some 40 s. A heavy key waits for the others, but not longer than so many seconds.
WINDOW_SECONDS, HEAVY_SECONDS, LONGEST_WAIT_SECONDS = 60.0, 30.0, 5.0
# A heavy key that has waited for longer than the first time is throttled, and is called so for the second.
THROTTLED_AFTER_SECONDS, THROTTLED_FOR_SECONDS = 1.0, 60.0
_MOST_USES = 4096  # keys whose time is kept; of more, those with little time are forgotten


class WorkQueue(Generic[Key]):
    """Belongs to one event loop.

    Args:
        clock: seconds, monotonic.
        first, most: the first and the longest delay after failures, in seconds, before jitter; each failure doubles it.
        uniform: returns a random number between its two arguments.
        workers: how many workers there are; None if they are not to be shared among owners.
        owner: whose a key is. One owner after the other has a turn, and none gets all workers: shares.py.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        first: float = 0.5,
        most: float = 30.0,
        uniform: Callable[[float, float], float] = random.uniform,
        workers: int | None = None,
        owner: Callable[[Key], str | None] = lambda key: None,
    ) -> None:
        self._clock, self._first, self._most, self._uniform = clock, first, most, uniform
        self._owner, self._shares = owner, None if workers is None else Shares(workers)
        self._ready, self._heavy = Rounds[Key](), Rounds[Key]()  # with the time of arrival
        self._used: dict[Key, tuple[float, float]] = {}  # when, and for how many seconds lately
        self._throttled: dict[Key, float] = {}  # when a key has waited for others
        self._working: dict[Key, float] = {}  # with the time at which work began
        self._again: dict[Key, float] = {}  # added while being worked on
        self._rests: dict[Key, float] = {}  # until when a key is not to be worked on
        self._noticed: dict[Key, float] = {}  # added while it rests
        self._failures: dict[Key, int] = {}
        self._delayed: list[tuple[float, int, Key]] = []
        self._due: dict[Key, float] = {}  # the earliest moment asked for, of those in the heap
        self._order = itertools.count()
        self._changed = asyncio.Event()
        self._closed = False

    def __len__(self) -> int:
        return len(self._ready) + len(self._heavy)

    def add(self, key: Key) -> None:
        """Give the key out as soon as a worker is free and the key does not rest."""
        now = self._clock()
        if key in self._working:
            self._again.setdefault(key, now)
        elif key not in self._ready and key not in self._heavy:
            self._noticed.setdefault(key, now)
            if (rest := self._rests.get(key, now) - now) > 0:
                self.add_after(key, rest)
            else:
                waiting = self._heavy if self._used_lately(key, now) > HEAVY_SECONDS else self._ready
                waiting.add(self._owner(key), key, self._noticed.pop(key))
                self._changed.set()

    def add_after(self, key: Key, delay: float) -> None:
        """Give the key out in `delay` seconds, or earlier if another call asks for that."""
        due = self._clock() + delay
        if due < self._due.get(key, float("inf")):
            self._due[key] = due
            heapq.heappush(self._delayed, (due, next(self._order), key))
            self._changed.set()

    def retry(self, key: Key) -> float:
        """Give the key out again after a failure, later each time. Return the delay in seconds."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        wait = delay(failures, self._first, self._most, self._uniform)
        self.add_after(key, wait)
        return wait

    def succeeded(self, key: Key) -> None:
        """Forget the failures of a key."""
        self._failures.pop(key, None)

    def close(self) -> None:
        """Give nothing out any more, and end all waiting calls of `get`."""
        self._closed = True
        self._changed.set()

    async def get(self) -> tuple[Key, float] | None:
        """Wait for the next key. The caller must call `done` afterwards.

        Returns:
            The key, and the time (of `clock`) at which it was added; None once the queue is closed.
        """
        while not self._closed:
            self._move_due()
            if (found := self._next()) is not None:
                key, added = found
                self._working[key] = self._clock()
                self._rests.pop(key, None)
                return key, added
            self._changed.clear()
            timeout = max(0.0, self._delayed[0][0] - self._clock()) if self._delayed else None
            try:
                await asyncio.wait_for(self._changed.wait(), timeout)
            except TimeoutError:
                continue
        return None

    def done(self, key: Key, rest: float = 0.0) -> None:
        """End the work on a key. If the key was added meanwhile, it comes again.

        Args:
            rest: for how many seconds the key is not given out.
        """
        now = self._clock()
        self._use(key, now, now - self._working.pop(key))
        if self._shares is not None:
            self._shares.give_back(self._owner(key))
            self._changed.set()
        if rest > 0:
            self._rests[key] = self._clock() + rest
        if key in self._again:
            self._noticed[key] = self._again.pop(key)
            self.add(key)

    def working(self, key: Key) -> bool:
        """Return whether a worker has the key."""
        return key in self._working

    def again(self, key: Key) -> bool:
        """Return whether the key has been added while a worker has it."""
        return key in self._again

    def throttled(self, key: Key) -> bool:
        """Return whether a key has waited for others lately, because it takes more than its share of time."""
        return self._clock() - self._throttled.get(key, float("-inf")) < THROTTLED_FOR_SECONDS

    def _next(self) -> tuple[Key, float] | None:
        """Take out the key whose turn it is, with the time at which it was added; None if no key may be given out."""
        now = self._clock()
        for owner, key, since in self._heavy.firsts():
            if now - since > LONGEST_WAIT_SECONDS:
                self._heavy.discard(owner, key)
                self._ready.add(owner, key, since)
        found = self._ready.pop(self._may_take) or self._heavy.pop(self._may_take)
        if found is None:
            return None
        owner, key, since = found
        if self._shares is not None:
            self._shares.take(owner)
        if self._used_lately(key, now) > HEAVY_SECONDS and now - since > THROTTLED_AFTER_SECONDS:
            self._throttled[key] = now
        return key, since

    def _may_take(self, owner: str | None) -> bool:
        return self._shares is None or self._shares.may_take(owner)

    def _used_lately(self, key: Key, now: float) -> float:
        at, seconds = self._used.get(key, (now, 0.0))
        return seconds * math.exp((at - now) / WINDOW_SECONDS)

    def _use(self, key: Key, now: float, seconds: float) -> None:
        self._used[key] = now, self._used_lately(key, now) + seconds
        if len(self._used) > _MOST_USES:
            self._used = {key: use for key, use in self._used.items() if self._used_lately(key, now) > 1.0}
            self._throttled = {key: at for key, at in self._throttled.items() if key in self._used}

    def _move_due(self) -> None:
        now = self._clock()
        while self._delayed and self._delayed[0][0] <= now:
            due, _, key = heapq.heappop(self._delayed)
            if self._due.get(key) == due:  # otherwise an earlier moment was asked for afterwards
                del self._due[key]
                self.add(key)

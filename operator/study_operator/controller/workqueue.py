"""A work queue: each key at most once in it, one worker per key at a time, delayed and rate-limited additions.

The rules are those of client-go's workqueue. A key that is added while a worker has it is worked on again afterwards,
so that no event is lost and no two workers ever have the same key.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from study_operator.backoff import delay

Key = TypeVar("Key", bound=Hashable)


class WorkQueue(Generic[Key]):
    """Belongs to one event loop.

    Args:
        clock: seconds, monotonic.
        first, most: the first and the longest delay after failures, in seconds, before jitter; each failure doubles it.
        uniform: returns a random number between its two arguments.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        first: float = 0.5,
        most: float = 30.0,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._clock, self._first, self._most, self._uniform = clock, first, most, uniform
        self._ready: dict[Key, float] = {}  # in order of arrival, with the time of it
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
        return len(self._ready)

    def add(self, key: Key) -> None:
        """Give the key out as soon as a worker is free and the key does not rest."""
        now = self._clock()
        if key in self._working:
            self._again.setdefault(key, now)
        elif key not in self._ready:
            self._noticed.setdefault(key, now)
            if (rest := self._rests.get(key, now) - now) > 0:
                self.add_after(key, rest)
            else:
                self._ready[key] = self._noticed.pop(key)
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
            if self._ready:
                key = next(iter(self._ready))
                added = self._ready.pop(key)
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
        del self._working[key]
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

    def longest_work(self) -> float:
        """Return the age of the oldest work in seconds; 0 if there is none. Any thread may ask."""
        begun = list(self._working.values())  # a copy in one step, because work begins and ends meanwhile
        return self._clock() - min(begun) if begun else 0.0

    def _move_due(self) -> None:
        now = self._clock()
        while self._delayed and self._delayed[0][0] <= now:
            due, _, key = heapq.heappop(self._delayed)
            if self._due.get(key) == due:  # otherwise an earlier moment was asked for afterwards
                del self._due[key]
                self.add(key)

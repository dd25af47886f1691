"""Reads the log of changes for all watches of this replica: once, while anybody watches, and tells each of them.

A watch that cannot take what it is told is ended: it begins anew from where it was. So nobody waits for it, and what is
kept for it is bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncGenerator

from study_operator.api.events import Batch, batch
from study_operator.api.reading import Reading
from study_operator.api.refusals import Refusal
from study_operator.backoff import delays
from study_operator.model.readable import Gone

POLL_SECONDS = 0.3
_CHANGES = 500  # that are read at once
_MOST_WAITING = 20_000  # entries that a watch may be behind
# After a failure: the first and the longest delay, in seconds.
_FIRST_DELAY, _LONGEST_DELAY = 0.5, 5.0

log = logging.getLogger(__name__)


class Watcher:
    """One watch: what it has not been told yet. `closed` says that nothing more comes."""

    def __init__(self) -> None:
        self._waiting: deque[Batch] = deque()
        self._entries = 0
        self._news = asyncio.Event()
        self.closed = False

    def tell(self, news: Batch) -> None:
        """Note what has happened, or end the watch if it is too far behind."""
        self._entries += len(news.entries)
        if self._entries > _MOST_WAITING:
            self.close()
            return
        self._waiting.append(news)
        self._news.set()

    def close(self) -> None:
        """End the watch: what waits is not told any more."""
        self.closed = True
        self._waiting.clear()
        self._news.set()

    async def next(self) -> Batch | None:
        """Wait for what has happened, and return it; None at the end."""
        while not self._waiting:
            if self.closed:
                return None
            self._news.clear()
            await self._news.wait()
        news = self._waiting.popleft()
        self._entries -= len(news.entries)
        return news


class Feed:
    """The log of changes, for all watches of this replica. Belongs to one event loop.

    Args:
        reading: the database.
    """

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._watchers: set[Watcher] = set()
        self._at: int | None = None  # the change up to which all watchers have been told; None: nobody watches
        self._poll: asyncio.Task[None] | None = None
        self._ended = False

    def __len__(self) -> int:
        """How many watch."""
        return len(self._watchers)

    def close(self) -> None:
        """End all watches, and begin no other one."""
        self._ended = True
        for watcher in list(self._watchers):
            watcher.close()
        if self._poll is not None:
            self._poll.cancel()

    async def since(self, number: int) -> AsyncGenerator[Batch, None]:
        """Yield what has happened since a change, until the watch is ended.

        Raises:
            Gone: changes since then are not kept any more.
            Refusal: the database cannot be asked, at the beginning.
        """
        watcher = Watcher()
        if self._ended:
            return
        self._watchers.add(watcher)
        try:
            live = await self._begun()
            at = number
            while True:  # what happened before the watch, up to what it is told live
                found = await self._reading.changes(at, _CHANGES)
                at = found.at
                yield await batch(self._reading, found)
                if not found.more and at >= live:
                    break
            while (news := await watcher.next()) is not None:
                if news.at > at:
                    yield Batch([entry for entry in news.entries if entry.number > at], news.at)
                    at = news.at
        finally:
            self._watchers.discard(watcher)

    async def _begun(self) -> int:
        """See to it that the log is read, and return from which change on all watchers are told."""
        if self._at is None or self._poll is None or self._poll.done():
            number = await self._reading.number()
            if self._at is None or self._poll is None or self._poll.done():  # nobody else has begun meanwhile
                self._at = number
                self._poll = asyncio.get_running_loop().create_task(self._read())
        return self._at

    async def _read(self) -> None:
        """Read the log, and tell all watchers, until nobody watches."""
        waits, said = delays(_FIRST_DELAY, _LONGEST_DELAY), False
        while self._watchers:
            assert self._at is not None
            try:
                found = await self._reading.changes(self._at, _CHANGES)
                news = await batch(self._reading, found)
            except Refusal as error:
                if not said:
                    log.warning("watches wait: %s", error.message)
                said = True
                await asyncio.sleep(next(waits))
                continue
            except Gone:
                break  # the database is another one, or was away for longer than changes are kept
            waits, said = delays(_FIRST_DELAY, _LONGEST_DELAY), False
            if news.at > self._at:
                self._at = news.at
                for watcher in list(self._watchers):
                    watcher.tell(news)
            if not found.more:
                with contextlib.suppress(TimeoutError):
                    await asyncio.sleep(POLL_SECONDS)
        self._at = None
        for watcher in list(self._watchers):
            watcher.close()

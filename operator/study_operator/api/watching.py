"""A client's watch: the trials that there are, if it wants them, then what happens to them, with bookmarks."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Protocol

from study_operator.api import events
from study_operator.api.feed import Feed
from study_operator.api.listing import MOST
from study_operator.api.options import ListOptions
from study_operator.api.reading import Reading
from study_operator.api.refusals import Refusal, expired
from study_operator.api.selection import Selection
from study_operator.api.shapes import Shape
from study_operator.api.trial_objects import Identity
from study_operator.model.readable import Gone

# How long a watch lasts that has not said how long, in seconds: as in Kubernetes, so that not all end at once.
SHORTEST, LONGEST = 1800, 3600
BOOKMARK_SECONDS = 30.0
_TOGETHER = 1 << 16  # bytes that are sent in one piece


class Sink(Protocol):
    """Where a watch is sent."""

    async def send(self, lines: list[bytes]) -> None:
        """Send events. Raises ConnectionError if the client is gone, or does not read."""


async def watch(
    sink: Sink, reading: Reading, feed: Feed, selection: Selection, options: ListOptions, shape: Shape
) -> None:
    """Tell a client what happens to a selection of trials, until its time is over or the feed ends.

    Whatever goes wrong after the beginning is told as an event of type ERROR, as Kubernetes does.

    Raises:
        ConnectionError: the client is gone, or does not read.
    """
    seconds = options.seconds or random.uniform(SHORTEST, LONGEST)
    try:
        async with asyncio.timeout(seconds):
            await _Watch(sink, reading, feed, selection, options, shape).run()
    except TimeoutError:
        return
    except Gone as error:
        why = f"too old resource version: {options.version or 0} ({error.oldest})"
        await sink.send([events.event("ERROR", expired(why).status())])
    except Refusal as error:
        await sink.send([events.event("ERROR", error.status())])


class _Watch:
    """One watch while it lasts."""

    def __init__(
        self, sink: Sink, reading: Reading, feed: Feed, selection: Selection, options: ListOptions, shape: Shape
    ) -> None:
        self._sink, self._reading, self._feed = sink, reading, feed
        self._selection, self._options, self._shape = selection, options, shape
        self._at = 0
        self._telling = asyncio.Lock()  # a bookmark in the middle of a batch would be older than what stands before it

    async def run(self) -> None:
        """Tell until the feed ends."""
        options = self._options
        fresh = not options.version  # "" and "0" are any state
        if options.initial or (fresh and options.initial is None):
            await self._send(self._present())
            if options.initial and options.bookmarks:
                await self._bookmark(ends_initial=True)
        else:
            self._at = await self._reading.number() if fresh else options.version or 0
        bookmarks = asyncio.create_task(self._bookmarks()) if options.bookmarks else None
        try:
            async with aclosing(self._feed.since(self._at)) as feed:
                async for news in feed:
                    async with self._telling:
                        await self._send(self._told(news))
                        self._at = news.at
        finally:
            if bookmarks is not None:
                bookmarks.cancel()

    async def _present(self) -> AsyncIterator[bytes]:
        """Yield the trials that there are. A watch goes on from the state of the first page."""
        if self._selection.nothing:
            self._at = await self._reading.number()
            return
        begun = False
        async for page in self._reading.pages(self._selection.where, MOST):
            if not begun:
                self._at, begun = page.at, True
            for trial in page.trials:
                if self._selection.matches(Identity.of(trial)):
                    shown = self._shape.alone(self._at, self._shape.trial(trial, self._at))
                    yield events.event("ADDED", shown)

    async def _told(self, news: events.Batch) -> AsyncIterator[bytes]:
        for entry in news.entries:
            async for line in events.told(self._reading, entry, self._selection, self._shape):
                yield line

    async def _send(self, lines: AsyncIterator[bytes]) -> None:
        """Send lines, several in one piece."""
        waiting: list[bytes] = []
        size = 0
        async for line in lines:
            waiting.append(line)
            size += len(line)
            if size >= _TOGETHER:
                await self._sink.send(waiting)
                waiting, size = [], 0
        if waiting:
            await self._sink.send(waiting)

    async def _bookmarks(self) -> None:
        while True:
            await asyncio.sleep(BOOKMARK_SECONDS)
            async with self._telling:
                await self._bookmark()

    async def _bookmark(self, ends_initial: bool = False) -> None:
        """Tell the client how far it has been told."""
        await self._sink.send([events.event("BOOKMARK", self._shape.bookmark(self._at, ends_initial))])

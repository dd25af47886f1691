"""Answers what is asked of trials, reports and whole studies, once it is known who asks and that they may."""

from __future__ import annotations

import asyncio
import gzip
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import IO, cast

from aiohttp import web

from study_operator.api import numbers, options, replies, tables, trial_sets
from study_operator.api.access import Access
from study_operator.api.feed import Feed
from study_operator.api.front_proxy import User
from study_operator.api.listing import listed
from study_operator.api.reading import Reading
from study_operator.api.refusals import Refusal, bad_request, busy, not_acceptable, not_found
from study_operator.api.resources import GROUP_VERSION, REPORTS, SETS, TRIALS, Resource
from study_operator.api.selection import select
from study_operator.api.shapes import CLOSING, Shape
from study_operator.api.trial_objects import reports_object
from study_operator.api.watching import watch
from study_operator.model.readable import Columns, ReadableReport, ReadableStudy, ReadableTrial, Where

USER: web.RequestKey[User] = web.RequestKey("user", User)
# Watches at once: of this replica, and of one user.
MOST_WATCHES, MOST_OF_ONE = 2_000, 500
# Whole studies that are read at once, each on a connection of the database, and that wait for it.
_MOST_WHOLE, _MOST_WAITING = 2, 20
_REPORTS_AT_ONCE, _MOST_REPORTS = 10_000, 1_000_000


class Trials:
    """The handlers of the resources.

    Args:
        reading: the database.
        feed: the log of changes.
        access: who may do what.
    """

    def __init__(self, reading: Reading, feed: Feed, access: Access) -> None:
        self._reading, self._feed, self._access = reading, feed, access
        self._watches: Counter[str] = Counter()
        self._whole, self._waiting = asyncio.Semaphore(_MOST_WHOLE), 0

    async def list(self, request: web.Request) -> web.StreamResponse:
        """List or watch trials of a namespace, or of all namespaces."""
        namespace = request.match_info.get("namespace", "")
        asked = options.parse(request.query)
        verb = "watch" if asked.watch else "list"
        await self._access.check(request[USER], verb, TRIALS, namespace)
        selection = select(asked, namespace or None)
        accept = request.headers.get("Accept", "")
        if not asked.watch:
            shape = Shape.of_list(accept, asked.include)
            return await replies.stream(request, listed(self._reading, selection, asked, request.path, shape))
        # A watch names its stream, as application/json;stream=watch: that is JSON line by line.
        shape = Shape.of_one(accept, asked.include)
        user = request[USER].name
        if self._watches.total() >= MOST_WATCHES or self._watches[user] >= MOST_OF_ONE:
            raise busy("too many watches: end some, or watch all trials of a namespace in one")
        self._watches[user] += 1
        try:
            sink = await (replies.Frames if _upgrades(request) else replies.Lines).opened(request)
            await watch(sink, self._reading, self._feed, selection, asked, shape)
            await sink.close()
            return sink.response
        finally:
            self._watches[user] -= 1
            self._watches += Counter()  # forgets who has none

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Return one trial."""
        trial, version = await self._trial(request, TRIALS)
        shape = Shape.of_one(request.headers.get("Accept", ""), options.include(request.query))
        return replies.answer(shape.alone(version, shape.trial(trial, version)))

    async def reports(self, request: web.Request) -> web.StreamResponse:
        """Return all reports of a trial."""
        trial, version = await self._trial(request, REPORTS)
        found: list[ReadableReport] = []
        while len(found) < _MOST_REPORTS:
            more = await self._reading.reports(trial, found[-1].step if found else -1, _REPORTS_AT_ONCE)
            found += more
            if len(more) < _REPORTS_AT_ONCE:
                break
        whole = reports_object(trial, found, version)

        async def pieces() -> AsyncIterator[bytes]:
            yield await asyncio.to_thread(numbers.encode, whole)

        return await replies.stream(request, pieces())

    async def list_sets(self, request: web.Request) -> web.StreamResponse:
        """List studies, without their trials."""
        namespace = request.match_info.get("namespace", "")
        asked = options.parse(request.query)
        if asked.watch:
            raise Refusal(405, "MethodNotAllowed", "studytrialsets cannot be watched: watch studytrials")
        await self._access.check(request[USER], "list", SETS, namespace)
        shape = Shape.of_list(request.headers.get("Accept", ""), asked.include)
        return await replies.stream(request, self._sets(select(asked, namespace or None).where, shape))

    async def _sets(self, where: Where, shape: Shape) -> AsyncIterator[bytes]:
        at = await self._reading.number()
        where = Where(namespace=where.namespace, study=where.study, deleted=where.deleted)
        meta = {"resourceVersion": str(at)}
        if shape.is_table:
            head = tables.head(shape.version, tables.SET_COLUMNS, meta)
            opening = numbers.encode(head).removesuffix(b"}") + b',"rows":['
        else:
            head = {"kind": SETS.list_kind, "apiVersion": GROUP_VERSION, "metadata": meta}
            opening = numbers.encode(head).removesuffix(b"}") + b',"items":['
        yield opening
        after, comma = 0, b""
        while studies := await self._reading.studies(where, 500, after):
            after = studies[-1].study_id
            yield comma + b",".join(numbers.encode(_set(study, shape, at)) for study in studies)
            comma = b","
            if len(studies) < 500:
                break
        yield CLOSING

    async def get_set(self, request: web.Request) -> web.StreamResponse:
        """Return a whole study."""
        namespace, name = request.match_info["namespace"], request.match_info["name"]
        await self._access.check(request[USER], "get", SETS, namespace, name)
        version = await self._reading.number()
        study = await self._study(namespace, name)
        shape = Shape.of_one(request.headers.get("Accept", ""), options.include(request.query))
        if shape.is_table:
            meta = {"resourceVersion": str(version)}
            head = tables.head(shape.version, tables.SET_COLUMNS, meta)
            return replies.answer(head | {"rows": [_set(study, shape, version)]})
        with_reports = request.query.get("reports", "true")
        if with_reports not in ("true", "false"):
            raise bad_request(f"reports is {with_reports[:100]!r}; write true or false")
        if self._waiting >= _MOST_WAITING:
            raise busy("many whole studies are being read: ask again in a moment")
        compressed = replies.takes_gzip(request)
        with tempfile.TemporaryFile() as file:
            self._waiting += 1
            try:
                async with self._whole:
                    await self._spool(study, version, with_reports == "true", file, compressed)
            finally:
                self._waiting -= 1
            return await replies.send_file(request, file, compressed)

    async def _spool(
        self, study: ReadableStudy, version: int, with_reports: bool, file: IO[bytes], compressed: bool
    ) -> None:
        """Write a whole study into a file: a client that reads slowly holds a file, and no connection."""

        def write(blocks: Iterator[Columns]) -> None:
            if compressed:
                with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1) as packed:
                    trial_sets.write(study, version, blocks, with_reports, cast(IO[bytes], packed))
            else:
                trial_sets.write(study, version, blocks, with_reports, file)

        await self._reading.whole(study, with_reports, write)

    async def _trial(self, request: web.Request, resource: Resource) -> tuple[ReadableTrial, int]:
        """Return the trial that a request names, if the user may get that of it, and the resource version.

        The version is read first: a watch from it shows what has happened since, perhaps once more.
        """
        namespace, name = request.match_info["namespace"], request.match_info["name"]
        await self._access.check(request[USER], "get", resource, namespace, name)
        version = await self._reading.number()
        if (trial := await self._reading.named(namespace, name)) is None:
            raise not_found(TRIALS, name)
        return trial, version

    async def _study(self, namespace: str, name: str) -> ReadableStudy:
        if (study := await self._reading.study_named(namespace, name)) is None:
            raise not_found(SETS, name)
        return study


def _set(study: ReadableStudy, shape: Shape, version: int) -> dict[str, object]:
    """Return a study in a list: whole, or a row."""
    whole = trial_sets.summary(study, version)
    if shape.is_table:
        cells = tables.set_cells(study, whole["metadata"]["name"])
        return tables.row((cells, tables.row_object(shape.include, shape.version, whole)))
    if shape.form is not shape.form.OBJECT:
        raise not_acceptable()
    return whole


def _upgrades(request: web.Request) -> bool:
    """Return whether a client wants a WebSocket."""
    return request.headers.get("Upgrade", "").lower() == "websocket"

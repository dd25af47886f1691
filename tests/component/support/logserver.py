"""Serves logs as a kubelet does, and can break off as networks and nodes do. The tests' API server has no kubelet."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from aiohttp import web

SECOND = 1_000_000_000  # ns
START = int(datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC).timestamp()) * SECOND


@dataclass
class Container:
    """One run of a pod's program: bytes with the time of each line, and whether it has ended."""

    lines: list[tuple[int, bytes]] = field(default_factory=list)
    ended: bool = False


@dataclass
class Fault:
    """What befalls one answer: it ends after so many bytes, with the connection reset unless `quietly`; or it is a
    `status`; or there is `silence`."""

    after: int | None = None
    quietly: bool = False
    status: int | None = None
    message: str = ""
    silence: bool = False


class LogServer:
    """The log path of an API server.

    Attributes:
        pods: the runs of each pod's program, by name of the pod; the last one is the current one.
        faults: for the next answers, in their order; then there are none.
        queries: what was asked for.
        streams: how many answers are being given.
        instead: what the kubelet says instead of the log, in an answer that looks like a log.
    """

    def __init__(self) -> None:
        self.pods: dict[str, list[Container]] = {}
        self.faults: list[Fault] = []
        self.queries: list[dict[str, str]] = []
        self.streams = 0
        self.instead = b""
        self._news = asyncio.Condition()
        self._time = START

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/api/v1/namespaces/{namespace}/pods/{pod}/log", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        await self._runner.cleanup()

    def starts(self, pod: str) -> None:
        self.pods[pod] = [Container()]

    async def prints(self, pod: str, *lines: str | bytes, apart: int = SECOND // 10, end: bytes = b"\n") -> None:
        """The pod's program prints lines, so many nanoseconds apart."""
        for line in lines:
            self._time += apart
            text = line.encode() if isinstance(line, str) else line
            self._current(pod).lines.append((self._time, text + end))
        await self._tell()

    async def ends(self, pod: str) -> None:
        self._current(pod).ended = True
        await self._tell()

    async def restarts(self, pod: str) -> None:
        """The kubelet starts the container again; it keeps the log of one that has ended."""
        self._current(pod).ended = True
        self.pods[pod] = [self.pods[pod][-1], Container()]
        await self._tell()

    async def rotates(self, pod: str) -> None:
        """The log's file has got too large: what is in it is not given out any more."""
        self._current(pod).lines.clear()
        await self._tell()

    def _current(self, pod: str) -> Container:
        return self.pods[pod][-1]

    async def _tell(self) -> None:
        async with self._news:
            self._news.notify_all()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        query, pod = dict(request.query), request.match_info["pod"]
        self.queries.append(query)
        fault = self.faults.pop(0) if self.faults else Fault()
        if fault.silence:
            await asyncio.Event().wait()
        if fault.status:
            return _refusal(fault.status, fault.message)
        if pod not in self.pods:
            return _refusal(404, f'pods "{pod}" not found')
        if self.instead:
            return web.Response(body=self.instead)
        if query.get("previous") == "true":
            if len(self.pods[pod]) < 2:
                return _refusal(400, f'previous terminated container "{query["container"]}" in pod "{pod}" not found')
            container, follow = self.pods[pod][-2], False
        else:
            container, follow = self.pods[pod][-1], query.get("follow") == "true"
        if "tailLines" in query:  # what a failed trial has logged last
            lines = container.lines[-int(query["tailLines"]) :]
            timed = query.get("timestamps") == "true"
            tail = b"".join(as_given_out(lines) if timed else (text for _, text in lines))
            return web.Response(body=tail[: int(query["limitBytes"])])
        assert (query["container"], query["timestamps"]) == ("trial", "true")
        since = int(datetime.fromisoformat(query["sinceTime"]).timestamp()) * SECOND if "sinceTime" in query else 0
        self.streams += 1
        try:
            return await self._stream(request, container, since, follow, fault)
        finally:
            self.streams -= 1

    async def _stream(
        self, request: web.Request, container: Container, since: int, follow: bool, fault: Fault
    ) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        sent, left = 0, fault.after
        while True:
            chunk = b"".join(as_given_out(container.lines[sent:], since))
            sent = len(container.lines)
            if left is not None and len(chunk) >= left:
                await response.write(chunk[:left])
                if fault.quietly:
                    break
                assert request.transport is not None
                await asyncio.sleep(0)
                request.transport.abort()
                return response
            left = None if left is None else left - len(chunk)
            if chunk:
                await response.write(chunk)
            if not follow or (container.ended and sent == len(container.lines)):
                break
            async with self._news:
                while sent == len(container.lines) and not container.ended:
                    await self._news.wait()
        await response.write_eof()
        return response


def as_given_out(lines: Iterable[tuple[int, bytes]], since: int = 0) -> Iterable[bytes]:
    """Lines with their times in front, as the kubelet writes them."""
    for time, text in lines:
        if time >= since:
            second = datetime.fromtimestamp(time // SECOND, UTC).strftime("%Y-%m-%dT%H:%M:%S")
            yield f"{second}.{time % SECOND:09d}Z ".encode() + text


def _refusal(status: int, message: str) -> web.Response:
    body = {"kind": "Status", "status": "Failure", "message": message, "reason": "", "code": status}
    return web.Response(status=status, text=json.dumps(body), content_type="application/json")

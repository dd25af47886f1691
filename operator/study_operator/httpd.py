"""A small HTTP server in a thread of its own: GET only, one request a connection, and bounds on everything.

A thread for each connection, as in the standard library's server, lets whoever reaches the port fill memory with
threads that wait. Here one thread serves all. A connection that says nothing costs a socket, for some seconds, and is
the first to be closed when there are too many.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from email.parser import BytesParser
from http import HTTPStatus

# Connections at once, how long each may last, and how much it may ask. kubelet and Prometheus take milliseconds.
MOST_CONNECTIONS, MOST_SECONDS, MOST_BYTES = 256, 10.0, 16 * 1024
# Slow answers that are being made and sent at once: they may be a megabyte, and a client that reads slowly keeps one in
# memory.
MOST_SLOW = 16
# New connections that wait in the kernel.
_BACKLOG = 1024

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answer:
    """What a request is answered with.

    Attributes:
        status: the HTTP status.
        body: the content.
        headers: all but Content-Length and Connection.
    """

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "text/plain; charset=utf-8"})


Slow = Callable[[], Answer]


class Server:
    """Serves until `close`.

    Args:
        answer: returns the answer to a GET, from path with query and headers in lower case: at once, or as a function
            that makes it, which is called in another thread, one at a time, so that quick answers need not wait.
        port: TCP port on all addresses; 0 for any free one.

    Attributes:
        port: the port.

    Raises:
        OSError: the port is taken, or may not be used.
    """

    def __init__(self, answer: Callable[[str, Mapping[str, str]], Answer | Slow], port: int) -> None:
        self._answer = answer
        # An IPv6 socket takes IPv4 addresses too, and a cluster may have no IPv4.
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        self._socket = socket.create_server(("", port), family=family, backlog=_BACKLOG, dualstack_ipv6=both)
        self.port: int = self._socket.getsockname()[1]
        self._open: dict[asyncio.StreamWriter, None] = {}  # the oldest first
        self._slow, self._slow_thread = 0, ThreadPoolExecutor(1, thread_name_prefix="probes-slow")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="probes", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving, and wait until the thread has ended. May be called again."""
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        # A client that goes away in the middle is no news.
        self._loop.set_exception_handler(lambda _, context: log.debug("%s", context.get("message")))
        start = asyncio.start_server(self._serve, sock=self._socket, limit=MOST_BYTES, backlog=_BACKLOG)
        server = self._loop.run_until_complete(start)
        try:
            self._loop.run_forever()
        finally:
            server.close()
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            for writer in self._open:
                writer.transport.abort()
            self._slow_thread.shutdown(wait=False, cancel_futures=True)
            self._loop.run_until_complete(asyncio.sleep(0))
            self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open[writer] = None
        if len(self._open) > MOST_CONNECTIONS:
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.transport.abort()
        try:
            async with asyncio.timeout(MOST_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                await self._send(writer, head)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):  # TimeoutError is an OSError
            pass
        finally:
            self._open.pop(writer, None)
            writer.transport.abort()

    async def _send(self, writer: asyncio.StreamWriter, head: bytes) -> None:
        answer = self._answer_to(head)
        if isinstance(answer, Answer):
            await _write(writer, answer)
        elif self._slow >= MOST_SLOW:
            await _write(writer, _BUSY)
        else:
            self._slow += 1
            try:
                await _write(writer, await self._loop.run_in_executor(self._slow_thread, answer))
            finally:
                self._slow -= 1

    def _answer_to(self, head: bytes) -> Answer | Slow:
        request, _, rest = head.partition(b"\r\n")
        method, _, target = request.decode("latin-1").partition(" ")
        path, _, protocol = target.partition(" ")
        if not protocol.startswith("HTTP/1."):
            return Answer(HTTPStatus.BAD_REQUEST, b"this is no HTTP/1 request\n")
        if method != "GET":
            return Answer(HTTPStatus.METHOD_NOT_ALLOWED, b"only GET is answered\n", {"Allow": "GET"})
        headers = BytesParser().parsebytes(rest, headersonly=True)
        return self._answer(path, {name.lower(): str(value) for name, value in headers.items()})


_BUSY = Answer(HTTPStatus.SERVICE_UNAVAILABLE, b"too many answers are being sent: ask again\n")


async def _write(writer: asyncio.StreamWriter, answer: Answer) -> None:
    """Send an answer, and wait until all of it has left."""
    headers = {**answer.headers, "Content-Length": str(len(answer.body)), "Connection": "close"}
    lines = [f"HTTP/1.1 {int(answer.status)} {HTTPStatus(answer.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + answer.body)
    writer.close()
    await writer.wait_closed()

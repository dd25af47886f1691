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
from typing import cast

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
        # An IPv6 socket takes IPv4 addresses too, and a cluster may have no IPv4.
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        self._socket = socket.create_server(("", port), family=family, backlog=_BACKLOG, dualstack_ipv6=both)
        self.port: int = self._socket.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._clients = _Clients(self._loop, answer)
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
        start = self._loop.create_server(lambda: _Connection(self._clients), sock=self._socket, backlog=_BACKLOG)
        server = self._loop.run_until_complete(start)
        self._clients.expire()
        try:
            self._loop.run_forever()
        finally:
            server.close()
            self._clients.close()
            self._loop.run_until_complete(asyncio.sleep(0))
            self._loop.close()


class _Clients:
    """The connections that are open, and what they are answered."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, answer: Callable[[str, Mapping[str, str]], Answer | Slow]
    ) -> None:
        self._loop, self._answer = loop, answer
        self._open: dict[_Connection, float] = {}  # when each was opened; the oldest first
        self._slow: set[_Connection] = set()
        self._slow_thread = ThreadPoolExecutor(1, thread_name_prefix="probes-slow")

    def opened(self, connection: _Connection) -> None:
        """Take one more, and close the oldest if there are too many."""
        if len(self._open) >= MOST_CONNECTIONS:
            self._abort(next(iter(self._open)))
        self._open[connection] = self._loop.time()

    def closed(self, connection: _Connection) -> None:
        """Forget one."""
        self._open.pop(connection, None)
        self._slow.discard(connection)

    def expire(self) -> None:
        """Close what has been open for too long, now and every second from now on."""
        late = self._loop.time() - MOST_SECONDS
        while self._open and next(iter(self._open.values())) <= late:
            self._abort(next(iter(self._open)))
        self._loop.call_later(min(1.0, MOST_SECONDS), self.expire)

    def close(self) -> None:
        """Close all."""
        for connection in list(self._open):
            self._abort(connection)
        self._slow_thread.shutdown(wait=False, cancel_futures=True)

    def asked(self, connection: _Connection, head: bytes) -> None:
        """Answer a request."""
        answer = self._answer_to(head)
        if isinstance(answer, Answer):
            connection.send(answer)
        elif len(self._slow) >= MOST_SLOW:
            connection.send(_BUSY)
        else:
            self._slow.add(connection)  # until all has been sent
            made = self._loop.run_in_executor(self._slow_thread, answer)
            made.add_done_callback(lambda made: self._made(connection, made))

    def _made(self, connection: _Connection, made: asyncio.Future[Answer]) -> None:
        if made.cancelled():
            return
        if (error := made.exception()) is not None:
            log.error("a request could not be answered", exc_info=error)
            self._abort(connection)
        else:
            connection.send(made.result())

    def _abort(self, connection: _Connection) -> None:
        self._open.pop(connection, None)
        connection.abort()

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


class _Connection(asyncio.Protocol):
    """One connection. It costs no task and no thread: an idle one is a socket and this object."""

    def __init__(self, clients: _Clients) -> None:
        self._clients, self._received = clients, bytearray()
        self._transport: asyncio.Transport | None = None
        self._asked = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self._transport = cast(asyncio.Transport, transport)
        self._clients.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed, and what was to be sent has left, or never will."""
        self._clients.closed(self)

    def eof_received(self) -> bool:
        """Return whether to stay open: a client that sends no more may still wait for its answer."""
        return self._asked

    def data_received(self, data: bytes) -> None:
        """Take a piece of the request. What comes after the head is not wanted."""
        if self._asked:
            return
        self._received += data
        head, end, _ = self._received.partition(b"\r\n\r\n")
        if end:
            self._asked = True
            self._received.clear()
            self._clients.asked(self, bytes(head + end))
        elif len(self._received) > MOST_BYTES:
            self.abort()

    def send(self, answer: Answer) -> None:
        """Answer, and close when all has been sent."""
        headers = {**answer.headers, "Content-Length": str(len(answer.body)), "Connection": "close"}
        lines = [f"HTTP/1.1 {int(answer.status)} {HTTPStatus(answer.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        assert self._transport is not None
        if not self._transport.is_closing():
            self._transport.write("\r\n".join([*lines, "", ""]).encode("latin-1") + answer.body)
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

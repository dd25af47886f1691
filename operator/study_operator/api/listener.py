"""The socket on which the server listens, and its TLS, which changes while it serves: other certificates, another CA.

With another TLS context a new listener takes the socket over. Connections that are open keep theirs. When the CA has
changed they are ended, as soon as they have answered what was asked: the API server comes back on another one.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import tempfile
from asyncio import BaseProtocol
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler

_BACKLOG = 128
_HANDSHAKE_SECONDS = 10.0
# The API server keeps an idle connection for 90 s. It must be the side that closes it: a request that is on its way
# to a closed connection would fail.
_IDLE_SECONDS = 300.0
_MOST_REMEMBERED = 10_000  # connections; the API server has fewer


class Listener:
    """One port, served by an application. Call `close` at the end.

    Args:
        app: the application.
        port: TCP port on all addresses; 0 for any free one.

    Attributes:
        port: the port.

    Raises:
        OSError: the port is taken, or may not be used.
    """

    def __init__(self, app: web.Application, port: int) -> None:
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        self._socket = socket.create_server(("", port), family=family, backlog=_BACKLOG, dualstack_ipv6=both)
        self.port: int = self._socket.getsockname()[1]
        self._served: set[BaseProtocol] = set()  # connections that have had an answer, and some that are closed
        self._leaving: set[BaseProtocol] = set()
        app.middlewares.insert(0, self._parting)
        self._runner = web.AppRunner(
            app, access_log=None, keepalive_timeout=_IDLE_SECONDS, handler_cancellation=True, shutdown_timeout=5.0
        )
        self._server: asyncio.Server | None = None
        self._authority = ""

    async def serve(self, chain: str, key: str, authority: str) -> None:
        """Serve with a certificate, from now on.

        Args:
            chain, key: of the server, as PEM.
            authority: of clients, as PEM.

        Raises:
            ssl.SSLError: one of them cannot be used.
        """
        context = await asyncio.to_thread(_context, chain, key, authority)
        if self._server is None:
            await self._runner.setup()
        server = self._runner.server
        assert server is not None
        former = self._server
        self._server = await asyncio.get_running_loop().create_server(
            server,
            sock=self._socket.dup(),
            ssl=context,
            backlog=_BACKLOG,
            ssl_handshake_timeout=_HANDSHAKE_SECONDS,
        )
        if former is not None:
            former.close()
        if authority != self._authority:
            self.let_go()
        self._authority = authority

    def let_go(self) -> None:
        """Let open connections end when they have answered what was asked; idle ones end at once."""
        self._forget_closed()
        for connection in self._runner.server.connections if self._runner.server else ():
            # Not its own `close`: that would leave an idle connection open, and read no more from it. On a new one the
            # first request is on its way, and no client sends that again.
            if connection._waiter is not None and connection in self._served:
                connection.force_close()
            else:
                self._leaving.add(connection)

    def _forget_closed(self) -> None:
        opened = set(self._runner.server.connections if self._runner.server else ())
        self._served &= opened
        self._leaving &= opened

    @web.middleware
    async def _parting(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        self._served.add(request.protocol)
        if len(self._served) > _MOST_REMEMBERED:
            self._forget_closed()
        if request.protocol in self._leaving:
            response.force_close()
        return response

    async def close(self) -> None:
        """Stop serving."""
        if self._server is not None:
            self._server.close()
        self._socket.close()
        await self._runner.cleanup()


def _context(chain: str, key: str, authority: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Without a certificate there is an answer, 401, and not just a broken connection.
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_verify_locations(cadata=authority)
    with tempfile.TemporaryDirectory() as folder:  # `ssl` reads certificates from files alone
        place = Path(folder) / "serving.pem"
        place.touch(0o600)
        place.write_text(key + chain)
        context.load_cert_chain(place)
    return context

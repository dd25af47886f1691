"""A proxy in front of an API server that notes down what is asked for and what comes of it."""

from __future__ import annotations

import re
import ssl
from typing import Any, NamedTuple

import aiohttp
from aiohttp import web
from kubernetes.aio import client
from yarl import URL

_PATH = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/[^/]+(?:/namespaces/[^/]+(?=/))?/(?P<plural>[^/]+)(?:/(?P<name>[^/]+))?"
    r"(?:/(?P<sub>[^/]+))?"
)
_VERBS = {"POST": "create", "PATCH": "patch", "PUT": "update", "DELETE": "delete"}
_HOP_BY_HOP = {"host", "content-length", "transfer-encoding", "connection", "content-encoding", "accept-encoding"}


class Right(NamedTuple):
    """What a role can grant: a verb, an API group, and a resource or resource/subresource."""

    verb: str
    group: str
    resource: str


class Proxy:
    """Passes everything on as it is, the caller's own token too.

    Args:
        configuration: says where the server is.
        certified: whether everything is asked for in the configuration's own name.

    Attributes:
        used: the rights that were needed, as the API server reads them off a request.
        refused: those that the caller had not.
    """

    def __init__(self, configuration: client.Configuration, certified: bool = False) -> None:
        self._server = configuration.host
        self._tls = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
        if certified:
            self._tls.load_cert_chain(configuration.cert_file, configuration.key_file)
        self.used: set[Right] = set()
        self.refused: set[Right] = set()

    async def __aenter__(self) -> Proxy:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None), auto_decompress=False)
        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{path:.*}", self._pass_on)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self._runner.cleanup()
        await self._session.close()

    def asked(self, request: web.Request) -> URL:
        """Path and query as they are passed on."""
        return request.rel_url

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
        headers["Accept-Encoding"] = "identity"
        async with self._session.request(
            request.method,
            self._server + str(self.asked(request)),
            headers=headers,
            data=await request.read() or None,
            ssl=self._tls,
        ) as found:
            if (right := needed(request)) is not None:
                (self.refused if found.status == 403 else self.used).add(right)
            kept = {name: value for name, value in found.headers.items() if name.lower() not in _HOP_BY_HOP}
            response = web.StreamResponse(status=found.status, headers=kept)
            await response.prepare(request)
            async for chunk in found.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response


def needed(request: web.Request) -> Right | None:
    """The right that a request needs; None for what every account may ask, such as which APIs there are."""
    found = _PATH.fullmatch(request.path)
    if found is None:
        return None
    one = _VERBS.get(request.method) or (
        "get" if found["name"] else "watch" if request.query.get("watch") in ("1", "true") else "list"
    )
    return Right(one, found["group"] or "", "/".join(filter(None, (found["plural"], found["sub"]))))

"""Lets a client that expects JSON see metadata only: what it gets is what `metadata.py` has read.

kopf decodes what it watches itself, with Python's json: a Study that is nested a thousand levels deep would end its
watch, again and again. With these responses in its session, kopf never sees more of a Study than name, UID and
generation.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, cast

import aiohttp

from study_operator.kube import metadata

if TYPE_CHECKING:
    from aiohttp.connector import Connection


async def ask_for_metadata(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Let a request of a session ask for what `MetadataResponse` reads. A middleware of the session."""
    watch = request.url.query.get("watch") == "true"
    request.headers["Accept"] = metadata.ACCEPT if watch else metadata.ACCEPT_LIST
    request.headers["Accept-Encoding"] = "identity"
    return await handler(request)


class MetadataResponse(aiohttp.ClientResponse):
    """An answer to a request for metadata. One that holds none, such as an error, is JSON as it is."""

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        """Begin to read the answer."""
        await super().start(connection)
        if self._has_metadata:
            self.content = cast(aiohttp.StreamReader, _Events(self.content))
        return self

    async def json(self, **options: Any) -> Any:
        """Return a list, as JSON would have it."""
        if not self._has_metadata:
            return await super().json(**options)
        page = metadata.page(await self.read())
        about = {"resourceVersion": page.version, "continue": page.rest}
        return {"metadata": about, "items": [item.manifest() for item in page.items]}

    @property
    def _has_metadata(self) -> bool:
        return self.content_type == metadata.CONTENT_TYPE


class _Events:
    """The body of an answer. In chunks it is a watch, each of whose events is a line of JSON."""

    def __init__(self, body: aiohttp.StreamReader) -> None:
        self._body = body

    def __getattr__(self, name: str) -> Any:
        return getattr(self._body, name)

    async def iter_chunked(self, _: int) -> AsyncIterator[bytes]:
        received = bytearray()
        async for chunk in self._body.iter_any():
            received += chunk
            for event in metadata.events(received):
                yield json.dumps({"type": event.type, "object": event.object}).encode() + b"\n"

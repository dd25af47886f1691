"""Sends what has been decided: JSON, pieces of JSON, compressed where the client takes it, and events of a watch."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Mapping
from typing import IO, Any

from aiohttp import WSMsgType, web

from study_operator.api import numbers
from study_operator.api.refusals import Refusal

# How long a client may leave what was sent unread, in seconds. It is cut off then.
UNREAD_SECONDS = 30.0
JSON = "application/json"
_COMPRESSED_FROM = 1 << 17  # bytes, as in the API server: shorter answers are not worth it
_GZIP = 16 + zlib.MAX_WBITS
_PIECE = 1 << 18  # bytes of a file that are sent at once


def answer(content: Any, etag: str = "", content_type: str = JSON, status: int = 200) -> web.Response:
    """Return an answer of JSON."""
    headers = {"Content-Type": content_type, "Cache-Control": "no-cache, private"}
    if etag:
        headers |= {"ETag": f'"{etag}"', "Vary": "Accept"}
    return web.Response(body=numbers.encode(content), status=status, headers=headers)


def refused(refusal: Refusal) -> web.Response:
    """Return the answer of a refusal."""
    response = answer(refusal.status(), status=refusal.code)
    if refusal.retry_after is not None:
        response.headers["Retry-After"] = str(refusal.retry_after)
    return response


def unchanged(request: web.Request, etag: str) -> web.Response | None:
    """Return the answer to a client that has the content already; None if it has not."""
    known = request.headers.get("If-None-Match", "")
    return web.Response(status=304, headers={"ETag": f'"{etag}"'}) if etag in known else None


async def stream(request: web.Request, pieces: AsyncIterator[bytes]) -> web.StreamResponse:
    """Send pieces as they come. An error in the middle cuts the connection: half of a list must not look like a list.

    Raises:
        Refusal: before the first piece.
    """
    first = await anext(pieces)
    second = await anext(pieces, None)
    if second is None and len(first) < _COMPRESSED_FROM:
        return web.Response(body=first, content_type=JSON)
    compressor = zlib.compressobj(1, zlib.DEFLATED, _GZIP) if takes_gzip(request) else None
    response = web.StreamResponse(headers={"Content-Type": JSON, "Cache-Control": "no-cache, private"})
    if compressor is not None:
        response.headers.update({"Content-Encoding": "gzip", "Vary": "Accept-Encoding"})
    await response.prepare(request)

    async def send(piece: bytes) -> None:
        if compressor is not None:
            # A page of trials takes milliseconds, in which the loop would stand still.
            piece = await asyncio.to_thread(compressor.compress, piece)
        if piece:
            await _written(request, response, piece)

    try:
        await send(first)
        if second is not None:
            await send(second)
        async for piece in pieces:
            await send(piece)
        if compressor is not None:
            await _written(request, response, compressor.flush())
        await response.write_eof()
    except Refusal:
        _cut(request)
        raise ConnectionResetError("the database went away in the middle of an answer") from None
    return response


async def send_file(request: web.Request, file: IO[bytes], compressed: bool) -> web.StreamResponse:
    """Send a file of JSON, from its beginning.

    Args:
        compressed: whether it has been compressed.
    """
    response = web.StreamResponse(headers={"Content-Type": JSON, "Cache-Control": "no-cache, private"})
    if compressed:
        response.headers.update({"Content-Encoding": "gzip", "Vary": "Accept-Encoding"})
    response.content_length = file.seek(0, 2)
    file.seek(0)
    await response.prepare(request)
    while piece := await asyncio.to_thread(file.read, _PIECE):
        await _written(request, response, piece)
    await response.write_eof()
    return response


def takes_gzip(request: web.Request) -> bool:
    """Return whether a client takes compressed answers."""
    encodings = request.headers.get("Accept-Encoding", "").split(",")
    return "gzip" in (encoding.partition(";")[0].strip() for encoding in encodings)


async def _written(request: web.Request, response: web.StreamResponse, data: bytes) -> None:
    """Write, and cut off a client that does not read.

    Raises:
        ConnectionError: the client is gone, or does not read.
    """
    try:
        async with asyncio.timeout(UNREAD_SECONDS):
            await response.write(data)
    except TimeoutError:
        _cut(request)
        raise ConnectionResetError(f"the client has read nothing for {UNREAD_SECONDS:.0f} s") from None


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


class Lines:
    """Events of a watch, a line of JSON each. `opened` begins the answer."""

    def __init__(self, request: web.Request, response: web.StreamResponse) -> None:
        self._request, self.response = request, response

    @classmethod
    async def opened(cls, request: web.Request) -> Lines:
        """Begin the answer, so that the client knows that it watches."""
        headers: Mapping[str, str] = {"Content-Type": JSON, "Cache-Control": "no-cache, private"}
        response = web.StreamResponse(headers=headers)
        response.enable_chunked_encoding()
        await response.prepare(request)
        return cls(request, response)

    async def send(self, lines: list[bytes]) -> None:
        """Send events. Raises ConnectionError if the client is gone, or does not read."""
        await _written(self._request, self.response, b"".join(lines))

    async def close(self) -> None:
        """End the answer."""
        await self.response.write_eof()


class Frames:
    """The same over a WebSocket, as browsers watch: each event is a frame of text."""

    def __init__(self, request: web.Request, response: web.WebSocketResponse) -> None:
        self._request, self.response = request, response
        self._watching = asyncio.current_task()
        self._receiving = asyncio.create_task(self._received())

    @classmethod
    async def opened(cls, request: web.Request) -> Frames:
        """Accept the WebSocket."""
        response = web.WebSocketResponse(heartbeat=UNREAD_SECONDS, max_msg_size=4096)
        await response.prepare(request)
        return cls(request, response)

    async def _received(self) -> None:
        """Read what the client sends, which is nothing but the end."""
        async for message in self.response:
            if message.type is not WSMsgType.PING:
                break
        if self._watching is not None:
            self._watching.cancel()

    async def send(self, lines: list[bytes]) -> None:
        """Send events. Raises ConnectionError if the client is gone, or does not read."""
        try:
            async with asyncio.timeout(UNREAD_SECONDS):
                for line in lines:
                    await self.response.send_str(line.decode())
        except TimeoutError:
            _cut(self._request)
            raise ConnectionResetError(f"the client has read nothing for {UNREAD_SECONDS:.0f} s") from None

    async def close(self) -> None:
        """End the WebSocket."""
        self._receiving.cancel()
        await self.response.close()

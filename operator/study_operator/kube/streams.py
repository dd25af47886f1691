"""Reads answers of the API server that go on for hours: watches and logs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import client

from study_operator.kube.api_server import refusal, unreachable

_CONNECT_SECONDS = 10.0


@asynccontextmanager
async def stream(
    api: client.ApiClient, path: str, query: Mapping[str, str], silence: float | None = None
) -> AsyncIterator[aiohttp.StreamReader]:
    """Open an answer, and close it at the end.

    Args:
        api: the client.
        path: of the request, a GET.
        query: of the request.
        silence: after how many seconds without data the connection is taken for lost; None if it may be silent.

    Raises:
        ApiError: the API server refuses the request or cannot be reached; or the connection is lost while reading.
    """
    try:
        _, url, headers, _, _ = await api.param_serialize("GET", path, auth_settings=["BearerToken"])
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=silence)
        answer = await api.call_api("GET", f"{url}?{urlencode(query)}", headers, _request_timeout=timeout)
        response = answer.response
        try:
            if response.status >= 300:
                raise refusal(response.status, (await response.read()).decode("utf-8", "replace"))
            yield response.content
        finally:
            response.close()
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise unreachable(error) from None


async def lines(answer: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Yield the whole lines of an answer, however long. aiohttp's own reader of lines refuses long ones."""
    rest = b""
    async for chunk in answer.iter_any():
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line

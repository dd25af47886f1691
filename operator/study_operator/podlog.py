"""Streams of pods' logs. They have connections of their own: hundreds of them must not hold up the other calls."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import quote, urlencode

import aiohttp
from kubernetes.aio import client

from study_operator.cluster import refusal, unreachable

_CONNECT = 10.0  # seconds
_BUFFER = 32 * 1024  # bytes, for each stream; aiohttp stops reading at twice as many


class PodLogs:
    """Logs of one API server's pods. Close it at the end.

    Args:
        configuration: of the kubernetes client.
    """

    def __init__(self, configuration: client.Configuration) -> None:
        self._configuration = copy.copy(configuration)
        self._configuration.connection_pool_maxsize = 0  # as many as there are trials
        self._configuration.client_session_kwargs = {"read_bufsize": _BUFFER}
        self._client: client.ApiClient | None = None

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()

    @asynccontextmanager
    async def open(
        self, namespace: str, pod: str, container: str, since: str | None, follow: bool = False, previous: bool = False
    ) -> AsyncIterator[aiohttp.StreamReader]:
        """A container's log, each line with the time at which it was written. With `follow`, opening it takes until
        there is something in it.

        Args:
            since: a second, as RFC 3339 has it, from which on lines are wanted.
            follow: go on until the container ends.
            previous: of the container that ran before the last restart.

        Raises:
            ApiError: when there is no such log, or the API server or the node cannot be reached; while reading, too.
        """
        if self._client is None:
            self._client = client.ApiClient(self._configuration)
        query = {"container": container, "timestamps": "true"}
        query |= {"sinceTime": since} if since else {}
        query |= {"follow": "true"} if follow else {}
        query |= {"previous": "true"} if previous else {}
        path = f"/api/v1/namespaces/{namespace}/pods/{quote(pod)}/log"
        try:
            _, url, headers, _, _ = await self._client.param_serialize("GET", path, auth_settings=["BearerToken"])
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT)
            answer = await self._client.call_api("GET", f"{url}?{urlencode(query)}", headers, _request_timeout=timeout)
            response = answer.response
            try:
                if response.status >= 300:
                    raise refusal(response.status, (await response.read()).decode("utf-8", "replace"))
                yield response.content
            finally:
                response.close()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise unreachable(error) from None

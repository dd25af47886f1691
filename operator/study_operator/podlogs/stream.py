"""Streams of pods' logs. They have connections of their own: hundreds of them must not hold up the other calls."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import quote

import aiohttp
from kubernetes.aio import client

from study_operator.kube.streams import stream

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
        async with stream(self._client, path, query) as content:
            yield content

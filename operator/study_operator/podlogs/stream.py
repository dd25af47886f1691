"""Streams of pods' logs, on connections of their own, because hundreds of them must not hold up the other calls."""

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
    """Opens logs of one API server's pods. Close it at the end.

    Args:
        configuration: of the kubernetes client.
    """

    def __init__(self, configuration: client.Configuration) -> None:
        self._configuration = copy.copy(configuration)
        self._configuration.connection_pool_maxsize = 0  # as many as there are trials
        self._configuration.client_session_kwargs = {"read_bufsize": _BUFFER}
        self._client: client.ApiClient | None = None

    async def close(self) -> None:
        """Close all connections."""
        if self._client is not None:
            await self._client.close()

    @asynccontextmanager
    async def open(
        self, namespace: str, pod: str, container: str, since: str | None, follow: bool = False, previous: bool = False
    ) -> AsyncIterator[aiohttp.StreamReader]:
        """Open a container's log. Each line begins with the time at which it was written.

        Args:
            namespace: the pod's.
            pod: its name.
            container: its name.
            since: the second from which on lines are wanted, as RFC 3339 has it; None for all lines.
            follow: go on until the container ends. Opening then takes until there is something in the log.
            previous: open the log of the container that ran before the last restart.

        Raises:
            ApiError: there is no such log (400 or 404), or the API server or the node cannot be reached; while reading,
                too.
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

"""A client that watches trials through the API server, event by event."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aggregated import BASE
from kubernetes import client
from kubernetes.config import load_kube_config


class Client:
    """A client of the API server, as an administrator."""

    def __init__(self, kubeconfig: str) -> None:
        config = client.Configuration()
        load_kube_config(config_file=kubeconfig, client_configuration=config)
        self.host = config.host
        self.tls = ssl.create_default_context(cafile=config.ssl_ca_cert)
        self.tls.load_cert_chain(config.cert_file, config.key_file)

    @asynccontextmanager
    async def watch(self, namespace: str, **query: str) -> AsyncIterator[Watch]:
        """A watch of the trials of a namespace."""
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=self.tls, limit=0)) as session,
            session.get(f"{self.host}{trials_path(namespace)}", params={"watch": "1", **query}) as answer,
        ):
            assert answer.status == 200, await answer.text()
            yield Watch(answer)


class Watch:
    """Events of a watch."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self._answer = answer

    async def next(self) -> tuple[str, dict[str, Any]]:
        """Type and object of the next event."""
        line = await asyncio.wait_for(self._answer.content.readline(), 60)
        assert line, "the watch has ended"
        event = json.loads(line)
        return event["type"], event["object"]

    async def told(self) -> tuple[str, str]:
        """Type of the next event, and the name of its object."""
        kind, found = await self.next()
        return kind, found["metadata"]["name"]

    async def ended(self) -> bool:
        return await asyncio.wait_for(self._answer.content.readline(), 60) == b""


def trials_path(namespace: str) -> str:
    return f"{BASE}/namespaces/{namespace}/studytrials"

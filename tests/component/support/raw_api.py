"""The API server as one of its clients sees it: text in, text out.

Text, because what a tenant writes may be nested more deeply than Python's json can read or write.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import client, config

MERGE = "application/merge-patch+json"


class Refused(Exception):
    """The API server refuses a request.

    Attributes:
        status: the HTTP status.
        text: what it says.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status} {text[:500]}")
        self.status, self.text = status, text


class Api:
    """One client. Close it at the end.

    Args:
        configuration: of the kubernetes client, with a client certificate.
    """

    def __init__(self, configuration: client.Configuration) -> None:
        tls = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
        tls.load_cert_chain(configuration.cert_file, configuration.key_file)
        self._host = configuration.host
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls, limit=0), timeout=aiohttp.ClientTimeout(sock_connect=30)
        )

    @classmethod
    async def connect(cls, kubeconfig: str) -> Api:
        """A client that is configured by the kubeconfig of that path."""
        configuration = client.Configuration()
        await config.load_kube_config(config_file=kubeconfig, client_configuration=configuration)
        return cls(configuration)

    async def close(self) -> None:
        await self._session.close()

    async def call(
        self, method: str, path: str, body: Any = None, content: str = "application/json", **query: str
    ) -> str:
        """One request.

        Args:
            body: text, which is sent as it is, or an object.

        Raises:
            Refused: with the server's own words.
        """
        data = body if body is None or isinstance(body, str | bytes) else json.dumps(body)
        headers = {"Content-Type": content}
        async with self._session.request(method, self._url(path, query), data=data, headers=headers) as response:
            text = await response.text()
            if response.status >= 300:
                raise Refused(response.status, text)
            return text

    async def watch(self, path: str, **query: str) -> AsyncIterator[dict[str, Any]]:
        """What happens to some objects, for ever: first those that are there, as ADDED.

        Objects may be shown again: the API server ends a watch whose client is late, and it begins anew then.
        """
        while True:
            async with self._session.get(self._url(path, {"watch": "true", **query})) as response:
                if response.status >= 300:
                    raise Refused(response.status, await response.text())
                rest = b""
                async for chunk in response.content.iter_any():
                    *whole, rest = (rest + chunk).split(b"\n")
                    for line in whole:
                        event = json.loads(line)
                        if event["type"] != "ERROR":
                            yield event

    def _url(self, path: str, query: Mapping[str, str]) -> str:
        return f"{self._host}{path}" + (f"?{urlencode(query)}" if query else "")

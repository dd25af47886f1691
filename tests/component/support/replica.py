"""Replicas of the operator as processes, each with a way of its own to the API server and to the database.

The way to the API server is a proxy in the test, which notes who has written what, and can stop a process at one of its
writes. The way to the database is another, which can fall silent.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import aiohttp
from aiohttp import web
from database import TestDatabase
from kubeconfig import write_kubeconfig
from kubernetes.aio import client, config
from process import Process
from world import World

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "content-encoding", "host"}


@dataclass(frozen=True)
class Write:
    """A request that has reached the API server's proxy: when (`time.monotonic`), and what."""

    at: float
    method: str
    path: str


class Front:
    """What stands between one replica and the API server.

    Attributes:
        writes: what the replica has sent so far, but for GETs.
        reads: the paths of its GETs.
        stop_at: called with each write before it is passed on; True stops the replica there, and the write waits.
        go_on: set when a write that waits is to be passed on.
    """

    def __init__(self) -> None:
        self.writes: list[Write] = []
        self.reads: list[str] = []
        self.stop_at: Callable[[Write], bool] = lambda _: False
        self.go_on = asyncio.Event()
        self.pid = 0

    @asynccontextmanager
    async def serving(self, configuration: client.Configuration, kubeconfig: Path) -> AsyncIterator[None]:
        """Serves, and writes a kubeconfig that leads here."""
        trust = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
        trust.load_cert_chain(configuration.cert_file, configuration.key_file)
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust, limit=0))
        self._to = configuration.host
        application = web.Application(client_max_size=2**26)
        application.router.add_route("*", "/{path:.*}", self._pass_on)
        runner = web.AppRunner(application, shutdown_timeout=0.1)  # watches are open; who opened them is dead
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        write_kubeconfig(kubeconfig, f"http://127.0.0.1:{port}")
        try:
            yield
        finally:
            self.go_on.set()
            await runner.cleanup()
            await self._session.close()

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        if request.method == "GET":
            self.reads.append(request.path)
        else:
            write = Write(time.monotonic(), request.method, request.path)
            self.writes.append(write)
            if self.stop_at(write):
                self.stop_at = lambda _: False
                os.kill(self.pid, signal.SIGSTOP)
                await self.go_on.wait()
        headers = {k: v for k, v in request.headers.items() if k.lower() not in {*_HOP_BY_HOP, "authorization"}}
        timeout = aiohttp.ClientTimeout(total=None)
        async with self._session.request(
            request.method, self._to + request.path_qs, data=body or None, headers=headers, timeout=timeout
        ) as answer:
            kept = {k: v for k, v in answer.headers.items() if k.lower() not in _HOP_BY_HOP}
            response = web.StreamResponse(status=answer.status, headers=kept)
            await response.prepare(request)
            with suppress(ConnectionError):
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
                await response.write_eof()
            return response


class Wire:
    """What stands between one replica and the database.

    Attributes:
        silent: nothing is passed on any more, in either direction, and nothing is closed: a network that is gone.
    """

    def __init__(self) -> None:
        self.silent = False

    @asynccontextmanager
    async def serving(self, url: str) -> AsyncIterator[str]:
        """Serves; gives the database's url that leads here."""
        parts = urlsplit(url)
        self._to = parts.hostname, parts.port
        self._tasks: set[asyncio.Task] = set()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            yield urlunsplit(parts._replace(netloc=re.sub(r"@.*", f"@127.0.0.1:{port}", parts.netloc)))
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        other_reader, other_writer = await asyncio.open_connection(*self._to)
        ways = [self._pump(reader, other_writer), self._pump(other_reader, writer)]
        self._tasks.update(asyncio.ensure_future(way) for way in ways)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                if self.silent:
                    await asyncio.Event().wait()
                writer.write(data)
                await writer.drain()
            if self.silent:
                await asyncio.Event().wait()
        writer.close()


@dataclass
class Replica:
    """One process, and what stands around it."""

    process: Process
    front: Front
    wire: Wire

    @property
    def pid(self) -> int:
        return self.process.process.pid

    def signal(self, number: signal.Signals) -> None:
        self.process.process.send_signal(number)

    async def end(self) -> int:
        """Lets it end as a rolling update does. Returns its exit code."""
        self.signal(signal.SIGTERM)
        return await asyncio.to_thread(self.process.process.wait, 180)

    def sample(self, name: str) -> float:
        """One of its metrics, without labels."""
        try:
            return self.process.metrics().get((name, ""), -1.0)
        except ValueError:
            return -1.0

    async def joined(self, members: int) -> bool:
        return await asyncio.to_thread(self.sample, "study_operator_replicas") == members

    async def serves(self) -> int:
        """How many studies it serves."""
        return int(await asyncio.to_thread(self.sample, "study_operator_studies_served"))

    def wrote_to(self, study: str) -> list[Write]:
        """Its writes that are about a study."""
        return [write for write in self.front.writes if re.search(rf"/{study}(-|/|\.|$)", write.path)]


@asynccontextmanager
async def replica(world: World, folder: Path, name: str, kubeconfig: str, **settings: str) -> AsyncIterator[Replica]:
    """A replica for the world's namespace and database; killed at the end."""
    configuration = client.Configuration()
    await config.load_kube_config(config_file=kubeconfig, client_configuration=configuration)
    front, wire, own = Front(), Wire(), folder / f"{name}.kubeconfig"
    async with front.serving(configuration, own), wire.serving(world.database.url) as url:
        environment = {"KUBECONFIG": str(own), "WATCH_NAMESPACES": world.namespace, "LOG_FORMAT": "text", **settings}
        process = Process(world.database, folder / f"{name}.log", **environment, DATABASE_URL=url)
        front.pid = process.process.pid
        try:
            yield Replica(process, front, wire)
        finally:
            process.process.kill()
            process.process.send_signal(signal.SIGCONT)
            process.process.wait()


def holders(database: TestDatabase, studies: str = "%") -> dict[str, int]:
    """The number of the hold of each study, by the study's name; negative when it has been let go of."""
    rows: list[tuple[Any, ...]] = database.query(
        "SELECT name, holder FROM study_operator.access WHERE name LIKE %s", studies
    )
    return dict(rows)

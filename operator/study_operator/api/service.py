"""`study-operator serve-api`: builds the server, keeps its certificate and its trust up to date, and ends in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from study_operator import probes
from study_operator.api.access import Access
from study_operator.api.acts import Acts
from study_operator.api.feed import Feed
from study_operator.api.front_proxy import FrontProxy, NoFrontProxy
from study_operator.api.listener import Listener
from study_operator.api.reading import Reading
from study_operator.api.server import application
from study_operator.api.serving import Trials
from study_operator.api.serving_certificate import Certificate, make
from study_operator.api.trust import Untrusted, trusted
from study_operator.backoff import delays
from study_operator.kube.aggregation import Aggregation
from study_operator.kube.api_server import ApiError
from study_operator.pool import BlockingPool
from study_operator.settings import ApiSettings, SettingsError
from study_operator.storage.readable_trials import ReadableTrials
from study_operator.storage.reader_pool import ReaderPool
from study_operator.storage.wishes import Wishes

# From the write of the APIService on: how long API servers may take to know of it.
_SETTLING_SECONDS = 2.0
_FIRST_DELAY, _LONGEST_DELAY = 0.5, 10.0

log = logging.getLogger(__name__)


class Service:
    """One process of the trials API. `connect` builds it; `run` returns when `stop` is set.

    Attributes:
        stop: ends `run` when it is set; so do SIGTERM and SIGINT.
        health: what the probes tell.
        port: on which it serves.
    """

    def __init__(
        self,
        settings: ApiSettings,
        cluster: Aggregation,
        feed: Feed,
        trials: Trials,
        acts: Acts,
        health: probes.Health,
    ) -> None:
        self._settings, self._cluster, self._feed, self.health = settings, cluster, feed, health
        self.stop = asyncio.Event()
        self._front_proxy: FrontProxy | None = None
        self._certificate: Certificate | None = None
        self._served: tuple[str, str] | None = None
        self._ready_at = 0.0
        try:
            self._listener = Listener(application(self._proxy, trials, acts), settings.port)
        except OSError as error:
            why = os.strerror(error.errno or 0)
            raise SettingsError(f"API_PORT is {settings.port}: {why}; write a port that is free") from None
        self.port = self._listener.port

    @classmethod
    @asynccontextmanager
    async def connect(cls, settings: ApiSettings) -> AsyncIterator[Service]:
        """Serve the probes, wait for the API server, and build the process; close everything at the end.

        Raises:
            SettingsError: a port is taken, or may not be used.
        """
        async with AsyncExitStack() as stack:
            health = probes.Health()
            try:
                server = probes.serve(health, settings.http_port)
            except OSError as error:
                why = os.strerror(error.errno or 0)
                raise SettingsError(f"HTTP_PORT is {settings.http_port}: {why}; write a port that is free") from None
            stack.callback(server.close)
            cluster = await Aggregation.connect()
            stack.push_async_callback(cluster.close)
            cluster_id = await _patiently(cluster.cluster_id, health)
            pool = ReaderPool(settings.dsn, settings.connections)
            stack.callback(pool.close)
            threads = BlockingPool(settings.connections)
            stack.callback(threads.shutdown)
            reading = Reading(ReadableTrials(pool, cluster_id), threads)
            feed = Feed(reading)
            access = Access(cluster)
            acts = Acts(reading, Wishes(pool, cluster_id), access)
            service = cls(settings, cluster, feed, Trials(reading, feed, access), acts, health)
            stack.push_async_callback(service._listener.close)
            yield service

    async def run(self) -> None:
        """Serve until `stop` is set."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                loop.add_signal_handler(number, self.stop.set)
        keeping: list[asyncio.Task[None]] = [
            asyncio.create_task(self._keep_up()),
            asyncio.create_task(self._live()),
        ]
        stopped = asyncio.create_task(self.stop.wait())
        try:
            await asyncio.wait([stopped, *keeping], return_when=asyncio.FIRST_COMPLETED)
            for task in keeping:
                if task.done():
                    task.result()  # a defect: it never ends by itself
        finally:
            stopped.cancel()
            for task in keeping:
                task.cancel()
        self.health.not_ready = "ending"
        log.info("ending: no new requests are wanted")
        self._feed.close()
        # Requests still come until every node knows that this replica has left the Service. Each is answered, and its
        # connection ends, so that the next one goes to another replica.
        until = time.monotonic() + self._settings.leaving_seconds
        while time.monotonic() < until:
            self._listener.let_go()
            await asyncio.sleep(0.2)

    def _proxy(self) -> FrontProxy:
        assert self._front_proxy is not None, "nothing listens before"
        return self._front_proxy

    async def _live(self) -> None:
        while True:
            self.health.progress()
            await asyncio.sleep(1.0)

    async def _keep_up(self) -> None:
        """Keep certificate and trust up to date, and say whether this replica is ready."""
        waits = delays(_FIRST_DELAY, _LONGEST_DELAY)
        while True:
            try:
                await self._look()
            except (NoFrontProxy, Untrusted, ApiError, SettingsError, ssl.SSLError) as error:
                if self.health.not_ready != str(error):
                    log.warning("not ready: %s", error)
                # While it serves, an API server that is away is no reason to leave: it is the one that asks.
                if self._served is None or isinstance(error, Untrusted):
                    self.health.not_ready = str(error)
                await asyncio.sleep(next(waits))
                continue
            waits = delays(_FIRST_DELAY, _LONGEST_DELAY)
            late = self._ready_at - time.monotonic()
            if late > 0:
                await asyncio.sleep(late)
            if self.health.not_ready is not None:
                log.info("ready: serving trials on port %d", self.port)
            self.health.not_ready = None
            await asyncio.sleep(self._settings.look_seconds)

    async def _look(self) -> None:
        """Read how the API server proves itself, and let it trust this replica's certificate."""
        found = FrontProxy.of(await self._cluster.authentication())
        certificate = await self._serving_certificate()
        self._front_proxy = found
        if certificate.authority and await trusted(self._cluster, self._settings.service, certificate.authority, _now):
            self._ready_at = time.monotonic() + _SETTLING_SECONDS
        if self._served != (certificate.chain, found.authority):
            # The API server trusts the certificate before it is shown it.
            if self._served is not None:
                await asyncio.sleep(_SETTLING_SECONDS)
            await self._listener.serve(certificate.chain, certificate.key, found.authority)
            self._served = certificate.chain, found.authority

    async def _serving_certificate(self) -> Certificate:
        """Return the certificate to serve with: one from files, or this replica's own, made anew in time."""
        if self._settings.certificate_directory is not None:
            return await asyncio.to_thread(_from_files, Path(self._settings.certificate_directory))
        if self._certificate is None or _now() >= self._certificate.renewed_at:
            namespace, name = self._settings.service
            self._certificate = await asyncio.to_thread(make, name, namespace, _now())
        return self._certificate


def _from_files(directory: Path) -> Certificate:
    """Return the certificate that somebody else keeps up to date, as cert-manager does, and lets the API server trust.

    Raises:
        SettingsError: the files cannot be read.
    """
    try:
        chain, key = (directory / "tls.crt").read_text(), (directory / "tls.key").read_text()
    except OSError as error:
        raise SettingsError(f"API_CERTIFICATE_DIRECTORY is {directory}: {error}") from None
    return Certificate(chain, key, "", datetime.max.replace(tzinfo=UTC))


def _now() -> datetime:
    return datetime.now(UTC)


async def _patiently(call: Callable[[], Awaitable[str]], health: probes.Health) -> str:
    """Return what a call of the API server returns, however long that is away."""
    for wait in delays(_FIRST_DELAY, _LONGEST_DELAY):
        try:
            return await call()
        except ApiError as error:
            if health.not_ready != str(error):
                log.warning("waiting for the API server: %s", error)
            health.not_ready = str(error)
            health.progress()
            await asyncio.sleep(wait)
    raise AssertionError("delays do not end")


async def serve(settings: ApiSettings) -> None:
    """Serve until SIGTERM.

    Raises:
        SettingsError: a setting cannot be used.
    """
    async with Service.connect(settings) as service:
        await service.run()

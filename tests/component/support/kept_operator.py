"""The operator under the chart's limits, kept running as the kubelet keeps a container running."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
from database import TestDatabase, settings_for
from memory_limit import MemoryLimit
from process import Process

from study_operator.storage.migrate import migrate

# As helm/study-operator has them: values.yaml, and the deployment's probes.
MEMORY = 2**30  # bytes
GRACE_SECONDS = 30.0
_PROBE_SECONDS, _PROBE_TIMEOUT_SECONDS, _PROBE_FAILURES = 15.0, 5.0, 4
# As the kubelet waits before it starts a container again: at once at first, and then twice as long each time.
_FIRST_DELAY_SECONDS, _LONGEST_DELAY_SECONDS = 10.0, 300.0
_POLL_SECONDS = 0.02


class KeptOperator:
    """One operator, process after process.

    Args:
        folder: for the logs, one for each process.
        settings: variables of its environment, KUBECONFIG among them.

    Attributes:
        settings: as given.
        ends: why it has ended each time without having been asked to, in words.
    """

    def __init__(self, database: TestDatabase, folder: Path, **settings: str) -> None:
        self._database, self._folder, self.settings = database, folder, settings
        self.limit = MemoryLimit(MEMORY)
        self.ends: list[str] = []
        self._processes = 0
        self._tasks: list[asyncio.Task[Any]] = []

    async def start(self) -> None:
        """Start it, after its init container, and keep it running from now on."""
        await asyncio.to_thread(migrate, settings_for(self._database, **self.settings), 60)
        self._begin()
        self._tasks = [asyncio.create_task(self._keep()), asyncio.create_task(self._probe())]

    async def replace(self, **settings: str) -> float:
        """Let it end as an upgrade does, and start the next one. Return the seconds that it took to end.

        Args:
            settings: to be changed, from now on.

        Raises:
            AssertionError: it does not end within the grace period, or not in order.
        """
        async with self._unkept():
            took = await self._terminate()
            self.settings |= settings
        return took

    @contextlib.asynccontextmanager
    async def away(self) -> AsyncIterator[None]:
        """It has ended meanwhile. Raises as `replace`."""
        async with self._unkept():
            await self._terminate()
            yield

    async def kill(self) -> None:
        """Begin anew with another process, whatever this one is doing, and forget how often it has ended."""
        async with self._unkept():
            self._process.process.kill()
            await self._ended(GRACE_SECONDS)
        self.ends.clear()

    async def stop(self) -> None:
        """End it for good, and lift the limit."""
        await self._let_go()
        self._process.process.kill()
        await self._ended(GRACE_SECONDS)
        await asyncio.to_thread(self.limit.remove)

    async def answers(self) -> bool:
        """Whether the current process answers its probes."""
        return await self._get("/healthz") != 0

    async def ready(self) -> bool:
        """Whether it says that it is ready."""
        return await self._get("/readyz") == 200

    @property
    def pid(self) -> int:
        """The current process."""
        return self._process.process.pid

    @property
    def port(self) -> int:
        """Of the current process' probes."""
        return self._process.port

    def logs(self) -> str:
        """What the current process and the one before it have logged."""
        names = (f"operator-{number}.log" for number in range(self._processes - 1, self._processes + 1))
        return "".join((self._folder / name).read_text() for name in names if (self._folder / name).exists())

    def metrics(self) -> dict[tuple[str, str], float]:
        """As `Process.metrics`."""
        return self._process.metrics()

    def alive(self) -> None:
        """Check that it has not ended.

        Raises:
            AssertionError: it has, with how, and what it said last.
        """
        assert not self.ends, self.ends[0]

    # Its processes

    def _begin(self) -> None:
        self._processes += 1
        log = self._folder / f"operator-{self._processes}.log"
        self._process = Process(self._database, log, **self.settings)
        self.limit.hold(self._process.process.pid)
        self._began = time.monotonic()

    @contextlib.asynccontextmanager
    async def _unkept(self) -> AsyncIterator[None]:
        """Nobody keeps it running meanwhile; the next one is started at the end."""
        await self._let_go()
        try:
            yield
        finally:
            if self._process.process.poll() is None:
                self._process.process.kill()
                await self._ended(GRACE_SECONDS)
            await self.start()

    async def _let_go(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def _ended(self, patience: float) -> bool:
        """Wait until the process has ended. Return whether it has."""
        deadline = time.monotonic() + patience
        while self._process.process.poll() is None:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(_POLL_SECONDS)
        return True

    async def _terminate(self) -> float:
        asked = time.monotonic()
        self._process.process.send_signal(signal.SIGTERM)
        assert await self._ended(GRACE_SECONDS), (
            f"the operator has not ended {GRACE_SECONDS:.0f} s after SIGTERM; the kubelet kills it then: {self._last()}"
        )
        code = self._process.process.returncode
        # The last two: it has not begun to serve yet, or has not even begun.
        assert code in (0, 128 + signal.SIGTERM, -signal.SIGTERM), f"after SIGTERM {self._how()}: {self._last()}"
        return time.monotonic() - asked

    async def _keep(self) -> None:
        delay = 0.0
        while True:
            await self._ended(float("inf"))
            after = time.monotonic() - self._began
            self.ends.append(f"{self._how()} after {after:.0f} s: {self._last()}")
            await asyncio.sleep(delay)
            delay = min(max(2 * delay, _FIRST_DELAY_SECONDS), _LONGEST_DELAY_SECONDS)
            self._begin()

    def _how(self) -> str:
        code = self._process.process.returncode
        if code == -signal.SIGKILL and self.limit.kills:
            most = self.limit.peak() / 2**20
            return f"the operator was killed (it took up to {most:.0f} MiB of {MEMORY // 2**20})"
        return f"the operator ended with {code}"

    def _last(self) -> str:
        return " | ".join(self._process.log().splitlines()[-3:]) or "it has logged nothing"

    # Its probes

    async def _probe(self) -> None:
        failures = 0
        while True:
            await asyncio.sleep(_PROBE_SECONDS)
            failures = 0 if await self._get("/healthz") == 200 else failures + 1
            if failures == _PROBE_FAILURES:
                self.ends.append(f"the liveness probe has failed {failures} times: {self._last()}")
                self._process.process.send_signal(signal.SIGTERM)
                if not await self._ended(GRACE_SECONDS):
                    self._process.process.kill()
                failures = 0

    async def _get(self, path: str) -> int:
        timeout = aiohttp.ClientTimeout(total=_PROBE_TIMEOUT_SECONDS)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(f"http://127.0.0.1:{self._process.port}{path}") as answer,
            ):
                return answer.status
        except (aiohttp.ClientError, TimeoutError):
            return 0

"""The operator under the chart's limits, kept running as the kubelet keeps its containers running."""

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

# As helm/study-operator has them: values.yaml, and the deployment's probes. Memory is in bytes.
MEMORY, OPTIMIZER_MEMORY = 1024 * 2**20, 1536 * 2**20
GRACE_SECONDS = 30.0
_PROBE_SECONDS, _PROBE_TIMEOUT_SECONDS, _PROBE_FAILURES = 15.0, 5.0, 4
# As the kubelet waits before it starts a container again: at once at first, and then twice as long each time.
_FIRST_DELAY_SECONDS, _LONGEST_DELAY_SECONDS = 10.0, 300.0
_POLL_SECONDS = 0.02


class _Container:
    """One container of the pod, process after process.

    Args:
        name: in words.
        command: of study-operator.
        memory: its limit, in bytes.
        folder: for the logs, one for each process.
    """

    def __init__(self, name: str, command: str, memory: int, database: TestDatabase, folder: Path) -> None:
        self.name, self._command, self._memory = name, command, memory
        self._database, self._folder = database, folder
        self.limit = MemoryLimit(memory)
        self._processes = 0

    def begin(self, settings: dict[str, str]) -> None:
        """Start its next process."""
        self._processes += 1
        self.process = Process(self._database, self._log(self._processes), self._command, **settings)
        self.limit.hold(self.process.process.pid)
        self._began = time.monotonic()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the current process."""
        self.process.process.send_signal(number)

    async def ended(self, patience: float) -> bool:
        """Wait until the current process has ended. Return whether it has."""
        deadline = time.monotonic() + patience
        while self.process.process.poll() is None:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(_POLL_SECONDS)
        return True

    def end(self) -> str:
        """How the current process has ended, in words."""
        code, after = self.process.process.returncode, time.monotonic() - self._began
        how = f"the {self.name} ended with {code}"
        if code == -signal.SIGKILL and self.limit.kills:
            most, limit = self.limit.peak() / 2**20, self._memory / 2**20
            how = f"the {self.name} was killed (it took up to {most:.0f} MiB of {limit:.0f})"
        return f"{how} after {after:.0f} s: {self.last_words()}"

    def last_words(self) -> str:
        """The last lines of the current process' log."""
        return " | ".join(self.process.log().splitlines()[-3:]) or "it has logged nothing"

    def logs(self) -> str:
        """What the current process and the one before it have logged."""
        logs = (self._log(number) for number in range(self._processes - 1, self._processes + 1))
        return "".join(log.read_text() for log in logs if log.exists())

    def _log(self, number: int) -> Path:
        return self._folder / f"{self.name}-{number}.log"


class KeptOperator:
    """The pod of one operator.

    Args:
        folder: for the logs, and for the socket between its containers.
        settings: variables of its environment, KUBECONFIG among them.

    Attributes:
        settings: as given.
        ends: why a container has ended each time without having been asked to, in words.
    """

    def __init__(self, database: TestDatabase, folder: Path, **settings: str) -> None:
        self._database = database
        self.settings = {"OPTIMIZER_SOCKET": str(folder / "optimizer.sock"), **settings}
        self._operator = _Container("operator", "run", MEMORY, database, folder)
        optimizer = _Container("optimizer", "optimize", OPTIMIZER_MEMORY, database, folder)
        self._containers = (self._operator, optimizer)
        self.ends: list[str] = []
        self._tasks: list[asyncio.Task[Any]] = []

    async def start(self) -> None:
        """Start it, after its init container, and keep it running from now on."""
        await asyncio.to_thread(migrate, settings_for(self._database, **self.settings), 60)
        for container in self._containers:
            container.begin(self.settings)
        keeping = [self._keep(container) for container in self._containers]
        self._tasks = [asyncio.create_task(work) for work in (*keeping, self._probe())]

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
        """Begin anew with another pod, whatever this one is doing, and forget how often it has ended."""
        async with self._unkept():
            await self._kill()
        self.ends.clear()

    async def stop(self) -> None:
        """End it for good, and lift the limits."""
        await self._let_go()
        await self._kill()
        for container in self._containers:
            await asyncio.to_thread(container.limit.remove)

    async def answers(self) -> bool:
        """Whether the current process answers its probes."""
        return await self._get("/healthz") != 0

    async def ready(self) -> bool:
        """Whether it says that it is ready."""
        return await self._get("/readyz") == 200

    @property
    def pid(self) -> int:
        """The current process."""
        return self._operator.process.process.pid

    @property
    def port(self) -> int:
        """Of the current process' probes."""
        return self._operator.process.port

    def logs(self) -> str:
        """What the current process and the one before it have logged."""
        return self._operator.logs()

    def metrics(self) -> dict[tuple[str, str], float]:
        """As `Process.metrics`."""
        return self._operator.process.metrics()

    def alive(self) -> None:
        """Check that it has not ended.

        Raises:
            AssertionError: it has, with how, and what it said last.
        """
        assert not self.ends, self.ends[0]

    # Its containers

    @contextlib.asynccontextmanager
    async def _unkept(self) -> AsyncIterator[None]:
        """Nobody keeps it running meanwhile; the next one is started at the end."""
        await self._let_go()
        try:
            yield
        finally:
            await self._kill()
            await self.start()

    async def _let_go(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def _kill(self) -> None:
        for container in self._containers:
            container.signal(signal.SIGKILL)
            await container.ended(GRACE_SECONDS)

    async def _terminate(self) -> float:
        asked = time.monotonic()
        for container in self._containers:
            container.signal(signal.SIGTERM)
        for container in self._containers:
            assert await container.ended(asked + GRACE_SECONDS - time.monotonic()), (
                f"the {container.name} has not ended {GRACE_SECONDS:.0f} s after SIGTERM; the kubelet kills it then: "
                f"{container.last_words()}"
            )
        code = self._operator.process.process.returncode
        # The last two: it has not begun to serve yet, or has not even begun.
        assert code in (0, 128 + signal.SIGTERM, -signal.SIGTERM), f"after SIGTERM {self._operator.end()}"
        return time.monotonic() - asked

    async def _keep(self, container: _Container) -> None:
        delay = 0.0
        while True:
            await container.ended(float("inf"))
            self.ends.append(container.end())
            await asyncio.sleep(delay)
            delay = min(max(2 * delay, _FIRST_DELAY_SECONDS), _LONGEST_DELAY_SECONDS)
            container.begin(self.settings)

    # Its probes

    async def _probe(self) -> None:
        failures = 0
        while True:
            await asyncio.sleep(_PROBE_SECONDS)
            failures = 0 if await self._get("/healthz") == 200 else failures + 1
            if failures == _PROBE_FAILURES:
                self.ends.append(f"the liveness probe has failed {failures} times: {self._operator.last_words()}")
                self._operator.signal(signal.SIGTERM)
                if not await self._operator.ended(GRACE_SECONDS):
                    self._operator.signal(signal.SIGKILL)
                failures = 0

    async def _get(self, path: str) -> int:
        timeout = aiohttp.ClientTimeout(total=_PROBE_TIMEOUT_SECONDS)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(f"http://127.0.0.1:{self.port}{path}") as answer,
            ):
                return answer.status
        except (aiohttp.ClientError, TimeoutError):
            return 0

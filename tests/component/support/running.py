"""The whole operator in this process: watches, workers, timers and probes, as `study-operator run` has them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from database import TestDatabase, settings_for
from optimizer_server import shared_socket
from ports import free_port
from waiting import until
from world import World

from study_operator.manager import Manager


class RunningManager:
    """One operator process that serves one namespace.

    Attributes:
        task: ends, or raises, when the process would.
    """

    def __init__(self, database: TestDatabase, namespace: str, **settings: str) -> None:
        self.port = free_port()
        environment = {"WATCH_NAMESPACES": namespace, "HTTP_PORT": str(self.port), "OPTIMIZER_SOCKET": shared_socket()}
        self._settings = settings_for(database, **environment | settings)
        self._connected: asyncio.Future[Manager] = asyncio.get_running_loop().create_future()
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async with Manager.connect(self._settings) as manager:
            self._connected.set_result(manager)
            await manager.run()

    @property
    def manager(self) -> Manager:
        """The object under test, once it has reached the API server."""
        return self._connected.result()

    def stop(self) -> None:
        """Lets it end, as SIGTERM does."""
        if self._connected.done():
            self.manager.stop.set()
        else:
            self.task.cancel()

    async def get(self, path: str) -> tuple[int, str]:
        """Status and text of one of the probes."""
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{self.port}{path}") as answer:
            return answer.status, await answer.text()

    async def ready(self) -> bool:
        try:
            return await self.get("/readyz") == (200, "ok\n")
        except aiohttp.ClientError:
            return False  # it does not listen yet


@asynccontextmanager
async def running(world: World, **settings: str) -> AsyncIterator[RunningManager]:
    """The operator for the world's namespace and database; stopped at the end, and then without an error."""
    running = RunningManager(world.database, world.namespace, **settings)
    try:
        yield running
        assert not running.task.done() or running.task.exception() is None
    finally:
        running.stop()
        await asyncio.wait([running.task])


async def run_pods(world: World, value: Callable[[int], float], name: str = "study") -> dict[str, Any]:
    """Lets the pods of a study run to their ends while an operator runs. Returns the status in which the study ends."""

    async def ended() -> dict[str, Any] | None:
        for number in await world.active(name):
            await world.finish(number, value(number), study=name)
            await world.end_job(number, study=name)
        status = (await world.study(name)).get("status") or {}
        return status if status.get("phase") in ("Succeeded", "Failed") else None

    return await until(ended)

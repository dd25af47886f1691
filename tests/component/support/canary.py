"""A study that harms nobody, beside a neighbour who may: how long it waits, compared with an idle operator's.

The canary has one trial at a time, which completes as soon as its Job is there. So it waits for nobody but the
operator, between a Job's end and the next Job, and for the database, which takes its final value.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from database import TestDatabase
from kept_operator import KeptOperator
from metronome import Metronome
from neighbours import Neighbour, study_text
from played_namespace import Life, PlayedNamespace
from raw_api import Api
from slots import slot_waits

# How much longer than beside an idle operator the canary may wait: docs/guarantees.md.
ALLOWED_SECONDS = 1.0
# From a Job's end to the next one, API server, etcd, operator and database take turns. On a machine that is busy with
# other things, each of them may have to wait for a core. Beyond the second figure nothing can be measured at all.
_HOPS, _MOST_FOR_THE_MACHINE_SECONDS = 5, 2.0
_TURNS = 5  # Jobs of the canary in which nothing must be late
# How often an idle operator starts anew, to see how long that may take: up to LEASE_SECONDS, by chance.
_IDLE_STARTS = 4
PATIENCE_SECONDS = 30.0  # whoever waits so long stands still
# Other programs share the cores. What is late three times, and later than beside an idle operator at the same hour, is
# the neighbour's doing.
_ATTEMPTS = 3
_CANARY = "canary"
log = logging.getLogger(__name__)
# Of the operator, as the chart has them, where support/process.py has others.
_SETTINGS = {"REPORTER_LOGINS": "auto"}

Step = Callable[[], Awaitable[None]]


@dataclass
class Waits:
    """The longest waits, in seconds.

    Attributes:
        job: for the next Job, from the end of the one before.
        database: for the database to take a final value, from the start of the Job.
        newcomer: of a new Study, from its creation to its first Job.
        restart: for the canary's first Job, from when a new operator answers its probes.
        machine: for nothing, at most, by the metronome.
    """

    job: float = 0.0
    database: float = 0.0
    newcomer: float = 0.0
    restart: float = 0.0
    machine: float = 0.0

    def longest(self, other: Waits) -> Waits:
        """The longer one of each."""
        return Waits(*(max(getattr(self, one.name), getattr(other, one.name)) for one in fields(self)))

    def late(self, idle: Waits) -> list[str]:
        """What is later than it may be, in sentences."""
        said = {
            "job": "the canary waited {0:.1f} s for its next Job after the end of one",
            "database": "the database took {0:.1f} s to take the canary's final value",
            "newcomer": "a new Study waited {0:.1f} s for its first Job",
            "restart": "a new operator took {0:.1f} s until the canary had a Job",
        }
        allowed = ALLOWED_SECONDS + min(_HOPS * self.machine, _MOST_FOR_THE_MACHINE_SECONDS)
        beside = f"s beside an idle operator, and the machine is up to {self.machine:.2f} s late by itself"
        return [
            f"{sentence.format(getattr(self, name))}; {getattr(idle, name):.1f} {beside}"
            for name, sentence in said.items()
            if getattr(self, name) > getattr(idle, name) + allowed
        ]

    def __str__(self) -> str:
        return ", ".join(f"{one.name} {getattr(self, one.name):.2f} s" for one in fields(self))


class Street:
    """An operator, the canary's namespace, and the neighbour's.

    Attributes:
        api: the API server.
        operator: under the chart's limits; it serves both namespaces.
        database: the operator's.
        folder: for logs.
        neighbours, canarys: the namespaces.
        idle: the canary's waits while there is no neighbour.
    """

    def __init__(self, api: Api, operator: KeptOperator, database: TestDatabase, folder: Path) -> None:
        self.api, self.operator, self.database, self.folder = api, operator, database, folder
        self.neighbours = PlayedNamespace(api, "a-neighbour", patient=False)
        self.canarys = PlayedNamespace(api, "b-canary", patient=True)
        self.idle = Waits()
        self._metronome = Metronome()
        self._newcomers = itertools.count()

    async def open(self) -> None:
        """Start everything, and see how long the canary waits beside an idle operator."""
        for namespace in (self.neighbours, self.canarys):
            await namespace.open()
        await self.operator.start()
        await self.canarys.apply(study_text(self.canarys.name, _CANARY, parallelism=1, maxTrials=1_000_000))
        await self._until(lambda: len(self._lives) > 2 * _TURNS, "serves the canary")
        await self._serving(self._nothing)  # what is done once in the life of a process is done
        for _ in range(_IDLE_STARTS):
            await self._measure_idle()

    async def close(self) -> None:
        """End everything."""
        self._metronome.close()
        await self.operator.stop()
        for namespace in (self.neighbours, self.canarys):
            await namespace.close()

    async def leaves_alone(self, neighbour: Neighbour) -> Waits:
        """Check that a neighbour does not disturb the canary, as `undisturbed`. Return the canary's waits."""
        return await self.undisturbed(neighbour.name, lambda: self._move_in(neighbour))

    async def undisturbed(self, by: str, come: Step, go: Step | None = None) -> Waits:
        """Check that the canary waits no more than a second longer than beside an idle operator, that no trial of it
        fails, and that the operator stays alive: while somebody comes, and when the operator starts anew after that.

        Args:
            by: whoever comes, in a few words.
            come: returns when the worst has been done.
            go: undoes that. The neighbour's Studies are removed in any case.

        Returns:
            The canary's waits.

        Raises:
            AssertionError: it is not so; who stood still, and for how long.
        """
        late: list[str] = []
        if self.operator.ends:  # since then, with a neighbour of before
            await self._begin_anew()
        known = await self.failures()
        for _ in range(_ATTEMPTS):
            waits = await self._beside(come, go or self._nothing)
            lost = [one for one in await self.failures() if one not in known]
            assert not lost, f"beside {by} trials of the canary failed: {lost}"
            if not (late := waits.late(self.idle)):
                return waits
            log.info("perhaps the machine's doing, trying again: %s", "; ".join(late))
            await self._begin_anew()
            await self._measure_idle()
            if not (late := waits.late(self.idle)):
                return waits
        raise AssertionError(f"beside {by}: " + "; ".join(late))

    async def waits_beside(self, neighbour: Neighbour | None, seconds: float) -> list[float]:
        """Return the canary's waits for each Job while a neighbour moves in and stays for some time. Then it leaves.

        Raises:
            AssertionError: the operator has ended, or the canary stands still.
        """
        since = time.monotonic()
        if neighbour is not None:
            await self._move_in(neighbour)
        stays = time.monotonic() + seconds
        await self._until(lambda: time.monotonic() > stays, "lets time pass", seconds + PATIENCE_SECONDS)
        waits = slot_waits(self._lives, since, time.monotonic())
        await self.neighbours.clear()
        return waits

    async def _beside(self, come: Step, go: Step) -> Waits:
        try:
            waits = await self._serving(come)
            waits = waits.longest(await self._restarting())
        except BaseException:
            await self._leave(go)
            await self._begin_anew()
            raise
        await self._leave(go)
        return waits

    async def _leave(self, go: Step) -> None:
        await go()
        await self.neighbours.clear()

    async def failures(self) -> list[dict[str, Any]]:
        """The canary's last trials that have failed."""
        return (await self.canarys.status(_CANARY)).get("recentFailures") or []

    async def _measure_idle(self) -> None:
        for what in (self._serving(self._nothing), self._restarting()):
            self.idle = self.idle.longest(await what)

    async def _begin_anew(self) -> None:
        """Begin with an operator that has never heard of the neighbour: the old one may still compute for it."""
        before = len(self._lives)
        await self.operator.kill()
        await self._until(lambda: len(self._lives) > before, "serves the canary", 60.0, forgiving=True)

    async def _nothing(self) -> None:
        """Be idle."""

    # The neighbour

    async def _move_in(self, neighbour: Neighbour) -> None:
        """Let the neighbour do its worst: until then its Studies have had their Jobs, or are refused."""
        place = self.neighbours
        place.program = neighbour.program
        admitted = []
        for name, text in neighbour.studies(place.name):
            if await place.apply(text) is None:
                admitted.append(name)
        for name in admitted if not neighbour.attacks else ():
            await self._until(
                lambda name=name: self._has_had_its_turn(name, neighbour.jobs),
                f"says what it thinks of the Study {name} of {neighbour.name}, or serves it",
                neighbour.patience,
            )
        if neighbour.attacks:
            await self._until(place.at_work.is_set, f"lets the pods of {neighbour.name} begin", neighbour.patience)

    async def _has_had_its_turn(self, study: str, jobs: int) -> bool:
        if jobs and len(self.neighbours.lives[study]) >= jobs:
            return True
        status = await self.neighbours.status(study)
        conditions = {one["type"]: one for one in status.get("conditions", ())}
        if conditions.get("Accepted", {}).get("status") == "False":
            return True
        progressing = conditions.get("Progressing", {})
        return progressing.get("status") == "False" and progressing["reason"] != "WaitingForStorage"

    # The canary

    async def condition(self, type_: str) -> dict[str, Any]:
        """A condition of the canary; empty if it has none of that type."""
        conditions = (await self.canarys.status(_CANARY)).get("conditions", ())
        return next((one for one in conditions if one["type"] == type_), {})

    async def progress(self) -> int:
        """How many trials of the canary have finished, by its status."""
        return int((await self.canarys.status(_CANARY))["progress"].partition("/")[0])

    @property
    def _lives(self) -> list[Life]:
        return self.canarys.lives[_CANARY]

    async def served(self) -> None:
        """Wait until the canary has had some more turns. Raises as `undisturbed`."""
        await self._serving(self._nothing)

    async def _serving(self, what: Step) -> Waits:
        """Do something. Return the waits from then on, until the canary has had some more turns."""
        first, began = max(len(self._lives) - 1, 0), time.monotonic()
        await what()
        waits = Waits(newcomer=await self._newcomer())
        more = len(self._lives) + _TURNS
        await self._until(lambda: len(self._lives) >= more, "serves the canary")
        return waits.longest(self._waits(first)).longest(Waits(machine=self._metronome.latest(began)))

    async def _restarting(self) -> Waits:
        """Replace the operator. Return the waits from then on."""
        await self.operator.replace()
        await self._until(self.operator.answers, "answers its probes")  # until then Jobs of the former one may arrive
        began, before = time.monotonic(), len(self._lives)
        await self._until(lambda: len(self._lives) > before, "serves the canary")
        waits = Waits(restart=self._lives[before].arrived - began)
        return waits.longest(await self._serving(self._nothing))

    def _waits(self, first: int) -> Waits:
        """The longest waits since the Job of that index arrived."""
        lives = self._lives[first:]
        jobs = [later.arrived - earlier.ended for earlier, later in itertools.pairwise(lives) if earlier.ended]
        database = [life.programmed - life.arrived for life in lives if life.programmed]
        return Waits(job=max(jobs, default=0.0), database=max(database, default=0.0))

    async def _newcomer(self) -> float:
        """Create a Study beside the canary. Return the seconds until it has a Job."""
        place, name = self.canarys, f"newcomer-{next(self._newcomers)}"
        began = time.monotonic()
        await place.apply(study_text(place.name, name, parallelism=1, maxTrials=1))
        await self._until(lambda: place.lives[name], "serves a new Study beside the canary")
        waited = place.lives[name][0].arrived - began
        path = f"/apis/study-operator.io/v1alpha1/namespaces/{place.name}/studies/{name}"
        await self.api.call("DELETE", path)
        await place.delete_all("apis/batch/v1", "jobs", labelSelector=f"study-operator.io/study={name}")
        return waited

    async def _until(
        self,
        condition: Callable[[], Any],
        what: str,
        patience: float | None = None,
        forgiving: bool = False,
    ) -> None:
        """Wait for a condition.

        Args:
            what: what an operator does for which it becomes true.
            patience: seconds, many more than it should ever take.
            forgiving: the canary may have stood still before.

        Raises:
            AssertionError: the operator has ended, or the canary stands still, or the condition is not true in time.
        """
        patience = PATIENCE_SECONDS if patience is None else patience
        deadline = time.monotonic() + patience
        while True:
            found = condition()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return
            for place in (self.neighbours, self.canarys):
                place.check()
            self.operator.alive()
            if not forgiving and (standstill := self._standstill()):
                raise AssertionError(standstill)
            assert time.monotonic() < deadline, f"after {patience:.0f} s there is no operator that {what}"
            await asyncio.sleep(0.02)

    def _standstill(self) -> str:
        """What the canary has been waiting for, for far too long; empty if it has not."""
        if not self._lives:
            return ""
        life, now = self._lives[-1], time.monotonic()
        if life.ended is not None and now - life.ended > PATIENCE_SECONDS:
            return f"the canary has stood still for {now - life.ended:.0f} s: no Job comes after the end of {life.job}"
        if life.programmed is None and now - life.arrived > PATIENCE_SECONDS:
            trouble = f": {life.trouble}" if life.trouble else ""
            return (
                f"the canary has stood still for {now - life.arrived:.0f} s: the database does not take the final "
                f"value of {life.job}{trouble}"
            )
        return ""


@asynccontextmanager
async def street(
    services: dict[str, str], database: TestDatabase, folder: Path, **settings: str
) -> AsyncIterator[Street]:
    """An operator of its own for two namespaces, with the canary in one of them.

    Args:
        services: of an API server that nobody else uses: what the neighbour writes would break others' lists.
        database: it need not be migrated.
        folder: for the operator's logs.
        settings: of the operator.
    """
    api = await Api.connect(services["kubeconfig"])
    operator = KeptOperator(database, folder, **{**_SETTINGS, "KUBECONFIG": services["kubeconfig"], **settings})
    street = Street(api, operator, database, folder)
    try:
        await street.open()
        yield street
    finally:
        await street.close()
        await api.close()

"""How long a canary study waits for its next Job, beside neighbours that mean harm and honest ones that ask for much.

The canary's trials last two seconds. Its slots are timed from a Job's end to the next Job's arrival, beside an idle
operator and beside one neighbour after the other, in one run. The neighbours are those of the tests
(tests/support/neighbours.py): each stays for a minute in a namespace of its own. The operator is a process under the
chart's limit of memory, and is started again as the kubelet does it. API server and PostgreSQL are real, nodes and pods
are not: a Job has its pod at once, and what the pod would send to the database is sent by a thread of this process.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from figures import ROOT, Failed, command, heading, number, percentile, progress, table, version

sys.path += [str(ROOT / "tests/support"), str(ROOT / "tests/component/support")]
import own_place
from database import TestDatabase
from heavy_neighbours import HEAVY
from kept_operator import KeptOperator
from neighbours import Neighbour, study_text
from played_namespace import PlayedNamespace
from played_pod import PlayedPod, succeeds
from raw_api import Api
from slots import slot_waits
from together import EVERYBODY, HOSTILE, hostile_studies

_CANARY = "canary"
_AT_MOST = 300.0  # seconds in which a canary must have Jobs again when a neighbour has gone


@dataclass(frozen=True)
class Figures:
    """Of the time beside one neighbour.

    Attributes:
        waits: of slots for their next Job, in seconds. Empty if no trial has ended.
        stored: how long the database took at most to take a trial's final value, in seconds.
        ends: how the operator has ended.
    """

    beside: str
    waits: list[float]
    stored: float
    ends: list[str]

    def row(self, idle: float) -> tuple[str, ...]:
        """A row of the table; `idle` is the p99 beside an idle operator."""
        ends = f"ended {len(self.ends)} times" if self.ends else "alive"
        seconds = ["none ended"] * 4
        if self.waits:
            p99 = percentile(self.waits, 99)
            found = (percentile(self.waits, 50), p99, max(self.waits), max(0.0, p99 - idle))
            seconds = [f"{number(value)} s" for value in found]
        return (self.beside, str(len(self.waits)), *seconds, f"{number(self.stored)} s", ends)


class Neighbourhood:
    """An operator, the canary's namespace and the neighbours'.

    Args:
        seconds: how long a neighbour stays.
        trial: how long a trial of the canary lasts, in seconds.
    """

    def __init__(self, api: Api, database: TestDatabase, folder: Path, options: argparse.Namespace, **given: str):
        self.api, self.database, self._options = api, database, options
        self.operator = KeptOperator(database, folder, **given)
        self.neighbours = PlayedNamespace(api, "a-neighbour", patient=False)
        self._canarys = PlayedNamespace(api, "b-canary", patient=True)

    async def open(self) -> None:
        """Start the operator and the canary."""
        for namespace in (self.neighbours, self._canarys):
            await namespace.open()
        await self.operator.start()
        self._canarys.program = self._trial
        spec = {"parallelism": self._options.parallelism, "maxTrials": 1_000_000}
        await self._canarys.apply(study_text(self._canarys.name, _CANARY, **spec))
        await self._served()

    async def close(self) -> None:
        """End everything."""
        await self.operator.stop()
        for namespace in (self.neighbours, self._canarys):
            await namespace.close()

    async def beside(self, name: str, move_in: Callable[[], Coroutine[Any, Any, None]]) -> Figures:
        """Let a neighbour move in, stay and leave."""
        progress(f"beside {name}")
        begun = time.monotonic()
        await move_in()
        await asyncio.sleep(max(0.0, begun + self._options.seconds - time.monotonic()))
        now, lives = time.monotonic(), self._canarys.lives[_CANARY]
        waits = slot_waits(lives, begun, now)
        there = [life for life in lives if life.programmed is None or life.programmed > begun]
        stored = max(((life.programmed or now) - life.arrived - self._options.trial for life in there), default=0.0)
        ends = list(self.operator.ends)
        for end in ends:
            progress(f"  {end}")
        await self.neighbours.clear()
        if ends:
            await self.operator.kill()  # and begin anew
        await self._served()
        return Figures(name, waits, max(0.0, stored), ends)

    async def move_in(self, neighbour: Neighbour) -> None:
        """Create what a neighbour has; what the API server refuses is not there."""
        self.neighbours.program = neighbour.program
        for _, text in neighbour.studies(self.neighbours.name):
            await self.neighbours.apply(text)

    async def nobody(self) -> None:
        """Be idle."""

    def _trial(self, pod: PlayedPod) -> None:
        pod.over.wait(self._options.trial)
        succeeds(pod)

    async def _served(self) -> None:
        """Wait until the canary has had a round of new Jobs."""
        lives, deadline = self._canarys.lives[_CANARY], time.monotonic() + _AT_MOST
        wanted = len(lives) + 2 * self._options.parallelism
        while len(lives) < wanted:
            self._canarys.check()
            if time.monotonic() > deadline:
                raise Failed(f"the canary has had no Jobs for {_AT_MOST:.0f} s: {self.operator.logs()[-1000:]}")
            await asyncio.sleep(0.1)


async def _measure(options: argparse.Namespace) -> None:
    wanted = [n for n in (*HOSTILE, hostile_studies(20), EVERYBODY) if re.search(options.only, n.name)]
    heavy = [n for n in HEAVY if re.search(options.only, n.name)]
    with tempfile.TemporaryDirectory() as folder, own_place.services(Path(folder, "services")) as services:
        database = await own_place.database(services)
        api = await Api.connect(services["kubeconfig"])
        # A login for each namespace, as in the chart where the operator may create roles.
        given = {"KUBECONFIG": services["kubeconfig"], "REPORTER_LOGINS": "auto"}
        place = Neighbourhood(api, database, Path(folder), options, **given)
        try:
            await place.open()
            idle = [await place.beside("an idle operator", place.nobody)]
            found = []
            for one in wanted:
                found.append(await place.beside(one.name, lambda one=one: place.move_in(one)))
            idle.append(await place.beside("an idle operator", place.nobody))
            for one in heavy:
                if missing := one.missing():
                    progress(f"{one.name}: {missing}")
                    continue
                found.append(await place.beside(one.name, lambda one=one: one.move_in(place)))
            idle.append(await place.beside("an idle operator", place.nobody))
        finally:
            await place.close()
            await api.close()
    _show(_together(idle), found)


def _together(idle: list[Figures]) -> Figures:
    """The figures of all times beside an idle operator, as one."""
    waits = [wait for one in idle for wait in one.waits]
    if not waits:
        raise Failed("beside an idle operator no trial has ended: let neighbours stay longer")
    return Figures(idle[0].beside, waits, max(one.stored for one in idle), [end for one in idle for end in one.ends])


def _show(idle: Figures, found: list[Figures]) -> None:
    p99 = percentile(idle.waits, 99)
    late = "p99 later than idle (aim: < 1 s)"
    head = ("beside", "slots", "p50", "p99", "longest", late, "value stored, longest", "the operator")
    table(head, [one.row(p99) for one in (idle, *found)])


def measure(options: argparse.Namespace) -> None:
    heading("bench-neighbours: how long a canary study waits for its next Job", Optuna=version("optuna"))
    trials = f"{options.parallelism} trials of {options.trial} s at once"
    print(f"the canary has {trials}; a neighbour stays {options.seconds} s\n", flush=True)
    asyncio.run(_measure(options))


if __name__ == "__main__":
    sys.exit(
        command(
            __doc__ or "",
            measure,
            seconds=(int, 60, "how long each neighbour stays"),
            parallelism=(int, 4, "trials of the canary at once"),
            trial=(int, 2, "how long a trial of the canary lasts, in seconds"),
            only=(str, "", "only neighbours whose names have a match of this regular expression"),
        )
    )

"""Every write of the operator goes wrong in every way, and each study ends as it should all the same.

The cases are made from a recording: a fault-free run of each of scenarios.py says which writes there are.
"""

from __future__ import annotations

import asyncio
import os
import random
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from dataclasses import dataclass
from itertools import count
from typing import Any

import inventory
import pytest
from faults import Faults, Wrong
from logserver import LogServer
from play import Play
from scenarios import SCENARIOS

from study_operator.podlogs import follower
from study_operator.reconcile import publisher

# FAULTS=all: every write of every scenario in every way. FAULTS=ends:12:TIMES_OUT_LATE: this case alone, which is how
# a failure names it. Otherwise each of the first writes of a kind in each scenario goes wrong once, in ways that take
# turns.
WANTED = os.environ.get("FAULTS", "")
ALL = WANTED == "all"
SEED = int(os.environ.get("SEED") or 0)
SHARDS = range(4 if ALL else 1)
FEW = 2  # writes of one kind in one scenario
CALLS_AT_ONCE = 6  # studies that know nothing of each other
WAYS = list(Wrong)
_names = count()


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    """The operator would skip some status writes, depending on how fast it is; here each can go wrong."""
    monkeypatch.setattr(publisher, "STATUS_INTERVAL_SECONDS", 0.0)
    monkeypatch.setattr(follower, "_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(follower, "_LONGEST_PAUSE_SECONDS", 0.05)


@pytest.fixture
async def logs() -> AsyncIterator[LogServer]:
    server = LogServer()
    await server.start()
    yield server
    await server.stop()


@dataclass(frozen=True)
class Case:
    """One write of a scenario, by its place in the recording, and how it goes wrong."""

    scenario: str
    at: int
    write: str
    wrong: Wrong

    @property
    def name(self) -> str:
        return f"{self.scenario}:{self.at}:{self.wrong.name}"


def cases(scenario: str, recording: list[str], shard: int) -> list[Case]:
    """What is to be tried, made from the writes of a fault-free run."""
    made, seen = [], Counter[str]()
    for at, write in enumerate(recording):
        turn = (zlib.crc32(f"{scenario} {write}".encode()) + SEED + seen[write]) % len(WAYS)
        seen[write] += 1
        if not WANTED and seen[write] > FEW:
            continue
        for wrong in WAYS if WANTED else [WAYS[turn]]:
            case = Case(scenario, at, write, wrong)
            if not WANTED or ALL or case.name == WANTED:
                made.append(case)
    return made[shard :: len(SHARDS)]


async def play(world, logs, scenario: str, faults: Callable[[], Faults] = Faults, again: bool = False) -> Play:
    async with world.another_operator() as operator:
        play = Play(operator, SCENARIOS[scenario], f"study{next(_names)}", faults, again, logs)
        try:
            await play.run()
        except BaseException as error:
            error.add_note(f"scenario {scenario!r}")
            raise
    return play


async def _all(coroutines: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Runs them a few at a time; the first that fails ends the rest."""
    few = asyncio.Semaphore(CALLS_AT_ONCE)

    async def one(coroutine: Coroutine[Any, Any, None]) -> None:
        async with few:
            await coroutine

    async with asyncio.TaskGroup() as group:
        for coroutine in coroutines:
            group.create_task(one(coroutine))


@pytest.mark.parametrize("shard", SHARDS)
@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_any_one_write_goes_wrong(world, logs, scenario, shard, record_property):
    if WANTED and not ALL and not WANTED.startswith(f"{scenario}:"):
        pytest.skip("another case is wanted")
    world.database.query("SELECT study_operator.here()")  # which writes once, in the first look at a database
    recording = (await play(world, logs, scenario)).faults.writes
    made = cases(scenario, recording, shard)
    missed: list[Case] = []

    async def try_(case: Case) -> None:
        rule = lambda count, _: case.wrong if count == case.at else None  # noqa: E731
        try:
            played = await play(world, logs, scenario, lambda: Faults(rule))
        except BaseException as error:
            error.add_note(f"to repeat it: FAULTS={case.name!r}, which is {case.write}: {case.wrong.value}")
            raise
        if not played.faults.struck:
            missed.append(case)

    await _all(try_(case) for case in made)
    struck = Counter(case.wrong.name for case in made if case not in missed)
    tried = f"{scenario}: {len(recording)} writes, {len(made)} cases: {dict(sorted(struck.items()))}"
    record_property("crash points", tried)
    assert len(missed) <= len(made) // 20, f"these studies had ended before that many writes: {missed}"


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_the_first_two_attempts_at_every_kind_of_write_go_wrong(world, logs, scenario, record_property):
    ways = [way for way in WAYS if way not in (Wrong.DIES_BEFORE, Wrong.DIES_AFTER)]
    if not ALL:
        ways = [ways[(list(SCENARIOS).index(scenario) + SEED) % len(ways)]]

    async def try_(wrong: Wrong) -> None:
        seen = Counter()

        def rule(_: int, name: str) -> Wrong | None:
            seen[name] += 1
            return wrong if seen[name] <= 2 else None

        try:
            played = await play(world, logs, scenario, lambda: Faults(rule))
        except BaseException as error:
            error.add_note(f"each first two times: {wrong}")
            raise
        assert set(played.faults.struck) == set(played.faults.writes)

    await _all(map(try_, ways))
    record_property("crash points", f"{scenario}: the first two of every kind: {[way.name for way in ways]}")


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_killed_again_and_again(world, logs, scenario):
    async def try_(writes: int) -> None:
        def rule(count: int, _: str) -> Wrong | None:
            return Wrong.DIES_BEFORE if count == writes else None

        await play(world, logs, scenario, lambda: Faults(rule), again=True)

    await _all(try_(writes) for writes in (range(8, 16) if ALL else [8 + list(SCENARIOS).index(scenario) % 4]))


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_anything_goes_wrong_at_any_time(world, logs, scenario, record_property):
    seeds = range(SEED, SEED + 40) if ALL else [SEED]

    async def try_(seed: int) -> None:
        chance = random.Random(f"{seed} {scenario}")
        in_a_row = chance.random() < 0.5  # two, one after the other, somewhere; or any, all the time
        first = chance.randrange(30)

        def rule(count: int, _: str) -> Wrong | None:
            wrong = chance.choice(WAYS)
            return wrong if (first <= count < first + 2 if in_a_row else chance.random() < 0.2) else None

        def read_fails() -> bool:
            return not in_a_row and chance.random() < 0.05

        try:
            await play(world, logs, scenario, lambda: Faults(rule, read_fails), again=True)
        except BaseException as error:
            error.add_note(f"to repeat it: SEED={seed}")
            raise

    await _all(map(try_, seeds))
    record_property("crash points", f"{scenario}: at random, with seeds {seeds[0]} to {seeds[-1]}")


async def test_every_place_that_writes_is_reached(world, logs):
    """A new write needs a scenario in which it happens; then it is in the matrix."""
    reached: set[str] = set()
    for scenario in SCENARIOS:
        reached |= (await play(world, logs, scenario)).faults.sites
    wanted = inventory.calls_that_write() | inventory.transactions_that_write() - inventory.AROUND_LOOKS
    assert wanted - reached == set()
    assert inventory.requests_past_the_client() == set()

"""The operator is killed between any two writes, gets wrong answers, and loses events; the study ends as it should.

What "as it should" means, at every moment and at the end, stands in play.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections import Counter

import pytest
from faults import Died, Faults, Wrong
from play import Play
from running import run_pods, running
from waiting import until
from world import params_of, secret_of

from study_operator import publish, service

# Every kind of write that the operator does for the study of play.py.
WRITES = {
    "POST jobs (dry run)",
    "POST secrets",
    "POST jobs",
    "DELETE jobs",
    "PATCH studies/status",
    "POST events",
    "PATCH events",
    "COMMIT INSERT INTO study_operator.access",
    "STORE a trial's start",
    "STORE a trial's end",
    "STORE that a trial runs again",
    "STORE notes of a trial",  # the rungs that a pruner has booked for it
    "COMMIT UPDATE study_operator.access SET",  # the clock of the deadline
}


@pytest.fixture(autouse=True)
def _every_status_is_written(monkeypatch):
    """The operator would skip some, depending on how fast it is; here each is a write that can go wrong."""
    monkeypatch.setattr(publish, "STATUS_INTERVAL", 0.0)


@pytest.mark.parametrize("wrong", [Wrong.DIES_BEFORE, Wrong.DIES_AFTER], ids=lambda wrong: wrong.name)
async def test_killed_at_any_one_write(world, wrong):
    async def play(at: int) -> list[str]:
        async with world.another_operator() as operator:
            play = Play(operator, f"study{at}", lambda: Faults(lambda count, _: wrong if count == at else None))
            await play.run()
            return play.faults.struck

    struck = set()
    for at in itertools.count(0, 4):  # four studies at a time, which know nothing of each other
        found = await asyncio.gather(*(play(at + i) for i in range(4)))
        struck.update(*found)
        if [] in found:
            break  # the study had ended before that many writes
    assert struck == WRITES


@pytest.mark.parametrize("wrong", [Wrong.DIES_BEFORE, Wrong.DIES_AFTER], ids=lambda wrong: wrong.name)
async def test_killed_while_it_clears_up_after_a_deleted_study(world, wrong):
    for at in itertools.count():
        name = f"study{at}"
        await world.apply(name)
        await world.settle(name)
        pods = [await world.pod(number, name) for number in (0, 1)]
        pods[0].call("finish", [0.5])
        await world.delete_study(name)
        faults = Faults(lambda count, _, at=at: wrong if count == at else None)
        world.operators_cluster.faults = world.operators_database.faults = faults
        with contextlib.suppress(Died):
            await world.look(name)
        world.operators_cluster.faults = world.operators_database.faults = Faults()
        world.start_operator()
        await world.look(name)
        assert world.rows(name) == [(0, "COMPLETE"), (1, "FAIL")]
        assert [pod.refusal("should_stop") for pod in pods] == ["SO001", "SO001"]
        if not faults.struck:
            break
    assert at == 3, "two trials were told, then the key was revoked"


@pytest.mark.parametrize("writes", [4, 5, 6, 7])
async def test_killed_again_and_again(world, writes):
    play = Play(
        world, "study", lambda: Faults(lambda count, _: Wrong.DIES_BEFORE if count == writes else None), again=True
    )
    await play.run()
    assert play.deaths >= 3


@pytest.mark.parametrize(
    "wrong",
    [Wrong.CONFLICT, Wrong.THROTTLED, Wrong.SERVER_ERROR, Wrong.LOST_BEFORE, Wrong.LOST_AFTER],
    ids=lambda wrong: wrong.name,
)
async def test_the_first_two_attempts_at_every_kind_of_write_go_wrong(world, wrong):
    seen = Counter()

    def rule(_: int, name: str) -> Wrong | None:
        seen[name] += 1
        return wrong if seen[name] <= 2 else None

    play = Play(world, "study", lambda: Faults(rule))
    await play.run()
    assert set(play.faults.struck) == WRITES


@pytest.mark.parametrize("seed", range(8))
async def test_anything_goes_wrong_at_any_time(world, seed):
    chance = random.Random(seed)

    def rule(*_: object) -> Wrong | None:
        return chance.choice(list(Wrong)) if chance.random() < 0.2 else None

    play = Play(world, "study", lambda: Faults(rule, read_fails=lambda: chance.random() < 0.05), again=True)
    await play.run()
    assert play.faults.struck


async def test_a_seeded_sampler_does_not_repeat_itself_after_a_restart(world):
    sampler = {"name": "TPE", "seed": 7, "options": {"n_startup_trials": 3}}
    await world.apply(sampler=sampler, maxTrials=10)
    for _ in range(5):
        world.start_operator()
        await world.settle()
        for number in await world.active():
            await world.finish(number, number / 10)
            await world.end_job(number)
    await world.settle()
    assert world.rows() == [(number, "COMPLETE") for number in range(10)]
    params = [params_of(job)["x"] for job in await world.jobs()]
    assert len(set(params)) == 10


async def test_two_studies_at_once_do_not_touch_each_other(world):
    objectives = [{"name": "loss", "direction": "Minimize"}]
    await asyncio.gather(world.apply("up"), world.apply("down", objectives=objectives, maxTrials=6, parallelism=3))
    await asyncio.gather(
        world.run_trials(lambda number: 1.0 + number, "up"), world.run_trials(lambda number: 101.0 + number, "down")
    )
    up, down = (await world.study("up"))["status"], (await world.study("down"))["status"]
    assert (up["progress"], up["bestTrial"]["jobName"], up["bestValue"]) == ("4/4", "up-3", "4")
    assert (down["progress"], down["bestTrial"]["jobName"], down["bestValue"]) == ("6/6", "down-0", "101")
    secrets = {secret_of(job) for job in await world.jobs()}
    keys = [secret["data"]["key"] for study in ("up", "down") for secret in (await world.secrets(study)).values()]
    assert len(secrets) == len(set(keys)) == 2


async def test_a_study_goes_on_though_every_event_is_lost(world, kubeconfig, monkeypatch):
    async def deaf(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(service, "watch", deaf)
    monkeypatch.setattr(service, "listen", deaf)
    async with running(world, RESYNC_SECONDS="1"):
        await world.apply(deletionPolicy="Delete")
        status = await run_pods(world, lambda number: number / 10)
        assert status["bestTrial"]["number"] == 3
        await world.delete_study()
        await until(lambda: not world.rows())

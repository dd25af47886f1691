"""What survives a restart and lost events; test_crash_points.py kills the operator between any two writes."""

from __future__ import annotations

import asyncio

from running import run_pods, running
from waiting import until
from world import params_of, secret_of

from study_operator import manager


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

    for ear in ("watch_studies", "watch_jobs", "listen"):
        monkeypatch.setattr(manager, ear, deaf)
    async with running(world, RESYNC_SECONDS="1"):
        await world.apply(deletionPolicy="Delete")
        status = await run_pods(world, lambda number: number / 10)
        assert status["bestTrial"]["number"] == 3
        await world.delete_study()
        await until(lambda: not world.rows())

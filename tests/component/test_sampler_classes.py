"""Samplers that are not Optuna's own, from the list in the operator's settings to the trials' parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
from optimizer_server import optimizer_server
from world import params_of

HYPEROPT = "hyperopt_sampler:HyperoptSampler"

BREAKS = """
from optuna.samplers import RandomSampler

class Breaks(RandomSampler):
    def infer_relative_search_space(self, study, trial):
        if trial.number == 2:
            raise RuntimeError("out of ideas")
        return {}
"""

EATS = """
from optuna.samplers import RandomSampler

class Eats(RandomSampler):
    def infer_relative_search_space(self, study, trial):
        food = [bytearray(2**26) for _ in range(100)] if trial.number == 2 else []
        return {}
"""


def allow(world, *classes: str) -> None:
    """The operator starts anew, as after `helm upgrade` with this list."""
    world.settings = dataclasses.replace(world.settings, sampler_classes=classes)
    world.start_operator()


async def test_a_class_that_is_not_in_the_list_waits_until_it_is(world):
    await world.apply(sampler={"class": HYPEROPT, "options": {"n_startup_trials": 2}}, maxTrials=8)
    for _ in range(2):
        await world.settle()
        accepted = await world.condition("Accepted")
        assert (accepted["status"], accepted["reason"]) == ("False", "SamplerNotAllowed")
        assert accepted["message"].startswith(
            f"spec.sampler.class: '{HYPEROPT}' is not a class that may be used here; "
        )
        assert (world.rows(), await world.jobs()) == ([], [])
        allow(world, "other_package:Sampler", "hyperopt_sampler:Hyperopt")
    allow(world, HYPEROPT)
    await world.settle()
    assert (await world.condition("Accepted"))["status"] == "True"
    assert await world.active() == [0, 1]


async def test_a_study_runs_by_a_class_of_the_list_and_over_a_restart(world):
    allow(world, HYPEROPT)
    sampler = {"class": HYPEROPT, "seed": 3, "options": {"n_startup_trials": 2}}
    await world.apply(sampler=sampler, maxTrials=8)
    await world.settle()
    for number in (0, 1):
        await world.finish(number, float(number))
        await world.end_job(number)
    await world.settle()
    world.start_operator()
    await world.run_trials(lambda number: float(number % 3))
    assert world.rows() == [(number, "COMPLETE") for number in range(8)]
    assert (await world.study())["status"]["phase"] == "Succeeded"
    assert len({str(params_of(job)) for job in await world.jobs()}) == 8


@pytest.mark.parametrize("cls", ["os:system", "optuna.samplers:RandomSampler", "hyperopt_sampler:tpe"])
async def test_no_other_class_can_be_used(world, cls):
    allow(world, HYPEROPT)
    await world.apply(sampler={"class": cls})
    await world.settle()
    accepted = await world.condition("Accepted")
    assert accepted["reason"] == "SamplerNotAllowed"
    assert f"write one of {HYPEROPT}, or" in accepted["message"]


@pytest.fixture
def server_of_plug_ins(world, tmp_path) -> Iterator[None]:
    with optimizer_server(str(tmp_path)) as path:
        world.settings = dataclasses.replace(world.settings, optimizer_socket=path)
        yield


async def test_a_plug_in_that_fails_says_so_in_the_status_and_is_asked_again(world, tmp_path, server_of_plug_ins):
    (tmp_path / "tuners_breaks.py").write_text(BREAKS)
    allow(world, "tuners_breaks:Breaks")
    await world.apply(sampler={"class": "tuners_breaks:Breaks"}, parallelism=4)
    look = await world.look()
    assert look.failed
    progressing = await world.condition("Progressing")
    assert progressing["message"] == "sampler tuners_breaks:Breaks failed: out of ideas"
    assert world.rows() == [(0, "RUNNING"), (1, "RUNNING")]
    (tmp_path / "tuners_breaks.py").write_text(BREAKS.replace("trial.number == 2", "False"))
    world.start_operator()  # with an image in which it is mended
    await world.run_trials(float)
    assert world.rows() == [(number, "COMPLETE") for number in range(4)]


async def test_a_sampler_that_runs_out_of_memory_stops_its_own_study_alone(world, tmp_path, server_of_plug_ins):
    (tmp_path / "tuners_eats.py").write_text(EATS)
    allow(world, "tuners_eats:Eats")
    await world.apply("greedy", sampler={"class": "tuners_eats:Eats"}, parallelism=3)
    await world.apply("canary")
    assert not (await world.look("greedy")).failed
    for _ in range(3):  # beside others, and then alone
        look = await world.look("greedy")
    progressing = await world.condition("Progressing", "greedy")
    assert progressing["reason"] == "SamplerFailed"
    assert "ran out of memory (256 MiB) while suggesting" in progressing["message"]
    assert 0 < look.again <= 60
    await world.look("canary")
    assert await world.active("canary") == [0, 1]
    # What runs goes on, and its results count.
    await world.finish(0, 1.0, study="greedy")
    await world.end_job(0, study="greedy")
    await world.look("greedy")
    assert world.rows("greedy") == [(0, "COMPLETE"), (1, "RUNNING")]
    assert (await world.condition("Progressing", "greedy"))["reason"] == "SamplerFailed"
    (tmp_path / "tuners_eats.py").write_text(EATS.replace("trial.number == 2", "False"))
    await world.look("greedy")
    assert len(world.rows("greedy")) == 2, "it rests"
    await world.edit("greedy", maxTrials=5)
    await world.run_trials(float, "greedy")
    assert world.rows("greedy") == [(number, "COMPLETE") for number in range(5)]

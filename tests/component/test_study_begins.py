"""Studies that begin with more than nothing: initial trials, earlier studies, and what notebooks enqueue."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

import pytest
from faults import Died, Faults, Wrong
from world import World, params_of

CONDITIONAL = [
    {"name": "x", "float": {"low": 0, "high": 1}},
    {"name": "kind", "categorical": {"choices": ["a", "b", 3]}},
    {"name": "y", "float": {"low": 0, "high": 1}, "when": {"parameter": "kind", "in": ["b", 3]}},
]
SAMPLERS = ["TPE", "Random", "BruteForce", "NSGAII"]


async def run(world: World, name: str = "study") -> dict[int, dict[str, Any]]:
    """Lets a study run to its end. Returns the parameters that each trial's Job had."""
    await world.run_trials(lambda number: number / 10, name)
    assert (await world.condition("Complete", name))["status"] == "True"
    jobs = await world.jobs(name)
    return {int(job["metadata"]["labels"]["study-operator.io/trial"]): params_of(job) for job in jobs}


async def name_of(world: World, study: str = "study") -> str:
    return (await world.study(study))["status"]["studyName"]


# Initial trials


@pytest.mark.parametrize("sampler", SAMPLERS)
async def test_initial_trials_run_first_and_what_they_leave_out_is_chosen(world, sampler):
    steps = [{"name": "x", "float": {"low": 0, "high": 1, "step": 0.25}}, CONDITIONAL[1]]
    steps.append({**CONDITIONAL[2], "float": {"low": 0, "high": 1, "step": 0.5}})
    await world.apply(
        parameters=steps,
        sampler={"name": sampler},
        initialTrials=[{"x": 1, "kind": "b", "y": 0.5}, {"kind": 3}, {"kind": "a"}, {"x": 0.25}],
        maxTrials=6,
    )
    await world.settle()
    assert await world.active() == [0, 1], "parallelism holds for them too"
    params = await run(world)
    assert params[0] == {"x": 1.0, "kind": "b", "y": 0.5}
    assert (params[1]["kind"], set(params[1])) == (3, {"x", "kind", "y"})
    assert (params[2]["kind"], set(params[2])) == ("a", {"x", "kind"})
    assert params[3]["x"] == 0.25
    assert len(params) == 6, "they count in maxTrials"


async def test_impossible_initial_trials_are_refused_and_can_be_corrected(world):
    await world.apply(parameters=CONDITIONAL, initialTrials=[{"x": 0.5}, {"y": 0.5}])
    await world.settle()
    refused = await world.condition("Accepted")
    assert (refused["status"], refused["reason"]) == ("False", "InvalidInitialTrials")
    assert "spec.initialTrials[1]: y is given, but whether a trial has it depends on kind" in refused["message"]
    assert world.rows() == []
    await world.edit(initialTrials=[{"x": 0.5}, {"y": 0.5, "kind": "b"}])
    params = await run(world)
    assert (params[0]["x"], params[1]["y"]) == (0.5, 0.5)


async def test_edited_initial_trials_stop_the_study_until_they_are_as_they_were(world):
    await world.apply(initialTrials=[{"x": 0.5}])
    await world.settle()
    await world.edit(initialTrials=[{"x": 0.25}])
    await world.settle()
    refused = await world.condition("Accepted")
    assert (refused["status"], refused["reason"]) == ("False", "InitialTrialsChanged")
    await world.finish(0, 0.5)
    await world.end_job(0)
    await world.settle()
    assert world.rows() == [(0, "COMPLETE"), (1, "RUNNING")], "what runs is looked after, nothing is started"
    await world.edit(initialTrials=[{"x": 0.5}])
    assert (await run(world))[0]["x"] == 0.5
    assert (await world.condition("Accepted"))["status"] == "True"


# Earlier studies


async def test_a_study_begins_with_the_trials_of_an_earlier_one(world):
    await world.apply("first", parameters=CONDITIONAL, sampler={"name": "Random", "seed": 7}, maxTrials=12)
    await run(world, "first")
    wider = [{"name": "x", "float": {"low": 0, "high": 0.75}}, *CONDITIONAL[1:]]
    name = await name_of(world, "first")
    await world.apply("second", parameters=wider, warmStart={"studies": [name]}, maxTrials=3)
    await run(world, "second")
    status = (await world.study("second"))["status"]
    (came,) = status["warmStart"]
    too_high = world.database.query(
        "SELECT count(*) FROM trial_params JOIN trials USING (trial_id) JOIN studies USING (study_id)"
        " WHERE study_name = %s AND param_name = 'x' AND param_value > 0.75",
        name,
    )[0][0]
    assert 0 < too_high < 12
    assert came == {
        "study": name,
        "taken": 12 - too_high,
        "left": too_high,
        "message": f"{too_high} whose x is not possible here",
    }
    assert (status["progress"], status["bestTrial"]["number"]) == ("3/3", 2), "nothing is copied"
    world.start_operator()
    await world.settle("second")
    assert (await world.study("second"))["status"]["warmStart"] == [came]


async def test_the_sampler_learns_from_them(world):
    """TPE would choose its first ten trials at random; after these it knows where to look."""
    await world.apply("first", maxTrials=30, sampler={"name": "Random", "seed": 1}, parallelism=30)
    await world.settle("first")
    for job in await world.jobs("first"):
        number = int(job["metadata"]["labels"]["study-operator.io/trial"])
        await world.finish(number, -abs(params_of(job)["x"] - 0.9), study="first")
        await world.end_job(number, study="first")
    await world.settle("first")
    sampler = {"name": "TPE", "seed": 1}
    await world.apply("cold", sampler=sampler, maxTrials=8)
    await world.apply("warm", sampler=sampler, maxTrials=8, warmStart={"studies": [await name_of(world, "first")]})
    far = {}
    for name in ("cold", "warm"):
        far[name] = sorted(abs(params["x"] - 0.9) for params in (await run(world, name)).values())[4]
    assert far["warm"] < 0.2 < far["cold"]


async def test_a_study_that_is_not_of_this_namespace_is_refused(world):
    await world.apply("first", maxTrials=1, parallelism=1)
    await run(world, "first")
    await world.apply("second", warmStart={"studies": ["team-b/secret-12345678"]})
    await world.settle("second")
    refused = await world.condition("Accepted", "second")
    assert (refused["status"], refused["reason"]) == ("False", "WarmStartRefused")
    assert "'team-b/secret-12345678'" in refused["message"]
    assert f"there are {await name_of(world, 'first')}." in refused["message"]
    assert (await world.condition("Progressing", "second"))["reason"] == "NotAccepted"
    assert world.rows("second") == []


# What notebooks enqueue


async def test_what_a_notebook_enqueues_comes_after_the_initial_trials(world):
    await world.apply(parameters=CONDITIONAL, initialTrials=[{"x": i / 8} for i in range(4)], maxTrials=6)
    await world.settle()
    with world.database.optuna_study(await name_of(world)) as study:
        study.enqueue_trial({"kind": "b", "y": 0.75})
        study.enqueue_trial({"x": 0.9, "y": 0.5})
    params = await run(world)
    assert [params[number]["x"] for number in range(4)] == [0, 0.125, 0.25, 0.375]
    assert (params[4]["kind"], params[4]["y"]) == ("b", 0.75)
    assert params[5]["x"] == 0.9
    assert params[5].get("y", 0.5) == 0.5, "it is used if the sampler chooses a parent that has it"


async def test_what_cannot_be_run_fails_with_words_and_the_study_goes_on(world):
    await world.apply(parameters=CONDITIONAL, parallelism=1, maxTrials=5)
    await world.settle()
    with world.database.optuna_study(await name_of(world)) as study:
        for wish in ({"x": 2}, {"x": 0.5}, {"kind": "c"}, {"rate": 1}):
            study.enqueue_trial(wish)
    await world.settle()
    assert world.rows()[1:] == [(1, "FAIL"), (2, "WAITING"), (3, "FAIL"), (4, "FAIL")]
    status = (await world.study())["status"]
    assert status["trials"]["failed"] == 3
    failures = {failure["trial"]: (failure["reason"], failure["message"]) for failure in status["recentFailures"]}
    assert failures == {
        1: ("InvalidParameters", "what was enqueued cannot be run: x is 2; it must be a number from 0.0 to 1.0"),
        3: ("InvalidParameters", 'what was enqueued cannot be run: kind is "c"; it must be "a", "b" or 3'),
        4: ("InvalidParameters", "what was enqueued cannot be run: there is no parameter 'rate'; there are x, kind, y"),
    }
    assert "TrialInvalidParameters" in await world.events()
    params = await run(world)
    assert params[2]["x"] == 0.5
    assert (await world.study())["status"]["progress"] == "5/5"


# Crashes


@pytest.mark.parametrize("wrong", [Wrong.DIES_BEFORE, Wrong.DIES_AFTER], ids=lambda wrong: wrong.name)
async def test_killed_while_it_begins(world, wrong):
    await world.apply("first", maxTrials=2)
    await run(world, "first")
    warm = {"studies": [await name_of(world, "first")]}
    struck: list[str] = []
    for at in itertools.count():
        name = f"study{at}"
        await world.apply(name, initialTrials=[{"x": 0.25}, {"x": 0.75}], warmStart=warm, maxTrials=3, parallelism=1)
        faults = Faults(lambda count, _, at=at: wrong if count == at else None)
        world.operators_cluster.faults = world.operators_database.faults = faults
        with contextlib.suppress(Died):
            await world.look(name)
        world.operators_cluster.faults = world.operators_database.faults = Faults()
        world.start_operator()
        params = await run(world, name)
        assert [params[number]["x"] for number in (0, 1)] == [0.25, 0.75]
        assert world.rows(name) == [(number, "COMPLETE") for number in range(3)]
        assert [came["taken"] for came in (await world.study(name))["status"]["warmStart"]] == [2]
        struck += faults.struck
        if not faults.struck:
            break
    assert {"COMMIT InitialTrials.enqueue", "COMMIT InitialTrials.load"} <= set(struck)

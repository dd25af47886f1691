"""How a study ends before its trials are used up, what becomes of those that run, and how it goes on."""

from __future__ import annotations

from datetime import timedelta

import pytest
from world import GOES_ON, counted

GOAL = {"objectives": [{"name": "score", "direction": "Maximize", "goal": 0.9}]}


async def _ended(world) -> tuple[str, str, str]:
    """Phase, and which condition of those that end a study is true, with its reason."""
    status = (await world.study())["status"]
    (condition,) = [c for c in status["conditions"] if c["type"] in ("Complete", "Failed") and c["status"] == "True"]
    return status["phase"], condition["type"], condition["reason"]


async def test_a_goal_that_is_reached_ends_what_runs_at_once(world):
    await world.apply(**GOAL, parallelism=3)
    await world.settle()
    await world.finish(0, 0.89)
    await world.end_job(0)
    await world.settle()
    assert await world.condition("Complete") == {}
    await world.finish(1, 0.95)
    await world.finish(2, 0.5)  # stored before the operator looked: it is not lost
    await world.settle()
    assert [job["metadata"]["name"] for job in await world.jobs() if "deletionTimestamp" in job["metadata"]] == [
        "study-3"
    ]
    await world.end_job(1)
    await world.end_job(2)
    await world.remove_finalizers()
    await world.settle()
    assert await _ended(world) == ("Succeeded", "Complete", "GoalReached")
    assert (await world.condition("Complete"))["message"] == "trial 1 has 0.95, the goal is 0.9"
    status = (await world.study())["status"]
    assert counted(status) == {"total": 4, "complete": 3, "terminated": 1}
    assert "recentFailures" not in status
    assert world.rows() == [(0, "COMPLETE"), (1, "COMPLETE"), (2, "COMPLETE"), (3, "FAIL")]


async def test_what_runs_is_awaited_if_the_user_says_so(world):
    await world.apply(**GOAL, parallelism=2, activeTrialsPolicy="Wait")
    await world.settle()
    await world.finish(0, 0.95)
    await world.end_job(0)
    await world.settle()
    assert await world.active() == [1]
    progressing = await world.condition("Progressing")
    assert (progressing["reason"], progressing["message"]) == (
        "Ending",
        "trial 0 has 0.95, the goal is 0.9; 1 trial still runs",
    )
    await world.finish(1, 0.99)
    await world.end_job(1)
    await world.settle()
    assert await _ended(world) == ("Succeeded", "Complete", "GoalReached")
    assert (await world.study())["status"]["bestTrial"]["number"] == 1


async def test_a_deadline_leaves_out_suspended_time_and_raising_it_continues_the_study(world):
    await world.apply(activeDeadlineSeconds=600, maxTrials=5)
    await world.settle()
    first = (await world.study())["status"]["deadlineTime"]
    await world.edit(suspend=True)
    await world.settle()
    assert "deadlineTime" not in (await world.study())["status"]
    world.ahead += timedelta(hours=1)
    await world.edit(suspend=False)
    await world.settle()
    assert (await world.study())["status"]["deadlineTime"] > first
    await world.finish(0, 0.5)
    await world.end_job(0)
    world.ahead += timedelta(seconds=300)
    await world.settle()
    assert await world.active() == [1, 2]
    look = await world.look()
    assert 0 < look.again <= 300

    world.ahead += timedelta(seconds=300)
    await world.settle()
    await world.remove_finalizers()
    await world.settle()
    assert await _ended(world) == ("Succeeded", "Complete", "DeadlineExceeded")
    message = "activeDeadlineSeconds of 600 have passed after 3 trials; raise it to go on"
    assert (await world.condition("Complete"))["message"] == message

    world.ahead += timedelta(days=1)  # time after the end does not count either
    await world.edit(activeDeadlineSeconds=1200)
    await world.settle()
    assert (await world.study())["status"]["phase"] in GOES_ON
    assert await world.active() == [3, 4]
    await world.run_trials(lambda number: number)
    assert await _ended(world) == ("Succeeded", "Complete", "MaxTrialsReached")


async def test_a_deadline_without_a_result_is_a_failure(world):
    await world.apply(activeDeadlineSeconds=60)
    await world.settle()
    world.ahead += timedelta(seconds=61)
    await world.settle()
    await world.remove_finalizers()
    await world.settle()
    assert await _ended(world) == ("Failed", "Failed", "DeadlineExceeded")


async def test_more_trials_continue_a_study_that_has_used_up_its_own(world):
    await world.apply(maxTrials=2)
    await world.run_trials(lambda number: number)
    assert await _ended(world) == ("Succeeded", "Complete", "MaxTrialsReached")
    await world.edit(maxTrials=3)
    await world.settle()
    status = (await world.study())["status"]
    assert (status["phase"] in GOES_ON, await world.active(), "completionTime" in status) == (True, [2], False)
    await world.run_trials(lambda number: number)
    assert (await world.study())["status"]["progress"] == "3/3"


async def test_a_study_that_gets_no_better_has_converged(world):
    options = {"max_stagnation_trials": 3}
    await world.apply(maxTrials=50, parallelism=1, convergence={"options": options, "minTrials": 5})
    await world.run_trials(lambda number: 1.0 if number == 1 else 0.5)
    assert await _ended(world) == ("Succeeded", "Complete", "Converged")
    total = (await world.study())["status"]["trials"]["total"]
    assert 5 <= total <= 8
    world.start_operator()  # it stays so, whoever looks
    await world.settle()
    assert await _ended(world) == ("Succeeded", "Complete", "Converged")
    assert (await world.study())["status"]["trials"]["total"] == total
    await world.edit(jobTemplate={"spec": {"template": {"spec": {"containers": [{"name": "trial"}]}}}})
    await world.settle()
    assert (await world.condition("Accepted"))["status"] == "False"
    assert await _ended(world) == ("Succeeded", "Complete", "Converged"), "an edit that is refused does not undo it"


@pytest.mark.parametrize("sampler", ["Grid", "BruteForce"])
async def test_a_space_that_has_been_tried_is_exhausted(world, sampler):
    parameters = [
        {"name": "optimizer", "categorical": {"choices": ["adam", "sgd"]}},
        {
            "name": "nesterov",
            "categorical": {"choices": [True, False]},
            "when": {"parameter": "optimizer", "in": ["sgd"]},
        },
    ]
    await world.apply(maxTrials=50, parallelism=2, sampler={"name": sampler}, parameters=parameters)
    await world.run_trials(lambda number: number)
    assert await _ended(world) == ("Succeeded", "Complete", "SearchSpaceExhausted")
    with world.database.optuna_study((await world.study())["status"]["studyName"]) as study:
        tried = sorted(str(trial.params) for trial in study.trials)
    assert tried == sorted(
        str(params)
        for params in (
            {"optimizer": "adam"},
            {"optimizer": "sgd", "nesterov": True},
            {"optimizer": "sgd", "nesterov": False},
        )
    )

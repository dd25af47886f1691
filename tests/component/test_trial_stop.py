"""A user stops one trial, as `create studytrials/stop` notes it: it ends now, and nothing has failed."""

from __future__ import annotations

import pytest
from world import World, counted

STOP = "SELECT refused FROM study_reading.stop_trial(%s, %s, %s, %s)"


def wish(world: World, number: int, told_as: str = "PRUNED", by: str = "jane") -> None:
    """What the trials API does with such a request."""
    ((trial_id,),) = world.database.query("SELECT trial_id FROM trials WHERE number = %s", number)
    assert world.database.query(STOP, world.cluster_id, trial_id, told_as, by) == [(None,)]


async def _deleting(world: World) -> list[int]:
    jobs = [job for job in await world.jobs() if "deletionTimestamp" in job["metadata"]]
    return sorted(int(job["metadata"]["name"].split("-")[1]) for job in jobs)


async def _failures(world: World) -> list[tuple]:
    return world.database.query("SELECT kind, reason, message FROM study_operator.incidents ORDER BY incident_id")


@pytest.mark.parametrize("forgets", [False, True], ids=["in memory", "after a restart"])
async def test_stopped_trials_end_at_once_and_count_no_failure(world, forgets):
    await world.apply(maxTrials=6, parallelism=3, maxFailedTrials=0)
    await world.settle()
    for number in (0, 1):
        for step, value in ((1, 0.3), (2, 0.7)):
            (await world.pod(number)).call("report", step, value)
    if forgets:
        world.start_operator()
    wish(world, 0)
    wish(world, 1, "FAIL", "joe\nrm -rf")
    wish(world, 2)
    await world.look()
    assert await _deleting(world) == [0, 1, 2], "now, and not when a pruned trial's grace has passed"
    assert world.rows()[:3] == [(0, "PRUNED"), (1, "FAIL"), (2, "FAIL")]
    assert await _failures(world) == [
        ("Terminated", "StoppedByUser", "joe rm -rf has stopped the trial"),
        ("Terminated", "StoppedByUser", "jane has stopped the trial before it had reported a value"),
    ]
    event = (await world.events())["TrialStopped"]
    assert (event["type"], event["count"]) == ("Normal", 3)
    assert event["message"].startswith("trial 2 was stopped by jane at 20")
    assert event["message"].endswith("Z, and ended without a value")

    await world.settle()
    await world.remove_finalizers()
    await world.settle()
    assert await world.active() == [3, 4, 5], "the study goes on, though maxFailedTrials is 0"
    status = (await world.study())["status"]
    assert counted(status) == {"total": 6, "running": 3, "pruned": 1, "terminated": 2}
    assert (status["failures"], "recentFailures" in status) == (dict.fromkeys(status["failures"], 0), False)
    with world.database.optuna_study(status["studyName"]) as study:
        assert [trial.value for trial in study.trials[:3]] == [0.7, None, None]
    await world.run_trials(lambda number: number / 10)
    assert counted((await world.study())["status"]) == {"total": 6, "complete": 3, "pruned": 1, "terminated": 2}


async def test_a_program_that_fails_after_the_wish_has_not_failed_and_does_not_run_again(world):
    await world.apply(maxTrials=2, maxFailedTrials=0)
    await world.settle()
    (await world.pod(0)).call("report", 1, 0.3)
    wish(world, 0)
    wish(world, 1)
    await world.end_job(0, "BackoffLimitExceeded")
    await world.end_job(1, "PodFailurePolicy", "Pod has condition DisruptionTarget matching FailJob rule at index 0")
    await world.settle()
    assert world.rows() == [(0, "PRUNED"), (1, "FAIL")]
    assert [(kind, reason) for kind, reason, _ in await _failures(world)] == [("Terminated", "StoppedByUser")]


async def test_a_result_that_came_first_is_not_lost(world):
    await world.apply(maxTrials=2)
    await world.settle()
    await world.finish(0, 0.5)
    wish(world, 0)
    await world.settle()
    assert (world.rows()[0], await _deleting(world)) == ((0, "COMPLETE"), []), "its program may save a model"
    assert "TrialStopped" not in await world.events()


async def test_a_trial_that_waits_to_run_again_is_stopped_as_well(world):
    await world.apply(maxTrials=2, suspendPolicy="Terminate")
    await world.settle()
    (await world.pod(0)).call("report", 1, 0.3)
    await world.edit(suspend=True)
    await world.settle()
    await world.remove_finalizers()
    await world.settle()
    wish(world, 0)
    wish(world, 1)
    await world.settle()
    assert world.rows() == [(0, "PRUNED"), (1, "FAIL")]


async def test_with_several_objectives_a_trial_has_no_last_report_and_ends_without_values(world):
    objectives = [{"name": "accuracy", "direction": "Maximize"}, {"name": "latency", "direction": "Minimize"}]
    await world.apply(maxTrials=2, objectives=objectives)
    await world.settle()
    wish(world, 0)
    await world.settle()
    assert world.rows()[0] == (0, "FAIL")

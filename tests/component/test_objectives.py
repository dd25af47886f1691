"""Several objectives, constraints, and trials that call themselves infeasible."""

from __future__ import annotations

import pytest
from world import counted

from study_operator.model.plan import FINISHED_JOB_LINGER

TWO = [{"name": "accuracy", "direction": "Maximize"}, {"name": "latency", "direction": "Minimize"}]
LATENCY = [{"name": "latency_ms", "max": 50}]


async def _finish(world, number: int, *values: float, **constraints: float) -> None:
    pod = await world.pod(number)
    pod.call("finish", list(values), False, _json(constraints))
    await world.end_job(number)


def _json(constraints: dict[str, float]) -> str:
    pairs = ", ".join(f'"{name}": {value}' for name, value in constraints.items())
    return "{" + pairs + "}"


@pytest.mark.parametrize("sampler", ["TPE", "NSGAII", "NSGAIII", "Random", "QMC"])
async def test_several_objectives_have_a_pareto_front(world, sampler):
    await world.apply(objectives=TWO, maxTrials=4, parallelism=2, sampler={"name": sampler})
    for number, values in enumerate([(0.9, 30.0), (0.8, 10.0), (0.7, 20.0), (0.95, 40.0)]):
        await world.settle()
        await world.finish(number, *values)
        await world.end_job(number)
    await world.settle()
    status = (await world.study())["status"]
    assert status["phase"] == "Succeeded"
    assert [(trial["number"], trial["values"]) for trial in status["paretoFront"]] == [
        (3, ["0.95", "40.0"]),
        (0, ["0.9", "30.0"]),
        (1, ["0.8", "10.0"]),
    ]
    assert (status["paretoFrontSize"], status["bestValue"]) == (3, "pareto: 3")
    assert "bestTrial" not in status
    assert set(status["paretoFront"][0]["parameters"]) == {"x", "layers", "kind"}
    with world.database.optuna_study(status["studyName"]) as study:
        assert sorted(trial.number for trial in study.best_trials) == [0, 1, 3]


async def test_a_front_that_is_larger_than_a_status_shows_its_beginning_and_its_size(world):
    await world.apply(objectives=TWO, maxTrials=25, parallelism=25)
    await world.settle()
    for number in range(25):
        await world.finish(number, number / 100, float(number))
        await world.end_job(number)
    await world.settle()
    status = (await world.study())["status"]
    assert (len(status["paretoFront"]), status["paretoFrontSize"], status["bestValue"]) == (20, 25, "pareto: 25")


async def test_reports_are_refused_with_the_reason(world):
    await world.apply(objectives=TWO)
    await world.settle()
    pod = await world.pod(0)
    assert pod.refusal("report", 1, 0.5) == "SO004"


async def test_trials_that_break_a_constraint_are_never_the_best(world):
    await world.apply(constraints=LATENCY, maxTrials=3, parallelism=3)
    await world.settle()
    await _finish(world, 0, 0.99, latency_ms=51)
    await _finish(world, 1, 0.8, latency_ms=50)
    await _finish(world, 2, 0.7, latency_ms=10)
    await world.settle()
    status = (await world.study())["status"]
    assert status["bestTrial"]["number"] == 1
    assert counted(status) == {"total": 3, "complete": 2, "infeasible": 1}
    assert "recentFailures" not in status
    with world.database.optuna_study(status["studyName"]) as study:
        assert [trial.constraints for trial in study.trials] == [
            {"latency_ms": 1.0},
            {"latency_ms": 0.0},
            {"latency_ms": -40.0},
        ]
        assert study.best_trial.number == 1


async def test_the_pareto_front_has_feasible_trials_only(world):
    await world.apply(objectives=TWO, constraints=LATENCY, maxTrials=2)
    await world.settle()
    await _finish(world, 0, 0.99, 1.0, latency_ms=51)
    await _finish(world, 1, 0.8, 2.0, latency_ms=1)
    await world.settle()
    status = (await world.study())["status"]
    assert [trial["number"] for trial in status["paretoFront"]] == [1]


async def test_a_result_without_the_value_of_a_constraint_is_a_failure_that_says_so(world):
    await world.apply(constraints=LATENCY, maxTrials=1, parallelism=1)
    await world.settle()
    await world.finish(0, 0.5)
    await world.end_job(0)
    await world.settle()
    (failure,) = (await world.study())["status"]["recentFailures"]
    assert (failure["class"], failure["reason"]) == ("Program", "ConstraintMissing")
    assert "latency_ms" in failure["message"]


async def test_a_trial_may_call_itself_infeasible(world):
    await world.apply(maxTrials=3, maxFailedTrials=0, parallelism=1)
    await world.settle()
    (await world.pod(0)).call("finish", [], False, None, "OOM at this batch size")
    await world.end_job(0)
    await world.settle()
    assert world.rows() == [(0, "PRUNED"), (1, "RUNNING")]
    status = (await world.study())["status"]
    assert counted(status) == {"total": 2, "running": 1, "infeasible": 1}
    (failure,) = status["recentFailures"]
    assert (failure["class"], failure["message"]) == ("Infeasible", "OOM at this batch size")
    await world.run_trials(lambda number: number)
    assert (await world.study())["status"]["phase"] == "Succeeded"


async def test_finished_jobs_are_kept_as_cron_jobs_are(world):
    await world.apply(maxTrials=6, parallelism=1, successfulJobsHistoryLimit=2, failedJobsHistoryLimit=0)
    for number in range(6):
        await world.settle()
        if number == 3:
            await world.end_job(number, "BackoffLimitExceeded")
        else:
            await world.finish(number, 1.0 if number == 1 else 0.5)
            await world.end_job(number)
    await world.settle()
    lately = ["study-1", "study-2", "study-4", "study-5"]
    assert sorted(job["metadata"]["name"] for job in await world.jobs()) == lately
    world.ahead += FINISHED_JOB_LINGER
    await world.settle()
    assert sorted(job["metadata"]["name"] for job in await world.jobs()) == ["study-1", "study-4", "study-5"]
    assert (await world.study())["status"]["bestTrial"]["jobName"] == "study-1"

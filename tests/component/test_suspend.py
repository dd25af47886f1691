"""Suspension, scaling while the study runs, and Jobs that a queue manager holds back."""

from __future__ import annotations

from datetime import timedelta

from world import GOES_ON, counted, params_of


async def _phase(world) -> str:
    return (await world.study())["status"]["phase"]


async def test_a_suspended_study_drains(world):
    await world.apply()
    await world.settle()
    await world.edit(suspend=True)
    await world.finish(0, 0.5)
    await world.end_job(0)
    await world.settle()
    assert (await _phase(world), await world.active()) == ("Suspended", [1])
    suspended = await world.condition("Suspended")
    assert (suspended["status"], suspended["reason"]) == ("True", "Suspended")
    assert (await world.condition("Progressing"))["message"] == "the study is suspended; 1 trial still runs"
    assert (await world.events())["Suspended"]["type"] == "Normal"
    await world.edit(suspend=False)
    await world.settle()
    assert await world.active() == [1, 2]
    assert await _phase(world) in GOES_ON
    assert (await world.condition("Suspended"))["status"] == "False"


async def test_terminated_trials_run_again_when_the_study_is_resumed(world):
    await world.apply(suspendPolicy="Terminate")
    await world.settle()
    before = {number: params_of(await world.job(number)) for number in (0, 1)}
    await world.finish(0, 0.5)  # just before: it is not run again
    await world.edit(suspend=True)
    await world.settle()
    await world.end_job(0)
    await world.remove_finalizers()
    await world.settle()
    assert await world.active() == []
    assert world.rows() == [(0, "COMPLETE"), (1, "RUNNING")]
    status = (await world.study())["status"]
    assert counted(status) == {"total": 2, "queued": 1, "complete": 1}
    assert (await world.condition("Progressing"))["message"].endswith("0 trials still run, 1 will run again")
    world.start_operator()
    await world.settle()
    assert await world.active() == []

    await world.edit(suspend=False)
    await world.settle()
    assert await world.active() == [1, 2]
    again = await world.job(1)
    assert (again["metadata"]["name"], params_of(again)) == ("study-1-r1", before[1])
    assert (await world.study())["status"]["failures"] == {"program": 0, "infrastructure": 0, "infeasible": 0}
    await world.run_trials(lambda number: number)
    assert await _phase(world) == "Succeeded"


async def test_a_trial_whose_pod_still_ends_does_not_run_twice_at_once(world):
    await world.apply(suspendPolicy="Terminate", parallelism=1)
    await world.settle()
    await world.edit(suspend=True)
    await world.settle()
    await world.edit(suspend=False)
    await world.settle()
    assert [job["metadata"]["name"] for job in await world.jobs()] == ["study-0"], "it is still being deleted"
    await world.remove_finalizers()
    await world.settle()
    assert [job["metadata"]["name"] for job in await world.jobs()] == ["study-0-r1"]


async def test_a_study_is_scaled_up_and_down_while_it_runs_and_to_nothing(world):
    await world.apply(maxTrials=20, parallelism=1)
    await world.settle()
    for replicas, active in ((3, [0, 1, 2]), (1, [0, 1, 2])):  # shrinking ends no running trial
        await world.edit(parallelism=replicas)
        await world.settle()
        assert await world.active() == active
    for number in (0, 1):
        await world.finish(number, 0.5)
        await world.end_job(number)
    await world.settle()
    assert await world.active() == [2]
    await world.edit(parallelism=0)
    await world.finish(2, 0.5)
    await world.end_job(2)
    await world.settle()
    assert (await _phase(world), await world.active()) == ("Suspended", [])
    assert (await world.condition("Suspended"))["reason"] == "ScaledToZero"
    await world.edit(parallelism=2)
    await world.settle()
    assert (await _phase(world) in GOES_ON, await world.active()) == (True, [3, 4])


async def test_a_job_that_a_queue_manager_holds_back_is_queued_and_neither_fails_nor_times_out(world):
    await world.apply(parallelism=2, pendingDeadlineSeconds=60)
    await world.settle()
    await world.patch_job(0, {"spec": {"suspend": True}})
    await world.settle()
    status = (await world.study())["status"]
    assert counted(status) == {"total": 2, "running": 1, "queued": 1}
    assert "1 is queued" in (await world.condition("Progressing"))["message"]
    await world.start_pod(1, {"phase": "Running"})
    await world.patch_job(1, {"metadata": {"labels": {"seen": "true"}}})
    world.ahead += timedelta(hours=5)
    await world.settle()
    assert 0 in await world.active(), "nobody counts the time that a Job is suspended"
    assert (await world.job(0))["metadata"]["name"] == "study-0"
    await world.patch_job(0, {"spec": {"suspend": False}})
    await world.settle()
    assert counted((await world.study())["status"])["running"] == 2
    await world.finish(0, 0.5)
    await world.end_job(0)
    await world.settle()
    assert world.rows()[0] == (0, "COMPLETE")

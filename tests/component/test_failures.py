"""Failures told apart: the cluster's run again free of charge, the program's count, infeasible trials are neither."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from world import counted, job_template, params_of

DISRUPTED = "Pod team/study-0-x has condition DisruptionTarget matching FailJob rule at index 0"


async def _evict(world, number: int) -> None:
    """The pod is evicted and gone; the Job says why it has failed."""
    await world.end_job(number, "PodFailurePolicy", DISRUPTED)


async def test_an_evicted_trial_runs_again_with_the_same_parameters_free_of_charge(world):
    await world.apply(maxTrials=1, maxFailedTrials=0, parallelism=1)
    await world.settle()
    first, pod = await world.job(0), await world.pod(0)
    pod.call("report", 1, 0.5)
    await _evict(world, 0)
    await world.settle()
    again = await world.job(0)
    assert (first["metadata"]["name"], again["metadata"]["name"]) == ("study-0", "study-0-r1")
    assert params_of(first) == params_of(again)
    assert world.rows() == [(0, "RUNNING")]
    status = (await world.study())["status"]
    assert counted(status) == {"total": 1, "running": 1}
    assert status["failures"] == {"program": 0, "infrastructure": 1, "infeasible": 0}
    (failure,) = status["recentFailures"]
    assert (failure["trial"], failure["class"], failure["reason"]) == (0, "Infrastructure", "Disrupted")
    event = (await world.events())["TrialDisrupted"]
    assert (event["type"], event["message"].partition(":")[0]) == ("Warning", "trial 0 failed and runs again")
    (await world.pod(0)).call("finish", [0.5])
    await world.end_job(0)
    await world.settle()
    assert (await world.study())["status"]["phase"] == "Succeeded"


async def test_the_cluster_may_fail_only_so_often(world):
    await world.apply(maxTrials=1, maxFailedTrials=0, parallelism=1, infrastructureRetries=2)
    for _ in range(3):
        await world.settle()
        await _evict(world, 0)
    await world.settle()
    assert world.rows() == [(0, "FAIL")]
    status = (await world.study())["status"]
    assert status["phase"] == "Failed"
    assert status["failures"] == {"program": 0, "infrastructure": 3, "infeasible": 0}
    assert [job["metadata"]["name"] for job in await world.jobs()] == ["study-0", "study-0-r1", "study-0-r2"]


async def test_an_operator_that_restarts_between_the_two_writes_of_a_retry_goes_on(world):
    await world.apply(maxTrials=1, parallelism=1)
    await world.settle()
    (await world.pod(0)).call("report", 1, 0.5)
    await _evict(world, 0)
    await world.look()  # the row says so; the Job is for the next look
    world.start_operator()
    await world.settle()
    assert [job["metadata"]["name"] for job in await world.jobs()] == ["study-0", "study-0-r1"]
    assert world.rows() == [(0, "RUNNING")]


async def test_a_pod_that_the_kubelet_evicts_is_told_by_its_own_reason(world):
    await world.apply(maxTrials=1, parallelism=1)
    await world.settle()
    message = "The node was low on resource: memory."
    await world.start_pod(0, {"phase": "Failed", "reason": "Evicted", "message": message})
    await world.end_job(0, "BackoffLimitExceeded", "Job has reached the specified backoff limit")
    await world.settle()
    (failure,) = (await world.study())["status"]["recentFailures"]
    assert (failure["class"], failure["reason"], failure["message"]) == ("Infrastructure", "Evicted", message)
    assert (await world.job(0))["metadata"]["name"] == "study-0-r1"


@pytest.mark.parametrize("limit", [0, 2])
async def test_a_trial_whose_pod_was_deleted_runs_again_free_of_charge(world, limit):
    template = {"spec": {**job_template()["spec"], "backoffLimit": limit}}
    await world.apply(maxTrials=1, maxFailedTrials=0, parallelism=1, jobTemplate=template)
    await world.settle()
    await world.end_job(0, "BackoffLimitExceeded", "Job has reached the specified backoff limit", pods_left=False)
    await world.settle()
    assert world.rows() == [(0, "RUNNING")]
    assert (await world.job(0))["metadata"]["name"] == "study-0-r1"
    (failure,) = (await world.study())["status"]["recentFailures"]
    assert (failure["class"], failure["reason"]) == ("Infrastructure", "PodDeleted")


async def test_a_program_that_ends_well_because_its_pod_is_deleted_runs_again(world):
    await world.apply(maxTrials=1, maxFailedTrials=0, parallelism=1)
    await world.settle()
    await world.end_job(0)
    await world.settle()
    assert (await world.job(0))["metadata"]["name"] == "study-0-r1"
    await world.finish(0, 0.5)
    await world.end_job(0)
    await world.settle()
    assert (await world.study())["status"]["phase"] == "Succeeded"


async def test_the_programs_own_failures_are_not_retried_and_count(world):
    await world.apply(maxTrials=2, maxFailedTrials=0, parallelism=1)
    await world.settle()
    await world.end_pod(0, "Error", 1)
    await world.end_job(0, "BackoffLimitExceeded")
    await world.settle()
    status = (await world.study())["status"]
    assert (status["phase"], counted(status)) == ("Failed", {"total": 1, "failed": 1})
    assert status["failures"] == {"program": 1, "infrastructure": 0, "infeasible": 0}


async def test_an_exit_code_can_mean_infeasible(world):
    await world.apply(maxTrials=2, maxFailedTrials=0, parallelism=1, infeasibleExitCodes=[42])
    await world.settle()
    await world.end_pod(0, "Error", 42)
    await world.end_job(0, "BackoffLimitExceeded")
    await world.settle()
    assert world.rows() == [(0, "PRUNED"), (1, "RUNNING")]
    status = (await world.study())["status"]
    assert counted(status) == {"total": 2, "running": 1, "infeasible": 1}
    (failure,) = status["recentFailures"]
    assert (failure["class"], failure["exitCode"]) == ("Infeasible", 42)
    assert (await world.events())["TrialInfeasible"]["type"] == "Normal"
    with world.database.optuna_study(status["studyName"]) as study:
        assert (study.trials[0].state.name, study.trials[0].values) == ("PRUNED", None)


UNSCHEDULABLE = {
    "phase": "Pending",
    "conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes are available"}
    ],
}
NO_IMAGE = {
    "phase": "Pending",
    "containerStatuses": [
        {
            "name": "trial",
            "ready": False,
            "restartCount": 0,
            "image": "trial:1",
            "imageID": "",
            "state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}},
        }
    ],
}


@pytest.mark.parametrize(("pod", "reason"), [(UNSCHEDULABLE, "Unschedulable"), (NO_IMAGE, "ImagePullBackOff")])
async def test_a_pod_that_waits_too_long_is_the_clusters_failure(world, pod, reason):
    await world.apply(maxTrials=1, parallelism=1, pendingDeadlineSeconds=60)
    await world.settle()
    await world.start_pod(0, pod)
    world.ahead += timedelta(seconds=30)
    await world.settle()
    assert (await world.condition("Progressing"))["reason"] == "TrialPending"
    look = await world.look()
    assert 0 < look.again <= 30
    world.ahead += timedelta(seconds=31)
    await world.settle()
    assert "deletionTimestamp" in (await world.job(0))["metadata"]
    world.ahead = timedelta(0)  # the next Job is created by the API server's clock
    await world.remove_finalizers()
    await world.settle()
    assert (await world.job(0))["metadata"]["name"] == "study-0-r1"
    (failure,) = (await world.study())["status"]["recentFailures"]
    assert (failure["class"], failure["reason"]) == ("Infrastructure", reason)
    assert failure["message"].startswith("its pod did not start within 60 s: ")


async def test_a_job_that_gets_no_pod_waits_no_longer_either(world):
    await world.apply(maxTrials=1, parallelism=1, pendingDeadlineSeconds=60)
    await world.settle()
    await world.begin_job(0)
    world.ahead += timedelta(seconds=61)
    await world.look()
    await world.settle()
    (failure,) = (await world.study())["status"]["recentFailures"]
    assert (failure["class"], failure["reason"]) == ("Infrastructure", "NoPod")


async def test_a_trial_that_waits_for_an_image_is_made_anew_when_the_template_is_corrected(world):
    await world.apply(maxTrials=1, parallelism=1)
    await world.settle()
    await world.start_pod(0, NO_IMAGE)
    world.ahead += timedelta(seconds=30)
    await world.settle()
    assert (await world.job(0))["metadata"]["name"] == "study-0"
    await world.edit(jobTemplate=job_template(image="trial:2"))
    await world.settle()
    await world.remove_finalizers()
    await world.settle()
    job = await world.job(0)
    assert job["metadata"]["name"] == "study-0-r1"
    assert job["spec"]["template"]["spec"]["containers"][0]["image"] == "trial:2"
    assert (await world.study())["status"]["failures"] == {"program": 0, "infrastructure": 0, "infeasible": 0}


async def test_ends_are_told_together_although_every_second_trial_has_failed(world, monkeypatch):
    await world.apply(maxTrials=16, parallelism=16, maxFailedTrials=16)
    await world.settle()
    for number in range(16):
        if number % 2:
            await world.end_pod(number, "Error", 1)
        else:
            await world.finish(number, number / 16)
        await world.end_job(number, "BackoffLimitExceeded" if number % 2 else None)
    at_once, list_pods = asyncio.Barrier(8), world.operators_cluster.list_pods

    async def list_pods_of_all(*args, **options):
        await asyncio.wait_for(at_once.wait(), 30)
        return await list_pods(*args, **options)

    monkeypatch.setattr(world.operators_cluster, "list_pods", list_pods_of_all)
    before = len(world.operators_database.faults.writes)
    await world.look()
    assert world.rows() == [(number, "FAIL" if number % 2 else "COMPLETE") for number in range(16)]
    writes = world.operators_database.faults.writes[before:]
    assert 1 <= writes.count("STORE a trial's end") <= 2, writes

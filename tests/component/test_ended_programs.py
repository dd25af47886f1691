"""A program that has ended beside a container that does not: its end is the trial's."""

from __future__ import annotations

from datetime import UTC, timedelta
from typing import Any

import pytest
from logserver import LogServer
from world import container_status, counted

RUNNING = {"running": {"startedAt": "2030-01-01T00:00:00Z"}}
MERGE = "application/merge-patch+json"


def _template(**pod: Any) -> dict[str, Any]:
    """A program, and a container that runs for ever."""
    containers = [{"name": name, "image": "trial:1"} for name in ("trial", "proxy")]
    return {"spec": {"template": {"spec": {"containers": containers, "terminationGracePeriodSeconds": 12, **pod}}}}


def _status(world, program: dict[str, Any], proxy: dict[str, Any] = RUNNING) -> dict[str, Any]:
    states = {"trial": program, "proxy": proxy}
    return {
        "phase": "Running",
        "containerStatuses": [container_status(state) | {"name": name} for name, state in states.items()],
    }


def _ended(world, exit_code: int = 0) -> dict[str, Any]:
    now = world.now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"terminated": {"exitCode": exit_code, "reason": "Error" if exit_code else "Completed", "finishedAt": now}}


async def _job_status(world, number: int, **status: Any) -> None:
    name = (await world.job(number))["metadata"]["name"]
    await world.cluster._call("PATCH", world._path("jobs", name, "status"), body={"status": status}, content=MERGE)


async def _program_ends(world, number: int, exit_code: int = 0, pod: str | None = None) -> str:
    """The program of a trial has run and ended; its pod runs on, and is not ready any more. Returns the pod's name."""
    if pod is None:
        pod = await world.start_pod(number, _status(world, RUNNING))
        await world.look()  # which sees it ready
    await world.set_pod_status(pod, _status(world, _ended(world, exit_code)))
    await _job_status(world, number, active=1, ready=0)
    return pod


async def _deleted(world) -> list[str]:
    return [job["metadata"]["name"] for job in await world.jobs() if "deletionTimestamp" in job["metadata"]]


async def _look_after(world, seconds: float) -> None:
    world.ahead += timedelta(seconds=seconds)
    await world.settle()


async def test_a_trial_with_a_value_frees_its_slot_though_a_container_goes_on(world):
    await world.apply(maxTrials=2, parallelism=1, jobTemplate=_template())
    await world.settle()
    await world.finish(0, 0.5)
    await _program_ends(world, 0)
    await world.settle()
    await _look_after(world, 3)
    assert world.rows() == [(0, "COMPLETE")]
    progressing = await world.condition("Progressing")
    assert "the program of trial 0 has ended, and container proxy of its pod still runs" in progressing["message"]
    assert await _deleted(world) == [], "it may end by itself"
    await _look_after(world, 10)
    assert await _deleted(world) == ["study-0"]
    await world.collect_garbage("study")
    await world.settle()
    assert world.rows() == [(0, "COMPLETE"), (1, "RUNNING")]


async def test_a_trial_ends_by_the_exit_code_of_its_program(world):
    await world.apply(maxTrials=1, parallelism=1, jobTemplate=_template())
    await world.settle()
    await _program_ends(world, 0, exit_code=3)
    await _look_after(world, 3)
    assert world.rows() == [(0, "RUNNING")]
    await _look_after(world, 10)
    (failure,) = (await world.study())["status"]["recentFailures"]
    assert (failure["class"], failure["reason"], failure["exitCode"]) == ("Program", "Error", 3)
    assert await _deleted(world) == ["study-0"]
    await world.collect_garbage("study")
    await world.settle()
    status = (await world.study())["status"]
    assert (status["phase"], counted(status)) == ("Failed", {"total": 1, "failed": 1})


async def test_a_program_that_returns_nothing_has_left_no_value(world):
    await world.apply(maxTrials=1, parallelism=1, jobTemplate=_template())
    await world.settle()
    await _program_ends(world, 0)
    await _look_after(world, 3)
    await _look_after(world, 10)
    (failure,) = (await world.study())["status"]["recentFailures"]
    assert failure["reason"] == "MetricMissing"


async def test_an_operator_that_restarts_finds_programs_that_ended_before(world):
    await world.apply(maxTrials=1, parallelism=1, jobTemplate=_template())
    await world.settle()
    await world.finish(0, 0.5)
    await _program_ends(world, 0)
    world.start_operator()
    await _look_after(world, 13)
    assert await _deleted(world) == ["study-0"]


async def test_a_second_container_that_ends_in_time_leaves_the_end_to_the_job(world):
    await world.apply(maxTrials=1, parallelism=1, jobTemplate=_template())
    await world.settle()
    pod = await _program_ends(world, 0)
    await _look_after(world, 3)
    await world.finish(0, 0.5)  # it may be the second container that knows the value
    await world.set_pod_status(pod, _status(world, _ended(world), _ended(world)) | {"phase": "Succeeded"})
    await world.end_job(0)
    await _look_after(world, 60)
    status = (await world.study())["status"]
    assert (status["phase"], counted(status)) == ("Succeeded", {"total": 1, "complete": 1})
    assert await _deleted(world) == []


async def test_an_end_counts_before_the_jobs_deadline(world):
    template = _template()
    template["spec"]["activeDeadlineSeconds"] = 10
    await world.apply(maxTrials=1, parallelism=1, jobTemplate=template)
    await world.settle()
    await _job_status(world, 0, startTime=world.now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
    await _program_ends(world, 0, exit_code=3)
    await _look_after(world, 3)
    assert world.rows() == [(0, "RUNNING")]
    await _look_after(world, 3)
    (failure,) = (await world.study())["status"]["recentFailures"]
    assert (failure["reason"], failure["exitCode"]) == ("Error", 3), "the program's, and not the deadline's"


async def test_a_pod_that_is_not_ready_for_another_reason_goes_on(world):
    await world.apply(maxTrials=1, parallelism=1, jobTemplate=_template())
    await world.settle()
    await world.start_pod(0, _status(world, RUNNING, _ended(world, 1)))
    await _job_status(world, 0, active=1, ready=0)
    for _ in range(3):
        await _look_after(world, 60)
    assert world.rows() == [(0, "RUNNING")]
    assert await _deleted(world) == []


@pytest.fixture
async def logs(world):
    server = LogServer()
    await server.start()
    world.logs_from = server.url
    world.start_operator()
    yield server
    await server.stop()


async def test_what_the_program_has_printed_is_its_value(world, logs):
    await world.apply(maxTrials=1, parallelism=1, jobTemplate=_template(), metrics={"from": "Stdout"})
    await world.settle()
    pod = await world.start_pod(0, _status(world, RUNNING))
    logs.starts(pod)
    await world.look()
    await logs.prints(pod, "score=0.75")
    await logs.ends(pod)
    await _program_ends(world, 0, pod=pod)
    await _look_after(world, 3)
    assert world.rows() == [(0, "RUNNING")]
    await _look_after(world, 10)
    await world.logs_are_read()
    await world.settle()
    assert world.rows() == [(0, "COMPLETE")]
    assert (await world.study())["status"]["bestTrial"]["values"] == ["0.75"]
    assert await _deleted(world) == ["study-0"]

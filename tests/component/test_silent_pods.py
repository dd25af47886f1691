"""Pods that cannot reach the database: the Study says so within a minute of a pod's start. The test plays the logs."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from world import World, container_status

RUNS = {"phase": "Running", "containerStatuses": [container_status({"running": {}})]}
AWAY = (
    "epoch 1\nstudy-trial: the database is away (db:5432: timed out waiting for the connection); training goes on, "
    "the report 0.5 of step 1 waits\nepoch 2\n"
)
WHY = "the pod of trial 0 cannot reach the database: db:5432: timed out waiting for the connection"


class Logs:
    """The logs of the study's containers; the API server of the tests has no kubelet to ask."""

    def __init__(self) -> None:
        self.text, self.read = "", list[str]()

    async def tail(self, namespace: str, pod: str, container: str) -> str:
        self.read.append(container)
        return self.text


@pytest.fixture
def logs(world: World, monkeypatch: pytest.MonkeyPatch) -> Logs:
    logs = Logs()
    monkeypatch.setattr(world.operators_cluster, "log_tail", logs.tail)
    return logs


async def begin(world: World, **spec: Any) -> None:
    await world.apply(maxTrials=1, parallelism=1, **spec)
    await world.look()
    await world.start_pod(0, RUNS)


async def test_the_study_says_that_pods_cannot_reach_the_database(world, logs):
    await begin(world)
    look = await world.look()
    assert look.again <= 20
    assert logs.read == [], "it has just begun"
    logs.text = AWAY
    world.ahead += timedelta(seconds=21)
    look = await world.look()
    condition = await world.condition("Progressing")
    assert (condition["status"], condition["reason"]) == ("False", "TrialsCannotReport")
    assert condition["message"].startswith(WHY)
    assert "network policy" in condition["message"]
    event = (await world.events())["TrialsCannotReport"]
    assert (event["type"], event["message"]) == ("Warning", condition["message"])
    assert look.again <= 20, "it may be able to soon"
    logs.text += "study-trial: the database is back: the report 0.5 of step 1 is stored\n"
    world.ahead += timedelta(seconds=21)
    await world.settle()
    assert (await world.condition("Progressing"))["reason"] == "TrialsRunning"


async def test_the_log_of_a_pod_that_has_reported_is_not_read(world, logs):
    await begin(world)
    (await world.pod(0)).call("report", 1, 0.5)
    for _ in range(3):
        world.ahead += timedelta(minutes=1)
        await world.look()
    assert logs.read == []


async def test_a_pod_that_has_nothing_to_say_is_asked_ever_more_seldom(world, logs):
    await begin(world)
    for _ in range(60):
        world.ahead += timedelta(seconds=20)
        await world.look()
    assert 4 <= len(logs.read) <= 6


@pytest.mark.parametrize(
    ("metrics", "containers"),
    [({"from": "Stdout"}, []), ({"from": "File", "path": "/m/m.jsonl"}, ["study-metrics"])],
)
async def test_the_container_that_reports_is_asked(world, logs, metrics, containers):
    world.settings = replace(world.settings, trial_image="study-trial:1")
    world.start_operator()
    await begin(world, metrics=metrics)
    world.ahead += timedelta(seconds=21)
    await world.look()
    assert logs.read == containers


async def test_a_final_value_that_could_not_be_stored_is_no_fault_of_the_program(world, monkeypatch):
    async def log_end(namespace: str, pod: str, container: str) -> str:
        return (
            "study-trial: the end could not be delivered within 5 s and is NOT stored; the last attempt: db:5432: away"
        )

    monkeypatch.setattr(world.operators_cluster, "log_end", log_end)
    await world.apply(maxTrials=1, parallelism=1, maxFailedTrials=0)
    await world.look()
    await world.end_pod(0, "Error", 1)
    await world.end_job(0, "BackoffLimitExceeded")
    await world.settle()
    assert world.rows() == [(0, "RUNNING")]
    (failure,) = (await world.study())["status"]["recentFailures"]
    assert (failure["class"], failure["reason"]) == ("Infrastructure", "DatabaseUnreachable")

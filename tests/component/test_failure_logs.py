"""The end of a failed trial's log stays in the database, beside its incident and nowhere else."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
from database import TestDatabase
from kubernetes.aio import client
from logserver import LogServer
from world import World, container_status, timestamp

from study_operator.kube.client import LOG_END, Cluster
from study_operator.model.trial import Failure, TrialState


@pytest.fixture
async def logs() -> AsyncIterator[LogServer]:
    server = LogServer()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def reader(logs: LogServer) -> AsyncIterator[Cluster]:
    """A client that reads logs there: the tests' API server has no kubelet to ask."""
    configuration = client.Configuration()
    configuration.host = logs.url
    cluster = Cluster(configuration)
    yield cluster
    await cluster.close()


def kept(database: TestDatabase) -> list[str]:
    return [log for (log,) in database.query("SELECT log FROM study_operator.incidents ORDER BY incident_id") if log]


def test_the_latest_are_kept_and_optunas_tools_do_not_show_them(database):
    for number in range(23):
        trial_id = database.running_trial()
        failure = Failure("Error", "broken", 1, "the end", log=f"secret {number}\nthe end")
        assert database.tell(trial_id, TrialState.FAIL, None, failure)
    assert kept(database) == [f"secret {number}\nthe end" for number in range(3, 23)]
    attributes = database.query("SELECT value_json FROM trial_user_attributes WHERE key = 'study_operator:failure'")
    assert {json.loads(text)["last_log_line"] for (text,) in attributes} == {"the end"}
    assert not [text for (text,) in attributes if "secret" in text]


async def test_the_end_of_a_log_is_read_however_long_its_lines_are(logs, reader):
    for pod in ("short", "many", "long"):
        logs.starts(pod)
    await logs.prints("short", "one", "two")
    await logs.prints("many", *(f"epoch={number}" for number in range(5000)))
    await logs.prints("long", *("x" * 16_000 + str(number) for number in range(300)))
    assert await reader.log_end("team", "short", "trial") == "one\ntwo"
    assert (await reader.log_end("team", "many", "trial")).endswith("epoch=4998\nepoch=4999")
    long = await reader.log_end("team", "long", "trial")
    assert (len(long), long[-4:]) == (LOG_END, "x299")
    assert await reader.log_end("team", "none", "trial") == ""


async def test_a_failed_trial_keeps_the_end_of_its_log(world: World, logs, reader, monkeypatch):
    monkeypatch.setattr(world.operators_cluster, "log_end", reader.log_end)
    await world.apply(maxTrials=1, parallelism=1)
    await world.settle()
    ended = {"exitCode": 1, "reason": "Error", "startedAt": timestamp(), "finishedAt": timestamp()}
    statuses = [container_status({"terminated": ended})]
    pod = await world.start_pod(0, {"phase": "Failed", "containerStatuses": statuses})
    logs.starts(pod)
    await logs.prints(pod, "loading \x1b[31mred\x1b[0m", "Traceback ...", "ValueError: no such data set")
    await world.end_job(0, "BackoffLimitExceeded")
    await world.settle()
    assert kept(world.database) == ["loading \\x1b[31mred\\x1b[0m\nTraceback ...\nValueError: no such data set"]
    (failure,) = (await world.study())["status"]["recentFailures"]
    assert failure["lastLogLine"] == "ValueError: no such data set"
    assert "Traceback" not in json.dumps(await world.study())
    assert "Traceback" not in json.dumps(await world.events())

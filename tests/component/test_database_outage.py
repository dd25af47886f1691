"""A database that is down when the operator starts, and one that goes down while trials run."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
from running import run_pods, running
from waiting import until
from world import World

from study_operator.controller import controller, outage


@pytest.fixture
def world(own_world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """The operator looks for the database more often than it would in production."""
    monkeypatch.setattr(controller, "READINESS_INTERVAL_SECONDS", 0.2)
    return own_world


async def test_a_database_that_is_down_at_the_start(world, server):
    server.stop()
    async with running(world) as operator:
        await world.apply()

        async def unavailable() -> dict:
            return await world.condition("StorageReady")

        condition = await until(unavailable)
        assert (condition["status"], condition["reason"]) == ("False", "Unavailable")
        assert condition["message"].startswith("the database cannot be used: connection to server at ")
        assert "Connection refused" in condition["message"]
        progressing = await world.condition("Progressing")
        assert (progressing["status"], progressing["reason"]) == ("False", "WaitingForStorage")
        assert (await world.study())["status"]["phase"] == "Waiting"
        assert "StorageUnavailable" in await world.events()
        status, text = await operator.get("/readyz")
        assert (status, "the database does not answer: connection to server at " in text) == (503, True)
        assert (await operator.get("/healthz"))[0] == 200, "a restart would not help"
        assert await world.jobs() == []

        server.start()
        await until(operator.ready)
        status = await run_pods(world, lambda number: number / 10)
        assert (status["phase"], status["progress"]) == ("Succeeded", "4/4")
        assert (await world.condition("StorageReady"))["status"] == "True"


async def test_a_database_that_goes_down_while_trials_run(world, server):
    async with running(world) as operator:
        await world.apply()

        async def launched() -> bool:
            return await world.active() == [0, 1] and "startTime" in (await world.study()).get("status", {})

        await until(launched)
        jobs = await world.jobs()
        environments = [await world.environment(number) for number in (0, 1)]

        server.stop()
        clients = [report(environment, value) for environment, value in zip(environments, ("0.5", "0.7"), strict=True)]

        async def lines_of_waiting() -> bool:
            return all("waits for the database" in client.stderr.readline() for client in clients)

        assert await lines_of_waiting()
        await world.edit(maxFailedTrials=3)  # a reason to look at the study; the resync would be another

        async def unavailable() -> bool:
            return (await world.condition("StorageReady"))["status"] == "False"

        await until(unavailable)
        assert (await world.condition("Progressing"))["reason"] == "WaitingForStorage"
        assert (await world.study())["status"]["phase"] == "Waiting"

        async def not_ready() -> bool:
            return not await operator.ready()

        await until(not_ready)  # it asks the database every few seconds
        assert unchanged(await world.jobs()) == unchanged(jobs)

        server.start()
        for client in clients:
            assert client.wait(30) == 0
            client.stderr.close()

        async def told() -> bool:
            return await world.active() == [0, 1] and world.rows() == [(0, "COMPLETE"), (1, "COMPLETE")]

        await until(told)
        await until(operator.ready)
        for number in (0, 1):
            await world.end_job(number)
        status = await run_pods(world, lambda _: 0.6)
        assert (status["phase"], status["progress"]) == ("Succeeded", "4/4")
        assert (status["bestTrial"]["number"], status["bestTrial"]["values"]) == (1, ["0.7"])
        assert (await world.condition("StorageReady"))["status"] == "True"


async def test_an_outage_is_told_in_the_words_of_now(world, server, monkeypatch):
    """A database that accepts connections and is silent, and then is not there at all: both name the server."""
    monkeypatch.setattr(outage, "REWORDED_AFTER_SECONDS", 0.5)
    async with running(world) as operator:
        await world.apply()
        await until(operator.ready)
        server.stop()
        where = f'the database cannot be used: connection to server at "127.0.0.1", port {server.port} failed: '

        async def says(words: str) -> bool:
            return (await world.condition("StorageReady")).get("message", "").startswith(where + words)

        with socket.create_server(("127.0.0.1", server.port)):
            await until(lambda: says("no answer for 5 s"))
        await until(lambda: says("Connection refused"))
        server.start()
        await until(operator.ready)


async def test_a_job_that_fails_while_the_database_is_down(world, server):
    async with running(world):
        await world.apply(maxTrials=1, parallelism=1)

        async def launched() -> bool:
            return await world.active() == [0]

        await until(launched)
        server.stop()
        await world.end_job(0, "BackoffLimitExceeded", "Job has reached the specified backoff limit")

        async def unavailable() -> bool:
            return (await world.condition("StorageReady")).get("status") == "False"

        await until(unavailable)
        server.start()

        async def failed() -> bool:
            return (await world.condition("Failed")).get("reason") == "NoTrialSucceeded"

        await until(failed)
        assert (await world.study())["status"]["recentFailures"][0]["reason"] == "Error"


def report(environment: dict[str, str], value: str) -> subprocess.Popen[str]:
    """`study-trial finish`, as a trial's container runs it."""
    command = [sys.executable, "-m", "study_trial", "finish", value]
    return subprocess.Popen(command, env=os.environ | environment, stderr=subprocess.PIPE, text=True)


def unchanged(jobs: list[dict]) -> list[tuple]:
    return [(job["metadata"]["uid"], job["metadata"].get("deletionTimestamp"), job.get("status")) for job in jobs]

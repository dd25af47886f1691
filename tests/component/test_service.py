"""The whole operator: a study from `kubectl apply` to its end; probes, metrics and logs, and what they never show."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from urllib.parse import quote

import psycopg2
import pytest
from database import REPORTER_PASSWORD, SEED, TestDatabase
from kubeconfig import write_kubeconfig
from process import Process, get
from running import RunningManager, run_pods, running
from waiting import until
from world import World, counted

from study_operator import manager
from study_operator.model.study import StudyKey
from study_operator.reconcile.reconciler import Reconciler

ROOT = Path(__file__).resolve().parents[2]
PRUNER = {"name": "SuccessiveHalving", "options": {"min_resource": 1, "reduction_factor": 2}}


@asynccontextmanager
async def process(world: World, log: Path, kubeconfig: str, **environment: str) -> AsyncIterator[Process]:
    started = Process(
        world.database, log, KUBECONFIG=kubeconfig, WATCH_NAMESPACES=world.namespace, LOG_FORMAT="json", **environment
    )
    try:
        yield started
    finally:
        started.process.kill()
        started.process.wait()


@pytest.mark.parametrize("command", ["run", "migrate"])
async def test_sigterm_ends_what_waits_for_a_server(world, tmp_path, command):
    """`run` for the API server, `migrate` for the database: a handler answers, as the kernel does not for PID 1."""
    nowhere = tmp_path / "kubeconfig"
    write_kubeconfig(nowhere, "http://127.0.0.1:1")
    unreachable = {"KUBECONFIG": str(nowhere), "DATABASE_URL": "postgresql://optuna@127.0.0.1:1/studies"}
    started = Process(world.database, tmp_path / "log", command, **unreachable)
    try:
        await until(lambda: "waiting for the" in started.log())
        started.process.terminate()
        assert await asyncio.to_thread(started.process.wait, 180) == 143
    finally:
        started.process.kill()
    assert "Traceback" not in started.log()


async def test_a_study_from_its_creation_to_its_end(world, kubeconfig, tmp_path):
    """Events alone drive it: the resync comes every five minutes."""
    async with process(world, tmp_path / "log", kubeconfig, LOG_LEVEL="debug") as operator:
        await until(lambda: operator.get("/readyz") == (200, "ok\n"))
        study = await world.apply(pruner=PRUNER)

        async def launched() -> bool:
            return await world.active() == [0, 1]

        await until(launched)
        pods = [await world.pod(number) for number in (0, 1)]
        pods[0].call("report", 1, 0.9)
        pods[1].call("report", 1, 0.1)
        await until(lambda: pods[1].call("should_stop"))
        await world.end_job(1)

        async def next_one() -> bool:
            return await world.active() == [0, 2]

        await until(next_one)
        await world.end_pod(2, "Error", 3)
        await world.end_job(2, "BackoffLimitExceeded")
        status = await run_pods(world, lambda number: number / 10)
        assert counted(status) == {"total": 4, "complete": 2, "pruned": 1, "failed": 1}
        assert status["bestTrial"]["number"] == 3

        async def told() -> bool:
            return {"TrialError", "Completed"} <= set(await world.events())

        await until(told)
        assert set(await world.events()) <= {"NewBest", "TrialError", "Completed", "TrialPending"}
        assert (await world.events())["Completed"]["message"].endswith("; trial 3 is the best: 0.3")

        await until(lambda: operator.metrics()["study_operator_queue_depth", ""] == 0)
        metrics = operator.metrics()
        for name, least in {"reconcile": 4, "suggest": 4, "report_to_decision": 2, "slot_free_to_job": 1}.items():
            assert metrics[f"study_operator_{name}_seconds_count", ""] >= least, name
            assert metrics[f"study_operator_{name}_seconds_sum", ""] > 0, name
        assert metrics["study_operator_suggest_seconds_count", ""] == 4
        assert metrics["study_operator_trial_failures_total", "class=program,reason=Error"] == 1
        assert abs(metrics["study_operator_last_progress_timestamp_seconds", ""] - time.time()) < 30
        assert metrics["study_operator_database_connections", "login=operator"] >= 1
        most = metrics["study_operator_database_connections_most", ""]
        assert 0 <= metrics["study_operator_database_connections", "login=others"] < most
        assert metrics["study_operator_database_size_bytes", ""] > 1_000_000
        assert [value for (name, _), value in metrics.items() if name == "study_operator_build_info"] == [1]
        gauges = {labels: value for (name, labels), value in metrics.items() if name == "study_operator_trials"}
        where = f"namespace={world.namespace},state={{}},study=study"
        counts = dict.fromkeys(("running", "queued", "infeasible", "terminated"), 0)
        counts |= {"complete": 2, "pruned": 1, "failed": 1}
        assert gauges == {where.format(state): count for state, count in counts.items()}

        written = json.dumps([await world.study(), await world.jobs(), await world.events()])
        key = world.reporting(study).key
        await world.delete_study()
        await until(lambda: pods[0].refusal("should_stop") == "SO001")
        await until(lambda: not [name for name, _ in operator.metrics() if name == "study_operator_trials"])
        shown = operator.log() + operator.get("/metrics")[1] + written

        operator.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(operator.process.wait, 30) == 0
        for secret in (key, SEED, REPORTER_PASSWORD, quote(REPORTER_PASSWORD), _password(world.database)):
            assert secret not in shown
        assert_logged(operator.log(), world.namespace)


def assert_logged(log: str, namespace: str) -> None:
    """Every line is JSON that says which study and trial it is about."""
    lines = [json.loads(line) for line in log.splitlines()]
    for line in lines:
        assert set(line) == {"time", "level", "namespace", "study", "trial", "logger", "message"}
    about = {(line["namespace"], line["study"], line["trial"], line["message"]) for line in lines}
    assert {
        (namespace, "study", "0", "trial 0 started as Job study-0"),
        (namespace, "study", "0", "trial 0 ended: COMPLETE [0.0]"),
        (namespace, "study", "1", "trial 1 ended: PRUNED []"),
        (namespace, "study", "2", "trial 2 failed: Error, exit code 3"),
        (namespace, "study", "3", "trial 3 ended: COMPLETE [0.3]"),
    } <= about
    of_no_study = [
        line["message"] for line in lines if line["study"] == "-" and re.search(r"\btrial \d", line["message"])
    ]
    assert of_no_study == []
    assert [line["message"] for line in lines if line["level"] in ("error", "critical")] == []


async def test_a_study_that_is_created_again_while_its_deletion_is_seen_to(world, kubeconfig):
    async def launched() -> bool:
        return await world.active() == [0, 1]

    async with running(world) as operator:
        first = await world.apply()
        await until(launched)
        with closing(psycopg2.connect(world.database.url)) as held, held, held.cursor() as cursor:
            cursor.execute("LOCK TABLE study_operator.access")
            await world.delete_study()
            await until(
                lambda: world.database.query("SELECT pid FROM pg_locks WHERE NOT granted")
            )  # the farewell waits
            await world.remove_finalizers()
            await world.collect_garbage()
            second = await world.apply()
            await until(lambda: operator.manager.queue.again(StudyKey(world.namespace, "study")))
        await until(launched)
    owners = {job["metadata"]["ownerReferences"][0]["uid"] for job in await world.jobs()}
    assert second["metadata"]["uid"] in owners
    assert first["metadata"]["uid"] != second["metadata"]["uid"]


async def test_a_password_that_the_database_refuses_is_not_shown(world, kubeconfig, tmp_path):
    url = world.database.url.replace(_password(world.database), "not-the-right-one")
    async with process(world, tmp_path / "log", kubeconfig, DATABASE_URL=url) as operator:
        await until(lambda: "password authentication failed" in operator.get("/readyz")[1])
        await world.apply()

        async def told() -> bool:
            return "password authentication failed" in (await world.condition("StorageReady")).get("message", "")

        await until(told)
        assert "not-the-right-one" not in operator.log() + operator.get("/readyz")[1] + str(await world.study())


async def test_a_database_of_another_version_ends_the_process_with_a_sentence(world, kubeconfig, tmp_path):
    world.database.query("UPDATE alembic_version SET version_num = 'v9.0.0'")
    async with process(world, tmp_path / "log", kubeconfig) as operator:
        assert await asyncio.to_thread(operator.process.wait, 180) == 1
        last = json.loads(operator.log().splitlines()[-1])
        assert last["level"] == "error"
        assert last["message"].startswith(
            "the database's Optuna tables have version v9.0.0, this operator is tested with"
        )


async def test_liveness_fails_while_the_event_loop_stands_still(world, kubeconfig):
    async with running(world) as operator:
        await until(operator.ready)
        health, ahead = operator.manager.health, 0.0
        health._clock = lambda: time.monotonic() + ahead
        assert get(operator.port, "/healthz") == (200, "ok\n")
        # This very call holds up the loop, which therefore cannot show a sign of life at the new time.
        ahead = 60.0
        status, text = get(operator.port, "/healthz")
        assert status == 503
        assert re.fullmatch(r"the event loop has made no progress for 6\d s\n", text)

        async def alive() -> bool:
            return await operator.get("/healthz") == (200, "ok\n")

        await until(alive)


async def test_liveness_is_not_lost_by_one_study_that_is_worked_on_for_ever(world, kubeconfig, monkeypatch):
    hangs = asyncio.Event()

    async def hang(*_: object) -> None:
        hangs.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(Reconciler, "reconcile", hang)
    monkeypatch.setattr(manager, "SHUTDOWN_SECONDS", 0.1)

    async def waits(operator: RunningManager) -> bool:
        return "\nstudy_operator_queue_depth 1.0\n" in (await operator.get("/metrics"))[1]

    async with running(world, WORKERS="1") as operator:
        await world.apply()
        await asyncio.wait_for(hangs.wait(), 30)
        assert (await operator.get("/healthz"))[0] == 200
        await world.apply("another")
        await until(lambda: waits(operator))
        operator.manager.queue._clock = lambda: time.monotonic() + 400
        assert await operator.get("/healthz") == (200, "ok\n")


def _password(database: TestDatabase) -> str:
    """The operator's password in the database."""
    return database.url.split(":")[2].split("@")[0]


def test_a_port_that_is_taken_is_said_in_a_sentence(database, tmp_path):
    with socket.create_server(("", 0)) as taken:
        port = str(taken.getsockname()[1])
        started = Process(database, tmp_path / "log", HTTP_PORT=port)
        assert started.process.wait(60) == 2
    said = started.log()
    assert f"study-operator: HTTP_PORT is {port}: Address already in use; write a port that is free" in said
    assert "Traceback" not in said

"""A whole run of the operator's own process at its most talkative, and then a search for every key and password."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import psycopg2
import pytest
from database import REPORTER_PASSWORD, SEED
from ports import free_port
from postgres_server import PostgresServer
from running import run_pods
from waiting import until
from world import World, has_ended, job_template

LISTED = [
    *("/api/v1/namespaces/{}/events", "/api/v1/namespaces/{}/pods", "/api/v1/namespaces/{}/services"),
    *("/apis/batch/v1/namespaces/{}/jobs", "/apis/study-operator.io/v1alpha1/namespaces/{}/studies"),
]


@pytest.fixture
def world(own_world: World) -> World:
    return own_world


def forms(secret: str) -> set[str]:
    """How a secret may look in a text: as it is, in a URL, in a Secret's data, in JSON, in hexadecimal."""
    plain = secret.encode()
    coded = {base64.b64encode(plain).decode().rstrip("="), base64.urlsafe_b64encode(plain).decode().rstrip("=")}
    return {secret, quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1], plain.hex(), *coded}


def found_in(texts: dict[str, str], secrets: dict[str, str]) -> list[tuple[str, str]]:
    """Which secret is in which text."""
    return [(what, where) for what, secret in secrets.items() for where, text in texts.items() if _in(text, secret)]


def _in(text: str, secret: str) -> bool:
    return any(form in text for form in forms(secret))


class Process:
    """`study-operator run`, as the chart starts it, and all that it says."""

    def __init__(self, world: World, kubeconfig: str, log: Path) -> None:
        port = free_port()
        environment = {
            "KUBECONFIG": kubeconfig,
            "DATABASE_URL": world.database.url,
            "REPORTER_PASSWORD": REPORTER_PASSWORD,
            "STUDY_KEY_SEED": SEED,
            "REPORTER_LOGINS": "shared",
            "WATCH_NAMESPACES": world.namespace,
            "LOG_LEVEL": "debug",
            "HTTP_PORT": str(port),
            "RESYNC_SECONDS": "2",
        }
        self.log = log
        with log.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "study_operator", "run"],
                env={**os.environ, **environment},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def end(self) -> str:
        self.process.terminate()
        try:
            self.process.wait(30)
        finally:
            self.process.kill()
        return self.log.read_text()


def queries(world: World) -> str:
    """What PostgreSQL shows of what its connections do, and did last."""
    rows = world.database.query("SELECT query, application_name, backend_type FROM pg_stat_activity")
    return "\n".join(map(str, rows))


async def test_no_key_and_no_password_is_anywhere(world, kubeconfig, server, tmp_path):
    process = Process(world, kubeconfig, tmp_path / "log")
    texts: dict[str, str] = {}
    try:
        await world.apply(maxTrials=6, pruner={"name": "Median", "options": {"n_startup_trials": 1}})

        async def launched() -> bool:
            return await world.active() == [0, 1]

        await until(launched, 180)
        study = await world.study()
        reporter = world.database.connect_as_reporter(key := world.reporting(study).key)
        reporter.autocommit = True
        trial_id = (await world.pod(0)).trial_id
        reporter.cursor().execute("SELECT study_operator.report(%s, 1, 0.5)", (trial_id,))
        with pytest.raises(psycopg2.Error):
            reporter.cursor().execute("SELECT study_operator.report(%s, -1, 0.5)", (trial_id,))
        texts["queries of pods"] = queries(world)
        reporter.close()
        await world.end_pod(1, "Error", 1)
        await world.end_job(1, "BackoffLimitExceeded")

        server.stop()
        edits = count(10)

        async def outage() -> bool:
            await world.edit(maxFailedTrials=next(edits))  # a reason to look
            return (await world.condition("StorageReady")).get("status") == "False"

        await until(outage, 180)
        texts["a Study without a database"] = json.dumps(await world.study())
        server.start()
        # And a Study that is refused, in the API server's own words.
        await world.apply("refused", jobTemplate=job_template(image=""))
        status = await run_pods(world, lambda number: number / 10)
        assert status["phase"] == "Succeeded"
        await until(lambda: _refused(world), 180)
        texts["queries"] = queries(world)
    finally:
        texts["log"] = process.end()
    for path in LISTED:
        items: Any = (await world.cluster._call("GET", path.format(world.namespace)))["items"]
        texts[path] = json.dumps(items)
        assert items or path.endswith("services")
    secrets = {
        "the study's key": key,
        "the seed of all keys": SEED,
        "the reporter's password": REPORTER_PASSWORD,
        "the operator's password": PostgresServer.password,
    }
    assert found_in(texts, secrets) == []
    assert "trial 1 failed" in texts["log"], "it has said something"
    assert "debug" in texts["log"]
    # They are where they belong, so the search would find them.
    belongings = {"Secrets": json.dumps(await world.secrets())}
    assert {what for what, _ in found_in(belongings, secrets)} >= {"the study's key"}
    assert all(map(has_ended, await world.jobs()))


async def _refused(world: World) -> bool:
    return (await world.condition("Accepted", "refused")).get("status") == "False"

"""One API server, etcd and PostgreSQL for all component tests; each test has a namespace and a database of its own."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import own_place
import psycopg2
import pytest
import pytest_asyncio
from canary import Street, street
from database import TestDatabase, settings_for
from fresh import Fresh, fresh_database
from kubeconfig import use_kubeconfig
from postgres_server import PostgresServer
from psycopg2 import sql
from trial_pod import Pod
from world import World, install_crd

from study_operator.storage.migrate import migrate

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class ApiServer:
    """The API server of the component tests."""

    kubeconfig: str


@pytest.fixture(scope="session")
def services() -> dict[str, str]:
    """`python3 hack/local-cluster test-services up`: starts what is not running yet."""
    command = [sys.executable, str(ROOT / "hack/local-cluster"), "test-services", "up"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.fixture(scope="session")
def own_services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The same services, of this process alone: for what would break others' lists, logins or server."""
    with own_place.services(tmp_path_factory.mktemp("services")) as started:
        yield started


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def canary_street(own_services, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Street]:
    """An operator with the chart's limits, a canary study, and room for a neighbour."""
    database = await own_place.database(own_services)
    async with street(own_services, database, tmp_path_factory.mktemp("operator")) as opened:
        yield opened


@pytest.fixture(scope="session")
def api_server(services: dict[str, str]) -> ApiServer:
    return ApiServer(services["kubeconfig"])


@pytest.fixture(scope="session")
def template_database(services: dict[str, str]) -> Iterator[TestDatabase]:
    """A migrated database that the tests' own are copied from."""
    server = services["database_url"]
    name = f"template_{uuid.uuid4().hex[:8]}"
    with _autocommit(server) as cursor:
        cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    template = TestDatabase(server, name)
    # Several test processes share the server, and with it the reporter's login: one migrates at a time.
    with _autocommit(server) as cursor:
        cursor.execute("SELECT pg_advisory_lock(1)")
        migrate(settings_for(template), patience=60)
        cursor.execute("SELECT pg_advisory_unlock(1)")
    yield template
    with _autocommit(server) as cursor:
        cursor.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))


@pytest.fixture
def database(template_database: TestDatabase) -> Iterator[TestDatabase]:
    """A migrated database of the test's own."""
    yield from _new_database(template_database)


@pytest.fixture
def other_database(template_database: TestDatabase) -> Iterator[TestDatabase]:
    """Another migrated database, which knows nothing of the test's studies."""
    yield from _new_database(template_database)


@pytest.fixture(scope="module")
def module_database(template_database: TestDatabase) -> Iterator[TestDatabase]:
    """A migrated database that the tests of one module share."""
    yield from _new_database(template_database)


@pytest.fixture
def empty_database(module_database: TestDatabase) -> TestDatabase:
    """The module's database without studies: for very many tests that need no more than that."""
    with _autocommit(module_database.url) as cursor:
        cursor.execute("TRUNCATE studies CASCADE")
    return module_database


def _new_database(template_database: TestDatabase) -> Iterator[TestDatabase]:
    name = f"test_{uuid.uuid4().hex[:8]}"
    with _autocommit(template_database.server) as cursor:
        cursor.execute(
            # Copied as files: the server is a scratch one, and needs no log of each block.
            sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY").format(
                sql.Identifier(name), sql.Identifier(template_database.name)
            )
        )
    yield TestDatabase(template_database.server, name)
    with _autocommit(template_database.server) as cursor:
        cursor.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def fresh(services: dict[str, str]) -> Iterator[Fresh]:
    """An empty database, and names of roles that nobody else uses."""
    with fresh_database(services["database_url"]) as fresh:
        yield fresh


@pytest.fixture(scope="session")
def kubeconfig_of_studies(services: dict[str, str]) -> str:
    """Path of the kubeconfig of the API server, which knows Studies by now: telling it takes it a second."""
    asyncio.run(install_crd(services["kubeconfig"]))
    return services["kubeconfig"]


@pytest.fixture
async def world(kubeconfig_of_studies: str, database: TestDatabase) -> AsyncIterator[World]:
    """A reconciler on the API server and the test's database; the test plays kubelet and Job controller."""
    world = await World.create(kubeconfig_of_studies, database)
    yield world
    await world.leave()


@pytest.fixture
def kubeconfig(kubeconfig_of_studies: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same, for a whole operator in this process."""
    use_kubeconfig(monkeypatch, kubeconfig_of_studies)
    return kubeconfig_of_studies


def _autocommit(url: str):
    connection = psycopg2.connect(url)
    connection.autocommit = True
    return connection.cursor()


@pytest.fixture(scope="module")
def own_database() -> Iterator[tuple[PostgresServer, TestDatabase]]:
    """A migrated database on a server that the tests may stop, restart and freeze."""
    server = PostgresServer(fsync="off")  # processes are killed, the machine never
    try:
        server.start()
        database = TestDatabase(server.url(), "postgres")
        migrate(settings_for(database))
        yield server, database
    finally:
        server.remove()


@pytest.fixture
def server(own_database) -> Iterator[PostgresServer]:
    """The server of `own_pod`; running again after the test."""
    server, _ = own_database
    yield server
    if not server.runs():
        server.start()


@pytest.fixture
async def own_world(kubeconfig: str, own_database, server) -> AsyncIterator[World]:
    """As `world`, with a database whose server the test may stop, restart and freeze."""
    world = await World.create(kubeconfig, own_database[1])
    yield world
    await world.leave()


@pytest.fixture
def own_pod(own_database, server) -> Pod:
    """A running trial in a database whose server the test may stop, restart and freeze."""
    return Pod.create(own_database[1])


def pytest_terminal_summary(terminalreporter) -> None:
    """What no list of tests shows: what the crash-point matrix has tried, and how long the canary has waited."""
    reports = terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
    for title in ("crash points", "neighbours"):
        lines = [
            text
            for report in reports
            for name, text in report.user_properties
            if name == title and report.when == "call"
        ]
        if lines:
            terminalreporter.section(title)
            for line in lines:
                terminalreporter.write_line(line)

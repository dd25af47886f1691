"""Login and CA of the trials' pods change while trials run: real processes of study_trial lose nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psycopg2
import pytest
from authority import Authority
from database import KEY, TestDatabase, settings_for
from postgres_server import PostgresServer
from psycopg2 import sql
from trial_pod import Pod
from world import World

from study_operator.manifests.job import secret_name
from study_operator.model.study import parse
from study_operator.storage.migrate import migrate

# Reports for as long as the file "go" is missing, and then finishes with the number of its reports.
SCRIPT = """\
import pathlib, sys, time
import study_trial
trial, step = study_trial.current(), 0
while not pathlib.Path(sys.argv[1], "go").exists():
    trial.report(float(step), step)
    pathlib.Path(sys.argv[1], "step").write_text(str(step))
    step += 1
    time.sleep(0.05)
trial.finish(float(step))
"""
BUSY = {"STUDY_REPORT_TIMEOUT": "0.5"}


class Running:
    """A trial's process, and the directory into which the kubelet brings its study's Secret."""

    def __init__(self, pod: Pod, directory: Path, url: str, **files: str) -> None:
        self.pod, self.directory, self._log = pod, directory, directory / "log"
        self.secret(url=url, key=KEY, **files)
        script = directory / "train.py"
        script.write_text(SCRIPT)
        env = pod.env | BUSY | {"STUDY_STORAGE_URL": url, "STUDY_STORAGE_DIRECTORY": str(directory / "secret")}
        command = [sys.executable, str(script), str(directory)]
        with self._log.open("w") as log:
            self.process = subprocess.Popen(command, env=env, stdout=log, stderr=log)

    def secret(self, **files: str) -> None:
        """As the kubelet does it: all files at once, by a symbolic link that is renamed."""
        link, new = self.directory / "secret", self.directory / f"secret-{time.monotonic_ns()}"
        if link.exists():
            shutil.copytree(link.resolve(), new)
        new.mkdir(exist_ok=True)
        for name, text in files.items():
            (new / name.replace("_", ".")).write_text(text)
        (self.directory / "next").symlink_to(new)
        os.replace(self.directory / "next", link)

    def wait_for_reports(self, more: int = 3) -> None:
        """Until the program has made so many reports more."""
        before = self._step()
        _until(lambda: self._step() >= before + more)

    def wait_for(self, words: str) -> None:
        _until(lambda: words in self._log.read_text())

    def end(self) -> None:
        """Lets it finish. Every report and the final value are stored."""
        (self.directory / "go").touch()
        assert self.process.wait(60) == 0, self._log.read_text()
        steps = self._step() + 1
        assert self.pod.result() == ([float(steps)], False)
        assert sorted(self.pod.stored().intermediate_values) == list(range(steps))
        assert "NOT stored" not in self._log.read_text()

    def log(self) -> str:
        return self._log.read_text()

    def _step(self) -> int:
        try:
            return int((self.directory / "step").read_text() or -1)
        except FileNotFoundError:
            return -1


def _until(condition, seconds: float = 180.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.02)


def _execute(database: TestDatabase, *statements: sql.Composable) -> None:
    connection = psycopg2.connect(database.url)
    connection.autocommit = True
    for statement in statements:
        connection.cursor().execute(statement)
    connection.close()


def test_a_new_password_while_a_trial_runs(own_database, server, tmp_path):
    database = own_database[1]
    old = database.reporter_url
    running = Running(Pod.create(database), tmp_path, old)
    try:
        running.wait_for_reports()
        new = old.replace(quote("reporter of the component tests"), "changed-password")
        assert new != old
        role = sql.Identifier("study_reporter")
        _execute(
            database,
            sql.SQL("ALTER ROLE {} PASSWORD 'changed-password'").format(role),
            sql.SQL("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'study_reporter'"),
        )
        running.wait_for("the database is away")
        running.wait_for_reports()
        running.secret(url=new)
        running.wait_for("the database is back")
        running.end()
        assert "changed-password" not in running.log()
    finally:
        running.process.kill()
        running.process.wait()
        _execute(database, sql.SQL("ALTER ROLE study_reporter PASSWORD {}").format(sql.Literal(_password(old))))


def _password(url: str) -> str:
    return psycopg2.extensions.parse_dsn(url)["password"]


def test_a_final_value_waits_for_the_new_password(own_database, server, tmp_path):
    """The program ends in the minute that the kubelet takes."""
    database = own_database[1]
    old = database.reporter_url
    running = Running(Pod.create(database), tmp_path, old.replace(quote(_password(old)), "of-tomorrow"))
    try:
        running.wait_for("the database is away")
        (tmp_path / "go").touch()
        running.wait_for("waits")
        running.secret(url=old)
        running.end()
    finally:
        running.process.kill()
        running.process.wait()


def test_without_files_the_environment_counts(own_database, server):
    """An older operator has started the pod, or somebody has unmounted the files."""
    pod = Pod.create(own_database[1])
    done = pod.command("finish", "0.5", STUDY_STORAGE_DIRECTORY="/nowhere")
    assert (done.returncode, pod.result()) == (0, ([0.5], False))


def _sign(authority: Authority, server: PostgresServer) -> None:
    """Gives the server a certificate of this authority's."""
    for file in authority.sign("IP:127.0.0.1"):
        target = server._data / f"server{file.suffix}"
        shutil.copy(file, target)
        shutil.chown(target, server._user, server._user)
        target.chmod(0o600)


@pytest.fixture
def tls_server(tmp_path: Path) -> Iterator[tuple[PostgresServer, Authority, TestDatabase]]:
    """A migrated database on a server that takes encrypted connections, with its authority."""
    folder = tmp_path / "authority"
    folder.mkdir()
    server, authority = PostgresServer(fsync="off", ssl="on"), Authority(folder, "first")
    try:
        _sign(authority, server)
        server.start()
        database = TestDatabase(server.url(), "postgres")
        migrate(settings_for(database))
        yield server, authority, database
    finally:
        server.remove()


def test_a_new_certificate_authority_while_a_trial_runs(tls_server, tmp_path):
    """Both ways: the new one is added first, and nothing is ever away; or it comes too late, and reports wait."""
    server, first, database = tls_server
    second = Authority(tmp_path / "authority", "second")
    pod = Pod.create(database)
    url = f"{pod.database.reporter_url}&sslmode=verify-full&sslrootcert={tmp_path}/secret/ca.crt"
    running = Running(pod, tmp_path, url, ca_crt=first.pem)
    try:
        running.wait_for_reports()
        running.secret(ca_crt=first.pem + second.pem)
        _sign(second, server)
        _reload(server, database, second)
        running.wait_for_reports()
        running.secret(ca_crt=second.pem)
        running.wait_for_reports()
        assert "away" not in running.log()
        _sign(first, server)
        _reload(server, database, first)
        running.wait_for("certificate verify failed")
        running.wait_for_reports()
        running.secret(ca_crt=first.pem)
        running.wait_for("the database is back")
        running.end()
    finally:
        running.process.kill()
        running.process.wait()


def _reload(server: PostgresServer, database: TestDatabase, authority: Authority) -> None:
    """The server reads its certificate again, which is this authority's now, and ends the trial's connections."""
    _execute(database, sql.SQL("SELECT pg_reload_conf()"))
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(authority.pem)
        file.flush()
        _until(lambda: _connects(f"{database.url}?sslmode=verify-full&sslrootcert={file.name}"))
    _execute(
        database,
        sql.SQL("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'study_reporter'"),
    )


def _connects(url: str) -> bool:
    try:
        psycopg2.connect(url).close()
    except psycopg2.OperationalError:  # it still has the certificate of before
        return False
    return True


async def test_the_operator_brings_a_new_login_and_ca_to_running_studies(world: World, tmp_path):
    await world.apply()
    await world.settle()
    ((name, before),) = (await world.secrets()).items()
    assert name == secret_name(parse(await world.study()))
    (tmp_path / "ca.crt").write_text("-----BEGIN CERTIFICATE-----\n")
    changed = {"REPORTER_USER": "another_reporter", "REPORTER_CA_FILE": str(tmp_path / "ca.crt")}
    world.settings = settings_for(world.database, REPORTER_LOGINS="shared", **changed)
    world.start_operator()
    jobs = await world.jobs()
    await world.look()
    ((again, after),) = (await world.secrets()).items()
    assert again == name
    assert await world.jobs() == jobs
    assert after["data"]["key"] == before["data"]["key"]
    assert after["data"]["url"] != before["data"]["url"]
    assert "ca.crt" in after["data"]
    writes = world.operators_cluster.faults.writes
    assert writes.count("PATCH secrets") == 1
    await world.look()
    assert writes.count("PATCH secrets") == 1
    job = (await world.jobs())[0]["spec"]["template"]["spec"]
    assert json.dumps(job).count("/var/run/secrets/study-operator.io") >= 2


async def test_a_study_that_runs_nothing_gets_its_login_when_it_does(world: World):
    await world.apply()
    await world.run_trials(lambda number: number / 10)
    world.settings = settings_for(world.database, REPORTER_LOGINS="shared", REPORTER_USER="another_reporter")
    world.start_operator()
    await world.settle()
    assert "PATCH secrets" not in world.operators_cluster.faults.writes

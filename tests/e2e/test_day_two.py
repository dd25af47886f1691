"""A wrong database, a restore, and rotations, with a PostgreSQL of one's own: no trial that runs ends by it.

What is done is what docs/backup.md says, word for word.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from authority import Authority
from e2e import Cluster, eventually
from external_database import PORTS, VALUES, ExternalDatabase
from held import HeldStudy
from page import LOOK_NOW, Page
from release import own_release, upgrade
from restored import restore_while_trials_run

# Each waits for the real kubelet, up to 90 s: minutes in all.
pytestmark = [pytest.mark.apart, pytest.mark.faults]

SECRETS = "/var/run/secrets/study-operator.io"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where an administrator works."""
    return tmp_path_factory.mktemp("administrator")


@pytest.fixture(scope="module")
def installation(
    nobody_serves: None, installed: dict[str, str], directory: Path
) -> Iterator[tuple[ExternalDatabase, list[Cluster]]]:
    """A server, and the namespaces of an installation that uses it."""
    servers: list[ExternalDatabase] = []

    def start(own: Cluster) -> None:
        servers.append(ExternalDatabase(own, directory))
        servers[0].create()

    with own_release(installed, 5, *VALUES, before=start) as clusters:
        servers[0].sql(Page("install.md", clusters[0].system, directory).sql("ALTER ROLE study_reporter"))
        yield servers[0], clusters


@pytest.fixture
def server(installation: tuple[ExternalDatabase, list[Cluster]]) -> ExternalDatabase:
    return installation[0]


@pytest.fixture
def cluster(installation: tuple[ExternalDatabase, list[Cluster]], monkeypatch: pytest.MonkeyPatch) -> Cluster:
    cluster = installation[1].pop()
    monkeypatch.setattr(cluster, "sql", installation[0].sql)
    return cluster


@pytest.fixture
def page(server: ExternalDatabase, cluster: Cluster, directory: Path) -> Page:
    return Page("backup.md", cluster.system, directory, server.functions)


def test_an_empty_database(server: ExternalDatabase, cluster: Cluster):
    """A changed port, behind which there is a server without any study."""
    cluster.apply("ended", maxTrials=2)
    ended = cluster.wait("ended")
    study = HeldStudy(cluster, trials=6, parallelism=3, held=3)
    study.wait_for_reports(0, 1, 2)
    jobs, counts = study.jobs(), study.status()["trials"]

    upgrade(cluster.system, f"database.external.port={PORTS[1]}")
    for name in ("ended", study.name):
        eventually(lambda: _storage(cluster, name) == "RowsMissing", f"{name} says so")  # noqa: B023
    assert "connect the operator to that one" in cluster.condition(study.name, "StorageReady")["message"]
    study.wait_for_reports(0, 1, 2)
    study.release(0)
    cluster.kubectl("wait", "--for=condition=Complete", f"job/{study.name}-0", "--timeout=240s")
    assert server.sql("SELECT count(*) FROM studies", port=PORTS[1]).strip() == "0"
    assert study.jobs() == jobs
    assert study.status()["trials"] == counts
    now = cluster.status("ended")
    assert {field: now[field] for field in ("phase", "trials", "bestTrial")} == {
        field: ended[field] for field in ("phase", "trials", "bestTrial")
    }

    upgrade(cluster.system, f"database.external.port={PORTS[0]}")
    study.finish()
    cluster.assert_whole(study.name, 6, None)
    assert jobs.items() <= study.jobs().items()
    assert _storage(cluster, "ended") != "RowsMissing"


def test_a_restore(server: ExternalDatabase, cluster: Cluster, page: Page, directory: Path):
    install = Page("install.md", cluster.system, directory)

    def superuser() -> None:
        page.defines("Run the superuser's SQL of install.md again, connected to the new database.")
        server.sql(install.sql("ALTER ROLE study_reporter"))

    dump = "pg_dump --no-owner --exclude-schema=pg_catalog -U study_operator studies > studies.sql"
    restore_while_trials_run(cluster, page, dump, superuser)


def test_a_dump_that_has_the_superusers_rights(server: ExternalDatabase, page: Page, directory: Path):
    """What the page takes out of it are these rights, and nothing else."""

    def lines(options: str) -> list[str]:
        page.shell(f"pg_dump --no-owner {options} -U study_operator --schema-only studies > studies.sql")
        page.run("sed -i -E '/^(GRANT|REVOKE) .* ON FUNCTION pg_catalog\\./d' studies.sql")
        kept = (line for line in (directory / "studies.sql").read_text().splitlines() if line)
        return [line for line in kept if not line.startswith(("--", "\\"))]

    assert lines("") == lines("--exclude-schema=pg_catalog")


def test_a_new_password_of_the_trials(server: ExternalDatabase, cluster: Cluster, page: Page):
    study = HeldStudy(cluster, trials=5, parallelism=3, held=3)
    study.wait_for_reports(0, 1, 2)
    jobs, former = study.jobs(), _password(cluster)
    page.run(
        "kubectl -n study-operator patch secret study-operator-generated"
        """ -p '{"stringData": {"reporter-password": "..."}}'""",
        dots="of-another-day",
    )
    upgrade(cluster.system)
    # An operator that ends may set its own password once more; the next one looks after that every 15 s.
    eventually(lambda: not server.accepts("study_reporter", former), "the former password is refused", 30)
    server.end_sessions()
    study.release(0)  # one ends before the kubelet has brought the password
    study.wait_for_reports(1, 2)
    study.finish()
    cluster.assert_whole(study.name, 5, None)
    assert jobs.items() <= study.jobs().items()
    assert "of-another-day" not in study.log(0) + study.log(1)


def test_a_new_authority(server: ExternalDatabase, cluster: Cluster, page: Page, directory: Path):
    """Nothing is ever away, if the new one is there before the server has its certificate."""
    study = HeldStudy(cluster, trials=5, parallelism=3, held=3)
    study.wait_for_reports(0, 1, 2)
    jobs = study.jobs()
    first, second = server.authority, Authority(directory, "second")
    for authorities in ([first, second], [second]):
        _trust(cluster, *authorities)
        upgrade(cluster.system)
        for job in jobs:
            page.run(LOOK_NOW)
            eventually(lambda: _trusted(cluster, job) == _pem(*authorities), "the kubelet brings it", 200)  # noqa: B023
        server.present(second)
        study.wait_for_reports(0, 1, 2)
    assert not [line for number in range(3) for line in study.log(number).splitlines() if "away" in line]
    study.finish()
    cluster.assert_whole(study.name, 5, None)
    assert jobs.items() <= study.jobs().items()


def _storage(cluster: Cluster, study: str) -> str:
    return str(cluster.condition(study, "StorageReady").get("reason"))


def _password(cluster: Cluster) -> str:
    key = "jsonpath={.data.reporter-password}"
    found = cluster.kubectl("get", "secret", f"{cluster.system}-generated", "-o", key, namespace=cluster.system)
    return base64.b64decode(found).decode()


def _pem(*authorities: Authority) -> str:
    return "".join(authority.pem for authority in authorities)


def _trust(cluster: Cluster, *authorities: Authority) -> None:
    data = {"data": {"ca.crt": _pem(*authorities)}}
    cluster.kubectl("patch", "configmap", "database-ca", "-p", json.dumps(data), namespace=cluster.system)


def _trusted(cluster: Cluster, job: str) -> str:
    return cluster.kubectl("exec", f"job/{job}", "--", "cat", f"{SECRETS}/ca.crt")

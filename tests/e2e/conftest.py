"""The real cluster with the operator installed as a user would; each test has a namespace of its own.

Several test processes share the one cluster. Three kinds of tests run one kind after the other:

- without a mark: they use the chart's operator and leave it as it is. They run side by side.
- `apart`: they need the chart's operator away, because they have operators of their own, each with a database or a
  whole installation of its own. They run side by side.
- `alone`: they break what all others need. They run one by one.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from e2e import SYSTEM, Cluster
from operator_process import OperatorProcess, database_url, let_pods_reach, operator_away
from release import own_release

ROOT = Path(__file__).resolve().parents[2]


IMAGES = ("study-operator", "study-postgres", "study-trial", "study-trial-digits")
TEMPLATE = "e2e_template"


@pytest.fixture(scope="session")
def common(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that the test processes of one run share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def once(common: Path) -> Callable[[str, Callable[[], None]], None]:
    """Do something in the first of the test processes that asks for it; the others wait until it is done."""

    def once(name: str, do: Callable[[], None]) -> None:
        with _locked(common / f"{name}.lock"):
            if not (common / name).exists():
                do()
                (common / name).touch()

    return once


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def installed(once: Callable[[str, Callable[[], None]], None]) -> dict[str, str]:
    """Cluster, images and chart, by the very steps of `make demo`. Returns the images by name."""
    install = [sys.executable, "hack/demo.py", "--only-install"]
    once("installed", lambda: subprocess.run(install, cwd=ROOT, check=True) and None)
    local = [sys.executable, "hack/local-cluster"]
    for line in subprocess.check_output([*local, "env"], cwd=ROOT, text=True).splitlines():
        name, _, value = line.removeprefix("export ").partition("=")
        os.environ[name] = os.path.expandvars("".join(shlex.split(value)))
    return json.loads(subprocess.check_output([*local, "images", *IMAGES], cwd=ROOT))


@pytest.fixture
def release(installed: dict[str, str], common: Path) -> Iterator[str]:
    """The name and the namespace of the chart's release, for one test at a time: helm refuses a second command."""
    with _locked(common / "release.lock"):
        yield SYSTEM


@pytest.fixture(scope="module")
def nobody_serves(installed: dict[str, str]) -> Iterator[None]:
    """The operator in the cluster is away, for those that the module's tests start."""
    with operator_away():
        yield


@pytest.fixture
def operator(nobody_serves: None, tmp_path: Path) -> Iterator[OperatorProcess]:
    """An operator outside the cluster, not started yet."""
    with OperatorProcess(tmp_path) as process:
        yield process


@pytest.fixture(scope="session")
def template_database(installed: dict[str, str], once: Callable, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a migrated database that tests' own are copied from, on the server of the chart's."""

    def make() -> None:
        server = Cluster("default", installed)
        server.sql(f"DROP DATABASE IF EXISTS {TEMPLATE}")
        server.sql(f"CREATE DATABASE {TEMPLATE}")
        settings = {"DATABASE_URL": database_url(TEMPLATE)}
        with OperatorProcess(tmp_path_factory.mktemp("template"), settings) as process:
            process.run("migrate")

    once("template", make)
    return TEMPLATE


@pytest.fixture
def own_database(
    nobody_serves: None, template_database: str, cluster: Cluster, common: Path
) -> Iterator[dict[str, str]]:
    """A database of the test's own, on the server of the chart's. Returns the settings of an operator that serves the
    test's namespace, and no other, from there: operators of several tests run side by side."""
    name = cluster.namespace.replace("-", "_")
    cluster.sql(f"CREATE DATABASE {name} TEMPLATE {template_database}")
    cluster.database = name
    with _locked(common / "pooler.lock"):
        let_pods_reach(name)
    yield {"DATABASE_URL": database_url(name), "WATCH_NAMESPACES": cluster.namespace}
    cluster.database = None
    cluster.sql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def cluster(installed: dict[str, str]) -> Iterator[Cluster]:
    """kubectl in a namespace of the test's own, where Pod Security `restricted` is enforced."""
    cluster = Cluster(f"e2e-{uuid.uuid4().hex[:6]}", installed)
    cluster.create()
    yield cluster
    cluster.delete()


@pytest.fixture(scope="module")
def own_clusters(
    nobody_serves: None, installed: dict[str, str], request: pytest.FixtureRequest
) -> Iterator[list[Cluster]]:
    """The namespaces of an installation of the chart that only the module's tests use, with the module's VALUES."""
    with own_release(installed, 8, *getattr(request.module, "VALUES", ())) as clusters:
        yield clusters


@pytest.fixture
def own_cluster(own_clusters: list[Cluster]) -> Cluster:
    """As `cluster`, served by an installation of the chart that the test may break."""
    return own_clusters.pop()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """With a failure comes what the cluster looked like then: its test may be the only one that ever sees it."""
    report = yield
    used = [value for value in getattr(item, "funcargs", {}).values() if isinstance(value, Cluster)]
    if report.failed and call.when == "call" and used:
        report.sections.append(("the cluster at that moment", _scene(used[0])))
    return report


def _scene(cluster: Cluster) -> str:
    operator = f"--selector=app.kubernetes.io/component=operator --namespace={cluster.system} --prefix --tail"
    asked = (
        f"get pods --namespace={cluster.system}",
        "get studies --all-namespaces",
        f"describe studies --namespace={cluster.namespace}",
        f"get jobs,pods --namespace={cluster.namespace}",
        "describe nodes local",
        f"logs {operator}=10 --previous",
        f"logs {operator}=40",
    )
    scene = []
    for line in asked:
        command = ["kubectl", "--request-timeout=10s", *line.split()]  # the API server may be what is broken
        done = subprocess.run(command, capture_output=True, text=True)
        scene += [f"$ kubectl {line}", *(done.stdout + done.stderr).splitlines()[-60:]]
    return "\n".join(scene)

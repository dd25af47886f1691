"""The real cluster with the operator installed as a user would; each test has a namespace of its own."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e import SYSTEM, Cluster
from operator_process import OperatorProcess, scaled

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def installed() -> dict[str, str]:
    """Cluster, images and chart, by the very steps of `make demo`. Returns the images by name."""
    subprocess.run([sys.executable, "hack/demo.py", "--only-install"], cwd=ROOT, check=True)
    local = [sys.executable, "hack/local-cluster"]
    for line in subprocess.check_output([*local, "env"], cwd=ROOT, text=True).splitlines():
        name, _, value = line.removeprefix("export ").partition("=")
        os.environ[name] = os.path.expandvars("".join(shlex.split(value)))
    return json.loads(subprocess.check_output([*local, "images", "study-trial", "study-trial-digits"], cwd=ROOT))


@pytest.fixture(scope="module")
def nobody_serves(installed: dict[str, str]) -> Iterator[None]:
    """The operator in the cluster is away, for those that the module's tests start."""
    with scaled(0):
        yield


@pytest.fixture
def operator(nobody_serves: None, tmp_path: Path) -> Iterator[OperatorProcess]:
    """An operator outside the cluster, not started yet."""
    with OperatorProcess(tmp_path) as process:
        yield process


@pytest.fixture
def cluster(installed: dict[str, str]) -> Iterator[Cluster]:
    """kubectl in a namespace of the test's own, where Pod Security `restricted` is enforced."""
    namespace = f"e2e-{uuid.uuid4().hex[:6]}"
    cluster = Cluster(namespace, installed)
    cluster.kubectl("create", "namespace", namespace)
    cluster.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    yield cluster
    cluster.kubectl("delete", "namespace", namespace, "--wait=false")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """With a failure comes what the cluster looked like then: its test may be the only one that ever sees it."""
    report = yield
    cluster = getattr(item, "funcargs", {}).get("cluster")
    if report.failed and call.when == "call" and isinstance(cluster, Cluster):
        report.sections.append(("the cluster at that moment", _scene(cluster)))
    return report


def _scene(cluster: Cluster) -> str:
    operator = f"--selector=app.kubernetes.io/component=operator --namespace={SYSTEM} --prefix --tail"
    asked = (
        f"get pods --namespace={SYSTEM}",
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

"""The trials API cannot hang the cluster: while an APIService is down, no namespace could be deleted."""

from __future__ import annotations

import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from e2e import SYSTEM, Cluster, commands_of, eventually, kill, kubectl
from release import upgrade

pytestmark = pytest.mark.faults

NAME = f"{SYSTEM}-trials-api"
API_SERVICE = "v1alpha1.results.study-operator.io"
DISCOVERY = "/apis/results.study-operator.io/v1alpha1"


def fails(*arguments: str) -> str:
    """What a command of kubectl says that does not succeed; empty if it does."""
    done = subprocess.run(["kubectl", *arguments], capture_output=True, text=True, timeout=300)
    return "" if done.returncode == 0 else done.stderr or "no words"


def deleted_within(seconds: float) -> float:
    """Make a namespace, delete it, and return how long it took to go."""
    name = f"e2e-gone-{uuid.uuid4().hex[:6]}"
    kubectl("create", "namespace", name)
    began = time.monotonic()
    kubectl("delete", "namespace", name, f"--timeout={seconds:.0f}s")
    return time.monotonic() - began


@contextmanager
def asked_meanwhile(*arguments: str) -> Iterator[list[str]]:
    """Ask again and again. Gives the failures of which the next attempt failed as well."""
    over, failures = threading.Event(), list[str]()

    def ask() -> None:
        before = ""
        while not over.is_set():
            said = fails(*arguments)
            if said and before:
                failures.append(said)
            before = said

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield failures
    finally:
        over.set()
        asking.join()


def scale_database(replicas: int) -> None:
    kubectl("-n", SYSTEM, "scale", "statefulset", f"{SYSTEM}-database", f"--replicas={replicas}")


def test_without_the_database_namespaces_go_and_lists_say_why(cluster: Cluster):
    listing = ("-n", cluster.namespace, "get", "studytrials")
    scale_database(0)
    try:
        said = eventually(lambda: fails(*listing), "lists are refused")
        assert "database" in eventually(
            lambda: said if "database" in (said := fails(*listing)) else "", "lists say why", 60
        ), said
        assert deleted_within(60) < 60
        kubectl("get", "--raw", DISCOVERY)
        kubectl("-n", cluster.namespace, "get", "studies")
    finally:
        scale_database(1)
        kubectl("-n", SYSTEM, "rollout", "status", "statefulset", f"{SYSTEM}-database", "--timeout=240s")
    eventually(lambda: not fails(*listing), "lists are answered again")


def test_one_replica_is_killed(cluster: Cluster):
    label = "app.kubernetes.io/component=trials-api"
    pods = cluster.get("pods", labels=label, namespace=SYSTEM)["items"]
    assert len(pods) == 2
    with asked_meanwhile("-n", cluster.namespace, "get", "studytrials") as failures:
        for pid, words in commands_of(pods[0]["metadata"]["uid"]).items():
            if b"serve-api" in words:
                kill(pid)
        eventually(lambda: _restarts(cluster, label) > 0, "the kubelet starts it again")
        eventually(lambda: _ready(cluster, label) == 2, "both are ready")
    assert failures == []


def test_discovery_is_never_stale_while_replicas_are_replaced():
    with asked_meanwhile("get", "--raw", DISCOVERY) as failures:
        kubectl("-n", SYSTEM, "rollout", "restart", "deployment", NAME)
        kubectl("-n", SYSTEM, "rollout", "status", "deployment", NAME, "--timeout=240s")
        assert deleted_within(60) < 60
    assert failures == []


def test_one_value_takes_all_of_it_away(release: str):
    upgrade(release, "trialsApi.enabled=false")
    try:
        assert "not found" in fails("get", "apiservice", API_SERVICE)
        assert "NotFound" in fails("-n", release, "get", "deployment", NAME)
        assert deleted_within(60) < 60
    finally:
        upgrade(release, "trialsApi.enabled=true")
    eventually(lambda: not fails("get", "studytrials"), "trials are served again")


def _restarts(cluster: Cluster, label: str) -> int:
    pods = cluster.get("pods", labels=label, namespace=SYSTEM)["items"]
    return sum(state["restartCount"] for pod in pods for state in pod["status"].get("containerStatuses", ()))


def _ready(cluster: Cluster, label: str) -> int:
    pods = cluster.get("pods", labels=label, namespace=SYSTEM)["items"]
    return sum(state["ready"] for pod in pods for state in pod["status"].get("containerStatuses", ()))

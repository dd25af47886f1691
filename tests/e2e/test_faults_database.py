"""The database is away, killed, cut off: the study says so, waits, and ends complete with exactly its trials."""

from __future__ import annotations

import time
from typing import Any

import pytest
from e2e import KEEP_JOBS, TRAIN, Cluster, commands_of, eventually, kill
from node import dropped

STEPS, TRIALS = 20, 8
WAITING = "waiting for the database; trials that run go on, and report when it is back"


pytestmark = pytest.mark.apart


@pytest.fixture
def cluster(own_cluster: Cluster) -> Cluster:
    return own_cluster


@pytest.fixture
def study(cluster: Cluster) -> str:
    """A study in the middle of its trials."""
    cluster.apply("outage", TRAIN.format(steps=STEPS, sleep=0.25), maxTrials=TRIALS, parallelism=3, **KEEP_JOBS)
    eventually(lambda: cluster.status("outage").get("trials", {}).get("complete"), "a trial has ended")
    return "outage"


def _pod(cluster: Cluster, component: str) -> dict[str, Any]:
    label = f"app.kubernetes.io/component={component}"
    return cluster.get("pods", labels=label, namespace=cluster.system)["items"][0]


def _says_so(cluster: Cluster, study: str, seconds: float = 90) -> str:
    """Waits until the study says that the database is away. Returns the message."""
    eventually(lambda: cluster.condition(study, "StorageReady").get("status") == "False", "the study says so", seconds)
    described = cluster.kubectl("describe", "study", study)
    assert WAITING in described, described
    message = cluster.condition(study, "StorageReady")["message"]
    assert message.startswith("the database cannot be used: "), message
    return message


@pytest.mark.parametrize("seconds", [10, pytest.param(300, marks=pytest.mark.faults)])
def test_a_database_that_is_stopped(cluster: Cluster, study: str, seconds: float):
    cluster.kubectl("scale", "statefulset", f"{cluster.system}-database", "--replicas=0", namespace=cluster.system)
    try:
        stopped = time.monotonic()
        _says_so(cluster, study)
        eventually(lambda: time.monotonic() - stopped > seconds, f"{seconds} s have passed", seconds + 10)
        # The latest attempt's words, not the first's, which are of a connection that was lost.
        eventually(
            lambda: "connection to server at" in cluster.condition(study, "StorageReady")["message"],
            "the study says which server cannot be reached",
        )
        assert WAITING in cluster.kubectl("describe", "study", study)
    finally:
        cluster.kubectl("scale", "statefulset", f"{cluster.system}-database", "--replicas=1", namespace=cluster.system)
    cluster.wait(study, seconds=400)
    cluster.assert_whole(study, TRIALS, STEPS)


@pytest.mark.parametrize("which", ["postmaster", "backend"])
def test_a_database_that_is_killed(cluster: Cluster, study: str, which: str):
    """It is back within seconds: mostly too soon for the study to speak of it."""
    pod = _pod(cluster, "database")
    found = commands_of(pod["metadata"]["uid"])
    word = b"study_operator studies" if which == "backend" else b"max_connections="
    victims = [pid for pid, words in found.items() if word in words]
    assert any(map(kill, victims)), (
        found
    )  # one of them; of a backend, the server then ends all others, and recovers from its log
    cluster.wait(study)
    cluster.assert_whole(study, TRIALS, STEPS, may_lack=3)  # half a second of them, and one for the machine


BOTH = ("OUTPUT -p tcp --dport 5432:5433", "INPUT -p tcp --sport 5432:5433")


@pytest.mark.parametrize(
    "rules",
    [
        pytest.param(BOTH, id="both ways"),
        pytest.param(BOTH[:1], id="questions", marks=pytest.mark.faults),
        pytest.param(BOTH[1:], id="answers", marks=pytest.mark.faults),
    ],
)
def test_an_operator_that_is_cut_off_from_the_database(cluster: Cluster, study: str, rules: tuple[str, ...]):
    """The trials are not: what they report meanwhile is found when the way is open again."""
    operator = _pod(cluster, "operator")
    with dropped(operator["metadata"]["uid"], *rules):
        _says_so(cluster, study)
    cluster.wait(study)
    cluster.assert_whole(study, TRIALS, STEPS)
    after = _pod(cluster, "operator")
    assert after["metadata"]["uid"] == operator["metadata"]["uid"]
    restarts = [pod["status"]["containerStatuses"][0]["restartCount"] for pod in (operator, after)]
    assert restarts[0] == restarts[1], "it waits, and is not started again"

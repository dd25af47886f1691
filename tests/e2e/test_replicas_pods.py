"""Two replicas from the chart: one is killed, and both are replaced, while a study of real pods runs."""

from __future__ import annotations

import json

import pytest
from e2e import TRAIN, Cluster, eventually, kill, processes_of
from held import HeldStudy
from release import upgrade

OPERATORS = "app.kubernetes.io/component=operator"
TRIALS, STEPS = 12, 4
VALUES = ("replicas=2",)

pytestmark = pytest.mark.apart


@pytest.fixture
def cluster(own_cluster: Cluster) -> Cluster:
    return own_cluster


def operators(cluster: Cluster) -> dict[str, str]:
    """The UIDs of the operator's pods that are ready and not about to end, by name."""
    return {
        pod["metadata"]["name"]: pod["metadata"]["uid"]
        for pod in cluster.get("pods", labels=OPERATORS, namespace=cluster.system)["items"]
        if "deletionTimestamp" not in pod["metadata"]
        and any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions") or ())
    }


def serving(cluster: Cluster, name: str) -> str:
    """The pod whose log has told about a study last."""

    def told(pod: str) -> str:
        log = cluster.kubectl("logs", pod, "-c", "operator", namespace=cluster.system)
        lines = [line for line in log.splitlines() if f'"namespace": "{cluster.namespace}", "study": "{name}"' in line]
        return lines[-1] if lines else ""

    return max(operators(cluster), key=told)


def assert_whole(cluster: Cluster, name: str) -> None:
    """The study has ended with exactly its trials, each of which ran once."""
    status = cluster.wait(name)
    assert status["progress"] == f"{TRIALS}/{TRIALS}"
    assert cluster.rows(name) == [(number, "COMPLETE") for number in range(TRIALS)]
    jobs = cluster.jobs()
    assert sorted(job["metadata"]["name"] for job in jobs) == sorted(f"{name}-{number}" for number in range(TRIALS))
    assert all(job["status"].get("succeeded") == 1 for job in jobs)


def start(cluster: Cluster, name: str) -> None:
    history = {"successfulJobsHistoryLimit": 1000, "failedJobsHistoryLimit": 1000}
    cluster.apply(name, TRAIN.format(steps=STEPS, sleep=0.5), maxTrials=TRIALS, parallelism=2, **history)
    eventually(lambda: len(cluster.rows(name)) >= 3 if cluster.status(name).get("studyName") else False, "trials end")


def test_a_study_goes_on_when_the_pod_that_serves_it_is_killed(cluster: Cluster):
    before = eventually(lambda: pods if len(pods := operators(cluster)) == 2 else None, "both are ready")
    start(cluster, "killed")
    victim = serving(cluster, "killed")
    rows = len(cluster.rows("killed"))
    for pid in processes_of(before[victim]):
        kill(pid)
    eventually(lambda: len(cluster.rows("killed")) > rows, "the next trial is started", 90)
    assert_whole(cluster, "killed")


def test_a_rolling_update_during_a_study(cluster: Cluster):
    before = eventually(lambda: pods if len(pods := operators(cluster)) == 2 else None, "both are ready")
    study = HeldStudy(cluster, trials=4, parallelism=2, held=2)
    study.wait_for_reports(0, 1)
    upgrade(cluster.system, f"operator.podAnnotations.updated={cluster.namespace}")
    assert not set(before) & set(operators(cluster)), "all pods are new"
    assert study.finish()["progress"] == "4/4"
    cluster.assert_whole(study.name, 4, steps=None)
    logs = cluster.kubectl("logs", f"--selector={OPERATORS}", "-c", "operator", "--tail=-1", namespace=cluster.system)
    lines = [line for line in logs.splitlines() if f'"namespace": "{cluster.namespace}"' in line]
    assert lines
    assert not [line for line in lines if "taken over" in line], "the studies were handed over"


def test_an_outage_of_the_database_is_told(cluster: Cluster):
    """Neither replica can know that the other one is without it too; their readiness tells."""
    eventually(lambda: len(operators(cluster)) == 2, "both are ready")
    start(cluster, "outage")
    cluster.kubectl("scale", "statefulset", f"{cluster.system}-database", "--replicas=0", namespace=cluster.system)
    try:
        eventually(lambda: cluster.condition("outage", "StorageReady").get("status") == "False", "the study says so")
    finally:
        cluster.kubectl("scale", "statefulset", f"{cluster.system}-database", "--replicas=1", namespace=cluster.system)
    assert_whole(cluster, "outage")


def test_a_node_may_be_drained_of_one_replica_at_a_time(cluster: Cluster):
    budget = json.loads(cluster.kubectl("get", "pdb", cluster.system, "-o", "json", namespace=cluster.system))
    assert budget["spec"]["maxUnavailable"] == 1
    eventually(
        lambda: cluster.get("pdb", cluster.system, namespace=cluster.system)["status"].get("disruptionsAllowed") == 1,
        "one of the two may go",
    )

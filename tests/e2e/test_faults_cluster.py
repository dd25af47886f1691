"""The API server and its store fail, or forget what was: the operator lists again, and misses nothing."""

from __future__ import annotations

import json
import signal
import urllib.request
from typing import Any

import pytest
from e2e import KEEP_JOBS, TRAIN, Cluster, eventually
from node import kill_daemon, local_cluster
from operator_process import OperatorProcess

pytestmark = pytest.mark.alone

STEPS, TRIALS = 10, 8
ETCD = "http://127.0.0.1:2379"


@pytest.fixture
def operator(operator: OperatorProcess) -> OperatorProcess:
    operator.start()
    return operator


def _apply(cluster: Cluster, name: str) -> None:
    cluster.apply(name, TRAIN.format(steps=STEPS, sleep=0.25), maxTrials=TRIALS, parallelism=3, **KEEP_JOBS)


def _etcd(call: str, **body: Any) -> dict[str, Any]:
    """Calls etcd by its gRPC gateway."""
    request = urllib.request.Request(f"{ETCD}/v3/kv/{call}", json.dumps(body).encode(), method="POST")
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def _compact() -> None:
    """Lets etcd forget everything but what is now."""
    revision = _etcd("range", key="AA==")["header"]["revision"]
    _etcd("compaction", revision=revision, physical=True)


def _restart_the_api_server(cluster: Cluster) -> None:
    kill_daemon("kube-apiserver")
    local_cluster("up")


def test_the_api_server_is_killed(cluster: Cluster, operator: OperatorProcess):
    _apply(cluster, "restarted")
    eventually(lambda: cluster.status("restarted").get("trials", {}).get("complete"), "a trial has ended")
    before = operator.pid
    _restart_the_api_server(cluster)
    cluster.wait("restarted")
    cluster.assert_whole("restarted", TRIALS, STEPS)
    assert operator.alive()
    assert operator.pid == before


def test_history_is_compacted_while_the_operator_sleeps(cluster: Cluster, operator: OperatorProcess):
    """A new API server knows nothing of what was, and etcd nothing either: to watch on from there is refused with
    410 Gone. What has happened meanwhile is found nevertheless: trials that ended, an edit, a new Study."""
    _apply(cluster, "old")
    eventually(lambda: cluster.status("old").get("trials", {}).get("complete"), "a trial has ended")
    version = json.loads(_studies(cluster))["metadata"]["resourceVersion"]
    operator.signal(signal.SIGSTOP)
    try:
        eventually(lambda: all(job["status"].get("completionTime") for job in cluster.jobs()), "all Jobs have ended")
        cluster.kubectl("patch", "study", "old", "--type=merge", "-p", f'{{"spec": {{"maxTrials": {TRIALS + 2}}}}}')
        _apply(cluster, "new")
        _compact()
        _restart_the_api_server(cluster)
        assert "too old resource version" in _studies(cluster, f"?watch=1&resourceVersion={version}&timeoutSeconds=5")
    finally:
        operator.signal(signal.SIGCONT)
    # Well before the operator looks at everything, every 300 s, whatever it has seen.
    eventually(lambda: cluster.status("new").get("trials", {}).get("total"), "it has seen the new Study", 100)
    cluster.wait("old")
    cluster.assert_whole("old", TRIALS + 2, STEPS)
    cluster.wait("new")
    cluster.assert_whole("new", TRIALS, STEPS)


def _studies(cluster: Cluster, query: str = "") -> str:
    """What the API server says to who lists or watches Studies."""
    return cluster.kubectl(
        "get", "--raw", f"/apis/study-operator.io/v1alpha1/namespaces/{cluster.namespace}/studies{query}"
    )

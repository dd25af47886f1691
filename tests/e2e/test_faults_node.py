"""A node goes away with its trials: they run again when it is back, and cost nothing."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from urllib.parse import quote

import pytest
from e2e import KEEP_JOBS, SYSTEM, TRAIN, Cluster, eventually, kill, processes_of
from node import kill_daemon, local_cluster
from operator_process import OperatorProcess, operator_away

# The node controller waits for a silent kubelet for 50 s.
pytestmark = pytest.mark.faults

STEPS = 40


def test_a_node_is_lost(cluster: Cluster, tmp_path: Path):
    """The kubelet is killed, and with it the trials' processes. Of everything else on this only node we let the
    processes live: the operator reaches its database past the Service, which has no endpoint meanwhile."""
    database = cluster.get("pod", f"{SYSTEM}-database-0", namespace=SYSTEM)["status"]["podIP"]
    url = f"postgresql://study_operator@{quote(database)}:5432/studies?sslmode=disable"
    away = [
        {"key": f"node.kubernetes.io/{taint}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 3}
        for taint in ("unreachable", "not-ready")
    ]
    with operator_away(), OperatorProcess(tmp_path, {"DATABASE_URL": url}) as operator:
        operator.start()
        script = TRAIN.format(steps=STEPS, sleep=0.25)
        manifest = cluster.manifest("lost", script, maxTrials=4, parallelism=2, maxFailedTrials=0, **KEEP_JOBS)
        manifest["spec"]["jobTemplate"]["spec"]["template"]["spec"]["tolerations"] = away
        cluster.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
        eventually(lambda: len(_running(cluster)) == 2, "two trials run")
        kill_daemon("kubelet")
        try:
            lost = _running(cluster)
            for uid in lost.values():
                for pid in processes_of(uid):
                    with contextlib.suppress(ProcessLookupError):
                        kill(pid)
            words = "was told to end and has not ended yet: if its node is lost, the trial runs again"
            eventually(
                lambda: words in cluster.condition("lost", "Progressing").get("message", ""), "the study says so", 180
            )
            assert words in cluster.kubectl("describe", "study", "lost")
            assert cluster.status("lost")["trials"]["total"] == 2
        finally:
            local_cluster("up")
        status = cluster.wait("lost")
        assert status["failures"] == {"program": 0, "infrastructure": 2, "infeasible": 0}
        again = {f"{name.rpartition('-')[0]}-r1" for name in lost}
        jobs = {f"lost-{number}" for number in range(4)} | again
        assert len(jobs) == 6
        cluster.assert_whole("lost", 4, STEPS, jobs)


def _running(cluster: Cluster) -> dict[str, str]:
    """Names and UIDs of pods that run."""
    pods = cluster.get("pods")["items"]
    return {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in pods if pod["status"]["phase"] == "Running"}

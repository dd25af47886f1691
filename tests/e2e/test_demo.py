"""The demo's own study, end to end, and through the failures that the operator must survive."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from e2e import TRAIN, Cluster, commands_of, eventually, kill

ROOT = Path(__file__).resolve().parents[2]


def _apply_digits(cluster: Cluster) -> None:
    manifest = (ROOT / "examples/digits/study.yaml").read_text()
    cluster.kubectl(
        "apply", "-f", "-", stdin=manifest.replace("study-trial-digits:dev", cluster.images["study-trial-digits"])
    )


def _ended_so_far(cluster: Cluster, name: str) -> int:
    trials = cluster.status(name).get("trials") or {}
    return trials.get("complete", 0) + trials.get("pruned", 0)


def test_the_demo_shows_a_tuned_model(release: str):
    done = subprocess.run([sys.executable, "hack/demo.py"], cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "digits   Succeeded   20/20" in done.stdout
    best = float(done.stdout.partition("value ")[2].split()[0])
    assert best > 0.9  # a model that has learnt to read digits; guessing gives 0.1
    for parameter in ("lr", "momentum", "hidden", "batch_size"):
        assert f"\n  {parameter} " in done.stdout


@pytest.mark.apart
def test_the_digits_study_survives_the_sudden_death_of_the_operator(own_cluster: Cluster):
    _apply_digits(own_cluster)
    eventually(lambda: _ended_so_far(own_cluster, "digits") >= 3, "three trials have ended", 300)
    pods = own_cluster.get("pods", labels="app.kubernetes.io/component=operator", namespace=own_cluster.system)["items"]
    before = pods[0]["status"]["containerStatuses"][0]["restartCount"]
    main = [pid for pid, words in commands_of(pods[0]["metadata"]["uid"]).items() if b"study-operator" in words]
    assert main
    for pid in main:
        kill(pid)

    status = own_cluster.wait("digits", seconds=600)

    assert status["trials"]["total"] == 20
    assert status["trials"]["failed"] == 0
    assert status["trials"]["complete"] + status["trials"]["pruned"] == 20
    assert [number for number, _ in own_cluster.rows("digits")] == list(range(20))
    after = own_cluster.get("pod", pods[0]["metadata"]["name"], namespace=own_cluster.system)
    assert after["status"]["containerStatuses"][0]["restartCount"] > before


@pytest.mark.apart
def test_a_study_survives_a_restart_of_the_database(own_cluster: Cluster):
    own_cluster.apply("outage", TRAIN.format(steps=20, sleep=0.25), maxTrials=8, parallelism=3)
    system = own_cluster.system
    eventually(lambda: own_cluster.status("outage").get("trials", {}).get("complete"), "a trial has ended")
    uid = own_cluster.get("pod", f"{system}-database-0", namespace=system)["metadata"]["uid"]
    own_cluster.kubectl("delete", "pod", f"{system}-database-0", "--wait=false", namespace=system)

    # A restart takes about as long as an outage may last before a study speaks of it; see test_faults_database.py.
    status = own_cluster.wait("outage", seconds=300)

    assert own_cluster.get("pod", f"{system}-database-0", namespace=system)["metadata"]["uid"] != uid
    assert {state: n for state, n in status["trials"].items() if n} == {"total": 8, "complete": 8}
    assert own_cluster.rows("outage") == [(number, "COMPLETE") for number in range(8)]

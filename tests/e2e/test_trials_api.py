"""Trials for people: what somebody with `view` in one namespace does with kubectl and `kubectl study` alone."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from pathlib import Path

from e2e import Cluster

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import study_trial

def objective(trial):
    x = trial.suggest_float("x", 0, 1)
    print("this trial has x =", x, flush=True)
    for step in range(1, 4):
        trial.report(x * step, step)
    if x > 0.95:
        raise SystemExit("x is too large")
    return x

study_trial.run(objective)
"""
TRIED = [0.25, 0.875, 0.5, 0.96875]  # the last one fails


class Person:
    """Somebody who may do what a cluster role allows, in one namespace, and nothing else."""

    def __init__(self, cluster: Cluster, name: str, role: str) -> None:
        self._cluster, self._login = cluster, f"{name}-of-{cluster.namespace}"
        cluster.kubectl("create", "rolebinding", self._login, f"--clusterrole={role}", f"--user={self._login}")

    def kubectl(self, *arguments: str) -> str:
        """Output of a command of kubectl that must succeed."""
        return self._succeeds("kubectl", "--as", self._login, "-n", self._cluster.namespace, *arguments)

    def study(self, *arguments: str) -> str:
        """Output of a command of `kubectl study` that must succeed."""
        login = ["--as", self._login, "-n", self._cluster.namespace]
        return self._succeeds(sys.executable, "-m", "study_client", *arguments, *login)

    def refused(self, *arguments: str) -> str:
        """What a command of kubectl that must fail says."""
        done = subprocess.run(["kubectl", "--as", self._login, *arguments], capture_output=True, text=True, timeout=300)
        assert done.returncode != 0, done.stdout
        return done.stderr

    def _succeeds(self, *command: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "client")}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout


def test_the_day_after(cluster: Cluster, tmp_path: Path):
    """All trials sorted, a spreadsheet, a trial's log, two studies beside each other, the best one once more."""
    tried = [{"parameters": {"x": x}} for x in TRIED]
    for name in ("one", "two"):
        cluster.apply(name, SCRIPT, maxTrials=4, parallelism=4, initialTrials=tried, maxFailedTrials=3)
    viewer, editor = Person(cluster, "ann", "view"), Person(cluster, "eve", "edit")
    for name in ("one", "two"):
        viewer.study("wait", name, "--for=complete", "--timeout=240s")

    of_one = ("get", "studytrials", "-l", "study-operator.io/study=one")
    shown = viewer.kubectl(*of_one, "--sort-by=.status.value", "-o", "name").split()
    assert shown[-1] == "studytrial.results.study-operator.io/one-1", "the best one is the last one"
    assert viewer.kubectl(*of_one, "--field-selector=status.state=Failed", "-o", "name").split()[0].endswith("/one-3")
    assert "x is too large" in viewer.kubectl("describe", "studytrial", "one-3")

    table = viewer.study("trials", "one", "--best", "2").splitlines()
    assert [line.split()[0] for line in table[1:]] == ["one/1", "one/2"]
    rows = list(csv.DictReader(io.StringIO(viewer.study("trials", "one", "-o", "csv"))))
    assert sorted(float(row["x"]) for row in rows) == sorted(TRIED)
    assert "this trial has x = 0.25" in viewer.study("logs", "one/0")
    assert "this trial has x = 0.96875" in viewer.study("logs", "one", "--failed")
    compared = viewer.study("compare", "one", "two")
    assert compared.count("0.875") >= 2, compared
    assert "0.25" in viewer.study("curve", "one", "0")
    assert "x is too large" in viewer.study("describe", "one/3")
    assert viewer.study("best", "one", "-o", "args").strip() == "--x=0.875"
    exported = tmp_path / "trials.json"
    viewer.study("export", "one", str(exported), "-o", "json")
    assert "0.96875" in exported.read_text()

    editor.study("clone", "one", "--name", "once-more", "--set", "maxTrials=1")
    assert editor.study("wait", "once-more", "--for=0.2", "--timeout=240s") is not None
    assert cluster.status("once-more")["bestTrial"]["values"] == ["0.25"]


def test_view_is_of_one_namespace_and_changes_nothing(cluster: Cluster):
    viewer = Person(cluster, "ann", "view")
    assert viewer.kubectl("auth", "can-i", "list", "studytrials.results.study-operator.io").strip() == "yes"
    assert "cannot list" in viewer.refused("get", "studytrials", "-n", cluster.system)
    assert "cannot list" in viewer.refused("get", "studytrials", "-A")
    cluster.apply("seen", SCRIPT, maxTrials=1)
    assert "cannot patch" in viewer.refused(
        *("patch", "study", "seen", "-n", cluster.namespace, "--type=merge", "-p", '{"spec":{"stop":"Terminate"}}')
    )

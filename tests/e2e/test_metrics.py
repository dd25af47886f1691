"""Trials that report by what they print: real pods, their logs, and an operator that is killed while it reads them."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from e2e import SYSTEM, Cluster, eventually, kill, processes_of

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/stdout/study.yaml"
STDOUT = {"from": "Stdout"}


def _reports(cluster: Cluster, name: str, number: int) -> list[tuple[int, float]]:
    """Steps and values of a trial's reports, in the order in which they were stored."""
    text = cluster.sql(
        "SELECT v.step, v.intermediate_value FROM trial_intermediate_values v JOIN trials t USING (trial_id)"
        f" JOIN studies s USING (study_id) WHERE s.study_name = '{cluster.status(name).get('studyName')}'"
        f" AND t.number = {number} ORDER BY v.trial_intermediate_value_id"
    )
    pairs = (line.split("|") for line in text.splitlines())
    return [(int(step), float(value)) for step, value in pairs]


def _kill_the_operator(cluster: Cluster) -> None:
    """SIGKILL, as from the kernel; the kubelet starts it again."""
    pods = cluster.get("pods", "-l", "app.kubernetes.io/component=operator", namespace=SYSTEM)["items"]
    victims = [
        pid
        for pid in processes_of(pods[0]["metadata"]["uid"])
        if b"study-operator" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    assert victims
    for pid in victims:
        kill(pid)


def test_the_example_that_prints_its_metrics(cluster):
    manifest = yaml.safe_load(EXAMPLE.read_text().replace("study-trial:dev", cluster.images["study-trial"]))
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
    status = cluster.wait("stdout")
    assert status["trials"]["failed"] == 0
    assert status["trials"]["complete"] + status["trials"]["pruned"] == 6
    assert status.get("badReports", 0) == 0
    reports = _reports(cluster, "stdout", 0)
    assert [step for step, _ in reports] == list(range(1, 11))
    best = status["bestTrial"]
    lr, width, accuracy = float(best["parameters"]["lr"]), int(best["parameters"]["width"]), 0.0
    assert width * 0.8 <= 40, "a trial that breaks a constraint is never the best"
    for _ in range(10):
        accuracy += (1 - accuracy) * lr * (1.2 - lr) * width / 64
    assert float(best["values"][0]) == round(accuracy, 4)


def test_no_line_is_lost_or_doubled_when_the_operator_is_killed(cluster):
    # No steps: each line counts, so that one too many or too few moves all that follow.
    script = (
        "import time\n"
        "for i in range(60):\n"
        "    time.sleep(0.2)\n"
        "    print('some noise', flush=i % 5 > 0)\n"
        "    print(f'score: {i}', flush=i % 5 > 0)\n"
        "print('score: n/a')\n"
        "print('score: 7', end='', flush=True)\n"
    )
    cluster.apply("killed", script, metrics=STDOUT, maxTrials=1, parallelism=1)
    for enough in (10, 25):
        eventually(lambda enough=enough: len(_reports(cluster, "killed", 0)) >= enough, f"{enough} reports are there")
        _kill_the_operator(cluster)
    status = cluster.wait("killed")
    assert _reports(cluster, "killed", 0) == [*((i, float(i)) for i in range(60)), (60, 7.0)]
    assert status["bestTrial"]["values"] == ["7.0"]
    assert status["badReports"] == 1
    assert status["lastBadReport"] == "score is 'n/a', which is no number: score: n/a"


def test_what_is_printed_while_the_operator_is_away_is_read_when_it_is_back(cluster):
    script = "import time\nfor i in range(20):\n    print(f'epoch={i} score={i}', flush=True)\n    time.sleep(0.25)\n"
    cluster.apply("away", script, metrics=STDOUT, maxTrials=1, parallelism=1)
    eventually(lambda: len(_reports(cluster, "away", 0)) >= 3, "three reports are there")
    cluster.kubectl("scale", "deployment/study-operator", "--replicas=0", namespace=SYSTEM)
    try:
        job = cluster.jobs()[0]["metadata"]["name"]
        cluster.kubectl("wait", "--for=condition=Complete", f"job/{job}", "--timeout=60s")
    finally:
        cluster.kubectl("scale", "deployment/study-operator", "--replicas=1", namespace=SYSTEM)
    status = cluster.wait("away")
    assert _reports(cluster, "away", 0) == [(i, float(i)) for i in range(20)]
    assert status["bestTrial"]["values"] == ["19.0"]


def test_a_trial_that_only_prints_is_pruned_while_it_runs(cluster):
    script = (
        "import os, time\n"
        "n = int(os.environ['STUDY_TRIAL_NUMBER'])\n"
        "for epoch in range(5 if n == 0 else 600):\n"
        "    print(f'epoch={epoch} score={1 - n}', flush=True)\n"
        "    time.sleep(0.2)\n"
    )
    options = {"lower": 0.5, "n_warmup_steps": 2}
    pruner = {"name": "Threshold", "options": options}
    cluster.apply("printing", script, metrics=STDOUT, maxTrials=2, parallelism=1, pruner=pruner)
    status = cluster.wait("printing")
    assert cluster.rows("printing") == [(0, "COMPLETE"), (1, "PRUNED")]
    assert status["bestTrial"]["number"] == 0
    assert len(_reports(cluster, "printing", 1)) < 100, "it was not followed to its end"


def test_a_program_that_never_prints_its_objective_is_told_so(cluster):
    cluster.apply("silent", "print('done')", metrics=STDOUT, maxTrials=1, parallelism=1, maxFailedTrials=0)
    failure = cluster.wait("silent", "Failed")["recentFailures"][0]
    assert failure["reason"] == "MetricMissing"
    assert "score" in failure["message"]

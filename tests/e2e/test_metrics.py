"""Trials that report by what they print: real pods and their logs."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/stdout/study.yaml"
STDOUT = {"from": "Stdout"}


def test_the_example_that_prints_its_metrics(cluster):
    manifest = yaml.safe_load(EXAMPLE.read_text().replace("study-trial:dev", cluster.images["study-trial"]))
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
    status = cluster.wait("stdout")
    assert status["trials"]["failed"] == 0
    ends = status["trials"]
    assert ends["complete"] + ends["pruned"] + ends["infeasible"] == 6
    assert ends["complete"] > 0
    assert status.get("badReports", 0) == 0
    reports = cluster.reports("stdout", 0)
    assert [step for step, _ in reports] == list(range(1, 11))
    best = status["bestTrial"]
    lr, width, accuracy = float(best["parameters"]["lr"]), int(best["parameters"]["width"]), 0.0
    assert width * 0.8 <= 40, "a trial that breaks a constraint is never the best"
    for _ in range(10):
        accuracy += (1 - accuracy) * lr * (1.2 - lr) * width / 64
    assert float(best["values"][0]) == round(accuracy, 4)


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
    assert len(cluster.reports("printing", 1)) < 100, "it was not followed to its end"


def test_a_log_file_in_words_of_its_own_to_the_best_trial(cluster):
    script = (
        "import os\n"
        "n = int(os.environ['STUDY_TRIAL_NUMBER'])\n"
        "with open('/logs/train.log', 'a') as log:\n"
        "    for epoch in range(1, 4):\n"
        "        print(f'{{metricName: score, metricValue: {n + epoch / 10}}}', file=log, flush=True)\n"
    )
    pattern = r"\{metricName: (?P<name>[\w-]+), metricValue: (?P<value>[^}]+)\}"
    metrics = {"from": "File", "format": "Text", "path": "/logs/train.log", "pattern": pattern}
    cluster.apply("words", script, metrics=metrics, maxTrials=2, parallelism=2)
    status = cluster.wait("words")
    assert cluster.rows("words") == [(0, "COMPLETE"), (1, "COMPLETE")]
    best = status["bestTrial"]
    assert (best["number"], float(best["values"][0])) == (1, 1.3)
    assert [value for _, value in cluster.reports("words", 0)] == [0.1, 0.2, 0.3]


def test_a_program_that_never_prints_its_objective_is_told_so(cluster):
    cluster.apply("silent", "print('done')", metrics=STDOUT, maxTrials=1, parallelism=1, maxFailedTrials=0)
    failure = cluster.wait("silent", "Failed")["recentFailures"][0]
    assert failure["reason"] == "MetricMissing"
    assert "score" in failure["message"]

"""What is said when a value is missing: what the program has written instead."""

from __future__ import annotations

import time

import pytest
from building import study

from study_operator.model.missing_value import at_deadline, message, names_in, of_constraints, with_output
from study_operator.model.trial import Result, TrialRow, TrialState


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("loss=0.3 lr: 1e-3", ["loss", "lr"]),
        ("INFO Val Accuracy: 0.91", ["Val Accuracy"]),
        ("epoch 3 - loss: 0.3 - val_acc: nan", ["loss", "val_acc"]),
        ("{'eval_loss': 0.5, 'eval_accuracy': '.91'}", ["eval_loss", "eval_accuracy"]),
        ('{"metrics/mAP50-95(B)": 0.4}', ["metrics/mAP50-95(B)"]),
        ("2026-01-01 12:00:00 acc=0.3", ["acc"]),
        ("INFO:train:acc=-0.9", ["acc"]),
        ("100%|####| 30/30 [00:01<00:00, loss=0.3, top-5 %=91]", ["loss", "top-5 %"]),
        ("Précision: 0.9", ["Précision"]),
        ("\x1b[32mloss\x1b[0m: 0.3 \x1b[1mval_acc\x1b[0m=0.9", ["loss", "val_acc"]),
        ("\x1b[2K\x1b[1Gaccuracy=0.91", ["accuracy"]),
        ("[0] validation-auc:0.93\ttrain-auc:0.99", ["validation-auc", "train-auc"]),
        ("Downloading: done, path=/tmp", []),
        ("", []),
    ],
)
def test_names_that_a_line_gives_numbers_to(line, names):
    assert names_in([line]) == names


def test_names_are_few_and_each_is_there_once():
    assert names_in(["loss=1 acc=2", "acc=3"]) == ["loss", "acc"]
    assert len(names_in([f"m{n}={n}" for n in range(100)])) == 8


def test_a_line_that_was_made_to_be_slow_is_not():
    begun = time.process_time()
    for line in ("a " * 100_000, "a=" * 100_000, "(" * 100_000 + "=1", "a b c " * 30_000 + "=1", '"' * 100_000 + ":1"):
        names_in([line] * 100)
    assert time.process_time() - begun < 5


PRINTING = study(objectives=[{"name": "map", "direction": "Maximize", "metric": "mAP@0.5"}], metrics={"from": "Stdout"})


def test_the_message_names_the_metric_and_what_could_not_be_read():
    assert message(PRINTING, ["mAP@0.5"]) == (
        "the program ended without a value of mAP@0.5 where spec.metrics says that it reports"
    )
    said = message(PRINTING, ["mAP@0.5", "loss"], "loss is 'high', which is no number: loss=high\x1b[2J")
    assert said.startswith("the program ended without a value of each of mAP@0.5, loss where")
    assert said.endswith("; last bad report: loss is 'high', which is no number: loss=high\\x1b[2J")
    assert message(PRINTING, ["mAP@0.5"], "", "its pod was gone").endswith("mAP@0.5 is known: its pod was gone")
    assert "let it call finish()" in message(study(), ["accuracy"])


def test_a_missing_constraint_is_named_as_the_program_calls_it():
    constraints = study(constraints=[{"name": "p99", "max": 1, "metric": "p99 (ms)"}, {"name": "b", "min": 0}])
    assert of_constraints(constraints.constraints, "p99 (ms) is 'slow'") == (
        "no value of p99 (p99 (ms)), b came with the result: let the program report it as spec.metrics says; "
        "last bad report: p99 (ms) is 'slow'"
    )


def test_the_names_in_the_last_lines_are_added():
    assert with_output(PRINTING, "no value", "loss=1\nacc=2\n", []) == (
        "no value; its last lines have values of loss, acc"
    )
    assert with_output(PRINTING, "no value", "done", []) == "no value"
    assert with_output(study(), "no value", "loss=1", []) == "no value"


@pytest.mark.parametrize("state", ["state", "lastState"])
def test_a_sidecar_that_has_failed_is_told(state):
    reading = study(metrics={"from": "File", "path": "/m/m.jsonl"})
    ended = {"name": "study-metrics", state: {"terminated": {"exitCode": 127, "reason": "Error"}}}
    pod = {"status": {"initContainerStatuses": [{"name": "fetch", "state": {}}, ended]}}
    assert with_output(reading, "no value", "loss=1", [{}, pod]) == (
        "no value; container study-metrics failed: Error, exit code 127"
    )
    ended[state]["terminated"]["exitCode"] = 0
    assert with_output(reading, "no value", "loss=1", [pod]) == "no value"


LATE = "Job was active longer than specified deadline"
TWO = study(
    objectives=[
        {"name": "map", "direction": "Maximize", "metric": "mAP@0.5", "finalValue": "Best"},
        {"name": "cost", "direction": "Minimize"},
    ],
    metrics={"from": "Stdout"},
)


@pytest.mark.parametrize(
    ("of", "result", "printed", "reported", "words"),
    [
        (study(), None, {}, None, None),
        (study(), None, {}, 0.5, "accuracy 0.5"),
        (study(), Result((0.25,), provisional=True), {}, 0.5, "accuracy 0.25"),
        (PRINTING, None, {"mAP@0.5": 0.75}, 0.5, "map 0.75"),
        (TWO, None, {"mAP@0.5": 0.5, "mAP@0.5\nMax": 0.75, "cost": 3.0}, None, "map 0.75 and cost 3.0"),
        (TWO, None, {"cost": 3.0}, None, "cost 3.0"),
        (TWO, Result((0.5, 2.0), provisional=True), {}, None, "map 0.5 and cost 2.0"),
    ],
)
def test_a_trial_that_has_run_out_of_time_says_what_it_had(of, result, printed, reported, words):
    row = TrialRow(7, 0, TrialState.RUNNING, {}, "study-0", result=result)
    said = at_deadline(of, LATE, row, printed, reported)
    if words is None:
        assert said == LATE
    else:
        assert said == (
            f"{LATE}; it had {words} so far, which is not final because the program had not ended: raise "
            "activeDeadlineSeconds, or let the program end in time"
        )

"""Trials in tables and files, curves as text, and which parameters matter. Objects are as the trials API makes them."""

from __future__ import annotations

import csv
import io
import json
import math
import random
from typing import Any

import pytest

from study_client.curves import drawn
from study_client.errors import ClientError
from study_client.importance import ranked, ranks
from study_client.studies import StudyView, TrialName, trial_name
from study_client.trial_tables import as_csv, choose, described, print_trials
from study_client.trials import Trial

STUDY = StudyView(
    {
        "metadata": {"name": "digits", "namespace": "team"},
        "spec": {"objectives": [{"name": "loss", "direction": "Minimize"}]},
    }
)


def trial(number: int, value: float | None = None, state: str = "Complete", **params: Any) -> Trial:
    status: dict[str, Any] = {"state": state} | ({"values": [repr(value)]} if value is not None else {})
    metadata = {"name": f"digits-{number}", "namespace": "team"}
    return Trial(
        {"metadata": metadata, "spec": {"study": "digits", "number": number, "parameters": params}, "status": status}
    )


TRIALS = [
    trial(0, 0.5, lr=0.1, kind="=SUM(A1)"),
    trial(1, 0.25, lr=0.01, kind="b\x1b[2J"),
    trial(2, None, "Failed", lr=0.001),
    trial(3, math.inf, lr=0.3),
    trial(4, 0.1, "Infeasible", lr=0.2),
]


def numbers(found: list[Trial]) -> list[int]:
    return [one.number for one in found]


def test_the_best_come_first_and_only_complete_ones():
    assert numbers(choose(TRIALS, STUDY, 10, None)) == [1, 0, 3]
    assert numbers(choose(TRIALS, STUDY, 1, None)) == [1]


def test_what_has_no_value_comes_last():
    assert numbers(choose(TRIALS, STUDY, None, "value")) == [4, 1, 0, 3, 2]
    assert numbers(choose(TRIALS, STUDY, None, "loss", reverse=True)) == [3, 0, 1, 4, 2]
    assert numbers(choose(TRIALS, STUDY, None, "lr")) == [2, 1, 0, 4, 3]
    assert numbers(choose(TRIALS, STUDY, None, "kind")) == [0, 1, 2, 3, 4]
    with pytest.raises(ClientError, match="there are value, number, duration, loss, lr, kind"):
        choose(TRIALS, STUDY, None, "epochs")


def test_csv_has_a_column_for_each_parameter_and_no_formula():
    head, first, second, *_ = csv.reader(io.StringIO(as_csv(TRIALS, ["loss"])))
    assert head[:5] == ["number", "state", "loss", "params_lr", "params_kind"]
    assert first[:5] == ["0", "Complete", "0.5", "0.1", "'=SUM(A1)"]
    assert second[4] == "b[2J"


@pytest.mark.parametrize("form", ["table", "wide", "csv", "json", "jsonl", "yaml", "name"])
def test_no_form_speaks_to_the_terminal(form: str, capsys):
    print_trials(TRIALS, ["loss"], form)
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "digits-1" in shown or form in ("table", "wide", "csv")
    if form == "jsonl":
        assert json.loads(shown.splitlines()[1])["spec"]["parameters"]["kind"] == "b\x1b[2J"


def test_a_trial_is_described_whole():
    status = {
        "state": "Failed",
        "failure": {"reason": "Error", "exitCode": 1, "lastLogLine": "oom\u202e"},
        "lastReport": {"step": 3, "value": "0.5"},
        "durationSeconds": 75.0,
    }
    lines = "\n".join(described(Trial({**TRIALS[2].manifest, "status": status}), ["loss"]))
    for said in ("Trial digits/2: Failed", "oom\\u202e", "0.5 at step 3", "1m15s"):
        assert said in lines


@pytest.mark.parametrize("text", ["digits", "digits/", "/7", "digits/x", "digits/-1", "digits/٣"])
def test_a_trial_is_named_by_study_and_number(text: str):
    assert trial_name("digits/7") == TrialName("digits", 7)
    with pytest.raises(ClientError, match="names no trial"):
        trial_name(text)


def test_curves_are_drawn_from_corner_to_corner():
    lines = drawn({7: [(1, 0.0), (2, 0.5), (3, 1.0)], 9: [(1, math.nan)], 3: []})
    assert lines[0].strip().startswith("1 |")
    assert lines[0].endswith("o")
    assert lines[15].strip().startswith("0 |o")
    assert "o trial 7: 3 reports, last 1" in lines[-3]
    assert "x trial 9: has reported nothing" in lines[-2]
    assert drawn({1: []}) == ["no value has been reported"]
    assert len(drawn({1: [(1, 1e308), (2, -1e308)], 2: [(5, 3.0)]})) == 20


def test_equal_values_share_a_rank():
    assert ranks([3.0, 1.0, 3.0, 2.0]) == [3.5, 1.0, 3.5, 2.0]


def test_the_parameter_that_decides_comes_first():
    random.seed(1)
    found = []
    for number in range(60):
        lr, noise, kind = random.random(), random.random(), random.choice(["a", "b"])
        found.append(trial(number, 3 * lr**3 + (kind == "a") * 0.3, lr=lr, noise=noise, kind=kind, same=1))
    first, second, third = ranked(found)
    assert (first.name, first.rises, first.share > 0.8) == ("lr", True, True)
    assert (second.name, second.rises) == ("kind", None)
    assert (third.name, third.share < 0.1) == ("noise", True)
    assert ranked(found[:4]) == []

"""The command study-trial in local runs; tests/component/test_study_trial.py has it with a database."""

from __future__ import annotations

import json
import os

import pytest

from study_trial import _trial as trial_module
from study_trial._cli import main

OBJECTIVE = """
import sys
import study_trial

def objective(trial):
    lr = trial.suggest_float("lr", 1e-4, 1, log=True)
    batch = trial.suggest_categorical("batch", [16, 32])
    trial.report(lr, 0)
    print(sys.argv, __name__, batch)
    return lr

def broken(trial):
    raise ZeroDivisionError("of the user")

def pruned(trial):
    raise study_trial.TrialPruned

if __name__ == "__main__":
    sys.exit("the module must not run as a script")
"""


@pytest.fixture(autouse=True)
def outside(monkeypatch, tmp_path):
    """Outside a trial's pod, in an empty directory, with a fresh process's state."""
    for name in os.environ:
        if name.startswith("STUDY_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(trial_module, "_current", None)
    monkeypatch.setattr("sys.path", ["/nowhere", *__import__("sys").path])
    monkeypatch.setattr("sys.argv", ["study-trial"])
    monkeypatch.setenv("STUDY_PARAMS", "{}")  # so that what a test's command sets is undone
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(OBJECTIVE)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["report", "--step", "3", "0.91"], "step 3: 0.91"),
        (["report", "--step", "3", "-1e-5"], "step 3: -1e-05"),
        (["report", "-inf", "--step", "0"], "step 0: -inf"),
        (["report", "--step", "0", "--", "-.5"], "step 0: -0.5"),
        (["report", "--step", "0", "nan"], "step 0: nan"),
        (["report", "--step", "3.0", "0.9"], "step 3: 0.9"),
        (["report", "--step", "[3/30]", "91%"], "step 3: 91.0"),
        (["report", "--step", "0", "-0,5"], "step 0: -0.5"),
        (["finish", "inf"], "final value inf"),
        (["finish", "0.93"], "final value 0.93"),
        (["finish", "-1e-5"], "final value -1e-05"),
        (["finish", "0.9", "-12"], "final value 0.9, -12.0"),
        (["finish", "--pruned"], "pruned by the script"),
        (["infeasible", "OOM at 512"], "infeasible: OOM at 512"),
        (["infeasible", ""], "infeasible: ''"),
        (["attr", "path", "/tmp/model"], 'attribute path = "/tmp/model"'),
        (["attr", "epochs", "3"], "attribute epochs = 3"),
        (["attr", "layers", "[1, 2]"], "attribute layers = [1, 2]"),
    ],
)
def test_a_local_run_prints_what_would_be_sent(arguments, line, capsys):
    assert main(arguments) == 0
    assert capsys.readouterr().err.splitlines()[-1] == f"study-trial: local run: {line}"


def test_finish_takes_constraints(capsys):
    command = ["finish", "0.9", "-12.5", "--constraint", "latency_ms=43", "--constraint", "memory/gb=-1e-5"]
    assert main(command) == 0
    assert capsys.readouterr().err.splitlines()[-3:] == [
        "study-trial: local run: constraint latency_ms = 43.0",
        "study-trial: local run: constraint memory/gb = -1e-05",
        "study-trial: local run: final value 0.9, -12.5",
    ]


def test_a_report_answers_on_stdout(capsys):
    assert main(["report", "--step", "0", "1", "--exit-code"]) == 0
    assert capsys.readouterr().out == "continue\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report", "--step", "0", "high"], "'high'"),
        (["report", "--step", "one", "0.5"], "'one'"),
        (["report", "--step", "-1", "0.5"], "step must be a whole number from 0"),
        (["finish", "0.5", "abc"], "'abc'"),
        (["finish", "1e999"], "the final value: 1e999 is too large for a number; nothing was sent"),
        (["finish", "-1e999"], "-1e999 is too large for a number"),
        (["finish", "1_000"], "must be a number, not '1_000'"),
        (["finish", "\uff11\uff12"], "must be a number, not"),
        (["finish", "1,234"], "1,234 has two readings, 1234 and 1.234"),
        (["report", "--step", "0", "1e999"], "1e999 is too large for a number"),
        (["report", "--step", "1_0", "0.5"], "'1_0'"),
        (["finish", "0.9", "--constraint", "latency_ms=1e999"], "1e999 is too large for a number"),
        (["finish"], "a trial ends with a final value"),
        (["finish", "0.9", "--constraint", "latency_ms"], "NAME=VALUE"),
        (["finish", "0.9", "--constraint", "latency_ms=slow"], "constraint 'latency_ms' must be a number, not 'slow'"),
        (["finish", "0.9", "--constraint", "latency_ms=nan"], "must be a finite number"),
        (["run", "train.py"], "FILE.py:FUNCTION"),
        (["run", "nowhere.py:objective"], "no file nowhere.py"),
        (["run", "train.py:missing"], "no function missing"),
        (["run", "train.py:objective", "--param", "lr"], "NAME=VALUE"),
    ],
)
def test_a_wrong_command_line_is_answered_with_a_sentence(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("target", ["train.py:objective", "train:objective"])
def test_runs_an_objective(target, capsys):
    assert main(["run", target, "--param", "lr=0.1", "--param", "batch=32", "--", "--epochs", "3"]) == 0
    output = capsys.readouterr()
    assert output.out == f"{[target.split(':')[0], '--epochs', '3']} train 32\n"
    assert output.err.splitlines()[-1] == "study-trial: local run: final value 0.1"


def test_given_params_come_from_the_environment_too(capsys, monkeypatch):
    monkeypatch.setenv("STUDY_PARAMS", '{"lr": 0.1, "batch": 32}')
    assert main(["run", "train.py:objective", "--param", "lr=0.2"]) == 0
    assert "final value 0.2" in capsys.readouterr().err
    assert json.loads(os.environ["STUDY_PARAMS"]) == {"lr": 0.2, "batch": 32}


def test_a_users_exception_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        main(["run", "train.py:broken"])


def test_a_pruned_objective_is_a_success():
    assert main(["run", "train.py:pruned"]) == 0


def test_an_error_of_the_suggest_call_shows_the_users_line(capsys):
    assert main(["run", "train.py:objective", "--param", "lr=7"]) == 1
    errors = capsys.readouterr().err
    assert 'trial.suggest_float("lr", 1e-4, 1, log=True)' in errors
    assert "7 is out of range: float from 0.0001 to 1.0, log" in errors


def test_params(capsys, monkeypatch):
    monkeypatch.setenv("STUDY_PARAMS", '{"lr": 1e-05, "optimizer": "sgd"}')
    assert main(["params"]) == 0
    assert main(["params", "lr"]) == 0
    assert main(["params", "optimizer"]) == 0
    assert main(["params", "momentum"]) == 1
    output = capsys.readouterr()
    assert output.out == '{"lr": 1e-05, "optimizer": "sgd"}\n1e-05\nsgd\n'
    assert "there is no parameter 'momentum'; there is lr, optimizer" in output.err


def test_param_is_refused_in_a_pod(capsys, monkeypatch):
    monkeypatch.setenv("STUDY_TRIAL_ID", "7")
    assert main(["run", "train.py:objective", "--param", "lr=0.1"]) == 2
    assert "the study has chosen" in capsys.readouterr().err


def test_half_an_environment_is_an_error(capsys, monkeypatch):
    monkeypatch.setenv("STUDY_TRIAL_ID", "7")
    assert main(["finish", "0.5"]) == 1
    assert "STUDY_STORAGE_URL" in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["report"], ["finish"], ["run"], ["params"], ["attr"], ["infeasible"]])
def test_help(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    assert caught.value.code == 0
    assert "study-trial" in capsys.readouterr().out

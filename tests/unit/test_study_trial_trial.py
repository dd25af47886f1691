"""The Trial's vocabulary, `run` and local runs, with a channel that remembers."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import numpy
import optuna
import pytest

import study_trial
from study_trial import trial as trial_module
from study_trial.channels import Final
from study_trial.search_space import StudySpace
from study_trial.trial import Trial


class RememberingChannel:
    """Stores calls as tuples; `pruned` is what the operator has decided."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []
        self.pruned = False

    def report(self, step: int, value: float) -> None:
        self.calls.append(("report", step, value))

    def should_stop(self) -> bool:
        return self.pruned

    def set_user_attr(self, name: str, text: str) -> None:
        self.calls.append(("attr", name, text))

    def finish(self, final: Final) -> bool:
        self.calls.append(("finish", final.values, final.pruned))
        self.final = final
        return self.pruned

    def waiting(self) -> list[str]:
        return []


@pytest.fixture
def channel() -> RememberingChannel:
    return RememberingChannel()


@pytest.fixture
def trial(channel, monkeypatch) -> Trial:
    """A trial that `study_trial.current()` returns."""
    space = StudySpace({"lr": 0.01}, [{"name": "lr", "float": {"low": 0.001, "high": 0.1, "log": True}}])
    trial = Trial(7, space, channel)
    monkeypatch.setattr(trial_module, "_current", trial)
    return trial


@pytest.fixture
def local(monkeypatch) -> Trial:
    """The trial of a local run without given parameters."""
    for name in os.environ:
        if name.startswith("STUDY_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(trial_module, "_current", None)
    return study_trial.current()


def test_an_optuna_objective_runs_unchanged(trial, channel):
    def objective(trial):
        lr = trial.suggest_float("lr", 1e-3, 1e-1, log=True)
        for epoch in range(2):
            trial.report(lr * epoch, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        trial.set_user_attr("epochs", 2)
        return lr

    study_trial.run(objective)
    assert channel.calls == [
        ("report", 0, 0.0),
        ("report", 1, 0.01),
        ("attr", "epochs", "2"),
        ("finish", [0.01], False),
    ]
    assert (trial.number, trial.params, trial.user_attrs) == (7, {"lr": 0.01}, {"epochs": 2})


@pytest.mark.parametrize("exception", [study_trial.TrialPruned, optuna.TrialPruned, optuna.exceptions.TrialPruned])
@pytest.mark.parametrize("by_operator", [True, False])
def test_trial_pruned_ends_the_trial_as_pruned(trial, channel, exception, by_operator):
    channel.pruned = by_operator

    def objective(trial):
        raise exception

    study_trial.run(objective)
    assert channel.calls == [("finish", [], True)]


def test_optuna_is_not_imported():
    script = """
import sys, study_trial
def objective(trial):
    raise study_trial.TrialPruned
study_trial.run(objective)
sys.exit("optuna" in sys.modules)
"""
    env = {name: value for name, value in os.environ.items() if not name.startswith("STUDY_")}
    assert subprocess.run([sys.executable, "-c", script], env=env).returncode == 0


def test_an_exception_is_the_users_own_and_nothing_is_finished(trial, channel):
    def objective(trial):
        raise ZeroDivisionError("of the user")

    with pytest.raises(ZeroDivisionError, match="of the user"):
        study_trial.run(objective)
    assert channel.calls == []


def test_returning_none_after_finish_is_fine(trial, channel):
    study_trial.run(lambda trial: trial.finish(0.5))
    assert channel.calls == [("finish", [0.5], False)]


def test_returning_none_without_finish_is_an_error(trial, channel):
    with pytest.raises(study_trial.InvalidValueError, match="return the value"):
        study_trial.run(lambda trial: None)
    assert channel.calls == []


@pytest.mark.parametrize("value", [0.5, numpy.float32(0.5), numpy.array(0.5), numpy.float64(0.5)])
def test_whatever_float_takes_is_a_value(trial, channel, value):
    trial.report(value, numpy.int64(3))
    trial.finish(value)
    assert channel.calls == [("report", 3, 0.5), ("finish", [0.5], False)]
    assert all(type(number) is float for number in channel.calls[1][1])


@pytest.mark.parametrize("value", ["0.5", b"0.5", "abc", None, [1.0], 1j, numpy.str_("0.5"), 10**400])
def test_what_is_no_number_is_refused_and_nothing_is_sent(trial, channel, value):
    with pytest.raises(study_trial.InvalidValueError, match="number"):
        trial.report(value, 1)
    with pytest.raises(study_trial.InvalidValueError, match=r"number|final value"):
        trial.finish(value if value != [1.0] else ["1.0"])
    assert channel.calls == []


@pytest.mark.parametrize("step", [-1, 2**31, 1.0, "1", None, math.nan])
def test_a_step_is_a_whole_number_from_0(trial, channel, step):
    with pytest.raises(study_trial.InvalidValueError, match="step must be a whole number from 0"):
        trial.report(0.5, step)
    assert channel.calls == []


def test_nan_and_infinities_are_reported(trial, channel):
    trial.report(math.nan, 0)
    trial.report(-math.inf, 1)
    assert math.isnan(channel.calls[0][2])
    assert channel.calls[1] == ("report", 1, -math.inf)


def test_a_final_nan_is_sent_with_a_warning(trial, channel, capsys):
    trial.finish(math.nan)
    assert len(channel.calls) == 1
    assert "InvalidValue" in capsys.readouterr().err


def test_several_objectives(trial, channel):
    trial.finish((0.5, 3))
    assert channel.calls == [("finish", [0.5, 3.0], False)]


@pytest.mark.parametrize(
    ("name", "value"),
    [("", 1), ("x" * 513, 1), (3, 1), ("a\0b", 1), ("a", math.nan), ("a", object()), ("a", "x" * 65536)],
)
def test_an_attribute_that_cannot_be_stored_is_refused(trial, channel, name, value):
    with pytest.raises(study_trial.InvalidValueError, match="attribute"):
        trial.set_user_attr(name, value)
    assert channel.calls == []
    assert trial.user_attrs == {}


def test_current_is_one_trial_per_process(trial):
    assert study_trial.current() is trial


def test_a_local_run_prints_what_it_would_send(local, capsys):
    def objective(trial):
        lr = trial.suggest_float("lr", 1e-4, 1, log=True)
        trial.report(lr, 0)
        trial.set_user_attr("path", "/tmp/model")
        assert not trial.should_prune()
        return lr

    study_trial.run(objective)
    assert capsys.readouterr().err.splitlines() == [
        "study-trial: local run: lr = 0.01 (default; float from 0.0001 to 1.0, log)",
        "study-trial: local run: step 0: 0.01",
        'study-trial: local run: attribute path = "/tmp/model"',
        "study-trial: local run: final value 0.01",
    ]


def test_half_an_environment_is_no_local_run(local, monkeypatch):
    monkeypatch.setattr(trial_module, "_current", None)
    monkeypatch.setenv("STUDY_TRIAL_ID", "7")
    with pytest.raises(study_trial.SetupError, match="STUDY_STORAGE_URL"):
        study_trial.current()

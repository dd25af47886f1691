"""The Trial's vocabulary, `run` and local runs, with a channel that remembers."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from decimal import Decimal

import numpy
import optuna
import pytest
from remembering import RememberingChannel

import study_trial
from study_trial import _trial as trial_module
from study_trial._channels import Final, SilentChannel
from study_trial._search_space import StudySpace
from study_trial._trial import Trial


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


@pytest.mark.parametrize("step", [-1, "one", "1_000", None, math.nan, math.inf, [1]])
def test_what_is_no_step_in_optuna_is_refused(trial, channel, step):
    with pytest.raises(study_trial.InvalidValueError, match="step must be a whole number from 0"):
        trial.report(0.5, step)
    assert channel.calls == []


@pytest.mark.parametrize(
    ("step", "stored"),
    [(3.0, 3), (2.99, 2), ("3", 3), ("3.0", 3), ("[3/30]", 3), (numpy.float32(3), 3), (numpy.array(3), 3), (True, 1)],
)
def test_the_whole_part_of_a_step_counts(trial, channel, step, stored):
    trial.report(0.9, step)
    assert channel.calls == [("report", stored, 0.9)]


def test_a_step_that_the_database_cannot_hold_costs_the_report_and_is_said_once(trial, channel, capsys):
    trial.report(0.9, 2**31)
    trial.report(0.9, 1e300)
    trial.finish(0.9)
    assert channel.calls == [("finish", [0.9], False)]
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("study-trial: warning: step 2147483648 is above 2147483647: the value counts, but")


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([0, 0.5], "step 0 came twice, with 0.0 and then 1.0: the first value of a step stands"),
        ([3, 2], "step 2 came after step 3: a pruner judges a trial at its highest step only"),
    ],
)
def test_steps_by_which_the_study_sees_less_are_said_once(trial, channel, capsys, steps, words):
    for value, step in enumerate([*steps, *steps]):
        trial.report(value, step)
    assert len(channel.calls) == 4, "the database decides which value stands"
    (said,) = capsys.readouterr().err.splitlines()
    assert words in said


@pytest.mark.parametrize("value", [Decimal("1e999"), 10**400])
def test_a_value_that_is_too_large_is_no_infinity(trial, channel, value):
    with pytest.raises(study_trial.InvalidValueError, match="is too large for a number; nothing was sent"):
        trial.finish(value)
    trial.finish(Decimal("Infinity"))
    assert channel.calls == [("finish", [math.inf], False)]


def test_nan_and_infinities_are_reported(trial, channel):
    trial.report(math.nan, 0)
    trial.report(-math.inf, 1)
    assert math.isnan(channel.calls[0][2])
    assert channel.calls[1] == ("report", 1, -math.inf)


def test_a_final_nan_is_sent_with_a_warning(trial, channel, capsys):
    trial.finish(math.nan)
    assert len(channel.calls) == 1
    assert "InvalidValue" in capsys.readouterr().err


def build(channel, objectives=("accuracy",), constraints=()) -> Trial:
    """A trial of a study with these objectives and constraints."""
    return Trial(7, StudySpace({}, []), channel, objectives, constraints)


def test_several_objectives(trial, channel):
    trial.finish((0.5, 3))  # an older operator does not tell how many there are; the database knows
    build(channel, ["accuracy", "latency"]).finish([0.5, 3])
    assert channel.calls == [("finish", [0.5, 3.0], False)] * 2


@pytest.mark.parametrize(
    ("objectives", "value"), [(["accuracy", "latency"], 0.5), (["accuracy", "latency"], [1, 2, 3]), (["f1"], [1, 2])]
)
def test_values_that_are_not_one_for_each_objective_are_refused_with_the_names(channel, objectives, value):
    with pytest.raises(study_trial.InvalidValueError) as caught:
        build(channel, objectives).finish(value)
    assert f"{len(objectives)} objective{'s'[: len(objectives) - 1]}, {', '.join(objectives)}, " in str(caught.value)
    assert channel.calls == []


def test_with_several_objectives_a_report_is_refused_as_optuna_refuses_it(channel):
    trial = build(channel, ["accuracy", "latency"])
    with pytest.raises(NotImplementedError, match="the objectives accuracy, latency, and Optuna has no pruning"):
        trial.report(0.5, 1)
    with pytest.raises(study_trial.SeveralObjectivesError):
        trial.report(0.5, 2)
    assert channel.calls == []
    assert trial.should_prune() is False


def test_constraints_go_with_the_final_value(channel):
    trial = build(channel, constraints=["latency_ms", "memory"])
    trial.set_constraint("latency_ms", 51)
    trial.set_constraint("latency_ms", numpy.float32(43))
    trial.set_constraint("memory", 2)
    assert channel.calls == []
    trial.finish(0.9)
    assert channel.final == Final([0.9], constraints={"latency_ms": 43.0, "memory": 2.0})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "43", None])
def test_a_constraint_is_a_finite_number(channel, value):
    with pytest.raises(study_trial.InvalidValueError, match="constraint 'latency_ms' must be a"):
        build(channel, constraints=["latency_ms"]).set_constraint("latency_ms", value)


def test_a_constraint_that_the_study_does_not_have_is_refused_at_once(channel):
    with pytest.raises(study_trial.InvalidValueError, match="no constraint 'latency'; it has latency_ms, memory"):
        build(channel, constraints=["latency_ms", "memory"]).set_constraint("latency", 1)
    with pytest.raises(study_trial.InvalidValueError, match="no constraint 'latency'; it has none at all"):
        build(channel).set_constraint("latency", 1)


def test_a_constraint_may_be_named_as_the_program_calls_it(channel):
    called = {"p99": "Latenz p99", "worst": "Latenz p99"}
    trial = Trial(7, StudySpace({}, []), channel, ["accuracy"], ["p99", "worst", "memory"], called=called)
    trial.set_constraint("Latenz p99", 43)
    trial.set_constraint("worst", 50)
    trial.set_constraint("memory", 1)
    trial.finish(0.9)
    assert channel.final == Final([0.9], constraints={"p99": 43.0, "worst": 50.0, "memory": 1.0})


def test_a_constraint_after_the_end_is_too_late(channel):
    trial = build(channel, constraints=["latency_ms"])
    trial.finish(0.9)
    with pytest.raises(study_trial.InvalidValueError, match="too late"):
        trial.set_constraint("latency_ms", 43)


def test_a_constraint_that_is_missing_is_warned_of(channel, capsys):
    trial = build(channel, constraints=["latency_ms", "memory"])
    trial.set_constraint("memory", 2)
    trial.finish(0.9)
    assert "no value for latency_ms, so this trial will count as failed" in capsys.readouterr().err
    build(channel, constraints=["latency_ms"]).finish(pruned=True)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("reason", "stored"),
    [
        ("OOM at batch size 512", "OOM at batch size 512"),
        (MemoryError("out of memory"), "out of memory"),
        (MemoryError(), "MemoryError()"),
        ("", "''"),
        ("x" * 2000, "x" * 1000),
        ("a\0b\ud800", "ab?"),
    ],
)
def test_a_trial_may_call_itself_infeasible(trial, channel, reason, stored):
    study_trial.run(lambda trial: trial.mark_infeasible(reason))
    assert channel.final == Final([], infeasible=stored)
    assert trial.finished


def test_a_trial_without_checkpoints_has_no_directory_for_them(trial, monkeypatch):
    monkeypatch.delenv("STUDY_CHECKPOINT_DIR", raising=False)
    assert trial.checkpoint_dir is None


def test_the_directory_for_checkpoints_is_there(trial, monkeypatch, tmp_path):
    monkeypatch.setenv("STUDY_CHECKPOINT_DIR", str(tmp_path / "study/7"))
    assert trial.checkpoint_dir == study_trial.checkpoint_dir() == tmp_path / "study/7"
    (trial.checkpoint_dir / "last.pt").write_text("weights")
    monkeypatch.setenv("STUDY_CHECKPOINT_DIR", str(tmp_path / "study/7/last.pt"))
    with pytest.raises(study_trial.SetupError, match="STUDY_CHECKPOINT_DIR"):
        _ = trial.checkpoint_dir


def test_pods_beside_the_first_one_report_nothing_and_say_so_once(channel, capsys):
    trial = Trial(7, StudySpace({"lr": 0.1}, []), SilentChannel(channel, "RANK=2"), ["accuracy"], ["latency_ms"])
    trial.report(0.5, 1)
    trial.set_user_attr("a", 1)
    trial.set_constraint("latency_ms", 43)
    trial.finish(0.5)
    trial.mark_infeasible("OOM")
    assert channel.calls == []
    assert capsys.readouterr().err == (
        "study-trial: what this process of the trial reports is not sent: it has RANK=2, and 0 reports for all\n"
    )
    channel.pruned = True
    assert trial.should_prune()
    assert trial.params["lr"] == 0.1


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


def test_a_local_run_prints_constraints_and_why_it_is_infeasible(local, capsys):
    local.set_constraint("latency_ms", 43)
    local.finish([0.5, 2])
    local.mark_infeasible("OOM")
    assert capsys.readouterr().err.splitlines()[-4:] == [
        "study-trial: local run: constraint latency_ms = 43.0",
        "study-trial: local run: final value 0.5, 2.0",
        "study-trial: local run: constraint latency_ms = 43.0",
        "study-trial: local run: infeasible: OOM",
    ]


def test_a_local_run_can_be_that_of_a_study_with_several_objectives(local, monkeypatch):
    monkeypatch.setattr(trial_module, "_current", None)
    monkeypatch.setenv("STUDY_OBJECTIVES", '["accuracy", "latency"]')
    monkeypatch.setenv("STUDY_CONSTRAINTS", '["memory"]')
    with pytest.raises(study_trial.SeveralObjectivesError):
        study_trial.current().report(0.5, 1)
    with pytest.raises(study_trial.InvalidValueError, match="it has memory"):
        study_trial.current().set_constraint("latency_ms", 1)


def test_half_an_environment_is_no_local_run(local, monkeypatch):
    monkeypatch.setattr(trial_module, "_current", None)
    monkeypatch.setenv("STUDY_TRIAL_ID", "7")
    with pytest.raises(study_trial.SetupError, match="STUDY_STORAGE_URL"):
        study_trial.current()

"""initialTrials, and what notebooks enqueue."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from building import study
from optuna.trial import TrialState

from study_operator.model.initial_trials import WISH_ATTR, initial_trials
from study_operator.model.study import Refused, Study

PARAMETERS = [
    {"name": "lr", "float": {"low": 0.001, "high": 1}},
    {"name": "layers", "int": {"low": 1, "high": 9, "step": 2}},
    {"name": "optimizer", "categorical": {"choices": ["adam", "sgd", 1, None]}},
    {"name": "momentum", "float": {"low": 0, "high": 1}, "when": {"parameter": "optimizer", "in": ["sgd", 1]}},
    {"name": "nesterov", "categorical": {"choices": [True]}, "when": {"parameter": "optimizer", "in": ["sgd"]}},
    {"name": "decay", "float": {"low": 0, "high": 1}, "when": {"parameter": "nesterov", "in": [True]}},
]


def study_with(*trials: dict[str, Any]) -> Study:
    return study(parameters=PARAMETERS, initialTrials=list(trials))


def test_each_value_gets_its_parameters_own_type():
    wishes = initial_trials(study_with({"lr": 1, "layers": 3.0}, {"optimizer": 1, "momentum": 0}, {"optimizer": None}))
    assert wishes == [{"lr": 1.0, "layers": 3}, {"optimizer": 1, "momentum": 0.0}, {"optimizer": None}]
    assert [[type(value) for value in wish.values()] for wish in wishes] == [[float, int], [int, float], [type(None)]]


def test_a_parent_of_one_value_need_not_be_given():
    assert initial_trials(study_with({"optimizer": "sgd", "decay": 0.5}))


@pytest.mark.parametrize(
    ("trial", "words"),
    [
        (
            {"rate": 0.1},
            "spec.initialTrials[1]: there is no parameter 'rate'; there are lr, layers, optimizer, momentum",
        ),
        ({"lr": 2}, "spec.initialTrials[1]: lr is 2; it must be a number from 0.001 to 1"),
        ({"lr": "0.1"}, 'lr is "0.1"; it must be a number'),
        ({"lr": True}, "lr is true; it must be a number"),
        ({"lr": None}, "lr is null; it must be a number"),
        ({"layers": 2}, "layers is 2; it must be a whole number from 1 to 9 in steps of 2"),
        ({"layers": 3.5}, "layers is 3.5; it must be a whole number"),
        ({"optimizer": "1"}, 'optimizer is "1"; it must be "adam", "sgd", 1 or null'),
        ({"optimizer": ["sgd"]}, "it must be"),
        (
            {"optimizer": "adam", "momentum": 0.5},
            'momentum is given, but a trial has it only when optimizer is "sgd" or 1: remove it, or change optimizer',
        ),
        (
            {"momentum": 0.5},
            "momentum is given, but whether a trial has it depends on optimizer, which is not: "
            'add optimizer, for example as "sgd", or remove momentum',
        ),
        (
            {"optimizer": 1, "decay": 0.5},
            "decay is given, but a trial has no nesterov when optimizer is 1: remove decay, or change optimizer",
        ),
    ],
)
def test_an_initial_trial_that_cannot_be_run_is_refused(trial, words):
    with pytest.raises(Refused) as refusal:
        initial_trials(study_with({"lr": 0.1}, trial))
    assert refusal.value.reason == "InvalidInitialTrials"
    assert words in refusal.value.message


def test_the_attribute_is_the_one_that_optuna_writes():
    there = optuna.create_study()
    there.enqueue_trial({"x": 1})
    assert there.trials[0].system_attrs == {WISH_ATTR: {"x": 1}}
    assert there.trials[0].state is TrialState.WAITING

"""What is most likely a mistake in a Study: refused, or said."""

from __future__ import annotations

from typing import Any

import pytest
from building import study

from study_operator.model.mistakes import mistakes
from study_operator.model.study import Refused

X = {"name": "x", "float": {"low": 0, "high": 1}}


@pytest.mark.parametrize(
    ("kind", "bounds", "words"),
    [
        ("float", {"low": 0, "high": 1, "step": 2}, "step is 2, which is greater than the range from 0 to 1, so that"),
        ("float", {"low": -0.5, "high": 0.5, "step": 1.5}, "only -0.5 is ever tried: write a smaller step"),
        ("int", {"low": 1, "high": 4, "step": 5}, "a categorical with the one choice 1"),
    ],
)
def test_a_step_beyond_the_range_is_refused(kind, bounds, words):
    with pytest.raises(Refused) as refused:
        mistakes(study(parameters=[X, {"name": "p", kind: bounds}]))
    assert refused.value.reason == "InvalidSearchSpace"
    assert refused.value.message.startswith("parameter 'p': ")
    assert words in refused.value.message


@pytest.mark.parametrize(
    ("kind", "bounds"),
    [
        ("float", {"low": 0, "high": 1, "step": 1}),
        ("float", {"low": 1, "high": 1, "step": 2}),
        ("int", {"low": 1, "high": 4, "step": 3}),
        ("int", {"low": 1, "high": 1}),
    ],
)
def test_a_step_within_the_range_is_not(kind, bounds):
    assert mistakes(study(parameters=[X, {"name": "p", kind: bounds}])) == []


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"sampler": {"name": "TPE", "options": {"n_startup_trials": -5}}}, "is -5; it must be at least 0"),
        ({"sampler": {"name": "TPE", "options": {"n_ei_candidates": 0}}}, "is 0; it must be at least 1"),
        ({"sampler": {"name": "TPE", "options": {"prior_weight": 0}}}, "is 0; it must be greater than 0"),
        ({"sampler": {"name": "CmaES", "options": {"sigma0": -0.1}}}, "is -0.1; it must be greater than 0"),
        (
            {
                "sampler": {
                    "name": "PartialFixed",
                    "options": {"base_sampler": {"name": "TPE", "options": {"n_startup_trials": -1}}},
                }
            },
            "spec.sampler.options.base_sampler: option 'n_startup_trials' of sampler TPE is -1",
        ),
    ],
)
def test_an_option_below_its_bound_is_refused(spec, words):
    with pytest.raises(Refused) as refused:
        mistakes(study(parameters=[X, {**X, "name": "y"}], **spec))
    assert refused.value.reason == "InvalidSamplerOptions"
    assert words in refused.value.message


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"restart_strategy": "ipop"}, "spec.sampler: option 'restart_strategy' of sampler CmaES has no effect"),
        ({"inc_popsize": 2}, "spec.sampler: option 'inc_popsize' of sampler CmaES has no effect"),
        ({"restart_strategy": None, "popsize": 8}, None),
    ],
)
def test_an_option_that_optuna_leaves_out_is_told(options, words):
    found = mistakes(study(sampler={"name": "CmaES", "options": options}, parameters=[X, {**X, "name": "y"}]))
    assert len(found) == (words is not None)
    assert words is None or found[0].startswith(words)


def test_a_threshold_may_be_negative():
    assert mistakes(study(pruner={"name": "Threshold", "options": {"lower": -3}})) == []


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        (["adam", "Adam"], 'the choices "adam" and "Adam" of parameter \'p\' differ only by case or blanks'),
        (["adam", "adam "], "differ only by case or blanks"),
        (["1", 1], "the choices \"1\" and 1 of parameter 'p' are the same text"),
        ([True, "true"], "are the same text"),
        ([None, "null"], "are the same text"),
        (["adam", "sgd"], None),
        ([2, 10, True], None),
    ],
)
def test_choices_that_are_nearly_the_same(choices: list[Any], words: str | None):
    found = mistakes(study(parameters=[X, {"name": "p", "categorical": {"choices": choices}}]))
    assert len(found) == (words is not None)
    assert words is None or words in found[0]


def test_trials_that_are_all_the_same():
    fixed = [{"name": "x", "float": {"low": 1, "high": 1}}, {"name": "y", "categorical": {"choices": ["a"]}}]
    (found,) = mistakes(study(parameters=fixed))
    assert found.startswith("every parameter has one value only")
    assert mistakes(study(parameters=fixed, maxTrials=1)) == []
    assert mistakes(study(parameters=[*fixed, {"name": "z", "int": {"low": 1, "high": 2}}])) == []


@pytest.mark.parametrize(
    ("name", "direction", "goal", "words"),
    [
        ("accuracy", "Maximize", 95, "the goal of 'accuracy' is 95.0, and such a value is commonly at most 1"),
        ("val_acc", "Maximize", 1.5, "commonly at most 1"),
        ("test/F1", "Maximize", 120, "commonly at most 100"),
        ("valAccuracy", "Maximize", 99, "commonly at most 1"),
        ("loss", "Minimize", -0.5, "commonly at least 0"),
        ("val/rmse", "Minimize", -1, "commonly at least 0"),
        ("accuracy", "Maximize", 0.95, None),
        ("neg_loss", "Maximize", 5, None),
        ("reward", "Maximize", 500, None),
        ("energy", "Minimize", -500, None),
        ("loss", "Minimize", 0.1, None),
        ("accuracy", "Maximize", None, None),
    ],
)
def test_a_goal_that_is_hardly_reached(name, direction, goal, words):
    objective = {"name": name, "direction": direction} | ({} if goal is None else {"goal": goal})
    found = mistakes(study(objectives=[objective]))
    assert len(found) == (words is not None)
    assert words is None or words in found[0]

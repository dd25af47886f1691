"""Pruners by name: every one and every option of it."""

from __future__ import annotations

from typing import Any

import pytest
from building import study
from optuna.pruners import HyperbandPruner, MedianPruner, SuccessiveHalvingPruner

from study_operator.model.options import valid_options
from study_operator.model.pruners import build_pruner
from study_operator.model.study import Refused

CLASSES = {"Median": MedianPruner, "SuccessiveHalving": SuccessiveHalvingPruner, "Hyperband": HyperbandPruner}

# Values for every option, and what they need beside them. An option that a new version of Optuna adds makes the first
# test fail: look at it, then add it here.
OPTIONS: dict[str, dict[str, list[dict[str, Any]]]] = {
    "Median": {
        "n_startup_trials": [{"n_startup_trials": 0}],
        "n_warmup_steps": [{"n_warmup_steps": 3}],
        "interval_steps": [{"interval_steps": 2}],
        "n_min_trials": [{"n_min_trials": 3}],
    },
    "SuccessiveHalving": {
        "min_resource": [{"min_resource": 3}, {"min_resource": "auto"}],
        "reduction_factor": [{"reduction_factor": 2}],
        "min_early_stopping_rate": [{"min_early_stopping_rate": 1}],
        "bootstrap_count": [{"bootstrap_count": 2, "min_resource": 1}],
    },
    "Hyperband": {
        "min_resource": [{"min_resource": 2}],
        "max_resource": [{"max_resource": 81}, {"max_resource": "auto"}],
        "reduction_factor": [{"reduction_factor": 4}],
        "bootstrap_count": [{"bootstrap_count": 2, "max_resource": 81}],
    },
}


def build(name: str, **options: Any) -> Any:
    return build_pruner(study(pruner={"name": name, **({"options": options} if options else {})}))


def refusal(name: str, **options: Any) -> tuple[str, str]:
    with pytest.raises(Refused) as refused:
        build(name, **options)
    return refused.value.reason, refused.value.message


@pytest.mark.parametrize("name", CLASSES)
def test_every_option_is_known_to_these_tests(name):
    assert set(OPTIONS[name]) == set(valid_options(CLASSES[name]))


def test_a_study_may_have_no_pruner():
    assert build_pruner(study()) is None


@pytest.mark.parametrize("name", CLASSES)
def test_every_pruner_can_be_built_without_options(name):
    assert type(build(name)) is CLASSES[name]


@pytest.mark.parametrize(
    ("name", "options"), [(name, o) for name, known in OPTIONS.items() for values in known.values() for o in values]
)
def test_every_option_of_every_pruner_can_be_given(name, options):
    pruner = build(name, **options)
    for option, value in options.items():
        assert getattr(pruner, f"_{option}") == (None if name == "SuccessiveHalving" and value == "auto" else value)


def test_an_unknown_pruner_is_told_which_there_are():
    reason, message = refusal("ASHA")
    assert reason == "UnknownPruner"
    assert message == (
        "there is no pruner 'ASHA'; write one of Median, Percentile, SuccessiveHalving, Hyperband, Threshold, Patient, "
        "Wilcoxon"
    )


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "Median",
            {"percentile": 25.0},
            "pruner Median has no option 'percentile'; its options are interval_steps, n_min_trials, "
            "n_startup_trials, n_warmup_steps",
        ),
        (
            "SuccessiveHalving",
            {"eta": 3},
            "pruner SuccessiveHalving has no option 'eta'; its options are bootstrap_count, min_early_stopping_rate, "
            "min_resource, reduction_factor",
        ),
        (
            "SuccessiveHalving",
            {"min_resource": 1.5},
            "option 'min_resource' of pruner SuccessiveHalving is 1.5; it must be text or a whole number",
        ),
        (
            "Median",
            {"n_startup_trials": "5"},
            "option 'n_startup_trials' of pruner Median is '5'; it must be a whole number",
        ),
    ],
)
def test_a_bad_option_is_explained(name, options, message):
    assert refusal(name, **options) == ("InvalidPrunerOptions", f"spec.pruner: {message}")


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("SuccessiveHalving", {"min_resource": "lots"}, "'auto'"),
        ("SuccessiveHalving", {"min_resource": 0}, "min_resource >= 1"),
        ("SuccessiveHalving", {"reduction_factor": 1}, "reduction_factor >= 2"),
        ("SuccessiveHalving", {"bootstrap_count": 1}, "mutually incompatible"),
        ("Hyperband", {"max_resource": "lots"}, "integer or 'auto'"),
        ("Hyperband", {"max_resource": 0}, "max_resource"),
        ("Hyperband", {"max_resource": 9, "min_resource": 10}, "max_resource"),
        ("Hyperband", {"min_resource": 0, "max_resource": 9}, "min_resource"),
        ("Hyperband", {"reduction_factor": 1, "max_resource": 9}, "reduction_factor"),
        ("Hyperband", {"reduction_factor": 1}, "reduction_factor"),
        ("Hyperband", {"min_resource": 0}, "min_resource"),
        ("Median", {"n_warmup_steps": -1}, "negative"),
        ("Median", {"interval_steps": 0}, "at least 1"),
    ],
)
def test_what_optuna_refuses_is_said_in_its_words(name, options, words):
    reason, message = refusal(name, **options)
    assert reason == "InvalidPrunerOptions"
    assert message.startswith("spec.pruner: ")
    assert words in message

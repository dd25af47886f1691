"""Pruners by name: every one and every option of it."""

from __future__ import annotations

from typing import Any

import pytest
from building import study
from crd_schema import spec_schema
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    PatientPruner,
    PercentilePruner,
    SuccessiveHalvingPruner,
    ThresholdPruner,
    WilcoxonPruner,
)

from study_operator.model.pruners import compares
from study_operator.model.study import Refused
from study_operator.optimizer.option_checks import valid_options
from study_operator.optimizer.pruners import build_pruner

CLASSES: dict[str, type[BasePruner]] = {
    "Median": MedianPruner,
    "Percentile": PercentilePruner,
    "SuccessiveHalving": SuccessiveHalvingPruner,
    "Hyperband": HyperbandPruner,
    "Threshold": ThresholdPruner,
    "Patient": PatientPruner,
    "Wilcoxon": WilcoxonPruner,
}
NEEDED: dict[str, dict[str, Any]] = {
    "Percentile": {"percentile": 25.0},
    "Threshold": {"upper": 1},
    "Patient": {"patience": 1},
}

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
    "Percentile": {
        "percentile": [{"percentile": 50}],
        "n_startup_trials": [{"n_startup_trials": 0}],
        "n_warmup_steps": [{"n_warmup_steps": 3}],
        "interval_steps": [{"interval_steps": 2}],
        "n_min_trials": [{"n_min_trials": 3}],
    },
    "Threshold": {
        "lower": [{"lower": 0.5}],
        "upper": [{"upper": 2}],
        "n_warmup_steps": [{"n_warmup_steps": 3}],
        "interval_steps": [{"interval_steps": 2}],
    },
    "Patient": {
        "patience": [{"patience": 0}],
        "min_delta": [{"min_delta": 0.5}],
    },
    "Wilcoxon": {
        "p_threshold": [{"p_threshold": 0.2}],
        "n_startup_steps": [{"n_startup_steps": 4}],
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
def test_every_pruner_can_be_built_with_what_it_needs(name):
    assert type(build(name, **NEEDED.get(name, {}))) is CLASSES[name]


def test_every_pruner_that_the_schema_names_is_known():
    assert set(spec_schema()["properties"]["pruner"]["properties"]["name"]["enum"]) == set(CLASSES)


@pytest.mark.parametrize(
    ("name", "options"), [(name, o) for name, known in OPTIONS.items() for values in known.values() for o in values]
)
def test_every_option_of_every_pruner_can_be_given(name, options):
    pruner = build(name, **{**NEEDED.get(name, {}), **options})
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
        ("Percentile", {}, "pruner Percentile needs the option 'percentile', a number"),
        ("Patient", {"min_delta": 1}, "pruner Patient needs the option 'patience', a whole number"),
        (
            "Patient",
            {"patience": 1, "pruner": {}},
            "pruner Patient has no option 'pruner'; its options are min_delta, patience, wrapped_pruner",
        ),
        (
            "Patient",
            {"patience": 1, "wrapped_pruner": "Median"},
            "option 'wrapped_pruner' of pruner Patient is 'Median'; it must be {name: ..., options: ...}, of which "
            "name is required",
        ),
        (
            "Median",
            {"n_startup_trials": "5"},
            "option 'n_startup_trials' of pruner Median is '5'; it must be a whole number: remove the quotes",
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
        ("Percentile", {"percentile": 101}, "between 0 and 100"),
        ("Threshold", {}, "Either lower or upper must be specified"),
        ("Threshold", {"lower": 1, "upper": 0}, "lower should be smaller than upper"),
        ("Patient", {"patience": -1}, "patience cannot be negative"),
        ("Wilcoxon", {"p_threshold": 2}, "p_threshold must be between 0 and 1"),
        ("Median", {"interval_steps": 0}, "at least 1"),
    ],
)
def test_what_optuna_refuses_is_said_in_its_words(name, options, words):
    reason, message = refusal(name, **options)
    assert reason == "InvalidPrunerOptions"
    assert message.startswith("spec.pruner: ")
    assert words in message


def test_a_pruner_may_act_with_patience():
    wrapped = {"name": "Percentile", "options": {"percentile": 25.0}}
    pruner = build("Patient", patience=3, wrapped_pruner=wrapped)
    assert isinstance(pruner._wrapped_pruner, PercentilePruner)
    assert pruner._wrapped_pruner._percentile == 25.0
    assert build("Patient", patience=3)._wrapped_pruner is None
    assert build("Patient", patience=3, wrapped_pruner=None)._wrapped_pruner is None


@pytest.mark.parametrize(
    ("wrapped", "reason", "message"),
    [
        ({"name": "ASHA"}, "UnknownPruner", "there is no pruner 'ASHA'; write one of Median, Percentile"),
        (
            {"name": "Median", "options": {"patience": 3}},
            "InvalidPrunerOptions",
            "spec.pruner.options.wrapped_pruner: pruner Median has no option 'patience'",
        ),
    ],
)
def test_what_cannot_be_wrapped_is_explained(wrapped, reason, message):
    found, words = refusal("Patient", patience=3, wrapped_pruner=wrapped)
    assert found == reason
    assert words.startswith(message)


@pytest.mark.parametrize(
    ("name", "options", "compared"),
    [
        ("Median", {}, True),
        ("Percentile", {"percentile": 25.0}, True),
        ("Wilcoxon", {}, True),
        ("SuccessiveHalving", {}, False),
        ("Hyperband", {}, False),
        ("Threshold", {"upper": 1}, False),
        ("Patient", {"patience": 1}, False),
        ("Patient", {"patience": 1, "wrapped_pruner": {"name": "Median"}}, True),
        ("Patient", {"patience": 1, "wrapped_pruner": {"name": "SuccessiveHalving"}}, False),
    ],
)
def test_what_a_pruner_decides_rests_on_other_trials_as_they_are_now(name, options, compared):
    assert compares(study(pruner={"name": name, "options": options})) is compared
    assert not compares(study())

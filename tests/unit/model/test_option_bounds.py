"""Upper bounds of options, without Optuna."""

from __future__ import annotations

from typing import Any

import pytest
from building import study

from study_operator.model import option_bounds
from study_operator.model.study import Refused

BEYOND = [
    ({"sampler": {"name": "TPE", "options": {"n_ei_candidates": 10_001}}}, "'n_ei_candidates' of sampler TPE is 10001"),
    ({"sampler": {"name": "CmaES", "options": {"popsize": 300_000_000}}}, "'popsize' of sampler CmaES is 300000000"),
    ({"sampler": {"name": "NSGAII", "options": {"population_size": 10_001}}}, "it may be at most 10,000"),
    ({"sampler": {"name": "TPE", "options": {"n_startup_trials": 10**18}}}, "it may be at most 1,000,000"),
    (
        {
            "sampler": {
                "name": "PartialFixed",
                "options": {"base_sampler": {"name": "TPE", "options": {"n_ei_candidates": 10**9}}},
            }
        },
        "spec.sampler.options.base_sampler: option 'n_ei_candidates' of sampler TPE",
    ),
    ({"pruner": {"name": "Median", "options": {"n_warmup_steps": 2**31}}}, "it may be at most 2,147,483,647"),
    (
        {"pruner": {"name": "SuccessiveHalving", "options": {"min_early_stopping_rate": 1_000_000}}},
        "'min_early_stopping_rate' of pruner SuccessiveHalving is 1000000; it may be at most 100",
    ),
    (
        {
            "pruner": {
                "name": "Patient",
                "options": {
                    "patience": 1,
                    "wrapped_pruner": {"name": "Hyperband", "options": {"reduction_factor": 10**9}},
                },
            }
        },
        "spec.pruner.options.wrapped_pruner: option 'reduction_factor' of pruner Hyperband",
    ),
    (
        {
            "convergence": {
                "evaluator": "BestValueStagnation",
                "minTrials": 1,
                "options": {"max_stagnation_trials": 10**9},
            }
        },
        "'max_stagnation_trials' of evaluator BestValueStagnation",
    ),
]


@pytest.mark.parametrize(("spec", "words"), BEYOND)
def test_what_is_beyond_a_bound_is_refused_by_name(spec: dict[str, Any], words: str):
    with pytest.raises(Refused, match=words.replace(".", r"\.")) as caught:
        option_bounds.check(study(**spec))
    assert caught.value.reason.startswith("Invalid")
    assert caught.value.reason.endswith("Options")


@pytest.mark.parametrize(
    ("dividing", "objectives", "fits"), [(82, 4, True), (83, 4, False), (99_999, 2, True), (10**5, 1, True)]
)
def test_reference_points_are_counted(dividing: int, objectives: int, fits: bool):
    names = [{"name": f"o{number}", "direction": "Minimize"} for number in range(objectives)]
    asked = study(objectives=names, sampler={"name": "NSGAIII", "options": {"dividing_parameter": dividing}})
    if fits:
        option_bounds.check(asked)
    else:
        with pytest.raises(Refused, match="reference points of 4 objectives; there may be at most 100,000"):
            option_bounds.check(asked)


@pytest.mark.parametrize(
    "options",
    [
        {"n_ei_candidates": "many"},
        {"n_ei_candidates": [1]},
        {"prior_weight": 1e300},
        {"unknown": None},
        {"group": True},
    ],
)
def test_what_is_no_whole_number_is_told_elsewhere(options: dict[str, Any]):
    option_bounds.check(study(sampler={"name": "TPE", "options": options}))


@pytest.mark.parametrize("base", [None, [], {}, {"name": 1}, {"name": "TPE", "options": []}])
def test_what_is_no_sampler_is_told_elsewhere(base: Any):
    option_bounds.check(study(sampler={"name": "PartialFixed", "options": {"base_sampler": base}}))
    option_bounds.check(study(pruner={"name": "Patient", "options": {"wrapped_pruner": base}}))

"""Samplers by name: every one, every option of it, and the seeds they get."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import optuna
import pytest
from building import study
from crd_schema import spec_schema
from optuna.samplers import (
    BaseSampler,
    BruteForceSampler,
    CmaEsSampler,
    GPSampler,
    GridSampler,
    NSGAIIISampler,
    NSGAIISampler,
    PartialFixedSampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)

from study_operator.model.samplers import is_finite
from study_operator.model.study import Refused, Study
from study_operator.optimizer.distributions import optuna_distributions
from study_operator.optimizer.option_checks import valid_options
from study_operator.optimizer.samplers import NAMES, build_sampler

FINITE = [{"name": "n", "int": {"low": 1, "high": 4}}, {"name": "x", "float": {"low": 0, "high": 1, "step": 0.1}}]
TORCH = importlib.util.find_spec("torch") is not None
CLASSES: dict[str, type[BaseSampler]] = {
    "TPE": TPESampler,
    "Random": RandomSampler,
    "Grid": GridSampler,
    "BruteForce": BruteForceSampler,
    "QMC": QMCSampler,
    "CmaES": CmaEsSampler,
    "NSGAII": NSGAIISampler,
    "NSGAIII": NSGAIIISampler,
}

# A value other than the default for every option, and what it needs beside it. An option that a new version of Optuna
# adds makes the first test fail: look at it, then add it here.
OPTIONS: dict[str, dict[str, list[dict[str, Any]]]] = {
    "TPE": {
        "consider_prior": [{"consider_prior": True}],
        "prior_weight": [{"prior_weight": 0.5}, {"prior_weight": 2}],
        "consider_magic_clip": [{"consider_magic_clip": False}],
        "consider_endpoints": [{"consider_endpoints": True}],
        "n_startup_trials": [{"n_startup_trials": 3}],
        "n_ei_candidates": [{"n_ei_candidates": 48}],
        "multivariate": [{"multivariate": False}],
        "group": [{"group": True}],
        "warn_independent_sampling": [{"warn_independent_sampling": False}],
        "constant_liar": [{"constant_liar": False}],
    },
    "Random": {},
    "Grid": {},
    "BruteForce": {"avoid_premature_stop": [{"avoid_premature_stop": True}]},
    "NSGAII": {
        "population_size": [{"population_size": 4}],
        "mutation_prob": [{"mutation_prob": 0.5}, {"mutation_prob": None}],
        "crossover_prob": [{"crossover_prob": 0.5}],
        "swapping_prob": [{"swapping_prob": 0.1}],
    },
    "NSGAIII": {
        "population_size": [{"population_size": 4}],
        "mutation_prob": [{"mutation_prob": 0.5}],
        "crossover_prob": [{"crossover_prob": 0.5}],
        "swapping_prob": [{"swapping_prob": 0.1}],
        "dividing_parameter": [{"dividing_parameter": 4}],
    },
    "QMC": {
        "qmc_type": [{"qmc_type": "halton"}, {"qmc_type": "sobol"}],
        "scramble": [{"scramble": True}],
        "warn_asynchronous_seeding": [{"warn_asynchronous_seeding": False}],
        "warn_independent_sampling": [{"warn_independent_sampling": False}],
    },
    "CmaES": {
        "sigma0": [{"sigma0": 0.3}],
        "n_startup_trials": [{"n_startup_trials": 2}],
        "warn_independent_sampling": [{"warn_independent_sampling": False}],
        "consider_pruned_trials": [{"consider_pruned_trials": True}],
        "restart_strategy": [],
        "popsize": [{"popsize": 8}],
        "inc_popsize": [],
        "use_separable_cma": [{"use_separable_cma": True}],
        "with_margin": [{"with_margin": True}],
        "lr_adapt": [{"lr_adapt": True}],
    },
}


@pytest.mark.filterwarnings("error::FutureWarning")
def test_what_optuna_says_to_programmers_is_not_said():
    build_sampler(with_sampler("CmaES", {"restart_strategy": "ipop", "sigma0": 0.3}), 0)


def with_sampler(name: str, options: dict[str, Any] | None = None, seed: int | None = None, uid: str = "1b9d") -> Study:
    sampler = {"name": name, **({"options": options} if options else {}), **({} if seed is None else {"seed": seed})}
    return study(uid=uid, sampler=sampler, parameters=FINITE)


def refusal(name: str, options: dict[str, Any]) -> tuple[str, str]:
    with pytest.raises(Refused) as refused:
        build_sampler(with_sampler(name, options), 0)
    return refused.value.reason, refused.value.message


@pytest.mark.parametrize("name", CLASSES)
def test_every_option_is_known_to_these_tests(name):
    assert set(OPTIONS[name]) == set(valid_options(CLASSES[name], ("seed", "search_space", "study")))


@pytest.mark.parametrize("name", CLASSES)
def test_every_sampler_can_be_built_without_options(name):
    assert isinstance(build_sampler(with_sampler(name), 0), CLASSES[name])


@pytest.mark.filterwarnings("ignore:.*has been deprecated:FutureWarning")
@pytest.mark.parametrize(
    ("name", "options"), [(name, o) for name, known in OPTIONS.items() for values in known.values() for o in values]
)
def test_every_option_of_every_sampler_can_be_given(name, options):
    sampler = build_sampler(with_sampler(name, options, seed=1), 0)
    assert isinstance(sampler, CLASSES[name])
    optuna.create_study(sampler=sampler).ask(optuna_distributions(study(parameters=FINITE).space))


def test_tpe_is_multivariate_and_lies_about_running_trials_unless_told_otherwise():
    plain = build_sampler(with_sampler("TPE"), 0)
    assert (plain._multivariate, plain._constant_liar) == (True, True)
    told = build_sampler(with_sampler("TPE", {"multivariate": False, "constant_liar": False}), 0)
    assert (told._multivariate, told._constant_liar) == (False, False)


def test_an_unknown_sampler_is_told_which_there_are():
    reason, message = refusal("Tpe", {})
    assert reason == "UnknownSampler"
    assert message == (
        "there is no sampler 'Tpe'; write one of TPE, Random, Grid, BruteForce, QMC, CmaES, GP, NSGAII, NSGAIII, "
        "PartialFixed"
    )


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "TPE",
            {"n_startup": 3},
            "spec.sampler: sampler TPE has no option 'n_startup'; its options are consider_endpoints, "
            "consider_magic_clip, consider_prior, constant_liar, group, multivariate, n_ei_candidates, "
            "n_startup_trials, prior_weight, warn_independent_sampling",
        ),
        ("TPE", {"seed": 3}, "spec.sampler: sampler TPE has no option 'seed'"),
        ("TPE", {"gamma": 3}, "spec.sampler: sampler TPE has no option 'gamma'"),  # a function
        (
            "Random",
            {"seed": 3},
            "spec.sampler: sampler Random has no option 'seed': write seed beside name and options",
        ),
        ("Grid", {"search_space": {"n": [1]}}, "spec.sampler: sampler Grid has no option 'search_space'"),
        ("QMC", {"qmc_type": 3}, "spec.sampler: option 'qmc_type' of sampler QMC is 3; it must be text"),
        ("QMC", {"qmc_type": "lattice"}, "Choose either `halton` or `sobol`"),
        ("QMC", {"independent_sampler": "TPE"}, "spec.sampler: sampler QMC has no option 'independent_sampler'"),
        ("TPE", {"n_startup_trials": 1.5}, "spec.sampler: option 'n_startup_trials' of sampler TPE is 1.5; it must be"),
        ("TPE", {"multivariate": "yes"}, "option 'multivariate' of sampler TPE is 'yes'; it must be true or false"),
        ("TPE", {"group": True, "multivariate": False}, "spec.sampler: "),  # Optuna's own words
        ("BruteForce", {"search_space": {"n": [1]}}, "its options are avoid_premature_stop"),
        ("NSGAII", {"population_size": 1}, "`population_size` must be greater than or equal to 2"),
        ("NSGAII", {"crossover": "UniformCrossover"}, "sampler NSGAII has no option 'crossover'"),
        ("NSGAIII", {"mutation_prob": 1.5}, "`mutation_prob` must be None or a float value within the range"),
        ("CmaES", {"x0": {"n": 1}}, "spec.sampler: sampler CmaES has no option 'x0'"),
        ("CmaES", {"lr_adapt": True, "use_separable_cma": True}, "spec.sampler: "),
    ],
)
def test_a_bad_option_is_explained(name, options, message):
    reason, found = refusal(name, options)
    assert reason == "InvalidSamplerOptions"
    assert message in found
    assert len(found) > len("spec.sampler: ")


@pytest.mark.parametrize("name", ["Grid", "BruteForce"])
def test_a_grid_without_end_is_refused(name):
    continuous = study(sampler={"name": name}, parameters=[{"name": "x", "float": {"low": 0, "high": 1}}])
    with pytest.raises(Refused) as refused:
        build_sampler(continuous, 0)
    assert refused.value.reason == "InvalidSamplerOptions"
    assert refused.value.message.startswith("spec.sampler: parameter 'x' has no end of values; give its float a step")


@pytest.mark.parametrize("name", ["Grid", "BruteForce"])
def test_a_grid_without_measure_is_refused(name):
    huge = [{"name": name, "int": {"low": 0, "high": 9_999}} for name in "ab"]
    with pytest.raises(Refused) as refused:
        build_sampler(study(sampler={"name": name}, parameters=huge), 0)
    assert refused.value.reason == "InvalidSamplerOptions"
    assert "the grid has more than 1,000,000 cells; write larger steps or fewer choices" in refused.value.message


def test_the_samplers_of_finite_search_spaces_are_known_by_name():
    assert [name for name in NAMES if is_finite(name)] == ["Grid", "BruteForce"]
    assert not is_finite("Gird")
    assert not is_finite("")


# What each can do

CONDITIONAL = [
    {"name": "kind", "categorical": {"choices": ["a", "b"]}},
    {"name": "n", "int": {"low": 1, "high": 4}, "when": {"parameter": "kind", "in": ["a"]}},
]
TWO = [{"name": "loss", "direction": "Minimize"}, {"name": "size", "direction": "Minimize"}]


def named_in_the_schema() -> list[str]:
    return spec_schema()["properties"]["sampler"]["properties"]["name"]["enum"]


def of_name(name: str, **spec: Any) -> Study:
    options = {"options": {"fixed_params": {"n": 1}}} if name == "PartialFixed" else {}
    return study(**{"parameters": FINITE, "sampler": {"name": name, **options}, **spec})


def test_every_sampler_that_the_schema_names_is_known():
    assert set(named_in_the_schema()) == set(NAMES)


@pytest.mark.parametrize("name", named_in_the_schema())
def test_every_sampler_that_the_schema_names_can_be_built(name):
    if name == "GP" and not TORCH:
        with pytest.raises(Refused) as refused:
            build_sampler(of_name(name), 0)
        assert refused.value.reason == "SamplerNotInstalled"
        assert refused.value.message == (
            "spec.sampler: the sampler GP needs PyTorch, which this operator's image does not have: ask whoever runs "
            "the operator to install its chart with operator.image.variant: gp, or choose another sampler"
        )
    else:
        assert isinstance(build_sampler(of_name(name), 0), BaseSampler)


@pytest.mark.skipif(not TORCH, reason="PyTorch is not installed")
@pytest.mark.parametrize("options", [{}, {"n_startup_trials": 3}, {"deterministic_objective": True}])
def test_gp_and_its_options(options):
    assert isinstance(build_sampler(with_sampler("GP", options), 0), GPSampler)


@pytest.mark.parametrize("name", ["QMC", "CmaES", "GP"])
def test_a_sampler_that_cannot_do_with_conditions_names_those_that_can(name):
    with pytest.raises(Refused) as refused:
        build_sampler(study(sampler={"name": name}, parameters=CONDITIONAL), 0)
    assert refused.value.reason == "UnsuitableSampler"
    assert refused.value.message == (
        f"spec.sampler: {name} cannot handle parameters with when; choose TPE, Random, Grid, BruteForce, NSGAII or "
        "NSGAIII, or remove when"
    )


@pytest.mark.parametrize("name", ["TPE", "Random", "Grid", "BruteForce", "NSGAII", "NSGAIII"])
def test_the_others_can(name):
    build_sampler(study(sampler={"name": name}, parameters=CONDITIONAL), 0)


def test_a_sampler_of_one_objective_names_those_of_several():
    with pytest.raises(Refused) as refused:
        build_sampler(of_name("CmaES", objectives=TWO), 0)
    assert refused.value.reason == "UnsuitableSampler"
    assert refused.value.message == (
        "spec.sampler: CmaES works with exactly one objective; choose TPE, Random, Grid, BruteForce, QMC, GP, NSGAII "
        "or NSGAIII, or keep one objective"
    )


def test_cma_es_needs_numbers():
    words = "CmaES needs at least two float or int parameters, and is random without them; choose TPE"
    with pytest.raises(Refused) as refused:
        build_sampler(study(sampler={"name": "CmaES"}, parameters=[*FINITE[:1], CONDITIONAL[0]]), 0)
    assert (refused.value.reason, refused.value.message) == ("UnsuitableSampler", f"spec.sampler: {words}")
    with pytest.raises(Refused) as refused:
        build_sampler(partly_fixed({"n": 3}, base_sampler={"name": "CmaES"}), 0)
    assert refused.value.message == f"spec.sampler.options.base_sampler: {words}"


@pytest.mark.parametrize(
    ("spec", "options", "expected"),
    [
        ({}, {}, (True, False, True)),
        ({"parameters": CONDITIONAL}, {}, (True, True, True)),
        ({"parameters": CONDITIONAL}, {"group": False}, (True, False, True)),
        ({"parameters": CONDITIONAL}, {"multivariate": False}, (False, False, True)),
        ({"objectives": TWO}, {}, (False, False, True)),
        ({"objectives": TWO, "parameters": CONDITIONAL}, {}, (False, False, True)),
        ({"objectives": TWO, "parameters": CONDITIONAL}, {"multivariate": True}, (True, True, True)),
        ({"objectives": TWO}, {"constant_liar": False}, (False, False, False)),
    ],
)
def test_tpe_is_set_for_the_study_that_it_is_for(spec, options, expected):
    tpe = build_sampler(study(sampler={"name": "TPE", "options": options}, **spec), 0)
    assert (tpe._multivariate, tpe._group, tpe._constant_liar) == expected


# Fixed parameters


def partly_fixed(fixed: Any, spec: dict[str, Any] | None = None, seed: int | None = None, **options: Any) -> Study:
    sampler = {"name": "PartialFixed", "options": {"fixed_params": fixed, **options}}
    return study(
        **{"parameters": FINITE, **(spec or {}), "sampler": sampler | ({} if seed is None else {"seed": seed})}
    )


@pytest.mark.parametrize("base", ["TPE", "Random", "QMC", "NSGAII", "NSGAIII"])
def test_some_parameters_are_fixed_and_another_sampler_chooses_the_others(base):
    of = partly_fixed({"n": 3}, base_sampler={"name": base}, seed=1)
    sampler = build_sampler(of, 0)
    assert isinstance(sampler, PartialFixedSampler)
    assert isinstance(sampler._base_sampler, CLASSES[base])
    tuned = optuna.create_study(sampler=sampler)
    for _ in range(12):
        trial = tuned.ask(optuna_distributions(of.space))
        tuned.tell(trial, trial.params["x"])
    assert {trial.params["n"] for trial in tuned.trials} == {3}
    assert len({trial.params["x"] for trial in tuned.trials}) > 3


def test_without_a_base_the_others_are_chosen_by_tpe():
    assert isinstance(build_sampler(partly_fixed({"n": 3}), 0)._base_sampler, TPESampler)


def test_the_base_has_options_and_a_seed_of_its_own():
    base = {"name": "TPE", "options": {"n_startup_trials": 3}, "seed": 5}
    sampler = build_sampler(partly_fixed({"n": 3}, base_sampler=base, seed=1), 0)
    assert sampler._base_sampler._n_startup_trials == 3
    assert suggestions(partly_fixed({"n": 3}, base_sampler=base, seed=1), 0) == suggestions(
        partly_fixed({"n": 3}, base_sampler=base, seed=2), 0
    )
    assert suggestions(partly_fixed({"n": 3}, seed=1), 0) != suggestions(partly_fixed({"n": 3}, seed=2), 0)


@pytest.mark.parametrize(
    ("fixed", "options", "message"),
    [
        (
            None,
            {},
            "spec.sampler: sampler PartialFixed needs the option 'fixed_params': parameters and their values, such",
        ),
        ({}, {}, "spec.sampler: sampler PartialFixed needs the option 'fixed_params'"),
        ([3], {}, "spec.sampler: sampler PartialFixed needs the option 'fixed_params'"),
        ({"lr": 3}, {}, "spec.sampler: fixed_params: there is no parameter 'lr'; there are n, x"),
        ({"n": 5}, {}, "spec.sampler: fixed_params: n is 5; it must be a whole number from 1 to 4"),
        ({"n": 1}, {"base": "TPE"}, "has no option 'base'; its options are base_sampler, fixed_params"),
        (
            {"n": 1},
            {"base_sampler": "TPE"},
            "it must be {name: ..., options: ..., seed: ...}, of which name is required",
        ),
        (
            {"n": 1},
            {"base_sampler": {"name": "TPE", "class": "a:B"}},
            "option 'base_sampler' of sampler PartialFixed has",
        ),
        (
            {"n": 1},
            {"base_sampler": {"name": "Grid"}},
            "spec.sampler: the base_sampler of PartialFixed cannot be Grid; choose TPE, Random, QMC, CmaES, GP, NSGAII "
            "or NSGAIII. In a finite search space fix a parameter by giving it one choice",
        ),
        ({"n": 1}, {"base_sampler": {"name": "PartialFixed"}}, "cannot be PartialFixed; choose TPE"),
        (
            {"n": 1},
            {"base_sampler": {"name": "TPE", "seed": -1}},
            "the seed in 'base_sampler' is -1; it must be a whole",
        ),
        (
            {"n": 1},
            {"base_sampler": {"name": "TPE", "options": {"n_startup": 1}}},
            "spec.sampler.options.base_sampler: sampler TPE has no option 'n_startup'; its options are",
        ),
    ],
)
def test_what_cannot_be_fixed_is_explained(fixed, options, message):
    with pytest.raises(Refused) as refused:
        build_sampler(partly_fixed(fixed, **options), 0)
    assert refused.value.reason == "InvalidSamplerOptions"
    assert message in refused.value.message


@pytest.mark.parametrize(
    ("base", "spec", "message"),
    [
        ("Bayes", {}, "there is no sampler 'Bayes'; write one of TPE, Random"),
        (
            "QMC",
            {"parameters": CONDITIONAL},
            "spec.sampler.options.base_sampler: QMC cannot handle parameters with when",
        ),
        ("CmaES", {"objectives": TWO}, "spec.sampler.options.base_sampler: CmaES works with exactly one objective"),
    ],
)
def test_a_base_that_cannot_do_it_is_explained(base, spec, message):
    fixed = {"kind": "a"} if "parameters" in spec else {"n": 1}
    with pytest.raises(Refused) as refused:
        build_sampler(partly_fixed(fixed, spec, base_sampler={"name": base}), 0)
    assert refused.value.message.startswith(message)


# Plug-ins


def test_a_class_is_used_only_when_it_is_allowed():
    cls = "optuna.samplers:RandomSampler"
    of = study(sampler={"class": cls, "seed": 3}, parameters=FINITE)
    assert isinstance(build_sampler(of, 0, [cls]), RandomSampler)
    for allowed in ((), ["optuna.samplers:TPESampler"]):
        with pytest.raises(Refused) as refused:
            build_sampler(of, 0, allowed)
        assert refused.value.reason == "SamplerNotAllowed"


# Seeds


def suggestions(of: Study, started: int, most: int = 6) -> list[dict[str, Any]]:
    """What a sampler that is built after so many trials suggests, as if there were none."""
    tuned = optuna.create_study(sampler=build_sampler(of, started))
    return [tuned.ask(optuna_distributions(of.space)).params for _ in range(most)]


@pytest.mark.parametrize("name", CLASSES)
def test_the_same_seed_suggests_the_same(name):
    one, other = with_sampler(name, seed=7), with_sampler(name, seed=7, uid="another")
    assert suggestions(one, 0) == suggestions(other, 0)
    assert suggestions(one, 5) == suggestions(other, 5)


@pytest.mark.parametrize("name", ["TPE", "Random", "Grid", "BruteForce", "CmaES", "NSGAII", "NSGAIII"])
def test_another_seed_suggests_something_else(name):
    assert suggestions(with_sampler(name, seed=7), 0) != suggestions(with_sampler(name, seed=8), 0)


@pytest.mark.parametrize("name", ["TPE", "Random", "BruteForce", "CmaES", "NSGAII", "NSGAIII"])
def test_without_a_seed_every_study_suggests_something_else(name):
    assert suggestions(with_sampler(name, uid="one"), 0) != suggestions(with_sampler(name, uid="other"), 0)


@pytest.mark.parametrize(("name", "options"), [("Grid", {}), ("QMC", {"scramble": True})])
@pytest.mark.parametrize("seed", [None, 7])
def test_one_sequence_stays_the_same_after_a_restart_whether_it_has_a_seed_or_not(name, options, seed):
    same = with_sampler(name, options, seed)
    assert suggestions(same, 0) == suggestions(same, 5)


@pytest.mark.parametrize(("name", "options"), [("Grid", {}), ("QMC", {"scramble": True})])
def test_two_studies_without_a_seed_have_sequences_of_their_own(name, options):
    one, other = (with_sampler(name, options, uid=uid) for uid in ("one", "other"))
    assert suggestions(one, 0) != suggestions(other, 0)


@pytest.mark.parametrize("name", CLASSES)
def test_the_largest_seed_is_one_that_numpy_takes(name):
    np.random.RandomState(2**32 - 1)
    suggestions(with_sampler(name, seed=2**32 - 1), 0, 2)

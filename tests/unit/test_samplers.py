"""Samplers by name: every one, every option of it, and the seeds they get."""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna
import pytest
from building import study
from optuna.samplers import CmaEsSampler, GridSampler, QMCSampler, RandomSampler, TPESampler

from study_operator.model.options import valid_options
from study_operator.model.samplers import build_sampler
from study_operator.model.study import Refused, Study

FINITE = [{"name": "n", "int": {"low": 1, "high": 4}}, {"name": "x", "float": {"low": 0, "high": 1, "step": 0.1}}]
CLASSES = {"TPE": TPESampler, "Random": RandomSampler, "Grid": GridSampler, "QMC": QMCSampler, "CmaES": CmaEsSampler}

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
    optuna.create_study(sampler=sampler).ask(study(parameters=FINITE).distributions)


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
        ("Random", {"seed": 3}, "spec.sampler: sampler Random has no option 'seed'; its options are none"),
        ("Grid", {"search_space": {"n": [1]}}, "spec.sampler: sampler Grid has no option 'search_space'"),
        ("QMC", {"qmc_type": 3}, "spec.sampler: option 'qmc_type' of sampler QMC is 3; it must be text"),
        ("QMC", {"qmc_type": "lattice"}, "Choose either `halton` or `sobol`"),
        ("QMC", {"independent_sampler": "TPE"}, "spec.sampler: sampler QMC has no option 'independent_sampler'"),
        ("TPE", {"n_startup_trials": 1.5}, "spec.sampler: option 'n_startup_trials' of sampler TPE is 1.5; it must be"),
        ("TPE", {"multivariate": "yes"}, "option 'multivariate' of sampler TPE is 'yes'; it must be true or false"),
        ("TPE", {"group": True, "multivariate": False}, "spec.sampler: "),  # Optuna's own words
        ("CmaES", {"x0": {"n": 1}}, "spec.sampler: sampler CmaES has no option 'x0'"),
        ("CmaES", {"lr_adapt": True, "use_separable_cma": True}, "spec.sampler: "),
    ],
)
def test_a_bad_option_is_explained(name, options, message):
    reason, found = refusal(name, options)
    assert reason == "InvalidSamplerOptions"
    assert message in found
    assert len(found) > len("spec.sampler: ")


def test_a_grid_without_end_is_refused():
    continuous = study(sampler={"name": "Grid"}, parameters=[{"name": "x", "float": {"low": 0, "high": 1}}])
    with pytest.raises(Refused) as refused:
        build_sampler(continuous, 0)
    assert refused.value.reason == "InvalidSamplerOptions"
    assert refused.value.message.startswith("spec.sampler: parameter 'x' has no end of values; give its float a step")


# Seeds


def suggestions(of: Study, started: int, most: int = 6) -> list[dict[str, Any]]:
    """What a sampler that is built after so many trials suggests, as if there were none."""
    tuned = optuna.create_study(sampler=build_sampler(of, started))
    return [tuned.ask(of.distributions).params for _ in range(most)]


@pytest.mark.parametrize("name", CLASSES)
def test_the_same_seed_suggests_the_same(name):
    one, other = with_sampler(name, seed=7), with_sampler(name, seed=7, uid="another")
    assert suggestions(one, 0) == suggestions(other, 0)
    assert suggestions(one, 5) == suggestions(other, 5)


@pytest.mark.parametrize("name", ["TPE", "Random", "Grid", "CmaES"])
def test_another_seed_suggests_something_else(name):
    assert suggestions(with_sampler(name, seed=7), 0) != suggestions(with_sampler(name, seed=8), 0)


@pytest.mark.parametrize("name", ["TPE", "Random", "CmaES"])
def test_after_a_restart_the_first_suggestions_are_not_repeated(name):
    seeded = with_sampler(name, seed=7)
    beginnings = [repr(suggestions(seeded, started)) for started in range(6)]
    assert len(set(beginnings)) == 6


@pytest.mark.parametrize("name", ["TPE", "Random", "CmaES"])
def test_without_a_seed_every_process_suggests_something_else(name):
    assert suggestions(with_sampler(name), 0) != suggestions(with_sampler(name), 0)


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

"""Suggestions for studies with conditions, several objectives, constraints, wishes and trials of other studies."""

from __future__ import annotations

import random
import warnings
from typing import Any

import optuna
import pytest
from building import study
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution
from optuna.samplers import BaseSampler, NSGAIIISampler, NSGAIISampler, QMCSampler, RandomSampler, TPESampler
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, create_trial
from sampled import (
    COMPLETE,
    FAIL,
    PRUNED,
    Suggestion,
    ask,
    frozen,
    sampling_of,
    tell,
    trial_id,
    waiting_trial,
    with_our_numbers,
)
from spaces import parameter_lists, suggest_all

from study_operator.model.study import Study
from study_operator.model.trial import Report
from study_operator.optimizer.cells import count
from study_operator.optimizer.distributions import optuna_distributions
from study_operator.optimizer.sampling import Sampling

TREE = [
    {"name": "model", "categorical": {"choices": ["linear", "net"]}},
    {"name": "layers", "int": {"low": 1, "high": 3}, "when": {"parameter": "model", "in": ["net"]}},
    {"name": "rate", "float": {"low": 0.0, "high": 0.5}, "when": {"parameter": "layers", "in": [2, 3]}},
    {"name": "scale", "categorical": {"choices": [True, None, 3]}},
]
ABLE = ["TPE", "Random", "NSGAII", "NSGAIII"]
SMALL: dict[str, dict[str, Any]] = {
    "TPE": {"n_startup_trials": 4},
    "NSGAII": {"population_size": 4},
    "NSGAIII": {"population_size": 4},
}
MINIMIZE = {"name": "loss", "direction": "Minimize"}
MAXIMIZE = {"name": "accuracy", "direction": "Maximize"}
X = [{"name": "x", "float": {"low": 0, "high": 1}}]
XY = [*X, {"name": "y", "float": {"low": 0, "high": 1}}]
XYZ = [*XY, {"name": "z", "float": {"low": 0, "high": 1}}]


def with_sampler(name: str, parameters: list[dict[str, Any]], seed: int = 3, **spec: Any) -> Study:
    sampler = {"name": name, "seed": seed, "options": SMALL.get(name, {})}
    return study(**{"sampler": sampler, "parameters": parameters, "objectives": [MINIMIZE], **spec})


def stock(of: Study, sampler: BaseSampler) -> optuna.Study:
    directions = [direction.lower() for direction in of.directions]
    made = optuna.create_study(
        storage=InMemoryStorage(), sampler=sampler, study_name=of.optuna_name, directions=directions
    )
    return with_our_numbers(of, made)


def end(ours: Any, number: int, *values: float, **constraints: float) -> None:
    attrs = {f"constraints:{name}": value for name, value in constraints.items()}
    tell(ours, number, COMPLETE, values, attrs)


# Conditions


def objective(trial: optuna.Trial) -> float:
    """TREE, as a script would write it."""
    cost = 0.0
    if trial.suggest_categorical("model", ["linear", "net"]) == "net":
        layers = trial.suggest_int("layers", 1, 3)
        cost = float(layers)
        if layers >= 2:
            cost += trial.suggest_float("rate", 0, 0.5)
    return cost + (trial.suggest_categorical("scale", [True, None, 3]) is None)


@pytest.mark.filterwarnings("ignore:Argument ``group`` is an experimental")
@pytest.mark.parametrize("parallel", [1, 3])
@pytest.mark.parametrize(
    ("name", "sampler"),
    [
        ("TPE", lambda: TPESampler(seed=3, n_startup_trials=4, multivariate=True, group=True)),
        ("Random", lambda: RandomSampler(seed=3)),
    ],
)
def test_conditional_suggestions_are_those_of_a_script_that_asks_itself(name, sampler, parallel):
    of = with_sampler(name, TREE)
    ours, theirs, running = sampling_of(of), stock(of, sampler()), {}
    chance = random.Random(3)
    for _ in range(20):
        while len(running) < parallel:
            suggestion, trial = ask(ours), theirs.ask()
            running[trial.number] = objective(trial)
            assert (suggestion.number, suggestion.params) == (trial.number, trial.params)
            assert suggestion.distributions == trial.distributions
        number = chance.choice(list(running))
        value = running.pop(number)
        theirs.tell(number, value)
        end(ours, number, value)


@pytest.mark.parametrize("parallel", [1, 4])
@pytest.mark.parametrize("name", [*ABLE, "Grid", "BruteForce", "PartialFixed"])
@settings(max_examples=8, deadline=None)
@given(parameters=parameter_lists(), seed=st.integers(0, 1000))
def test_every_suggestion_has_just_the_parameters_that_are_active(name, parallel, parameters, seed):
    of = with_sampler(name, parameters, seed)
    if name == "PartialFixed":
        fixed = {"fixed_params": {"p0": of.space.choose(_lowest)["p0"]}}
        of = with_sampler(name, parameters, sampler={"name": name, "options": fixed, "seed": seed})
    ours, running = sampling_of(of), []
    for _ in range(30):
        while len(running) < parallel and not ours.exhausted:
            suggestion = ask(ours)
            assert of.space.choose(lambda name, _, params=suggestion.params: params[name]) == suggestion.params
            of.space.check(suggestion.params)
            running.append(suggestion.number)
        if running:
            number = running.pop(0)
            end(ours, number, float(number % 7))


def _lowest(name: str, distribution: Any) -> Any:
    return distribution.choices[0] if hasattr(distribution, "choices") else distribution.low


@pytest.mark.filterwarnings("ignore:.*Sampler is experimental")
@pytest.mark.parametrize("sampler", [NSGAIISampler, NSGAIIISampler])
def test_a_genetic_sampler_passes_on_conditional_parameters(sampler):
    """Optuna's own draws them at random in every generation."""
    parameters = [
        {"name": "kind", "categorical": {"choices": ["a", "b"]}},
        {"name": "x", "float": {"low": 0, "high": 1}, "when": {"parameter": "kind", "in": ["a"]}},
        {"name": "y", "float": {"low": 0, "high": 1}, "when": {"parameter": "kind", "in": ["b"]}},
    ]
    name, options = sampler.__name__.removesuffix("Sampler"), {"population_size": 8, "mutation_prob": 0.1}
    of = with_sampler(name, parameters, sampler={"name": name, "seed": 3, "options": options})
    ours, theirs = sampling_of(of), stock(of, sampler(seed=3, **options))
    errors: tuple[list[float], list[float]] = ([], [])
    for number in range(120):
        params = ask(ours).params
        errors[0].append(abs(params.get("x", params.get("y")) - 0.7))
        end(ours, number, errors[0][-1])
        trial = theirs.ask()
        params = suggest_all(of.space, trial)
        errors[1].append(abs(params.get("x", params.get("y")) - 0.7))
        theirs.tell(trial, errors[1][-1])
    late, at_random = (sum(found[-40:]) / 40 for found in errors)
    assert late < 0.1 < 0.2 < at_random
    # A notebook would find the same generations.
    keys = [{key for trial in of.trials for key in trial.system_attrs} for of in (ours._study, theirs)]
    assert keys[0] == keys[1]


@pytest.mark.parametrize("name", ["Grid", "BruteForce"])
@pytest.mark.parametrize("parallel", [1, 3])
@settings(max_examples=15, deadline=None)
@given(parameters=parameter_lists(4), seed=st.integers(0, 1000))
def test_every_combination_is_tried_once_and_then_the_space_is_exhausted(name, parallel, parameters, seed):
    of = with_sampler(name, parameters, seed)
    ours, seen, running, cells = sampling_of(of), [], [], count(of.space)
    while not ours.exhausted:
        if len(running) == parallel:
            number = running.pop(0)
            tell(ours, number, FAIL if number % 3 else COMPLETE, None if number % 3 else (1.0,))
        seen.append(ask(ours))
        running.append(seen[-1].number)
        assert len(seen) <= cells, "a combination was given out again"
        if len(seen) % 5 == 0:
            ours = sampling_of(of, frozen(ours))
    assert len({repr(sorted(suggestion.params.items())) for suggestion in seen}) == len(seen) == cells
    assert sampling_of(of, frozen(ours)).exhausted


def test_brute_force_takes_what_was_enqueued_for_tried():
    cells = [{"name": "n", "int": {"low": 1, "high": 3}}, {"name": "x", "float": {"low": 0, "high": 0.2, "step": 0.1}}]
    of = with_sampler("BruteForce", cells)
    wishes = [{"n": 2, "x": 0.1}, {"n": 2}, {"x": 0.1 + 1e-10, "n": 1}]  # whole, in part, beside the grid
    ours = sampling_of(of, [waiting_trial(number, of, **wish) for number, wish in enumerate(wishes)])
    seen = []
    while not ours.exhausted:
        seen.append(ask(ours).params)
        assert len(seen) <= 10
    assert seen[0] == wishes[0]
    assert seen[1]["n"] == 2
    assert seen[2] == wishes[2]
    assert len({repr(sorted(params.items())) for params in seen}) == len(seen) == 10


def test_brute_force_overlooks_trials_of_another_space():
    of = with_sampler("BruteForce", [{"name": "n", "int": {"low": 1, "high": 3}}])
    foreign = create_trial(value=1.0, params={"lr": 0.1}, distributions={"lr": FloatDistribution(0, 1)})
    foreign._trial_id = trial_id(0)
    ours = sampling_of(of, [foreign])
    assert sorted(ask(ours).params["n"] for _ in range(3)) == [1, 2, 3]
    assert ours.exhausted


def test_a_grid_lets_the_sampler_choose_what_a_wish_leaves_open():
    of = with_sampler("Grid", TREE[:2])
    ours = sampling_of(of, [waiting_trial(0, of, model="net")])
    suggestion = ask(ours)
    assert suggestion.params["model"] == "net"
    assert suggestion.params["layers"] in (1, 2, 3)
    seen = [ask(ours).params for _ in range(4)]
    assert ours.exhausted
    assert len({repr(params) for params in seen}) == 4


# Several objectives


@pytest.mark.filterwarnings("ignore:.*Sampler is experimental")
@pytest.mark.parametrize("objectives", [[MINIMIZE, MAXIMIZE], [MINIMIZE, MAXIMIZE, {**MINIMIZE, "name": "size"}]])
@pytest.mark.parametrize(
    ("name", "sampler"),
    [
        ("TPE", lambda: TPESampler(seed=3, n_startup_trials=4)),
        ("Random", lambda: RandomSampler(seed=3)),
        ("QMC", lambda: QMCSampler(seed=3)),
        ("NSGAII", lambda: NSGAIISampler(seed=3, population_size=4)),
        ("NSGAIII", lambda: NSGAIIISampler(seed=3, population_size=4)),
    ],
)
def test_suggestions_for_several_objectives_are_those_of_a_stock_study(name, sampler, objectives):
    of = with_sampler(name, XY, objectives=objectives)
    ours, theirs, running = sampling_of(of), stock(of, sampler()), []
    for turn in range(24):
        while len(running) < 2:
            suggestion, trial = ask(ours), theirs.ask(optuna_distributions(of.space))
            assert (suggestion.number, suggestion.params) == (trial.number, trial.params)
            running.append(trial)
        trial = running.pop(turn % 2)
        x, y = trial.params["x"], trial.params["y"]
        values = [x, y, x * y][: len(objectives)]
        if turn % 5 == 4:
            theirs.tell(trial.number, state=FAIL)
            tell(ours, trial.number, FAIL, None)
        else:
            theirs.tell(trial.number, values)
            end(ours, trial.number, *values)
    assert [trial.number for trial in ours._study.best_trials] == [trial.number for trial in theirs.best_trials]


@pytest.mark.parametrize("parameters", [XY, TREE])
@pytest.mark.parametrize("name", ABLE)
def test_a_sampler_copes_with_trials_that_have_no_values(name, parameters):
    for objectives in ([MINIMIZE], [MINIMIZE, MAXIMIZE]):
        of = with_sampler(name, parameters, objectives=objectives, constraints=[{"name": "ms", "max": 1}])
        ours = sampling_of(of)
        for number in range(25):
            ask(ours)
            if number % 3 == 0:
                tell(ours, number, PRUNED, None)
            else:
                end(ours, number, *[float(number)] * len(objectives), ms=float(number % 2))


# What the sampler notes in the study


@pytest.mark.parametrize("warm", [0, 5])
@pytest.mark.parametrize("name", ["NSGAII", "NSGAIII"])
def test_parents_are_noted_as_the_database_knows_them(name, warm):
    of = with_sampler(name, XY, objectives=[MINIMIZE, MAXIMIZE])
    elsewhere = [finished(of, {"x": 0.1, "y": 0.1 * n}, (0.1 * n, 0.5), number=n) for n in range(warm)]
    ours, attrs = sampling_of(of, warm=elsewhere), {}
    for number in range(14):
        attrs |= ask(ours).study_attrs
        end(ours, number, number / 10, number % 3 / 10)
    parents = {place for key, places in attrs.items() for place in places if ":parent:" in key}
    known = {trial_id(number) for number in range(14)}
    assert parents
    assert {place for place in parents if place >= 0} <= known
    assert {place for place in parents if place < 0} <= {-1 - n for n in range(warm)}
    # The same are the parents after a restart.
    again = sampling_of(of, frozen(ours), attrs=attrs, warm=elsewhere)
    assert parents_of(again) == parents_of(ours)


def parents_of(of: Sampling) -> list[list[int]]:
    """The numbers of the parents of each generation, as the sampler finds them."""
    keys = of.memory.get_study_system_attrs(of.memory.study_id)
    generations = [int(key.rsplit(":", 1)[1]) for key in keys if ":parent:" in key]
    assert generations
    return [[t.number for t in of._study.sampler.get_parent_population(of._study, g)] for g in generations]


# Constraints


@pytest.mark.parametrize("name", ["TPE", "NSGAII", "NSGAIII"])
def test_a_sampler_learns_to_keep_a_constraint(name):
    """The objective draws x to 1, and beyond 0.4 it is infeasible."""
    feasible: dict[str, int] = {}
    for constraint in ("kept", "unknown"):
        of = with_sampler(name, XYZ, objectives=[MAXIMIZE], constraints=[{"name": "limit", "max": 0.4}], seed=5)
        ours, xs = sampling_of(of), []
        for number in range(80):
            x = ask(ours).params["x"]
            xs.append(x)
            end(ours, number, x, **({"limit": of.constraints[0].violation(x)} if constraint == "kept" else {}))
        feasible[constraint] = sum(x <= 0.4 for x in xs[-30:])
    assert feasible["kept"] >= 12
    assert feasible["unknown"] <= 6


def test_convergence_is_judged_by_feasible_trials_and_when_one_has_completed():
    spec = {"convergence": {"options": {"max_stagnation_trials": 2}, "minTrials": 3}}
    of = with_sampler("Random", X, constraints=[{"name": "ms", "max": 1}], **spec)
    ours, converged = sampling_of(of), []
    values = [(3.0, 0), (1.0, 5), (2.0, 0), (2.5, 0), (2.5, 1), (1.5, 0), (1.8, 0), (9.0, 0), (9.0, 0)]
    for number, (value, ms) in enumerate(values):
        ask(ours)
        assert ours.converged == (converged[-1] if converged else False)  # nothing is complete that was not before
        end(ours, number, value, ms=float(ms))
        converged.append(ours.converged)
    assert converged == [False] * 8 + [True]
    assert sampling_of(of, frozen(ours)).converged


def test_a_study_without_convergence_never_converges():
    of = with_sampler("Random", X)
    ours = sampling_of(of)
    for number in range(40):
        ask(ours)
        end(ours, number, 1.0)
    assert not ours.converged


# Trials of other studies


def finished(
    of: Study, params: dict[str, Any], values: tuple[float, ...], number: int = 0, **attrs: Any
) -> FrozenTrial:
    """A COMPLETE trial of another study."""
    distributions = {name: known for name, known in optuna_distributions(of.space).items() if name in params}
    trial = create_trial(values=values, params=params, distributions=distributions, system_attrs=attrs)
    trial.number, trial._trial_id = number, 5_000_000 + number
    return trial


def test_warm_trials_are_seen_by_the_sampler_alone():
    of = with_sampler("TPE", X, seed=1)
    elsewhere = [finished(of, {"x": n / 20}, (abs(n / 20 - 0.7),), n) for n in range(20)]

    def distance(*suggestions: Suggestion) -> float:
        return sum(abs(suggestion.params["x"] - 0.7) for suggestion in suggestions)

    cold, warm = sampling_of(of), sampling_of(of, warm=elsewhere)
    assert (warm.memory.size, warm.memory.knows(elsewhere[0]._trial_id)) == (0, False)
    first, second = ask(warm), ask(warm)
    assert [first.number, second.number, warm.memory.size] == [0, 1, 2]
    assert distance(first, second) < 0.2 < distance(ask(cold), ask(cold))
    end(warm, 0, 0.5)
    again = sampling_of(of, frozen(warm), warm=elsewhere)
    third = ask(again)
    assert (third.number, again.memory.size) == (2, 3)
    assert again.memory.knows(trial_id(0))
    assert again.memory.knows(trial_id(2))


@pytest.mark.parametrize("name", ["NSGAII", "NSGAIII"])
def test_warm_trials_are_the_first_generation_of_a_genetic_sampler(name):
    of = with_sampler(name, XY)
    elsewhere = [finished(of, {"x": 0.5, "y": 0.25}, (n / 100,), n) for n in range(4)]
    ours = sampling_of(of, warm=elsewhere)
    found = [ask(ours) for _ in range(8)]
    assert {suggestion.system_attrs[f"{name}Sampler:generation"] for suggestion in found} == {1}
    inherited = [suggestion for suggestion in found if suggestion.params["x"] == 0.5 or suggestion.params["y"] == 0.25]
    assert len(inherited) >= 4


@pytest.mark.parametrize("name", ["TPE", "NSGAII"])
def test_a_sampler_avoids_what_was_infeasible_elsewhere(name):
    of = with_sampler(name, XYZ, objectives=[MAXIMIZE], constraints=[{"name": "limit", "max": 0.4}])
    elsewhere = []
    for n in range(20):
        params = {"x": n / 20, "y": 0.5, "z": 0.5}
        elsewhere.append(finished(of, params, (n / 20,), n, **{"constraints:limit": n / 20 - 0.4}))
    ours = sampling_of(of, warm=elsewhere)
    assert sum(ask(ours).params["x"] <= 0.4 for _ in range(10)) >= 6


def test_brute_force_does_not_repeat_a_warm_trial():
    of = with_sampler("BruteForce", [{"name": "n", "int": {"low": 1, "high": 3}}])
    ours = sampling_of(of, warm=[finished(of, {"n": 2}, (1.0,))])
    assert sorted(ask(ours).params["n"] for _ in range(2)) == [1, 3]
    assert ours.exhausted


@pytest.mark.parametrize("warm", [0, 3])
def test_a_grid_tries_each_cell_whatever_other_studies_have_tried(warm):
    of = with_sampler("Grid", TREE[:2])
    elsewhere = [finished(of, {"model": "net", "layers": n + 1}, (1.0,), n) for n in range(warm)]
    ours = sampling_of(of, warm=elsewhere)
    seen = [ask(ours).params for _ in range(2)]
    ours = sampling_of(of, frozen(ours), warm=elsewhere[1:])  # one of them has been deleted since
    seen += [ask(ours).params for _ in range(2)]
    assert len({repr(params) for params in seen}) == 4
    assert ours.exhausted


@pytest.mark.filterwarnings("ignore:The best trial has no intermediate values")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Median", {"n_startup_trials": 1}),
        ("Percentile", {"percentile": 50.0, "n_startup_trials": 1}),
        ("SuccessiveHalving", {"min_resource": 1, "reduction_factor": 2}),
        ("Hyperband", {"max_resource": 9}),
        ("Threshold", {"upper": 5}),
        ("Patient", {"patience": 0, "wrapped_pruner": {"name": "Median"}}),
        ("Wilcoxon", {}),
    ],
)
def test_a_pruner_compares_trials_of_this_study_alone(name, options):
    """Each of the warm trials is far better than what this study's only one reports."""
    with warnings.catch_warnings(action="ignore"):
        of = with_sampler("Random", X, pruner={"name": name, "options": options})
        elsewhere = [finished(of, {"x": 0.5}, (0.0,), n) for n in range(9)]
        for trial in elsewhere:
            trial.intermediate_values = dict.fromkeys(range(9), 0.0)
        ours = sampling_of(of, warm=elsewhere)
        ask(ours)
        for step in range(9):
            assert not ours.feed(Report(step + 1, trial_id(0), step, 1.0 + step / 9))
        end(ours, 0, 0.0)
        ask(ours)
        for step in range(9):
            ours.feed(Report(step + 100, trial_id(1), step, 3.0))

"""The example plug-in, asked as the operator asks it: hyperopt's own code over a study's history in memory."""

from __future__ import annotations

import math
import statistics
from typing import Any

import optuna
import pytest
from building import study
from hyperopt_sampler import _expression, _from_hyperopt, _to_hyperopt
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from sampled import COMPLETE, FAIL, ask, sampling_with, tell

from study_operator.model.study import Study
from study_operator.optimizer.distributions import optuna_distributions
from study_operator.optimizer.plugins import build

CLASS = "hyperopt_sampler:HyperoptSampler"
SPACE = [
    {"name": "x", "float": {"low": -5, "high": 5}},
    {"name": "lr", "float": {"low": 1e-5, "high": 1, "log": True}},
    {"name": "dropout", "float": {"low": 0, "high": 0.5, "step": 0.1}},
    {"name": "layers", "int": {"low": 1, "high": 9, "step": 2}},
    {"name": "width", "int": {"low": 8, "high": 512, "log": True}},
    {"name": "kind", "categorical": {"choices": ["a", "b", None]}},
    {"name": "one", "int": {"low": 3, "high": 3}},
]


def tuned(
    direction: str = "Minimize", seed: int | None = 1, parameters: list[dict[str, Any]] = SPACE, **options: Any
) -> Study:
    sampler = {"class": CLASS, "options": options, **({} if seed is None else {"seed": seed})}
    return study(sampler=sampler, parameters=parameters, objectives=[{"name": "loss", "direction": direction}])


def loss(params: dict[str, Any]) -> float:
    """Lowest, 0, at x=2, lr=0.01, dropout=0.3, layers=5, width=64, kind=b."""
    assert params["one"] == 3
    return (
        (params["x"] - 2) ** 2
        + (math.log10(params["lr"]) + 2) ** 2
        + 10 * (params["dropout"] - 0.3) ** 2
        + (params["layers"] - 5) ** 2 / 4
        + (math.log2(params["width"]) - 6) ** 2 / 4
        + (params["kind"] != "b")
    )


def run(of: Study, most: int, sign: float = 1.0) -> list[float]:
    """Losses of so many trials, one after the other."""
    sampling = sampling_with(build(of, of.sampler.seed, [CLASS]), of)
    losses = []
    for number in range(most):
        suggestion = ask(sampling)
        losses.append(loss(suggestion.params))
        tell(sampling, number, COMPLETE, [sign * losses[-1]])
    return losses


@pytest.mark.parametrize(("direction", "sign"), [("Minimize", 1.0), ("Maximize", -1.0)])
def test_it_learns(direction, sign):
    runs = [run(tuned(direction, seed), 30, sign) for seed in range(5)]
    # Sums of six terms, of which 10 random trials have one right by luck: what is learnt shows in the mean of many.
    start = statistics.mean(loss for losses in runs for loss in losses[:10])
    learnt = statistics.mean(loss for losses in runs for loss in losses[15:])
    assert learnt < 0.7 * start
    assert sum(min(losses[10:]) < min(losses[:10]) for losses in runs) >= 4


def test_the_same_seed_suggests_the_same():
    assert run(tuned(seed=5), 14) == run(tuned(seed=5), 14) != run(tuned(seed=6), 14)


def test_it_knows_after_a_restart_what_it_knew_before():
    of = tuned(n_startup_trials=5)
    before = optuna.create_study(sampler=build(of, 1, [CLASS]))
    for _ in range(20):
        trial = before.ask(optuna_distributions(of.space))
        before.tell(trial, loss(trial.params))
    after = optuna.create_study(sampler=build(of, 2, [CLASS]))
    after.add_trials(before.trials)
    losses = [loss(after.ask(optuna_distributions(of.space)).params) for _ in range(10)]
    assert statistics.mean(losses) < statistics.mean(t.value for t in before.trials[:5]) / 2


def test_trials_that_run_at_the_same_time_differ():
    of = tuned(n_startup_trials=3)
    sampling = sampling_with(build(of, 1, [CLASS]), of)
    asked = []
    for number in range(24):
        suggestion = ask(sampling)
        asked.append(tuple(suggestion.params.values()))
        if number < 8:
            tell(sampling, number, COMPLETE if number % 2 else FAIL, [loss(suggestion.params)] if number % 2 else None)
    assert len(set(asked)) == 24


def test_a_parameter_that_some_trials_lack_is_drawn_at_random():
    parameters = [
        {"name": "one", "int": {"low": 3, "high": 3}},
        {"name": "optimizer", "categorical": {"choices": ["adam", "sgd"]}},
        {"name": "momentum", "float": {"low": 0, "high": 1}, "when": {"parameter": "optimizer", "in": ["sgd"]}},
    ]
    of = tuned(parameters=parameters, n_startup_trials=3)
    sampling = sampling_with(build(of, 1, [CLASS]), of)
    suggested = []
    for number in range(20):
        suggestion = ask(sampling)
        suggested.append(suggestion.params)
        tell(sampling, number, COMPLETE, [suggestion.params.get("momentum", 2.0)])
    assert all(("momentum" in params) == (params["optimizer"] == "sgd") for params in suggested)
    assert sum(params["optimizer"] == "sgd" for params in suggested[10:]) > 5


def test_several_objectives_are_refused_in_words():
    objectives = [{"name": "loss", "direction": "Minimize"}, {"name": "latency", "direction": "Minimize"}]
    of = study(sampler={"class": CLASS}, parameters=SPACE, objectives=objectives)
    sampling = sampling_with(build(of, 1, [CLASS]), of)
    with pytest.raises(ValueError, match=r"^hyperopt optimises one objective; "):
        ask(sampling)


FLOATS = st.tuples(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6)).map(lambda ends: FloatDistribution(ends[0], sum(ends)))
STEPS = st.tuples(st.floats(-100, 100), st.floats(1e-3, 10), st.integers(1, 50)).map(
    lambda given: FloatDistribution(given[0], given[0] + given[1] * given[2], step=given[1])
)
LOGS = st.tuples(st.floats(1e-8, 1), st.floats(1.1, 1e8)).map(
    lambda ends: FloatDistribution(ends[0], ends[0] * ends[1], log=True)
)
INTS = st.tuples(st.integers(-1000, 1000), st.integers(1, 1000), st.integers(1, 7)).map(
    lambda given: IntDistribution(given[0], given[0] + given[1] * given[2], step=given[2])
)
INT_LOGS = st.tuples(st.integers(1, 100), st.integers(1, 10000)).map(
    lambda ends: IntDistribution(ends[0], sum(ends), log=True)
)
# False and 0 are equal, so that Optuna takes one for the other; no Study has both.
CHOICES = st.lists(st.one_of(st.none(), st.booleans(), st.integers(), st.text()), min_size=2, unique=True).map(
    CategoricalDistribution
)


@pytest.mark.filterwarnings("ignore:The distribution is specified by")
@given(st.one_of(FLOATS, STEPS, LOGS, INTS, INT_LOGS, CHOICES), st.integers(0, 2**31))
def test_what_hyperopt_draws_is_a_value_of_the_distribution_and_comes_back(of: BaseDistribution, seed: int):
    from hyperopt.pyll import stochastic
    from numpy.random import default_rng

    drawn = stochastic.sample(_expression("p", of), default_rng(seed))
    value = _from_hyperopt(of, drawn)
    assert of._contains(of.to_internal_repr(value))
    again = _from_hyperopt(of, _to_hyperopt(of, value))
    assert again == value
    assert type(again) is type(value)

"""Which finished trials of earlier studies are taken."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from building import study

from study_operator.model import warm_start
from study_operator.model.study import Study
from study_operator.model.trial import TrialState
from study_operator.model.warm_start import EarlierTrial, Source, take
from study_operator.optimizer.distributions import optuna_distributions
from study_operator.optimizer.frozen_trials import frozen

COMPLETE, PRUNED, FAIL = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL
PARAMETERS = [
    {"name": "lr", "float": {"low": 0.1, "high": 1, "step": 0.1}},
    {"name": "layers", "int": {"low": 1, "high": 4}},
    {"name": "optimizer", "categorical": {"choices": ["adam", "sgd", 1]}},
    {"name": "momentum", "float": {"low": 0, "high": 1}, "when": {"parameter": "optimizer", "in": ["sgd"]}},
]
GOOD = {"lr": 0.3, "layers": 2, "optimizer": "adam"}
LOSS = {"name": "loss", "direction": "Minimize"}
ACCURACY = {"name": "accuracy", "direction": "Maximize"}


def new(**spec: Any) -> Study:
    return study(**{"parameters": PARAMETERS, **spec})


def trial(number: int = 0, params: dict[str, Any] = GOOD, state: TrialState = COMPLETE, **fields: Any) -> EarlierTrial:
    """A trial as another study has it."""
    given: dict[str, Any] = {"values": [0.5] if state is COMPLETE else None, **fields}
    return EarlierTrial(1000 + number, number, state, None, None, params=params, **given)


def source(*trials: EarlierTrial, failed: int = 0, **fields: Any) -> Source:
    ended = Counter(t.state for t in trials) + Counter({FAIL: failed})
    given = {"directions": ["MAXIMIZE"], "metric_names": ["accuracy"], "ended": ended, **fields}
    return Source("team-a/old-12345678", trials=trials, **given)


def test_a_trial_that_fits_is_taken_as_if_it_were_the_studys_own():
    here = new()
    (taken,), came = take(here, source(trial(7)))
    assert (taken.number, taken.trial_id, taken.state, taken.values) == (7, 1007, COMPLETE, [0.5])
    (own,) = frozen([taken])
    assert own.params == GOOD
    assert own.distributions == {name: kind for name, kind in optuna_distributions(here.space).items() if name in GOOD}
    assert (taken.system_attrs, taken.user_attrs) == ({}, {})
    assert (came.study, came.taken, came.left, came.message) == ("team-a/old-12345678", 1, 0, "")


def test_conditional_parameters_are_taken_where_they_are_active():
    there = source(
        trial(0, {**GOOD, "optimizer": "sgd", "momentum": 0.5}),
        trial(1, {**GOOD, "optimizer": "sgd"}),
        trial(2, {**GOOD, "momentum": 0.5}),
    )
    taken, came = take(new(), there)
    assert [t.number for t in taken] == [0]
    assert came.message == "1 without momentum; 1 with momentum where this Study does not have it"


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({**GOOD, "lr": 0.05}, "whose lr is not possible here"),
        ({**GOOD, "lr": 0.35}, "whose lr is not possible here"),
        ({**GOOD, "lr": "0.3"}, "whose lr is not possible here"),
        ({**GOOD, "layers": 2.5}, "whose layers is not possible here"),
        ({**GOOD, "optimizer": "1"}, "whose optimizer is not possible here"),
        ({**GOOD, "optimizer": True}, "whose optimizer is not possible here"),
        ({**GOOD, "optimizer": "lion"}, "whose optimizer is not possible here"),
        ({"lr": 0.3, "layers": 2}, "without optimizer"),
        ({}, "without lr"),
        ({**GOOD, "dropout": 0.1}, "with a parameter dropout, which this Study does not have"),
    ],
)
def test_a_trial_whose_parameters_do_not_fit_is_left(params, reason):
    taken, came = take(new(), source(trial(0, params), trial(1)))
    assert [t.number for t in taken] == [1]
    assert (came.taken, came.left, came.message) == (1, 1, f"1 {reason}")


def test_whole_numbers_and_floats_are_the_same_number():
    (taken,), _ = take(new(), source(trial(0, {"lr": 1, "layers": 2.0, "optimizer": 1})))
    assert frozen([taken])[0].params == {"lr": 1, "layers": 2, "optimizer": 1}


def test_pruned_trials_are_taken_with_their_reports():
    there = source(
        trial(0, state=PRUNED, reports={1: 0.2, 3: 0.4}), trial(1, state=PRUNED), failed=2
    )  # the second one called itself infeasible, or was pruned by its script before it had said anything
    (taken,), came = take(new(), there)
    assert (taken.state, taken.reports) == (PRUNED, {1: 0.2, 3: 0.4})
    assert (came.left, came.message) == (3, "2 failed; 1 stopped early without a report")


def test_several_objectives():
    here = new(objectives=[ACCURACY, LOSS])
    both = {"directions": ["MAXIMIZE", "MINIMIZE"], "metric_names": ["accuracy", "loss"]}
    there = source(trial(0, values=[0.5, 2.0]), trial(1, state=PRUNED, reports={1: 1.0}), **both)
    (taken,), came = take(here, there)
    assert taken.values == [0.5, 2.0]
    assert came.message == "1 stopped early"


@pytest.mark.parametrize(
    ("objectives", "directions", "names", "message"),
    [
        ([LOSS], ["MAXIMIZE"], ["loss"], "loss to maximize; this Study has loss to minimize"),
        ([LOSS], ["MINIMIZE"], ["error"], "error to minimize; this Study has loss to minimize"),
        ([LOSS], ["MAXIMIZE"], None, "one to maximize; this Study has loss to minimize"),
        (
            [LOSS, ACCURACY],
            ["MINIMIZE"],
            ["loss"],
            "loss to minimize; this Study has loss to minimize, accuracy to maximize",
        ),
        (
            [LOSS, ACCURACY],
            ["MAXIMIZE", "MINIMIZE"],
            ["accuracy", "loss"],
            "accuracy to maximize, loss to minimize; this Study has loss to minimize, accuracy to maximize",
        ),
    ],
)
def test_of_a_study_with_other_objectives_nothing_is_taken(objectives, directions, names, message):
    there = source(trial(), failed=1, directions=directions, metric_names=names)
    taken, came = take(new(objectives=objectives), there)
    assert taken == []
    assert (came.left, came.message) == (2, f"its trials have other values: {message}")


def test_of_a_study_made_before_names_were_kept_directions_decide():
    taken, _ = take(new(objectives=[{**ACCURACY, "name": "whatever"}]), source(trial(), metric_names=None))
    assert len(taken) == 1


def test_constraints_are_judged_by_the_new_studys_limits():
    here = new(constraints=[{"name": "latency_ms", "max": 50}, {"name": "recall", "min": 0.9}])
    reported = {1000: {"latency_ms": 60.0, "recall": 0.95, "memory": 1.0}, 1001: {"latency_ms": 40.0}}
    (taken,), came = take(here, source(trial(0), trial(1), trial(2), constraint_values=reported))
    assert taken.system_attrs == {"constraints:latency_ms": 10.0, "constraints:recall": pytest.approx(-0.05)}
    assert came.message == "1 without a value of the constraint recall; 1 without a value of the constraint latency_ms"


def test_a_study_without_constraints_takes_trials_that_broke_one():
    (taken,), _ = take(new(), source(trial(0), constraint_values={1000: {"latency_ms": 60.0}}))
    assert taken.system_attrs == {}


def test_of_too_many_trials_the_latest_are_taken(monkeypatch):
    monkeypatch.setattr(warm_start, "MOST_TRIALS", 4)
    there = source(*map(trial, range(6, 10)), ended=Counter({COMPLETE: 10}))  # storage reads the latest four
    taken, came = take(new(), there, most=3)
    assert [t.number for t in taken] == [7, 8, 9]
    assert (came.taken, came.left, came.message) == (3, 7, "7 older than the latest 4")
    assert take(new(), there, most=0)[0] == []


def test_a_study_that_has_just_begun():
    _, came = take(new(), source())
    assert (came.taken, came.left, came.message) == (0, 0, "it had no finished trials yet")

"""The Pareto front, held against Optuna's own."""

from __future__ import annotations

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.storages import InMemoryStorage
from optuna.trial import create_trial

from study_operator.optimizer.pareto import front

INFINITY = float("inf")
VALUES = st.sampled_from([0.0, 1.0, 2.0, 3.0, -1.0, INFINITY, -INFINITY]) | st.floats(allow_nan=False)


@st.composite
def studies(draw) -> tuple[list[str], list[list[float]]]:
    directions = draw(st.lists(st.sampled_from(["MINIMIZE", "MAXIMIZE"]), min_size=1, max_size=4))
    values = st.lists(VALUES, min_size=len(directions), max_size=len(directions))
    return directions, draw(st.lists(values, max_size=25))


@given(studies())
def test_the_front_is_optunas(study):
    directions, points = study
    known = optuna.create_study(storage=InMemoryStorage(), directions=[direction.lower() for direction in directions])
    known.add_trials([create_trial(values=values) for values in points])
    found = front(enumerate(points), directions)
    assert sorted(found) == [trial.number for trial in known.best_trials]


@given(studies())
def test_the_best_in_the_first_objective_comes_first(study):
    directions, points = study
    firsts = [points[number][0] for number in front(enumerate(points), directions)]
    assert firsts == sorted(firsts, reverse=directions[0] == "MAXIMIZE")


@pytest.mark.parametrize(
    ("points", "numbers"),
    [
        ([], []),
        ([(4, (1.0, 1.0))], [4]),
        ([(4, (1.0, 1.0)), (3, (1.0, 1.0))], [3, 4]),  # equal ones are all on it
        ([(0, (2.0, 1.0)), (1, (1.0, 2.0)), (2, (2.0, 2.0))], [1, 0]),
        ([(0, (1.0, 1.0)), (1, (1.0, 2.0))], [0]),  # better in one, equal in the other
        ([(0, (INFINITY, 0.0)), (1, (0.0, INFINITY)), (2, (INFINITY, INFINITY))], [1, 0]),
    ],
)
def test_some_fronts(points, numbers):
    assert front(points, ["MINIMIZE", "MINIMIZE"]) == numbers

"""The Pareto front, held against Optuna's own."""

from __future__ import annotations

import math
import operator
import random
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.storages import InMemoryStorage
from optuna.trial import create_trial

from study_operator.model.pareto import pareto_front

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
    found = pareto_front(enumerate(points), directions)
    assert sorted(found) == [trial.number for trial in known.best_trials]


@given(studies())
def test_the_best_in_the_first_objective_comes_first(study):
    directions, points = study
    firsts = [points[number][0] for number in pareto_front(enumerate(points), directions)]
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
    assert pareto_front(points, ["MINIMIZE", "MINIMIZE"]) == numbers


class Counted(float):
    """A number that counts how often it is compared."""

    comparisons = 0

    def __rmul__(self, sign: float) -> Counted:
        return Counted(sign * float(self))


def _counted(name: str) -> Any:
    def compare(one: Counted, other: Any) -> bool:
        Counted.comparisons += 1
        return getattr(operator, name)(float(one), float(other))

    return compare


for _name in ("lt", "le", "gt", "ge", "eq"):
    setattr(Counted, f"__{_name}__", _counted(_name))
Counted.__hash__ = float.__hash__


@pytest.mark.parametrize("objectives", [2, 3, 4])
def test_a_front_of_all_trials_is_found_without_comparing_each_with_each(objectives):
    chance, size = random.Random(1), 2_000
    points = []
    for _ in range(size):
        direction = [abs(chance.gauss(0, 1)) for _ in range(objectives)]
        points.append([Counted(-value / math.hypot(*direction)) for value in direction])
    Counted.comparisons = 0
    assert len(pareto_front(enumerate(points), ["MINIMIZE"] * objectives)) == size
    assert Counted.comparisons < size * (size - 1) / 2

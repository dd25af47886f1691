"""Search spaces with an end, held against what Optuna's exhaustive sampler finds in them."""

from __future__ import annotations

import warnings
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BruteForceSampler
from optuna.storages import InMemoryStorage
from spaces import parameter_lists, suggest_all

from study_operator.model.search_space import Space, search_space
from study_operator.optimizer.cells import ABSENT, axes, cell_of, cells, count
from study_operator.optimizer.distributions import optuna_distributions


def space_of(**kinds: dict) -> Space:
    """A search space with one parameter of each given kind: `space_of(float={...})` has one named float."""
    return search_space([{"name": kind, kind: bounds} for kind, bounds in kinds.items()])


# Values


def brute_force(space: Space) -> dict[str, list]:
    """The values that Optuna's own exhaustive sampler tries, by parameter."""
    axes = {}
    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
        sampler = BruteForceSampler(seed=0)
    for name, distribution in optuna_distributions(space).items():
        study = optuna.create_study(sampler=sampler)
        while True:
            trial = study.ask({name: distribution})
            try:
                study.tell(trial, 0.0)
            except RuntimeError:  # Optuna allows `stop`, called after the last value, inside `optimize` only
                break
        axes[name] = sorted(trial.params[name] for trial in study.trials)
    return axes


@pytest.mark.filterwarnings("ignore:The distribution is specified by")  # that a range ends with a whole step
@pytest.mark.parametrize(
    ("low", "high", "step"),
    [
        (0, 1, 0.1),
        (0, 0.3, 0.1),
        (0.1, 0.7, 0.1),
        (0, 0.7, 0.1),
        (1e-3, 1e-2, 1e-3),
        (-0.3, 0.3, 0.1),
        (0, 1, 0.3),  # 1 is not a multiple
        (0, 1, 0.5),
        (0.05, 0.5, 0.05),
        (5, 5, 0.1),
        (0, 0.05, 0.1),
        (1, 2, 1 / 3),
        (1e6, 1e6 + 1, 0.1),
    ],
)
def test_a_grid_of_floats_is_optunas_own(low, high, step):
    space = space_of(float={"low": low, "high": high, "step": step})
    values = axes(space)
    assert values == brute_force(space)
    assert all(
        space.distributions["float"].low <= value <= space.distributions["float"].high for value in values["float"]
    )
    assert all(space.distributions["float"].contains(value) for value in values["float"])


@given(
    low=st.integers(-50, 50),
    steps=st.integers(0, 30),
    step=st.sampled_from(["0.1", "0.01", "0.3", "1e-4", "0.7", "2.5"]),
)
def test_a_grid_of_decimal_steps_has_the_numbers_that_people_write(low, steps, step):
    scale = 10_000
    size = round(float(step) * scale)
    high = (low * scale + steps * size) / scale
    space = space_of(float={"low": low, "high": high, "step": float(step)})
    assert axes(space) == {"float": [(low * scale + n * size) / scale for n in range(steps + 1)]}


@pytest.mark.filterwarnings("ignore:The distribution is specified by")
def test_a_grid_of_numbers_and_choices():
    space = space_of(int={"low": 1, "high": 8, "step": 3}, categorical={"choices": ["b", "a", "c"]})
    assert axes(space) == {"int": [1, 4, 7], "categorical": ["b", "a", "c"]}
    assert {name: sorted(axis) for name, axis in axes(space).items()} == brute_force(space)


def test_a_logarithmic_integer_has_every_value_in_a_axes():
    assert axes(space_of(int={"low": 2, "high": 5, "log": True})) == {"int": [2, 3, 4, 5]}


def test_a_continuous_parameter_has_no_axes():
    with pytest.raises(ValueError, match=r"parameter 'float' has no end of values; give its float a step, or list ch"):
        axes(space_of(int={"low": 0, "high": 1}, float={"low": 0, "high": 1}))


@pytest.mark.parametrize(("values", "fits"), [(1000, True), (1001, False), (2**50, False)])
def test_a_grid_has_a_bound(values, fits):
    space = search_space([{"name": name, "int": {"low": 1, "high": values}} for name in "ab"])
    if fits:
        assert {len(axis) for axis in axes(space).values()} == {values}
    else:
        with pytest.raises(ValueError, match=r"the grid has more than 1,000,000 cells; write larger steps or fewer"):
            axes(space)


# Combinations


def tried(space: Space) -> list[dict[str, Any]]:
    """The parameters of every trial that Optuna's own exhaustive sampler makes."""
    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
        study = optuna.create_study(storage=InMemoryStorage(), sampler=BruteForceSampler(seed=0))
    study.optimize(lambda trial: float(len(suggest_all(space, trial))))
    return [trial.params for trial in study.trials]


def as_params(space: Space, cell: tuple[Any, ...]) -> dict[str, Any]:
    return {name: value for name, value in zip(space.distributions, cell, strict=True) if value is not ABSENT}


@settings(max_examples=40, deadline=None)
@given(parameter_lists(4))
def test_the_cells_are_what_optuna_tries(parameters):
    space = search_space(parameters)
    found = cells(space)
    assert len(found) == len(set(found)) == count(space)
    assert sorted(repr(as_params(space, cell)) for cell in found) == sorted(map(repr, tried(space)))


@given(parameter_lists())
def test_a_trial_is_in_its_cell(parameters):
    space = search_space(parameters)
    for cell in cells(space)[:50]:
        params = as_params(space, cell)
        wanted = optuna_distributions(space)
        assert cell_of(space, wanted, params, {name: wanted[name] for name in params}) == cell


CONDITIONAL = [
    {"name": "kind", "categorical": {"choices": ["a", "b", "c"]}},
    {"name": "n", "int": {"low": 1, "high": 1000}, "when": {"parameter": "kind", "in": ["a", "b"]}},
    {"name": "x", "float": {"low": 0, "high": 1, "step": 0.1}, "when": {"parameter": "n", "in": [7, 8]}},
]


def test_cells_are_counted_without_being_made():
    assert count(search_space(CONDITIONAL)) == 2 * (998 + 2 * 11) + 1
    huge = [{"name": f"p{n}", "int": {"low": 0, "high": 10**9 - 1}} for n in range(100)]
    assert count(search_space(huge)) == 10**900


@pytest.mark.parametrize(
    ("params", "change"),
    [
        ({"kind": "c", "n": 3}, None),  # not active
        ({"kind": "a"}, None),  # active and not there
        ({"kind": "a", "n": 7, "x": 0.15}, None),  # between two values
        ({"n": 3, "kind": "a"}, None),  # in another order, which Optuna's sampler cannot do with
        ({"kind": "a", "n": 3}, {"n": {"low": 1, "high": 10}}),  # of another range
        ({"kind": "c", "lr": 3}, {"lr": {"low": 1, "high": 10}}),  # another parameter
    ],
)
def test_a_trial_of_another_space_has_no_cell(params, change):
    space = search_space(CONDITIONAL)
    wanted = optuna_distributions(space)
    known = dict(wanted)
    for name, bounds in (change or {}).items():
        known |= optuna_distributions(search_space([{"name": name, "int": bounds}]))
    assert cell_of(space, wanted, params, {name: known[name] for name in params}) is None

"""spec.parameters as Optuna's distributions, grids, and parameters as text."""

from __future__ import annotations

import json
import math
import warnings

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BruteForceSampler

from study_operator.model.cells import axes as grid
from study_operator.model.search_space import Space, as_text, example_params, search_space


def space_of(**kinds: dict) -> Space:
    """A search space with one parameter of each given kind: `space_of(float={...})` has one named float."""
    return search_space([{"name": kind, kind: bounds} for kind, bounds in kinds.items()])


@pytest.mark.parametrize(
    ("kind", "bounds", "distribution"),
    [
        ("float", {"low": 0, "high": 1}, FloatDistribution(0.0, 1.0)),
        ("float", {"low": 1e-5, "high": 0.1, "log": True}, FloatDistribution(1e-5, 0.1, log=True)),
        ("float", {"low": 0, "high": 1, "step": 0.25}, FloatDistribution(0.0, 1.0, step=0.25)),
        ("float", {"low": 0, "high": 1, "step": 1}, FloatDistribution(0.0, 1.0, step=1.0)),
        ("float", {"low": 2, "high": 2}, FloatDistribution(2.0, 2.0)),
        ("int", {"low": 1, "high": 4}, IntDistribution(1, 4)),
        ("int", {"low": 1, "high": 512, "log": True}, IntDistribution(1, 512, log=True)),
        ("int", {"low": 0, "high": 9, "step": 3}, IntDistribution(0, 9, step=3)),
        ("int", {"low": -3, "high": -3}, IntDistribution(-3, -3)),
        ("categorical", {"choices": ["a", "b"]}, CategoricalDistribution(("a", "b"))),
        ("categorical", {"choices": ["a"]}, CategoricalDistribution(("a",))),
    ],
)
def test_each_kind_of_parameter(kind, bounds, distribution):
    (found,) = space_of(**{kind: bounds}).distributions.values()
    assert found == distribution
    assert type(found) is type(distribution)


def test_parameters_keep_their_order():
    names = ["z", "a", "m"]
    space = search_space([{"name": name, "int": {"low": 0, "high": 1}} for name in names])
    assert list(space.distributions) == names


@pytest.mark.parametrize(
    ("kind", "bounds", "words"),
    [
        ("float", {"low": 2, "high": 1}, "low <= high"),
        ("float", {"low": 0, "high": 1, "log": True}, "low > 0"),
        ("float", {"low": 1, "high": 2, "log": True, "step": 0.5}, "step"),
        ("float", {"low": 0, "high": 1, "step": 0}, "step > 0"),
        ("float", {"low": 0, "high": 1, "step": -1}, "step > 0"),
        ("float", {"low": float("-inf"), "high": 1}, "finite"),
        ("float", {"low": 0, "high": float("nan")}, "finite"),
        ("float", {"low": 0, "high": 10**400}, "too large"),
        ("int", {"low": 2, "high": 1}, "low <= high"),
        ("int", {"low": 0, "high": 4, "log": True}, "low >= 1"),
        ("int", {"low": 1, "high": 4, "log": True, "step": 2}, "step"),
        ("categorical", {"choices": []}, "one or more elements"),
    ],
)
def test_an_impossible_range_is_named_and_explained(kind, bounds, words):
    with pytest.raises(ValueError) as refusal:
        search_space([{"name": "good", "int": {"low": 0, "high": 1}}, {"name": "p.1", kind: bounds}])
    assert str(refusal.value).startswith("parameter 'p.1': ")
    assert words in str(refusal.value).replace("`", "")


def test_an_example_is_a_value_of_each_range():
    space = space_of(float={"low": 0.5, "high": 1}, int={"low": 3, "high": 4}, categorical={"choices": ["a", "b"]})
    assert example_params(space) == {"float": 0.5, "int": 3, "categorical": "a"}


# Grids


def brute_force(space: Space) -> dict[str, list]:
    """The values that Optuna's own exhaustive sampler tries, by parameter."""
    axes = {}
    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
        sampler = BruteForceSampler(seed=0)
    for name, distribution in space.distributions.items():
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
    axes = grid(space)
    assert axes == brute_force(space)
    assert all(
        space.distributions["float"].low <= value <= space.distributions["float"].high for value in axes["float"]
    )
    assert all(space.distributions["float"]._contains(value) for value in axes["float"])


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
    assert grid(space) == {"float": [(low * scale + n * size) / scale for n in range(steps + 1)]}


@pytest.mark.filterwarnings("ignore:The distribution is specified by")
def test_a_grid_of_numbers_and_choices():
    space = space_of(int={"low": 1, "high": 8, "step": 3}, categorical={"choices": ["b", "a", "c"]})
    assert grid(space) == {"int": [1, 4, 7], "categorical": ["b", "a", "c"]}
    assert {name: sorted(axis) for name, axis in grid(space).items()} == brute_force(space)


def test_a_logarithmic_integer_has_every_value_in_a_grid():
    assert grid(space_of(int={"low": 2, "high": 5, "log": True})) == {"int": [2, 3, 4, 5]}


def test_a_continuous_parameter_has_no_grid():
    with pytest.raises(ValueError, match=r"parameter 'float' has no end of values; give its float a step, or list ch"):
        grid(space_of(int={"low": 0, "high": 1}, float={"low": 0, "high": 1}))


@pytest.mark.parametrize(("values", "fits"), [(1000, True), (1001, False), (2**50, False)])
def test_a_grid_has_a_bound(values, fits):
    space = search_space([{"name": name, "int": {"low": 1, "high": values}} for name in "ab"])
    if fits:
        assert {len(axis) for axis in grid(space).values()} == {values}
    else:
        with pytest.raises(ValueError, match=r"the grid has more than 1,000,000 cells; write larger steps or fewer"):
            grid(space)


# Text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (False, "false"),
        (None, "null"),
        (3, "3"),
        (-(2**53), "-9007199254740992"),
        (0.1, "0.1"),
        (1e-5, "1e-05"),
        (1e300, "1e+300"),
        (2.0, "2.0"),
        ("", ""),
        ("$(PARAM_x)", "$(PARAM_x)"),
        ("äöü", "äöü"),
    ],
)
def test_parameters_as_text(value, text):
    assert as_text(value) == text


@given(st.floats(allow_nan=False) | st.integers() | st.booleans())
def test_a_number_reads_back_from_its_text_as_the_same(value):
    text = as_text(value)
    read = json.loads(text) if not (isinstance(value, float) and math.isinf(value)) else float(text)
    assert read == value
    assert type(read) is type(value)

"""spec.parameters as a search space: ranges, choices, conditions, examples; and parameters as text."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spaces import parameter_lists

from study_operator.model.distributions import Categorical, Distribution, Float, Int
from study_operator.model.search_space import Space, as_text, describe, example_params, possible, search_space
from study_operator.optimizer.cells import ABSENT, cells


def space_of(**kinds: dict) -> Space:
    """A search space with one parameter of each given kind: `space_of(float={...})` has one named float."""
    return search_space([{"name": kind, kind: bounds} for kind, bounds in kinds.items()])


@pytest.mark.parametrize(
    ("kind", "bounds", "distribution"),
    [
        ("float", {"low": 0, "high": 1}, Float(0.0, 1.0)),
        ("float", {"low": 1e-5, "high": 0.1, "log": True}, Float(1e-5, 0.1, log=True)),
        ("float", {"low": 0, "high": 1, "step": 0.25}, Float(0.0, 1.0, step=0.25)),
        ("float", {"low": 0, "high": 1, "step": 1}, Float(0.0, 1.0, step=1.0)),
        ("float", {"low": 2, "high": 2}, Float(2.0, 2.0)),
        ("int", {"low": 1, "high": 4}, Int(1, 4)),
        ("int", {"low": 1, "high": 512, "log": True}, Int(1, 512, log=True)),
        ("int", {"low": 0, "high": 9, "step": 3}, Int(0, 9, step=3)),
        ("int", {"low": -3, "high": -3}, Int(-3, -3)),
        ("categorical", {"choices": ["a", "b"]}, Categorical(("a", "b"))),
        ("categorical", {"choices": ["a"]}, Categorical(("a",))),
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
        ("float", {"low": 0, "high": 1, "step": 2e-311}, "step 2e-311 is too small for 0.0 to 1.0"),
        ("float", {"low": 0, "high": 0, "step": float("nan")}, "step must be a finite number"),
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


@given(st.floats(), st.floats(), st.floats() | st.sampled_from([5e-324, 1e-300, 1e-28, 1e-27]))
def test_a_range_of_any_floats_is_taken_or_refused(low, high, step):
    try:
        space = space_of(float={"low": low, "high": high, "step": step})
    except ValueError:
        return
    assert possible(space.distributions["float"], low)
    assert example_params(space).keys() == {"float"}
    assert describe(space.distributions["float"])


# Choices


def refused_choices(*choices: Any) -> str:
    with pytest.raises(ValueError) as refusal:
        space_of(categorical={"choices": list(choices)})
    message = str(refusal.value)
    assert message.startswith("parameter 'categorical': ")
    return message.removeprefix("parameter 'categorical': ")


@pytest.mark.parametrize(
    "choices", [["a", "1", 1], [True, False], [None, "null", 0], [0.5, 2, "x", None, True], [""], ["äöü", "x" * 128]]
)
def test_choices_keep_their_types(choices):
    (found,) = space_of(categorical={"choices": choices}).distributions.values()
    assert list(map(repr, found.choices)) == list(map(repr, choices))


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (
            ["a", "b", "a"],
            'the choices "a" and "a" are the same to Optuna; remove one of them, or write them as text',
        ),
        (
            [1, "x", True],
            "the choices 1 and true are the same to Optuna; remove one of them, or write them as text",
        ),
        (
            [0, False],
            "the choices 0 and false are the same to Optuna; remove one of them, or write them as text",
        ),
        (
            [1, 1.0],
            "the choices 1 and 1.0 are the same to Optuna; remove one of them, or write them as text",
        ),
        (
            [None, None],
            "the choices null and null are the same to Optuna; remove one of them, or write them as text",
        ),
        ([float("nan")], "the choice nan is not a finite number; write text or null in its place"),
        ([0.5, float("-inf")], "the choice -inf is not a finite number; write text or null in its place"),
        ([{"a": 1}], "the choice {'a': 1} is neither text nor a number, true, false or null; write a name that your "),
        (
            [[1]],
            "the choice [1] is neither text nor a number, true, false or null; write a name that your script looks",
        ),
        (
            ["x" * 129],
            'the choice "xxxxxxxxxxxxxxxxxxxx"... has 129 characters; write at most 128, such as a name that',
        ),
        (["a\nb"], "the choice 'a\\nb' has control characters; remove them"),
        (["a\x85"], "the choice 'a\\x85' has control characters; remove them"),
    ],
)
def test_choices_that_optuna_or_the_trial_cannot_have_are_explained(choices, message):
    assert refused_choices(*choices).startswith(message)


# Conditions

TREE = [
    {"name": "model", "categorical": {"choices": ["linear", "net", "forest"]}},
    {"name": "layers", "int": {"low": 1, "high": 3}, "when": {"parameter": "model", "in": ["net"]}},
    {"name": "dropout", "categorical": {"choices": [True, False]}, "when": {"parameter": "model", "in": ["net"]}},
    {"name": "rate", "float": {"low": 0.1, "high": 0.5}, "when": {"parameter": "dropout", "in": [True]}},
    {"name": "third", "int": {"low": 8, "high": 64}, "when": {"parameter": "layers", "in": [3]}},
    {
        "name": "scale",
        "categorical": {"choices": ["std", None]},
        "when": {"parameter": "model", "in": ["net", "linear"]},
    },
    {"name": "seed", "int": {"low": 0, "high": 9}},
]


@pytest.mark.parametrize(
    ("choices", "names"),
    [
        ({"model": "forest", "seed": 1}, ["model", "seed"]),
        ({"model": "linear", "scale": None, "seed": 1}, ["model", "scale", "seed"]),
        (
            {"model": "net", "layers": 2, "dropout": False, "scale": "std", "seed": 1},
            ["model", "layers", "dropout", "scale", "seed"],
        ),
        (
            {"model": "net", "layers": 3, "dropout": True, "rate": 0.2, "third": 8, "scale": "std", "seed": 1},
            ["model", "layers", "dropout", "rate", "third", "scale", "seed"],
        ),
    ],
)
def test_a_trial_has_the_parameters_that_are_active(choices, names):
    space, asked = search_space(TREE), []

    def suggest(name: str, distribution: Distribution) -> Any:
        assert distribution is space.distributions[name]
        asked.append(name)
        return choices[name]

    assert space.choose(suggest) == choices
    assert asked == names


def test_a_space_knows_whether_it_is_conditional():
    assert search_space(TREE).conditional
    assert not space_of(int={"low": 0, "high": 1}).conditional


def conditional_on(parent: dict, values: list) -> str:
    with pytest.raises(ValueError) as refusal:
        search_space(
            [parent, {"name": "child", "int": {"low": 0, "high": 1}, "when": {"parameter": "p", "in": values}}]
        )
    assert str(refusal.value).startswith("parameter 'child': when names ")
    return str(refusal.value).removeprefix("parameter 'child': when names ")


@pytest.mark.parametrize(
    ("parent", "values", "message"),
    [
        ({"categorical": {"choices": ["a", "b"]}}, ["a", "c"], 'the value "c" of p, which is "a" or "b"'),
        ({"categorical": {"choices": ["a"]}}, ["A"], 'the value "A" of p, which is "a"'),
        ({"categorical": {"choices": ["1", 2]}}, [1], 'the value 1 of p, which is "1" or 2'),
        ({"categorical": {"choices": [1, 2]}}, [True], "the value true of p, which is 1 or 2"),
        ({"categorical": {"choices": [True, False]}}, ["true"], 'the value "true" of p, which is true or false'),
        ({"categorical": {"choices": [True, False]}}, [1], "the value 1 of p, which is true or false"),
        ({"int": {"low": 1, "high": 4}}, [5], "the value 5 of p, which is a whole number from 1 to 4"),
        ({"int": {"low": 1, "high": 4}}, ["2"], 'the value "2" of p, which is a whole number from 1 to 4'),
        ({"int": {"low": 1, "high": 4}}, [2.5], "the value 2.5 of p, which is a whole number from 1 to 4"),
        ({"int": {"low": 0, "high": 4}}, [True], "the value true of p, which is a whole number from 0 to 4"),
        (
            {"int": {"low": 0, "high": 8, "step": 4}},
            [3],
            "the value 3 of p, which is a whole number from 0 to 8 in steps",
        ),
        ({"float": {"low": 0, "high": 1}}, [0], "'p', a float, whose values are never met exactly; name another one"),
    ],
)
def test_a_condition_that_never_holds_is_explained(parent, values, message):
    assert conditional_on({"name": "p", **parent}, values).startswith(message)


@pytest.mark.parametrize("parent", ["x", "child", "later"])
def test_a_condition_on_what_is_not_listed_before_is_explained(parent):
    child = {"name": "child", "int": {"low": 0, "high": 1}, "when": {"parameter": parent, "in": [0]}}
    with pytest.raises(
        ValueError, match=f"'child': when names '{parent}', which is no parameter that is listed before it"
    ):
        search_space([child, {"name": "later", "int": {"low": 0, "high": 1}}])


# Wishes


@pytest.mark.parametrize(
    "wish",
    [
        {},
        {"model": "net", "layers": 2},
        {"layers": 2},
        {"rate": 0.2, "dropout": True, "model": "net"},
        {"scale": None},
        {"seed": 3.0},
    ],
)
def test_what_a_trial_can_have_may_be_wished_for(wish):
    search_space(TREE).check(wish)


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        (
            {"lr": 1, "seed": 2},
            "there is no parameter 'lr'; there are model, layers, dropout, rate, third, scale, seed",
        ),
        ({"model": "tree"}, 'model is "tree"; it must be "linear", "net" or "forest"'),
        ({"seed": 10}, "seed is 10; it must be a whole number from 0 to 9"),
        ({"seed": "3"}, 'seed is "3"; it must be a whole number from 0 to 9'),
        ({"seed": True}, "seed is true; it must be a whole number from 0 to 9"),
        ({"rate": 0.7}, "rate is 0.7; it must be a number from 0.1 to 0.5"),
        ({"rate": float("nan")}, "rate is nan; it must be a number from 0.1 to 0.5"),
        ({"rate": None}, "rate is null; it must be a number from 0.1 to 0.5"),
        ({"dropout": 1}, "dropout is 1; it must be true or false"),
        ({"scale": [1]}, 'scale is [1]; it must be "std" or null'),
        (
            {"model": "linear", "layers": 2},
            'layers is given, but a trial has it only when model is "net": remove it, or change model',
        ),
    ],
)
def test_what_a_trial_cannot_have_is_explained(wish, message):
    with pytest.raises(ValueError) as refusal:
        search_space(TREE).check(wish)
    assert str(refusal.value) == message


# Examples


def test_an_example_is_a_value_of_each_range():
    space = space_of(float={"low": 0.5, "high": 1}, int={"low": 3, "high": 4}, categorical={"choices": ["a", "b"]})
    assert example_params(space) == {"float": 0.5, "int": 3, "categorical": "a"}


def test_an_example_has_as_many_parameters_as_can_be_active_together():
    example = example_params(search_space(TREE))
    assert example == {"model": "net", "layers": 3, "dropout": True, "rate": 0.1, "third": 8, "scale": "std", "seed": 0}
    assert list(example) == [parameter["name"] for parameter in TREE]


@given(parameter_lists())
def test_an_example_is_one_that_a_trial_could_have(parameters):
    space = search_space(parameters)
    example = example_params(space)
    space.check(example)
    assert space.choose(lambda name, _: example[name]) == example
    assert max(sum(value is not ABSENT for value in cell) for cell in cells(space)) == len(example)


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

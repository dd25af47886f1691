"""Distributions as plain values, held against Optuna's."""

from __future__ import annotations

import decimal
import json
import math
import warnings
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from optuna import distributions as optunas

from study_operator.model.distributions import Categorical, Distribution, Float, Int, from_json
from study_operator.optimizer.distributions import optuna_distribution

NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([0.0, -0.0, 0.1, 0.3, 1.0, 1e-300, 1e300])
SMALL = st.integers(-100, 100).map(lambda n: n / 10) | st.floats(-10, 10)
STEPS = st.sampled_from([None, 0.1, 0.25, 1 / 3, 1.0, 2, -1.0, 0.0]) | st.floats(1e-3, 10)
WHOLE = st.integers(-20, 20) | st.integers(-(2**63), 2**63 - 1)
CHOICES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
LOGS = st.sampled_from([False, False, True])

ranges_of_floats = st.tuples(
    st.just("Float"), st.tuples(NUMBERS, NUMBERS, LOGS, st.none()) | st.tuples(SMALL, SMALL, LOGS, STEPS)
)
ranges_of_ints = st.tuples(st.just("Int"), st.tuples(WHOLE, WHOLE, LOGS, st.integers(-1, 5) | st.integers(1, 2**40)))
lists_of_choices = st.tuples(st.just("Categorical"), st.tuples(st.lists(CHOICES, max_size=6).map(tuple)))
PLAIN = {"Float": Float, "Int": Int, "Categorical": Categorical}
THEIRS = {
    "Float": optunas.FloatDistribution,
    "Int": optunas.IntDistribution,
    "Categorical": optunas.CategoricalDistribution,
}


def both(kind: str, arguments: tuple[Any, ...]) -> tuple[Distribution, optunas.BaseDistribution] | None:
    """The distribution as ours and as Optuna's; None if there is none, which both must say in the same words."""
    theirs, refused = None, None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna warns where it lowers `high`
        try:
            theirs = THEIRS[kind](*arguments)
        except (ValueError, decimal.InvalidOperation) as error:
            refused = error
    if theirs is not None:
        return PLAIN[kind](*arguments), theirs
    with pytest.raises(ValueError) as ours:
        PLAIN[kind](*arguments)
    if isinstance(refused, ValueError):
        assert str(ours.value) == str(refused)
    return None


any_distribution = st.one_of(ranges_of_floats, ranges_of_ints, lists_of_choices)


@st.composite
def distributions(draw) -> tuple[Distribution, optunas.BaseDistribution]:
    found = both(*draw(any_distribution))
    assume(found is not None)
    assert found is not None
    return found


@given(any_distribution)
def test_there_is_a_distribution_where_optuna_has_one_and_else_its_words_are_said(of):
    found = both(*of)
    if found is not None:
        ours, theirs = found
        assert {name: getattr(ours, name) for name in vars(theirs)} == vars(theirs)
        assert list(map(type, (getattr(ours, name) for name in vars(theirs)))) == list(map(type, vars(theirs).values()))
        assert ours.single is theirs.single()
        assert hash(ours) == hash(PLAIN[of[0]](*of[1]))


@given(distributions())
@example(both("Float", (2.220446049250313e-16, 0.2500000000000002, False, 0.25)))
def test_the_text_is_optunas_and_is_read_as_optuna_reads_it(of):
    ours, theirs = of
    text = optunas.distribution_to_json(theirs)
    assert ours.to_json() == text
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a `high` that binary rounds down from the last step is lowered once more
        read = optunas.json_to_distribution(text)
        assert optuna_distribution(from_json(text)) == optuna_distribution(ours) == read
    again = from_json(text)
    assert {name: getattr(again, name) for name in vars(read)} == vars(read)


@given(distributions(), st.data())
def test_a_value_is_possible_where_it_is_to_optuna(of, data):
    ours, theirs = of
    if isinstance(ours, Categorical):
        number = data.draw(st.integers(-2, 8))
        assert ours.contains(number) is theirs._contains(number)
        return
    near = [ours.low, ours.high, math.nextafter(ours.low, -math.inf), math.nextafter(ours.high, math.inf)]
    step = ours.step or (ours.high - ours.low) / 3
    steps = data.draw(st.integers(0, 20) | st.floats(0, 20))
    number = data.draw(
        st.sampled_from(near) | st.floats(allow_nan=True) | st.just(ours.low + steps * step) | st.just(steps)
    )
    assert ours.contains(float(number)) == theirs._contains(float(number))


@given(distributions(), st.data())
def test_values_are_stored_as_optuna_stores_them(of, data):
    ours, theirs = of
    if isinstance(ours, Categorical):
        value = data.draw(st.sampled_from(ours.choices))
    else:
        value = data.draw(st.sampled_from([ours.low, ours.high]))
    number = ours.to_internal(value)
    assert (number, type(number)) == (theirs.to_internal_repr(value), type(theirs.to_internal_repr(value)))
    read, optunas_own = ours.to_external(number), theirs.to_external_repr(number)
    assert (read, type(read)) == (optunas_own, type(optunas_own))


def test_a_value_that_is_no_choice_has_no_place():
    with pytest.raises(ValueError):
        Categorical(("a", "b")).to_internal("c")


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "UniformDistribution", "attributes": {"low": 0.0, "high": 1.0}}',
        '{"name": "LogUniformDistribution", "attributes": {"low": 0.001, "high": 1.0}}',
        '{"name": "DiscreteUniformDistribution", "attributes": {"low": 0.0, "high": 1.0, "q": 0.25}}',
        '{"name": "IntUniformDistribution", "attributes": {"low": 0, "high": 9, "step": 3}}',
        '{"name": "IntUniformDistribution", "attributes": {"low": 0, "high": 9}}',
        '{"name": "IntLogUniformDistribution", "attributes": {"low": 1, "high": 9, "step": 1}}',
        '{"type": "float", "low": 0.0, "high": 1.0, "step": 0.5}',
        '{"type": "float", "low": 1, "high": 10, "log": true}',
        '{"type": "int", "low": 0, "high": 10, "step": 5}',
        '{"type": "int", "low": 1, "high": 10, "log": true}',
        '{"type": "categorical", "choices": ["a", 1, null]}',
    ],
)
def test_texts_of_older_versions_are_read_as_optuna_reads_them(text):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = optunas.json_to_distribution(text)
    ours = from_json(text)
    for name, value in vars(theirs).items():
        assert getattr(ours, name) == value
    assert isinstance(theirs, type(optuna_distribution(ours)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        '{"name": "FloatDistribution"}',
        '{"name": "FloatDistribution", "attributes": {"low": 0.0}}',
        '{"name": "FloatDistribution", "attributes": {"low": null, "high": 1.0}}',
        '{"name": "FloatDistribution", "attributes": {"low": 2.0, "high": 1.0}}',
        '{"name": "CategoricalDistribution", "attributes": {"choices": []}}',
        '{"name": "NormalDistribution", "attributes": {"low": 0.0, "high": 1.0}}',
        '{"name": ["FloatDistribution"], "attributes": {"low": 0.0, "high": 1.0}}',
        '{"type": "normal", "low": 0.0, "high": 1.0}',
    ],
)
def test_what_is_no_distribution_is_refused(text):
    with pytest.raises(ValueError):
        from_json(text)


def test_the_text_has_the_fields_that_optuna_reads():
    assert json.loads(Int(0, 10, step=4).to_json()) == {
        "name": "IntDistribution",
        "attributes": {"log": False, "step": 4, "low": 0, "high": 8},
    }

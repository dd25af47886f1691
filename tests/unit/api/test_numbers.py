"""Numbers as JSON has them, and as kubectl sorts them."""

from __future__ import annotations

import json
import math

from hypothesis import given
from hypothesis import strategies as st

from study_operator.api import numbers

FINITE = st.floats(allow_nan=False, allow_infinity=False)


def as_go(value: float) -> float | int:
    """A number as kubectl has it when it sorts a Table: written by Go, and read again."""
    whole = value.is_integer() and abs(value) < 1e21
    text = str(int(value)) if whole else repr(value)
    try:
        found = int(text)
        return found if -(2**63) <= found < 2**63 else float(text)
    except ValueError:
        return float(text)


@given(st.lists(FINITE | st.integers(-(2**40), 2**40).map(float), min_size=2, max_size=6))
def test_kubectl_can_compare_what_it_sorts_by_and_the_order_stays(values):
    sortable = [as_go(numbers.sortable({"a": [value]})["a"][0]) for value in values]
    assert {type(value) for value in sortable} == {float}
    small = [abs(value) < 1e300 for value in values]
    for (one, other), fine in zip(zip(values, sortable, strict=True), small, strict=True):
        for (one2, other2), fine2 in zip(zip(values, sortable, strict=True), small, strict=True):
            assert not (one < one2) or other <= other2
            neighbours = math.nextafter(one, math.inf) == one2
            assert not (one < one2 and fine and fine2) or other < other2 or neighbours


@given(FINITE)
def test_a_value_to_sort_by_is_the_value_or_the_next_one_above(value):
    found = numbers.comparable(value)
    if abs(value) >= 2**52:
        assert found is None
    else:
        assert found in (value, math.nextafter(value, math.inf))
        assert isinstance(as_go(found), float)


def test_numbers_that_json_cannot_have_become_texts():
    content = {"a": [math.inf, 1.0, {"b": math.nan}], "c": -math.inf}
    assert json.loads(numbers.encode(content)) == {"a": ["inf", 1.0, {"b": "nan"}], "c": "-inf"}
    assert numbers.encode({"a": 1.0, "b": "\ud800é\x1b"}) == b'{"a":1.0,"b":"\\ud800\\u00e9\\u001b"}'


@given(FINITE)
def test_a_text_reads_back_as_the_same_number(value):
    assert float(numbers.text(value)) == value

"""Which reports of a trial a pruner is shown when there are very many."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from study_operator.model import thinning
from study_operator.model.thinning import MOST_STEPS, Thinned, stride


def kept_of(count: int) -> list[int]:
    """The steps that are kept of reports with the steps 0, 1, 2 ..."""
    return list(range(0, count, stride(count)))


@pytest.mark.parametrize("count", [1, 2, MOST_STEPS - 1, MOST_STEPS])
def test_as_long_as_there_are_few_all_are_kept(count):
    thinned = Thinned()
    assert all(thinned.add(step, 0.5) for step in range(count))
    assert list(thinned.values) == list(range(count))


@pytest.mark.parametrize("count", [2001, 2002, 4000, 4001, 8001])
def test_of_more_an_even_choice_is_kept(count):
    thinned = Thinned()
    for step in range(count):
        thinned.add(step, float(step))
        assert len(thinned.values) <= MOST_STEPS
    assert list(thinned.values) == kept_of(count)
    assert MOST_STEPS / 2 <= len(thinned.values) <= MOST_STEPS
    assert thinned.whole()[count - 1] == count - 1


@given(st.integers(0, 300), st.integers(0, 300))
@settings(max_examples=50)
def test_it_does_not_matter_what_was_there_before(before, after):
    """The trials in memory at the start may be in the middle of their reports."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(thinning, "MOST_STEPS", 20)
        _check_that_both_are_the_same(before, after)


def _check_that_both_are_the_same(before: int, after: int) -> None:
    once, twice = Thinned(), Thinned(dict.fromkeys(range(before), 0.0))
    for step in range(before + after):
        once.add(step, 0.0)
        if step >= before:
            twice.add(step, 0.0)
    assert list(once.values) == list(twice.values)


def test_the_highest_step_is_known_in_any_order():
    thinned = Thinned()
    assert thinned.highest is None
    assert thinned.whole() == {}
    for step in (3, 9, 4):
        thinned.add(step, step / 10)
    assert thinned.highest == (9, 0.9)

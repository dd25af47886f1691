"""Which of the values that a program writes are kept until the trial's end."""

from __future__ import annotations

import math

import pytest
from building import study

from study_operator.model.final_values import has_extreme, joined, key, keyed, settled


def objectives(*finals: str | None, direction: str = "Maximize"):
    given = [{"name": f"o{n}", "direction": direction, "metric": "top-5 %"} for n in range(len(finals))]
    for one, final in zip(given, finals, strict=True):
        one |= {"finalValue": final} if final else {}
    return study(objectives=given, metrics={"from": "Stdout"}).objectives


def kept(of, *values: float) -> float:
    """The final value of an objective whose program has written these values."""
    found: dict[str, float] = {}
    for value in values:
        found = joined(found, keyed({of.metric: value}, [of]))
    return found[key(of)]


@pytest.mark.parametrize(
    ("final", "direction", "expected"),
    [
        (None, "Maximize", 0.5),
        ("Last", "Minimize", 0.5),
        ("Min", "Maximize", 0.1),
        ("Max", "Minimize", 0.9),
        ("Best", "Maximize", 0.9),
        ("Best", "Minimize", 0.1),
    ],
)
def test_the_final_value_is_the_one_that_the_objective_asks_for(final, direction, expected):
    (of,) = objectives(final, direction=direction)
    assert kept(of, 0.3, 0.9, math.nan, 0.1, 0.5) == expected


def test_nan_counts_only_while_it_is_alone():
    (best,) = objectives("Best")
    assert math.isnan(kept(best, math.nan, math.nan))
    assert kept(best, math.nan, -math.inf) == -math.inf
    (last,) = objectives(None)
    assert math.isnan(kept(last, 0.5, math.nan))


def test_one_metric_may_be_final_in_several_ways():
    lowest, last, highest = of = objectives("Min", None, "Max")
    found = joined(keyed({"top-5 %": 2.0}, of), keyed({"top-5 %": 1.0, "loss": 3.0}, of))
    assert [found[key(one)] for one in (lowest, last, highest)] == [1.0, 1.0, 2.0]
    assert found["loss"] == 3.0


def test_a_value_without_a_mark_counts_only_if_the_trial_has_none_with_one():
    last, highest = of = objectives(None, "Max")
    without = joined(keyed({"top-5 %": 2.0}, of, {"top-5 %"}), keyed({"top-5 %": 1.0}, of, {"top-5 %"}))
    assert [settled(without)[key(one)] for one in (last, highest)] == [1.0, 2.0]
    assert has_extreme(without)
    both = joined(joined(without, keyed({"top-5 %": 0.5}, of)), keyed({"top-5 %": 9.0}, of, {"top-5 %"}))
    assert [settled(both)[key(one)] for one in (last, highest)] == [0.5, 0.5]
    assert not has_extreme(keyed({"loss": 1.0}, of, {"loss"}))

"""Keep, of the values that a program writes, those that may be final: the last, the lowest or the highest one.

A value is kept under a key until the trial ends. The key of the last value is what the program calls it. That of a
lowest or highest value has the word Min or Max besides, in another line, so that no program can write it. A value
without a mark (`accuracy 0.91`) has a key of its own, because it counts only if the trial has none with a mark.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping

from study_operator.model.study import Objective

_BETTER = {"Min": min, "Max": max}
_UNMARKED = "\nunmarked"


def key(objective: Objective) -> str:
    """Return the key of an objective's final value."""
    return objective.metric if objective.final == "Last" else f"{objective.metric}\n{objective.final}"


def keyed(
    values: Mapping[str, float], objectives: Iterable[Objective], unmarked: Collection[str] = ()
) -> dict[str, float]:
    """Return the values of one line by their keys.

    Args:
        values: by what the program calls them.
        objectives: the study's.
        unmarked: the names of those without a mark.
    """
    further = {key(one): values[one.metric] for one in objectives if one.final != "Last" and one.metric in values}
    found = {**values, **further}
    return {_unmarked(name) if name.partition("\n")[0] in unmarked else name: value for name, value in found.items()}


def joined(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Return what is kept when further values have come. NaN is the lowest or highest value only while it is alone."""
    kept = {**before, **after}
    for name in before.keys() & after.keys():
        if (better := _BETTER.get(_extreme(name))) is not None:
            known = [value for value in (before[name], after[name]) if not math.isnan(value)]
            kept[name] = better(known, default=math.nan)
    return kept


def settled(kept: Mapping[str, float]) -> dict[str, float]:
    """Return what is kept by the keys of values with a mark. Where there are none, those without one count."""
    without = {name.replace(_UNMARKED, "", 1): value for name, value in kept.items() if _UNMARKED in name}
    return {**without, **kept}


def has_extreme(values: Iterable[str]) -> bool:
    """Return whether one of these keys is that of a lowest or highest value."""
    return any(_extreme(name) in _BETTER for name in values)


def _unmarked(name: str) -> str:
    metric, line, which = name.partition("\n")
    return f"{metric}{_UNMARKED}{line}{which}"


def _extreme(name: str) -> str:
    """Return the word Min or Max of a key that has one; otherwise another text."""
    return name.rpartition("\n")[2] if "\n" in name else ""

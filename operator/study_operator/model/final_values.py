"""Keep, of the values that a program writes, those that may be final: the last, the lowest or the highest one.

A value is kept under a key until the trial ends. The key of the last value is what the program calls it. That of a
lowest or highest value has the word Min or Max besides, in a second line, so that no program can write it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from study_operator.model.study import Objective

_BETTER = {"Min": min, "Max": max}


def key(objective: Objective) -> str:
    """Return the key of an objective's final value."""
    return objective.metric if objective.final == "Last" else f"{objective.metric}\n{objective.final}"


def keyed(values: Mapping[str, float], objectives: Iterable[Objective]) -> dict[str, float]:
    """Return the values of one line by their keys.

    Args:
        values: by what the program calls them.
        objectives: the study's.
    """
    further = {key(one): values[one.metric] for one in objectives if one.final != "Last" and one.metric in values}
    return {**values, **further}


def joined(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Return what is kept when further values have come. NaN is the lowest or highest value only while it is alone."""
    kept = {**before, **after}
    for name in before.keys() & after.keys():
        if (better := _BETTER.get(name.rpartition("\n")[2])) is not None and "\n" in name:
            known = [value for value in (before[name], after[name]) if not math.isnan(value)]
            kept[name] = better(known, default=math.nan)
    return kept


def has_extreme(values: Iterable[str]) -> bool:
    """Return whether one of these keys is that of a lowest or highest value."""
    return any("\n" in name for name in values)

"""How many cells a finite search space has: combinations of values that can be active together."""

from __future__ import annotations

from study_operator.model.distributions import Categorical, Distribution, Int
from study_operator.model.search_space import Space


def count(space: Space) -> int:
    """Return how many cells there are, without making them.

    Raises:
        ValueError: a parameter has infinitely many values.
    """
    below: dict[str, int] = {}  # by name, how many combinations the parameter and all parameters below it have
    for name in reversed(list(space.distributions)):  # children come after their parent in the space
        deciding = space.deciding(name)
        below[name] = size(name, space.distributions[name]) - len(deciding)
        for value in deciding:
            cells = 1
            for child in space.children(name):
                if value in space.conditions[child].values:
                    cells *= below[child]
            below[name] += cells
    whole = 1
    for name in space.roots():
        whole *= below[name]
    return whole


def size(name: str, distribution: Distribution) -> int:
    """Return how many values a distribution has.

    Raises:
        ValueError: it has infinitely many; the message has the parameter's `name`.
    """
    if isinstance(distribution, Categorical):
        return len(distribution.choices)
    if isinstance(distribution, Int):
        return (distribution.high - distribution.low) // distribution.step + 1
    if distribution.step is None:
        raise ValueError(f"parameter {name!r} has no end of values; give its float a step, or list choices")
    # high - low is a multiple of step up to rounding, because the distribution has adjusted high.
    return round((distribution.high - distribution.low) / distribution.step) + 1

"""Search spaces with an end: the values of each parameter, and the combinations that can be active together.

A combination, or cell, has values of active parameters only, so that two that differ in an inactive one are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from study_operator.model.search_space import Space

# In the place of a parameter's value where it is not active.
ABSENT = object()


def axes(space: Space, most: int = 1_000_000) -> dict[str, list[Any]]:
    """Every value of every parameter.

    Args:
        most: how many cells the space may have.

    Raises:
        ValueError: naming a parameter that has no end of values, or the number of cells when there are too many.
    """
    if count(space) > most:
        raise ValueError(f"the grid has more than {most:,} cells; write larger steps or fewer choices")
    return {name: _values(distribution) for name, distribution in space.distributions.items()}


def count(space: Space) -> int:
    """How many cells there are, found without making them.

    Raises:
        ValueError: naming a parameter that has no end of values.
    """
    below: dict[str, int] = {}  # the combinations of a parameter and all below it; children come after their parent
    for name in reversed(space.distributions):
        deciding = space.deciding(name)
        below[name] = _size(name, space.distributions[name]) - len(deciding)
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


def cells(space: Space) -> list[tuple[Any, ...]]:
    """Every cell: the parameters' values in the order of the space, ABSENT for one that is not active."""
    values = axes(space)
    places = {name: place for place, name in enumerate(space.distributions)}
    found: list[tuple[Any, ...]] = [()]
    for name in space.distributions:
        condition = space.conditions.get(name)
        longer: list[tuple[Any, ...]] = []
        for cell in found:
            if condition is None or cell[places[condition.parent]] in condition.values:
                longer.extend((*cell, value) for value in values[name])
            else:
                longer.append((*cell, ABSENT))
        found = longer
    return found


def cell_of(
    space: Space, params: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]
) -> tuple[Any, ...] | None:
    """The cell that a trial has, as `cells` has it; None when its parameters, their order or their ranges are not those
    of the space, or a value lies between two of it."""
    found = []
    for name, distribution in space.distributions.items():
        if not space.active(name, params):
            found.append(ABSENT)
        elif distributions.get(name) != distribution or not _on_grid(distribution, params[name]):
            return None
        else:
            found.append(params[name])
    active = [name for name, value in zip(space.distributions, found, strict=True) if value is not ABSENT]
    return tuple(found) if list(distributions) == active else None


def _values(distribution: BaseDistribution) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    if isinstance(distribution, IntDistribution):
        return list(range(distribution.low, distribution.high + 1, distribution.step))
    assert isinstance(distribution, FloatDistribution)
    return [_nth(distribution, n) for n in range(_size("", distribution))]


def _nth(distribution: FloatDistribution, n: int) -> float:
    # In decimal, as Optuna does it: 0.3, not 3 * 0.1, which is 0.30000000000000004 and above a high of 0.3.
    return float(Decimal(str(distribution.low)) + n * Decimal(str(distribution.step)))


def _on_grid(distribution: BaseDistribution, value: Any) -> bool:
    if isinstance(distribution, FloatDistribution):
        assert distribution.step is not None
        return bool(_nth(distribution, round((value - distribution.low) / distribution.step)) == value)
    return True  # its storage has made it a choice, or a whole number of steps


def _size(name: str, distribution: BaseDistribution) -> int:
    if isinstance(distribution, CategoricalDistribution):
        return len(distribution.choices)
    if isinstance(distribution, IntDistribution):
        return (distribution.high - distribution.low) // distribution.step + 1
    assert isinstance(distribution, FloatDistribution)
    if distribution.step is None:
        raise ValueError(f"parameter {name!r} has no end of values; give its float a step, or list choices")
    # Optuna has made high - low a multiple of step, up to rounding.
    return round((distribution.high - distribution.low) / distribution.step) + 1

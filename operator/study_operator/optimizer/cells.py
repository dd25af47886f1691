"""Finite search spaces: the values of each parameter, and the combinations of values that can be active together.

Such a combination is a cell. It has values of active parameters only. So combinations that differ only in an inactive
parameter are the same cell.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from optuna.distributions import BaseDistribution

from study_operator.model.distributions import Categorical, Distribution, Float, Int
from study_operator.model.grid import count, size
from study_operator.model.search_space import Space

# Stands in a cell for the value of a parameter that is not active.
ABSENT = object()


def axes(space: Space, most: int = 1_000_000) -> dict[str, list[Any]]:
    """Return every value of every parameter, by the parameter's name.

    Args:
        space: the search space.
        most: how many cells the space may have.

    Raises:
        ValueError: when a parameter has infinitely many values, or the space has more cells than `most`.
    """
    if count(space) > most:
        raise ValueError(f"the grid has more than {most:,} cells; write larger steps or fewer choices")
    return {name: _values(distribution) for name, distribution in space.distributions.items()}


def cells(space: Space) -> list[tuple[Any, ...]]:
    """Return every cell: the parameters' values in the order of the space, ABSENT for a parameter that is not active.

    Raises:
        ValueError: as `axes`.
    """
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
    space: Space,
    wanted: Mapping[str, BaseDistribution],
    params: Mapping[str, Any],
    distributions: Mapping[str, BaseDistribution],
) -> tuple[Any, ...] | None:
    """Return the cell of a trial, as `cells` has it.

    Args:
        space: the search space.
        wanted: Optuna's distributions of the search space, by name.
        params: the trial's parameters, by name.
        distributions: the trial's distributions, by name.

    Returns:
        The cell. None when the trial's parameters, their order or their distributions are not those of the space, or
        when a value lies between two values of the space.
    """
    found = []
    for name, distribution in space.distributions.items():
        if not space.active(name, params):
            found.append(ABSENT)
        elif distributions.get(name) != wanted[name] or not _on_grid(distribution, params[name]):
            return None
        else:
            found.append(params[name])
    active = [name for name, value in zip(space.distributions, found, strict=True) if value is not ABSENT]
    return tuple(found) if list(distributions) == active else None


def _values(distribution: Distribution) -> list[Any]:
    """Return all values of a distribution that has finitely many, the lowest or first choice first."""
    if isinstance(distribution, Categorical):
        return list(distribution.choices)
    if isinstance(distribution, Int):
        return list(range(distribution.low, distribution.high + 1, distribution.step))
    return [_nth(distribution, n) for n in range(size("", distribution))]


def _nth(distribution: Float, n: int) -> float:
    """Return the value n steps above the lowest."""
    # In decimal, as Optuna does it. In binary 3 * 0.1 is 0.30000000000000004, which is above a high of 0.3.
    return float(Decimal(str(distribution.low)) + n * Decimal(str(distribution.step)))


def _on_grid(distribution: Distribution, value: Any) -> bool:
    """Return whether a value is one of those that the distribution can have."""
    if isinstance(distribution, Float):
        assert distribution.step is not None
        return bool(_nth(distribution, round((value - distribution.low) / distribution.step)) == value)
    return True  # Optuna's storage accepts nothing but a choice, or a whole number of steps

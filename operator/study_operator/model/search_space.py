"""spec.parameters as Optuna's distributions, and parameters as text for people and pods."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)


def distributions(parameters: Sequence[Mapping[str, Any]]) -> dict[str, BaseDistribution]:
    """Optuna's distribution of each parameter, by name.

    Raises:
        ValueError: naming the parameter, and in Optuna's words what is impossible about its range.
    """
    space: dict[str, BaseDistribution] = {}
    for parameter in parameters:
        name = parameter["name"]
        try:
            space[name] = _distribution(parameter)
        except (ValueError, OverflowError) as error:
            raise ValueError(f"parameter {name!r}: {error}") from None
    return space


def _distribution(parameter: Mapping[str, Any]) -> BaseDistribution:
    if "float" in parameter:
        bounds = parameter["float"]
        low, high = float(bounds["low"]), float(bounds["high"])
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError("low and high must be finite numbers")
        step = bounds.get("step")
        return FloatDistribution(low, high, log=bounds.get("log", False), step=None if step is None else float(step))
    if "int" in parameter:
        bounds = parameter["int"]
        return IntDistribution(
            bounds["low"], bounds["high"], log=bounds.get("log", False), step=bounds.get("step") or 1
        )
    return CategoricalDistribution(tuple(parameter["categorical"]["choices"]))


def example_params(space: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    """A value for each parameter: the lowest, or the first choice."""
    return {
        name: distribution.choices[0] if isinstance(distribution, CategoricalDistribution) else distribution.low
        for name, distribution in space.items()
        if isinstance(distribution, CategoricalDistribution | FloatDistribution | IntDistribution)
    }


def grid(space: Mapping[str, BaseDistribution], most: int = 1_000_000) -> dict[str, list[Any]]:
    """Every value of every parameter, for a grid.

    Args:
        most: how many cells the grid may have.

    Raises:
        ValueError: naming a parameter that has no end of values, or the number of cells when there are too many.
    """
    axes: dict[str, list[Any]] = {}
    cells = 1
    for name, distribution in space.items():
        size = _size(name, distribution)
        cells *= size
        if cells > most:
            raise ValueError(f"the grid has more than {most:,} cells; write larger steps or fewer choices")
        if isinstance(distribution, CategoricalDistribution):
            axes[name] = list(distribution.choices)
        elif isinstance(distribution, IntDistribution):
            axes[name] = list(range(distribution.low, distribution.high + 1, distribution.step))
        else:
            # In decimal, as Optuna does it: 0.3, not 3 * 0.1, which is 0.30000000000000004 and above a high of 0.3.
            low, step = Decimal(str(distribution.low)), Decimal(str(distribution.step))
            axes[name] = [float(low + i * step) for i in range(size)]
    return axes


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


def as_text(value: Any) -> str:
    """A parameter's value as pods and people see it: the shortest text that reads back as the same value."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "null" if value is None else str(value)

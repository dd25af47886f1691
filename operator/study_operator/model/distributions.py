"""Which values a parameter can have: Optuna's distributions as plain values.

They mean exactly what Optuna's mean, and have its JSON form, because rows are written by both. They exist because the
operator's main process does not import Optuna, which takes 100 MiB of memory and a second. tests/unit/model/
test_distributions.py compares them with Optuna's.

Optuna stores a parameter's value as a number, its internal representation: for a choice, the choice's place.
"""

from __future__ import annotations

import decimal
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Choice = None | bool | int | float | str


@dataclass(frozen=True, slots=True)
class Float:
    """A range of floats, Optuna's FloatDistribution.

    Attributes:
        low, high: the ends, both included. With a step, `high` is lowered to the last step.
        log: whether values are chosen on a logarithmic scale.
        step: the distance of values; None without steps.

    Raises:
        ValueError: there is no such range. The words are Optuna's.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def __post_init__(self) -> None:
        low, high, step = self.low, self.high, self.step
        if self.log and step is not None:
            raise ValueError("The parameter `step` is not supported when `log` is true.")
        if low > high:
            raise ValueError(f"`low <= high` must hold, but got ({low=}, {high=}).")
        if self.log and low <= 0.0:
            raise ValueError(f"`low > 0` must hold for `log=True`, but got ({low=}, {high=}).")
        if step is not None and step <= 0:
            raise ValueError(f"`step > 0` must hold, but got {step=}.")
        if step is not None:
            high = _last_step(low, high, step)
            object.__setattr__(self, "step", float(step))
        object.__setattr__(self, "low", float(low))
        object.__setattr__(self, "high", float(high))

    @property
    def single(self) -> bool:
        """Whether there is one value only."""
        if self.low == self.high:
            return True
        return self.step is not None and _decimal(self.high) - _decimal(self.low) < _decimal(self.step)

    def contains(self, number: float) -> bool:
        """Return whether the parameter can have this value."""
        if not self.low <= number <= self.high:
            return False
        if self.step is None:
            return True
        steps = (number - self.low) / self.step
        return abs(steps - round(steps)) < 1.0e-8

    def to_internal(self, value: Any) -> float:
        """Return the number as which Optuna stores a value."""
        return float(value)

    def to_external(self, number: float) -> float:
        """Return the value that Optuna has stored as this number."""
        return number

    def to_json(self) -> str:
        """Return the text as which Optuna stores the distribution."""
        return _json("FloatDistribution", step=self.step, low=self.low, high=self.high, log=self.log)


@dataclass(frozen=True, slots=True)
class Int:
    """A range of whole numbers, Optuna's IntDistribution.

    Attributes:
        low, high: the ends, both included. `high` is lowered to the last step.
        log: whether values are chosen on a logarithmic scale; then the step is 1.
        step: the distance of values.

    Raises:
        ValueError: there is no such range. The words are Optuna's.
    """

    low: int
    high: int
    log: bool = False
    step: int = 1

    def __post_init__(self) -> None:
        low, high, step = self.low, self.high, self.step
        if self.log and step != 1:
            raise ValueError(
                "Samplers and other components in Optuna only accept step is 1 when `log` argument is True."
            )
        if low > high:
            raise ValueError(f"`low <= high` must hold, but got ({low=}, {high=}).")
        if self.log and low < 1:
            raise ValueError(f"`low >= 1` must hold for `log=True`, but got ({low=}, {high=}).")
        if step <= 0:
            raise ValueError(f"`step > 0` must hold, but got {step=}.")
        low, high, step = int(low), int(high), int(step)
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", (high - low) // step * step + low)
        object.__setattr__(self, "step", step)

    @property
    def single(self) -> bool:
        """Whether there is one value only."""
        return self.low == self.high

    def contains(self, number: float) -> bool:
        """Return whether the parameter can have this value."""
        return self.low <= number <= self.high and (number - self.low) % self.step == 0

    def to_internal(self, value: Any) -> float:
        """Return the number as which Optuna stores a value."""
        return float(value)

    def to_external(self, number: float) -> int:
        """Return the value that Optuna has stored as this number."""
        return int(number)

    def to_json(self) -> str:
        """Return the text as which Optuna stores the distribution."""
        return _json("IntDistribution", log=self.log, step=self.step, low=self.low, high=self.high)


@dataclass(frozen=True, slots=True)
class Categorical:
    """A list of choices, Optuna's CategoricalDistribution.

    Attributes:
        choices: the values. To Optuna true and 1 are the same value.

    Raises:
        ValueError: there is no choice. The words are Optuna's.
    """

    choices: tuple[Choice, ...]

    def __post_init__(self) -> None:
        if not self.choices:
            raise ValueError("The `choices` must contain one or more elements.")
        object.__setattr__(self, "choices", tuple(self.choices))

    @property
    def single(self) -> bool:
        """Whether there is one value only."""
        return len(self.choices) == 1

    def contains(self, number: float) -> bool:
        """Return whether a choice has this place."""
        return 0 <= int(number) < len(self.choices)

    def to_internal(self, value: Any) -> float:
        """Return the number as which Optuna stores a value.

        Raises:
            ValueError: the value is no choice.
        """
        return self.choices.index(value)

    def to_external(self, number: float) -> Choice:
        """Return the value that Optuna has stored as this number."""
        return self.choices[int(number)]

    def to_json(self) -> str:
        """Return the text as which Optuna stores the distribution."""
        return _json("CategoricalDistribution", choices=self.choices)


Distribution = Float | Int | Categorical


def from_json(text: str) -> Distribution:
    """Read a distribution that Optuna has stored, also in the forms of Optuna 2 that Optuna 5 still reads.

    Raises:
        ValueError: the text is not one.
    """
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError(f"not a distribution: {text[:100]}")
    try:
        kind, attributes = (found["name"], found["attributes"]) if "name" in found else (found["type"], found)
        return _READERS[kind](attributes)
    except (KeyError, TypeError):
        raise ValueError(f"not a distribution that Optuna knows: {text[:100]}") from None


def _float(of: Mapping[str, Any]) -> Float:
    return Float(of["low"], of["high"], of.get("log", False), of.get("step"))


def _int(of: Mapping[str, Any]) -> Int:
    return Int(of["low"], of["high"], of.get("log", False), 1 if of.get("step") is None else of["step"])


def _categorical(of: Mapping[str, Any]) -> Categorical:
    return Categorical(tuple(of["choices"]))


_READERS: Mapping[str, Callable[[Mapping[str, Any]], Distribution]] = {
    "FloatDistribution": _float,
    "IntDistribution": _int,
    "CategoricalDistribution": _categorical,
    # As older versions of Optuna wrote them.
    "UniformDistribution": _float,
    "LogUniformDistribution": lambda of: Float(of["low"], of["high"], log=True),
    "DiscreteUniformDistribution": lambda of: Float(of["low"], of["high"], step=of["q"]),
    "IntUniformDistribution": _int,
    "IntLogUniformDistribution": lambda of: Int(of["low"], of["high"], log=True, step=of.get("step", 1)),
    # The short form.
    "float": _float,
    "int": _int,
    "categorical": _categorical,
}


def _json(name: str, **attributes: Any) -> str:
    return json.dumps({"name": name, "attributes": attributes})


def _last_step(low: float, high: float, step: float) -> float:
    """Return the last value at or below `high`, in decimal as Optuna computes it.

    Raises:
        ValueError: there are more steps than Optuna can count.
    """
    width, one = _decimal(high) - _decimal(low), _decimal(step)
    try:
        return high if width % one == 0 else float(width // one * one + _decimal(low))
    except decimal.InvalidOperation:
        raise ValueError(
            f"step {step!r} is too small for {low!r} to {high!r}: write a larger one, or leave it out"
        ) from None


def _decimal(number: float) -> decimal.Decimal:
    return decimal.Decimal(str(number))

"""What a file says, piece by piece."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

_HIGHEST_STEP = 2**31 - 1  # Optuna's column is an integer


@dataclass(frozen=True)
class Entry:
    """Values by the name of their objective or constraint, and their step, None where the file has none.

    `bad` says what cannot be read; then there are no values. `anew` says that the file begins anew after this.
    """

    values: Mapping[str, float] = field(default_factory=dict)
    step: int | None = None
    bad: str | None = None
    anew: bool = False


class Source(Protocol):
    """Files that grow."""

    def read(self, last: bool = False) -> Iterator[Entry]:
        """What has been added since it was read before. May be left before its end: the rest comes the next time.

        Args:
            last: nothing more will be written, so that what is there is complete.
        """

    @property
    def trouble(self) -> str | None:
        """Why nothing can be read just now, in words."""


class Names:
    """The names of a study's objectives and constraints."""

    def __init__(self, objectives: Sequence[str], constraints: Sequence[str]) -> None:
        self.objectives, self.constraints = tuple(objectives), tuple(constraints)
        self._wanted = frozenset(objectives) | frozenset(constraints)

    def __contains__(self, name: str) -> bool:
        return name in self._wanted

    def entry(self, found: Mapping[str, Any], step: Any) -> Entry | None:
        """The entry of values as a file has them; None when there is nothing of the study among them.

        Args:
            step: None where the file has none.
        """
        values: dict[str, float] = {}
        for name, value in found.items():
            if name not in self or value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float):
                return Entry(bad=f"{name} is {value!r:.100}, which is no number")
            try:
                values[name] = float(value)
            except OverflowError:
                return Entry(bad=f"{name} is too large for a number")
            if name in self.constraints and not math.isfinite(values[name]):
                return Entry(bad=f"constraint {name} is {value!r}; it must be a finite number")
        if not values:
            return None
        if step is not None:
            whole = not isinstance(step, bool) and isinstance(step, int | float) and step == step // 1
            if not whole or not 0 <= step <= _HIGHEST_STEP:
                return Entry(bad=f"the step is {step!r:.100}; a step is a whole number from 0 to {_HIGHEST_STEP}")
            step = int(step)
        return Entry(values, step)

"""Entries of metric files, and what a reader of such files must do."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

_HIGHEST_STEP = 2**31 - 1  # of Optuna's column, an integer of 32 bits


@dataclass(frozen=True)
class Entry:
    """A piece of a metric file.

    Attributes:
        values: by the name of their objective or constraint.
        step: None when the file has none.
        bad: what cannot be read; None when all can. An entry with it has no values.
        anew: whether the file was truncated or replaced, and begins anew after this entry.
    """

    values: Mapping[str, float] = field(default_factory=dict)
    step: int | None = None
    bad: str | None = None
    anew: bool = False


class Source(Protocol):
    """A file or directory of files that grow."""

    def read(self, last: bool = False) -> Iterator[Entry]:
        """Yield the entries that were added since the last read.

        The caller may stop before the end. The rest comes with the next read.

        Args:
            last: whether the files are complete: nothing more will be written.
        """
        ...

    @property
    def trouble(self) -> str | None:
        """Why nothing can be read now, in words; None when all is well."""
        ...


class Names:
    """The names of a study's objectives and constraints."""

    def __init__(self, objectives: Sequence[str], constraints: Sequence[str]) -> None:
        self.objectives, self.constraints = tuple(objectives), tuple(constraints)
        self._wanted = frozenset(objectives) | frozenset(constraints)

    def __contains__(self, name: str) -> bool:
        return name in self._wanted

    def entry(self, found: Mapping[str, Any], step: Any) -> Entry | None:
        """Return the entry for the values of a record, or None if none of its names is the study's.

        Args:
            found: the record's values by name.
            step: the record's step; None when the file has none.
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

"""Entries of metric files, and what a reader of such files must do."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from study_trial._reading import numerals


@dataclass(frozen=True)
class Entry:
    """A piece of a metric file.

    Attributes:
        values: by the name of their objective or constraint.
        step: None when the file has none that can be used.
        lost: why the step that the file has cannot be used; "" without such a step.
        bad: what names an objective or constraint and cannot be read; None when all can. The values beside it count.
        anew: whether the file was truncated or replaced, and begins anew after this entry.
    """

    values: Mapping[str, float] = field(default_factory=dict)
    step: int | None = None
    lost: str = ""
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
        bad: str | None = None
        for name, value in found.items():
            if name not in self or value is None:
                continue
            try:
                values[name] = numerals.number(value) if isinstance(value, str) else _given(value)
            except numerals.Unreadable as error:
                bad = f"{name} is {error.word}, which {error.why}"
                continue
            if name in self.constraints and not math.isfinite(values[name]):
                bad = f"constraint {name} is {values.pop(name)!r}; it must be a finite number"
        if not values:
            return None if bad is None else Entry(bad=bad)
        used, lost = None, ""
        if step is not None:
            try:
                used = _step(step)
            except numerals.Unreadable as error:
                lost = f"the step is {error.word}, which {error.why}"
        return Entry(values, used, lost, bad)


def _step(given: Any) -> int:
    return numerals.step(given) if isinstance(given, str) else numerals.whole_step(_given(given), f"{given!r:.100}")


def _given(value: Any) -> float:
    """Return a value as a number that is none in the form of text."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise numerals.Unreadable(f"{value!r:.100}", "is no number")
    return float(value)

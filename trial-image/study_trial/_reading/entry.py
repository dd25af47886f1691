"""Entries of metric files, and what a reader of such files must do."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from study_trial._reading import numerals

_MOST_SEEN = 8  # names that are told when a value is missing


@dataclass(frozen=True)
class Entry:
    """A piece of a metric file.

    Attributes:
        values: by what the program calls them.
        step: None when the file has none that can be used.
        lost: why the step that the file has cannot be used; "" without such a step.
        bad: what names an objective or constraint and cannot be read; None when all can. The values beside it count.
        anew: whether the file was truncated or replaced, and begins anew after this entry.
        unmarked: the names whose values count only while the file has none of them with a mark, see `printed_lines`.
        no_report: whether the values count at the end only.
        void: a name whose values so far do not count, because it is not known which ones are meant; or "".
    """

    values: Mapping[str, float] = field(default_factory=dict)
    step: int | None = None
    lost: str = ""
    bad: str | None = None
    anew: bool = False
    unmarked: frozenset[str] = frozenset()
    no_report: bool = False
    void: str = ""


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
    """The names of a study's objectives and constraints, and what the program calls them.

    Args:
        objectives: their names, in order.
        constraints: their names.
        called: what the program calls those that it does not call by their name.
        finals: which value of an objective is the final one, Min or Max, unless it is the last one.
        additional: what the program calls further values that are kept.

    Attributes:
        seen: some of the names that the program has written and that are none of these, in order.
    """

    def __init__(
        self,
        objectives: Sequence[str],
        constraints: Sequence[str],
        called: Mapping[str, str] | None = None,
        finals: Mapping[str, str] | None = None,
        additional: Sequence[str] = (),
    ) -> None:
        self.objectives, self.constraints, self.additional = tuple(objectives), tuple(constraints), tuple(additional)
        self.finals = dict(finals or {})
        self._called = dict(called or {})
        self._limited = frozenset(map(self.metric, constraints))
        self._wanted = frozenset(map(self.metric, objectives)) | self._limited | frozenset(additional)
        self.seen: dict[str, None] = {}

    def metric(self, name: str) -> str:
        """Return what the program calls an objective or constraint."""
        return self._called.get(name, name)

    def __contains__(self, metric: str) -> bool:
        return metric in self._wanted

    def note(self, name: str) -> None:
        """Remember a name that the program has written."""
        if name not in self._wanted and len(self.seen) < _MOST_SEEN:
            self.seen[name] = None

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
            if name in self._limited and not math.isfinite(values[name]):
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

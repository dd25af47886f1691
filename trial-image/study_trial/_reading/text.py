"""Reader of lines of text: `epoch=3 accuracy=0.91`, as the operator reads what a program prints."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator

from study_trial._reading.entry import Entry, Names
from study_trial._reading.pairs import Pairs
from study_trial._reading.printed_lines import LONGEST_LINE, Known, Line, Lines, shortened
from study_trial._reading.seen_names import LINES_READ, names_in
from study_trial._reading.tail import Event, Tail


class Text:
    """Reads one file. What a line means is in `printed_lines`.

    Args:
        path: the file.
        names: the names of the study's objectives and constraints.
        step_name: the name of the step in a line.
        pattern: a regular expression of one value, with the groups name and value; None for `name=value` and
            `name: value`. It is the user's and runs in the user's pod, so Python's engine will do.

    Raises:
        re.error: the pattern is not a regular expression.
    """

    def __init__(self, path: str, names: Names, step_name: str, pattern: str | None = None) -> None:
        objectives, constraints = (list(map(names.metric, of)) for of in (names.objectives, names.constraints))
        find = _given(pattern) if pattern is not None else None
        self._lines = Lines(objectives, constraints, step_name, names.additional, find)
        self._known = Known()
        self._tail = Tail(path, self._shortened)
        self._names = names
        self._number = 0  # of the current line, from 1
        self._latest: deque[bytes] = deque(maxlen=LINES_READ)

    def read(self, last: bool = False) -> Iterator[Entry]:
        """Yield the entries of new lines. See `Source.read`."""
        for line in self._tail.read(last):
            if isinstance(line, Event):  # no line is too long for the tail: see _shortened
                self._number, self._known = 0, Known()
                yield Entry(anew=True)
                continue
            self._number += 1
            self._latest.append(line[:LONGEST_LINE])
            if (said := self._lines.read(line)) is not None and (entry := self._entry(said)) is not None:
                yield entry
        if last:
            for name in names_in(line.decode(errors="replace") for line in self._latest):
                self._names.note(name)

    @property
    def trouble(self) -> str | None:
        """Why nothing can be read now. See `Source.trouble`."""
        return self._tail.trouble

    def _entry(self, said: Line) -> Entry | None:
        values, bad = self._known.values(said), self._known.bad(said)
        if not values and bad is None:
            return None
        told = None if bad is None else f"line {self._number}: {bad}"
        first = self._names.metric(self._names.objectives[0])
        no_report = first in values and not self._known.reports(said, first)
        unmarked = said.unmarked.intersection(values)
        return Entry(values, said.step, said.lost, told, unmarked=unmarked, no_report=no_report)

    def _shortened(self, line: bytes) -> bytes:
        return shortened(line, self._lines.says, LONGEST_LINE + 1)


def _given(pattern: str) -> Callable[[str], Pairs]:
    """Find what a user's pattern matches. The operator has seen that it means the same to RE2."""
    compiled = re.compile(pattern, re.ASCII)

    def find(line: str) -> Iterator[tuple[str, str]]:
        for match in compiled.finditer(line):
            if match["name"]:
                yield match["name"], match["value"] or ""

    return find

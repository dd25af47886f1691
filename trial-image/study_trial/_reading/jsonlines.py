"""Reader of JSON lines: one object per line, such as {"epoch": 3, "accuracy": 0.91}."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

from study_trial._reading.entry import Entry, Names
from study_trial._reading.tail import LONGEST_LINE, Event, Tail


class JsonLines:
    """Reads one file. Ignores names that are not the study's, and null.

    Args:
        path: the file.
        names: the names of the study's objectives and constraints.
        step_name: the name of the step in an object.
    """

    def __init__(self, path: str, names: Names, step_name: str) -> None:
        self._tail = Tail(path)
        self._names = names
        self._step_name = step_name
        self._number = 0  # of the current line, from 1

    def read(self, last: bool = False) -> Iterator[Entry]:
        """Yield the entries of new lines. See `Source.read`."""
        for line in self._tail.read(last):
            self._number += 1
            if line is Event.ANEW:
                self._number = 0
                yield Entry(anew=True)
            elif line is Event.TOO_LONG:
                yield Entry(bad=f"line {self._number} has more than {LONGEST_LINE} bytes")
            elif (entry := self._entry(line)) is not None:
                yield entry

    @property
    def trouble(self) -> str | None:
        """Why nothing can be read now. See `Source.trouble`."""
        return self._tail.trouble

    def _entry(self, line: bytes) -> Entry | None:
        if not line.strip():
            return None
        try:
            found = json.loads(line, parse_float=_number)
        except RecursionError:
            return self._bad("is nested too deeply", line)
        except ValueError as error:
            return self._bad(f"is not JSON ({error})", line)
        if not isinstance(found, dict):
            return self._bad("is no JSON object", line)
        entry = self._names.entry(found, found.get(self._step_name))
        return Entry(bad=f"line {self._number}: {entry.bad}") if entry and entry.bad else entry

    def _bad(self, why: str, line: bytes) -> Entry:
        text = "".join(c if c.isprintable() else " " for c in line[:100].decode(errors="replace"))
        return Entry(bad=f"line {self._number} {why}: {text}")


def _number(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text:.50} is too large for a number")
    return number

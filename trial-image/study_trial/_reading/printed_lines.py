"""Read values from the lines that a program prints, or writes to a file of text.

The operator and the trials' library have the same file, as `numerals`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice

from study_trial._reading.numerals import Unreadable, number, step
from study_trial._reading.pairs import Pairs
from study_trial._reading.terminal import SEQUENCES, shown

LONGEST_LINE = 8192  # bytes; longer lines are not read, because a value at the cut would be another value
_MOST_MATCHES = 200  # in a line; more would only keep the reader busy
_MOST_SHOWN = 200  # characters of a bad line that users see


@dataclass(frozen=True)
class Line:
    """What one line says.

    Attributes:
        values: by what the program calls them.
        step: None if the line has none that can be used.
        lost: why the step in the line cannot be used, in words; "" without such a step.
        bad: what names an objective or constraint and cannot be read, in words. The values beside it count.
    """

    values: Mapping[str, float] = field(default_factory=dict)
    step: int | None = None
    lost: str = ""
    bad: str | None = None


class Lines:
    """Reads the lines of one study's trials. Any bytes are allowed; the time for a line is linear in its length.

    Args:
        find: finds the names and texts of values in a line, in their order.
        objectives: what the program calls the objectives, whose values may be infinite or NaN.
        constraints: what it calls the constraints, whose values are finite.
        step: the name under which the program prints the step.
        additional: what it calls further values, which may be infinite or NaN.
    """

    def __init__(
        self,
        find: Callable[[str], Pairs],
        objectives: Iterable[str],
        constraints: Iterable[str],
        step: str,
        additional: Iterable[str] = (),
    ) -> None:
        self._find, self._step = find, step
        self._objectives, self._constraints = frozenset(objectives), frozenset(constraints)
        self._wanted = self._objectives | self._constraints | frozenset(additional)
        self._marks = tuple(name.encode() for name in self._wanted)

    def read(self, line: bytes) -> Line | None:
        """Return what a line says; None if it names no objective and no constraint, as most lines do.

        If a name is there twice, the last one counts.
        """
        if not self._mentions(line):
            return None
        for state in reversed(line.split(b"\r")):  # a progress bar writes over what was there before
            if self._mentions(state) and (said := self._read_state(state)) is not None:
                return said
        return None

    def _mentions(self, line: bytes) -> bool:
        """Return whether a name of the study may stand in a line, perhaps as escapes, or with colours in it.

        Most lines say nothing, and this is all that is done with them.
        """
        if any(mark in line for mark in self._marks):
            return True
        if b"\\" in line and (b"\\u" in line or b"\\/" in line):
            return True
        return b"\x1b" in line and any(mark in SEQUENCES.sub(b"", line) for mark in self._marks)

    def _read_state(self, state: bytes) -> Line | None:
        if len(state) > LONGEST_LINE:
            named = any(mark in state for mark in self._marks)
            text = shown(state[:LONGEST_LINE].decode("utf-8", "replace"))
            return _bad(f"a line has more than {LONGEST_LINE} bytes", text) if named else None
        for text in reversed(shown(state.decode("utf-8", "replace")).split("\r")):
            if (said := self._read(text.strip("\n"))) is not None:
                return said
        return None

    def _read(self, text: str) -> Line | None:
        matches = list(islice(self._find(text), _MOST_MATCHES + 1))
        if len(matches) > _MOST_MATCHES:
            return _bad(f"a line has more than {_MOST_MATCHES} values", text)
        found = dict(matches)
        named = {name: value for name, value in found.items() if name in self._wanted}
        if not named:
            return None
        values: dict[str, float] = {}
        bad: str | None = None
        for name, word in named.items():
            try:
                value = number(word)
            except Unreadable as error:
                bad = f"{name} is {error.word}, which {error.why}"
                continue
            if name in self._constraints and not math.isfinite(value):
                bad = f"constraint {name} is {word[:_MOST_SHOWN]!r}; it must be a finite number"
                continue
            values[name] = value
        used, lost = None, ""
        if self._step in found and not self._objectives.isdisjoint(values):
            try:
                used = step(found[self._step])
            except Unreadable as error:
                lost = f"{self._step} is {error.word}, which {error.why}"
        return Line(values, used, lost, None if bad is None else _with_line(bad, text))


def shortened(rest: bytes, says: Callable[[bytes], bool], kept: int, front: int = 0) -> bytes:
    """Return what of the beginning of a line counts, however long the line gets.

    A progress bar writes over its line, for hours perhaps, and never ends it. So the last state that says something is
    kept, and the state that is being written.

    Args:
        rest: the line as far as it has been written.
        says: whether a state says something.
        kept: how many bytes of a state to keep. It is more than are read, so that a longer one is seen to be so.
        front: in how many first bytes a time may stand, which is kept too.
    """
    *states, state = rest.split(b"\r")
    if not states:
        return rest[:kept]
    time_end = states[0].find(b" ", 0, front) + 1
    time, states[0] = states[0][:time_end], states[0][time_end:]
    counts = next((old for old in reversed(states) if says(old[:kept])), b"")
    return time + counts[:kept] + b"\r" + state[:kept]


def _bad(why: str, line: str) -> Line:
    return Line(bad=_with_line(why, line))


def _with_line(why: str, line: str) -> str:
    return f"{why}: {''.join(c if c.isprintable() else ' ' for c in line.strip()[:_MOST_SHOWN])}"

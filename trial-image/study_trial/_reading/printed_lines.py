"""Read values from the lines that a program prints, or writes to a file of text.

The operator and the trials' library have the same file, as `numerals`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from itertools import islice

from study_trial._reading.numerals import Unreadable, number, step
from study_trial._reading.pairs import Pairs, finder
from study_trial._reading.terminal import SEQUENCES, shown, states, unescaped
from study_trial._reading.unmarked import Unmarked, step_of, unmarked

LONGEST_LINE = 8192  # bytes; longer lines are not read, because a value at the cut would be another value
_MOST_MATCHES = 200  # in a line; more would only keep the reader busy
_MOST_SHOWN = 200  # characters of a bad line that users see
_NOTHING = Unmarked()


@dataclass(frozen=True)
class Line:
    """What one line says.

    Attributes:
        values: by what the program calls them.
        step: None if the line has none that can be used.
        lost: why the step in the line cannot be used, in words; "" without such a step.
        bad: what names an objective or constraint and cannot be read, in words. The values beside it count.
        unmarked: the names whose values have neither `=` nor `:` before them.
        unclear: the names that `bad` is about, if it may be about prose: they have no mark either.
    """

    values: Mapping[str, float] = field(default_factory=dict)
    step: int | None = None
    lost: str = ""
    bad: str | None = None
    unmarked: frozenset[str] = frozenset()
    unclear: frozenset[str] = frozenset()


class Lines:
    """Reads the lines of one study's trials. Any bytes are allowed; the time for a line is linear in its length.

    Args:
        objectives: what the program calls the objectives, whose values may be infinite or NaN.
        constraints: what it calls the constraints, whose values are finite.
        step: the name under which the program prints the step.
        additional: what it calls further values, which may be infinite or NaN.
        find: finds the names and texts of values in a line, in their order, as a user's pattern has it; None for
            `name=value`, `name: value` and what `unmarked` finds.
    """

    def __init__(
        self,
        objectives: Collection[str],
        constraints: Collection[str],
        step: str,
        additional: Collection[str] = (),
        find: Callable[[str], Pairs] | None = None,
    ) -> None:
        names = [*objectives, *constraints, *additional]
        self._step = step
        self._objectives, self._constraints = frozenset(objectives), frozenset(constraints)
        self._wanted = frozenset(names)
        self._find = find or finder([*names, step])
        self._find_unmarked = unmarked(names, step) if find is None else None
        self._lowered = {name: name.lower() for name in self._wanted}
        self._find_step = step_of(step)
        # Without a pattern also a name in other letters is looked for, to say that it is another one.
        self._cased: Callable[[bytes], bytes] = bytes if find is not None else bytes.lower
        self._marks = tuple(self._cased(name.encode()) for name in self._wanted)

    def read(self, line: bytes) -> Line | None:
        """Return what a line says; None if it names no objective and no constraint, as most lines do.

        If a name is there twice, the last one counts.
        """
        if not self._mentions(line):
            return None
        prose: Line | None = None
        for state in reversed(states(line, LONGEST_LINE + 1)):
            if self._mentions(state) and (said := self._read_state(state)) is not None:
                if not said.unclear or said.values:
                    return said
                prose = prose or said
        return prose

    def says(self, state: bytes) -> bool:
        """Return whether a state of a progress bar has something for the study: more than what may be prose."""
        said = self.read(state)
        return said is not None and (not said.unclear or bool(said.values))

    def _mentions(self, line: bytes) -> bool:
        """Return whether a name of the study may stand in a line, perhaps as escapes, or with colours in it.

        Most lines say nothing, and this is all that is done with them.
        """
        cased = self._cased(line)
        if any(mark in cased for mark in self._marks):
            return True
        if b"\\" in line and (b"\\u" in line or b"\\/" in line):
            return True
        return b"\x1b" in line and any(mark in SEQUENCES.sub(b"", cased) for mark in self._marks)

    def _read_state(self, state: bytes) -> Line | None:
        if len(state) > LONGEST_LINE:
            cased = self._cased(state)
            named = any(mark in cased for mark in self._marks)
            text = shown(state[:LONGEST_LINE].decode("utf-8", "replace"))
            return _bad(f"a line has more than {LONGEST_LINE} bytes", text) if named else None
        prose: Line | None = None
        for text in reversed(shown(state.decode("utf-8", "replace")).split("\r")):
            if (said := self._read(text.strip("\n"))) is not None:
                if not said.unclear or said.values:
                    return said
                prose = prose or said
        return prose

    def _read(self, text: str) -> Line | None:
        matches = list(islice(self._find(text), _MOST_MATCHES + 1))
        if len(matches) > _MOST_MATCHES:
            return _bad(f"a line has more than {_MOST_MATCHES} values", text)
        found = dict(matches)
        named = {name: value for name, value in found.items() if name in self._wanted}
        beside = self._beside(text, self._wanted.difference(named))
        if not named and not beside.values and not beside.unclear:
            return None
        values: dict[str, float] = {}
        bad: str | None = None
        words: dict[str, str | float] = {**named, **beside.values}
        for name, word in words.items():
            try:
                value = number(word) if isinstance(word, str) else word
            except Unreadable as error:
                bad = f"{name} is {error.word}, which {error.why}"
                continue
            if name in self._constraints and not math.isfinite(value):
                bad = f"constraint {name} is {str(word)[:_MOST_SHOWN]!r}; it must be a finite number"
                continue
            values[name] = value
        used, lost = None, ""
        if not self._objectives.isdisjoint(values) and (written := self._written_step(found, beside, text)) is not None:
            try:
                used = step(written)
            except Unreadable as error:
                lost = f"{self._step} is {error.word}, which {error.why}"
        unclear = frozenset(beside.unclear) if bad is None else frozenset[str]()
        if unclear:
            bad = next(iter(beside.unclear.values()))
        bad = None if bad is None else _with_line(bad, text)
        return Line(values, used, lost, bad, frozenset(beside.values).intersection(values), unclear)

    def _beside(self, text: str, wanted: frozenset[str]) -> Unmarked:
        """Return what a line says of names without a mark, but for additional values that are not clear."""
        if self._find_unmarked is None or not wanted:
            return _NOTHING
        text = unescaped(text) if "\\" in text else text
        lowered = text.lower()
        if not any(self._lowered[name] in lowered for name in wanted):
            return _NOTHING
        found = self._find_unmarked(text, wanted)
        told = {name: why for name, why in found.unclear.items() if name in self._objectives | self._constraints}
        return Unmarked(found.values, told)

    def _written_step(self, found: Mapping[str, str], beside: Unmarked, text: str) -> str | None:
        """Return the step in a line as it is written, also without a mark if an objective has none."""
        if self._step in found:
            return found[self._step]
        return None if self._objectives.isdisjoint(beside.values) else self._find_step(text)


class Known:
    """Remembers which names one log has had values of, to judge what has no mark.

    A value without a mark counts only while its name has had none with one. So a program that prints `accuracy=0.91`
    may end with "best accuracy 0.95". Without a step such values are reports from the second one on: one alone may be a
    summary, or come before all others, as in "initial accuracy 0.1". A line that is not clear is told only while its
    name has had no value, and of many such lines the first, the second, the fourth, the eighth and so on.
    """

    def __init__(self) -> None:
        self._marked, self._named = set[str](), set[str]()
        self._unclear = self._without_step = 0

    def values(self, said: Line) -> dict[str, float]:
        """Return the values in a line that count."""
        counts = {name: v for name, v in said.values.items() if name not in said.unmarked or name not in self._marked}
        self._marked.update(said.values.keys() - said.unmarked)
        self._named.update(counts)
        return counts

    def reports(self, said: Line, name: str) -> bool:
        """Return whether the value that a line has of a name is a report."""
        if name not in said.unmarked or said.step is not None or said.lost:
            return True
        self._without_step += 1
        return self._without_step > 1

    def bad(self, said: Line) -> str | None:
        """Return what of a line cannot be read and is to be told; None if nothing is."""
        if said.bad is None or not said.unclear:
            return said.bad
        if said.unclear <= self._named:
            return None
        self._unclear += 1
        return said.bad if self._unclear.bit_count() == 1 else None


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
    time_end = rest.find(b" ", 0, front) + 1
    time, rest = rest[:time_end], rest[time_end:]
    *before, state = states(rest, kept)
    if not before:
        return time + state
    counts = next((old for old in reversed(before) if says(old)), b"")
    return time + counts + b"\r" + state


def _bad(why: str, line: str) -> Line:
    return Line(bad=_with_line(why, line))


def _with_line(why: str, line: str) -> str:
    return f"{why}: {''.join(c if c.isprintable() else ' ' for c in line.strip()[:_MOST_SHOWN])}"

"""Read values from the lines that a program prints."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

import re2

from study_operator.model.study import Refused, Study

LONGEST_LINE = 8192  # bytes; longer lines are not read, because a value at the cut would be another value
HIGHEST_STEP = 2**31 - 1  # the highest integer of Optuna's column
_MOST_MATCHES = 200  # in a line; more would only keep the operator busy
_SHOWN = 200  # characters of a bad line that users see

# Colours and cursor movements of a terminal.
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# Stricter than float(), which accepts 1_000 and digits of other scripts.
_NUMBER = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?(?:inf|infinity)|[-+]?nan", re.I)
_STEP = re.compile(r"([0-9]+)(?:\.0*)?(?:/[0-9]+)?")  # 3, 3.0, and 3/30
_WORD = "A-Za-z0-9_./-"

Pairs = Iterable[tuple[str, str]]


@dataclass(frozen=True)
class Line:
    """What one line says.

    Attributes:
        values: by the name of the objective or constraint.
        step: None if the line has none.
        bad: what cannot be read, in words; then there are no values.
    """

    values: Mapping[str, float] = field(default_factory=dict)
    step: int | None = None
    bad: str | None = None


class Lines:
    """Reads the lines of one study's trials. Any bytes are allowed; the time for a line is linear in its length.

    Args:
        find: finds the names and texts of values in a line, in their order.
        objectives: names of the objectives, whose values may be infinite or NaN.
        constraints: names of the constraints, whose values are finite.
        step: the name under which the program prints the step.
    """

    def __init__(
        self, find: Callable[[str], Pairs], objectives: Iterable[str], constraints: Iterable[str], step: str
    ) -> None:
        self._find, self._step = find, step
        self._objectives, self._constraints = frozenset(objectives), frozenset(constraints)
        self._wanted = self._objectives | self._constraints
        self._marks = tuple(name.encode() for name in self._wanted)

    def read(self, line: bytes) -> Line | None:
        """Return what a line says; None if it names no objective and no constraint, as most lines do.

        If a name is there twice, the last one counts.
        """
        if not any(mark in line for mark in self._marks):
            return None
        text = _ESCAPES.sub("", line[:LONGEST_LINE].decode("utf-8", "replace")).rstrip("\r\n")
        if len(line) > LONGEST_LINE:
            return _bad(f"a line has more than {LONGEST_LINE} bytes", text)
        text = text.rpartition("\r")[2]  # a progress bar writes over what was there before
        matches = list(islice(self._find(text), _MOST_MATCHES + 1))
        if len(matches) > _MOST_MATCHES:
            return _bad(f"a line has more than {_MOST_MATCHES} values", text)
        found = dict(matches)
        named = {name: value for name, value in found.items() if name in self._wanted}
        if not named:
            return None
        values: dict[str, float] = {}
        for name, word in named.items():
            value = number(word)
            if value is None:
                return _bad(f"{name} is {word[:_SHOWN]!r}, which is no number", text)
            if name in self._constraints and not math.isfinite(value):
                return _bad(f"constraint {name} is {word[:_SHOWN]!r}; it must be a finite number", text)
            values[name] = value
        step = None
        if self._step in found and not self._objectives.isdisjoint(named):
            step = _step(found[self._step])
            if step is None:
                word = found[self._step][:_SHOWN]
                return _bad(f"{self._step} is {word!r}; a step is a whole number from 0 to {HIGHEST_STEP}", text)
        return Line(values, step)


def build(study: Study) -> Lines | None:
    """Return what reads the logs of a study's trials; None if they do not report by what they print.

    Raises:
        Refused: the pattern cannot be used (InvalidMetricsPattern), or a name means two things (InvalidMetrics).
    """
    metrics = study.metrics
    if metrics.source != "Stdout":
        return None
    objectives = [objective.name for objective in study.objectives]
    constraints = [constraint.name for constraint in study.constraints]
    step = metrics.step_name
    if step in (*objectives, *constraints):
        raise Refused(
            "InvalidMetrics",
            f"spec.metrics.stepName is {step!r}, which is the name of an objective or constraint as well: write the "
            "name under which the program prints the step",
        )
    find = _default([*objectives, *constraints, step]) if metrics.pattern is None else _given(metrics.pattern)
    return Lines(find, objectives, constraints, step)


def number(word: str) -> float | None:
    """Return a number as programs print it: 0.91, -1e-3, nan, inf. None for everything else, also for 0,91 and 91%."""
    if not _NUMBER.fullmatch(word):
        return None
    value = float(word)
    # 1e999 is written like a finite number, but is too large for one.
    return None if math.isinf(value) and "inf" not in word.lower() else value


def _step(word: str) -> int | None:
    found = _STEP.fullmatch(word)
    if found is None or len(found[1]) > 10:
        return None
    step = int(found[1])
    return step if step <= HIGHEST_STEP else None


def _bad(why: str, line: str) -> Line:
    return Line(bad=f"{why}: {''.join(c if c.isprintable() else ' ' for c in line.strip()[:_SHOWN])}")


def _default(names: list[str]) -> Callable[[str], Pairs]:
    """Find `name=value` and `name: value`, also with quotes, as in JSON or a printed dict.

    A value ends only at a character that separates values. So 0.91s or 0,91 is read as a whole and refused, instead of
    being read as 0.91 or 0.
    """
    # The names are escaped and the pattern is the operator's own. So Python's engine is safe; it is ten times as fast.
    pattern = re.compile(
        rf"(?<![{_WORD}])({'|'.join(map(re.escape, names))})[\"']?[ \t]*[:=][ \t]*[\"']?"
        r"((?:[^\s,;|)\]}\"']|,(?=[0-9]))*)"
    )

    def find(line: str) -> Iterator[tuple[str, str]]:
        for match in pattern.finditer(line):
            word = match[2]
            # The full stop of a sentence is no part of the value.
            yield match[1], word[:-1] if word.endswith(".") and word != "." else word

    return find


def _given(pattern: str) -> Callable[[str], Pairs]:
    """Find what a user's pattern matches. RE2 needs linear time, whatever the pattern."""
    options = re2.Options()
    options.log_errors = False
    options.max_mem = 1 << 20  # bytes, for the compiled pattern and its cache
    where = "spec.metrics.pattern"
    try:
        compiled = re2.compile(pattern, options)
    except re2.error as error:
        (reason,) = error.args
        reason = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        raise Refused("InvalidMetricsPattern", f"{where} is not a regular expression of RE2: {reason}") from None
    missing = [name for name in ("name", "value") if name not in compiled.groupindex]
    if missing:
        raise Refused(
            "InvalidMetricsPattern",
            f"{where} has no group named {' and none named '.join(missing)}: write it like "
            "(?P<name>[a-z_]+) is (?P<value>[-+.0-9eE]+)",
        )

    def find(line: str) -> Iterator[tuple[str, str]]:
        for match in compiled.finditer(line):
            if match["name"]:
                yield match["name"], match["value"] or ""

    return find

"""Read values from the lines that a program prints."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

import re2

from study_operator.model.numerals import Unreadable, number, step
from study_operator.model.study import Refused, Study

LONGEST_LINE = 8192  # bytes; longer lines are not read, because a value at the cut would be another value
_MOST_MATCHES = 200  # in a line; more would only keep the operator busy
_MOST_SHOWN = 200  # characters of a bad line that users see
_WORD = r"\w./-"
_GOES_ON = re.compile(r"[0-9.]+[\"']?[ \t]*[:=][ \t]*[-+.0-9]")  # of a name that only began like another one
_MOST_UNESCAPES = 3  # JSON in JSON in JSON

# Control sequences, whose forms are in ECMA-48. Some movements of the cursor begin the line anew, as a carriage return
# does, or go back in it, as backspaces do.
_ANEW = re.compile("(?:\x1b\\[|\x9b)(?:[0-9;]*[ABEFHdf]|[01]?G)")
_BACK = re.compile("(?:\x1b\\[|\x9b)([0-9]{0,3})D")
_ON = re.compile("(?:\x1b\\[|\x9b)[0-9]*[CG]")
_INVISIBLE = re.compile(
    "(?:\x1b\\[|\x9b)[0-?]*[ -/]*[@-~]"  # colours and the like
    "|(?:\x1b\\]|\x9d)[^\x07\x1b\x9c]*(?:\x07|\x1b\\\\|\x9c)"  # titles and links
    "|\x1b[PX^_][^\x1b]*\x1b\\\\"
    "|\x1b[ -/]+[0-~]"  # character sets
    "|\x1b[0-~]?"
    "|[\x0e\x0f]"
)
_SEQUENCES = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-~])")  # most of them
_JSON_ESCAPE = re.compile(r'\\(?:(u[0-9a-fA-F]{4})|(["\\/])|[bfnrt])')

# A value is one word, or what a library shows for a number, which has brackets around more than a word. A word ends
# only at a character that separates values. So 0.91s or 0,91 is read as a whole, instead of being read as 0.91 or 0.
# After a digit it also ends at one of the names, which stands there if two writers have written into one line.
_VALUE = (
    r"(?:[A-Za-z_][\w.]{0,63})?\([^()]{0,200}(?:\([^()]{0,200}\)[^()]{0,200}){0,9}\)"
    r"|\[[^\[\]]{0,200}\]"
    r"|<[^<>]{1,200}>"
    r"|(?!{names}{sign})(?:(?!(?<=[0-9]){names}{sign})[^\s\x00-\x1f,;|)\]}\"'`\\\uff0c\uff1b\u3002]|,(?=[0-9]))*"
    r"|"
)

Pairs = Iterable[tuple[str, str]]


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
        return b"\x1b" in line and any(mark in _SEQUENCES.sub(b"", line) for mark in self._marks)

    def _read_state(self, state: bytes) -> Line | None:
        if len(state) > LONGEST_LINE:
            named = any(mark in state for mark in self._marks)
            text = _shown(state[:LONGEST_LINE].decode("utf-8", "replace"))
            return _bad(f"a line has more than {LONGEST_LINE} bytes", text) if named else None
        for text in reversed(_shown(state.decode("utf-8", "replace")).split("\r")):
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


def build(study: Study) -> Lines | None:
    """Return what reads the logs of a study's trials; None if they do not report by what they print.

    Raises:
        Refused: the pattern cannot be used (InvalidMetricsPattern), or a name means two things (InvalidMetrics).
    """
    metrics = study.metrics
    if metrics.source != "Stdout":
        return None
    objectives = [objective.metric for objective in study.objectives]
    constraints = [constraint.metric for constraint in study.constraints]
    step_name = metrics.step_name
    if step_name in (*objectives, *constraints):
        raise Refused(
            "InvalidMetrics",
            f"spec.metrics.stepName is {step_name!r}, which is what an objective or constraint is called as well: "
            "write the name under which the program prints the step",
        )
    names = [*objectives, *constraints, *metrics.additional, step_name]
    find = _default(names) if metrics.pattern is None else _given(metrics.pattern)
    return Lines(find, objectives, constraints, step_name, metrics.additional)


def _bad(why: str, line: str) -> Line:
    return Line(bad=_with_line(why, line))


def _with_line(why: str, line: str) -> str:
    return f"{why}: {''.join(c if c.isprintable() else ' ' for c in line.strip()[:_MOST_SHOWN])}"


def _shown(text: str) -> str:
    """Return what of a line a terminal shows; its states in their order, with carriage returns between them."""
    if "\x1b" in text or "\x9b" in text:
        text = _BACK.sub(lambda found: "\b" * int(found[1] or 1), _ANEW.sub("\r", text))
        text = _INVISIBLE.sub("", _ON.sub(" ", text))
    if "\b" not in text:
        return text
    shown: list[str] = []
    for character in text:
        if character != "\b":
            shown.append(character)
        elif shown and shown[-1] != "\r":
            shown.pop()
    return "".join(shown)


def _unescaped(text: str) -> str:
    """Return a line with the texts in it as they were before they were written as JSON, also in JSON in JSON."""
    for _ in range(_MOST_UNESCAPES):
        if "\\" not in text:
            break
        text = _shown(_JSON_ESCAPE.sub(_unescape, text))
    # A character beyond the first plane is two escapes.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _unescape(found: re.Match[str]) -> str:
    if found[1]:
        return chr(int(found[1][1:], 16))
    return found[2] or " "


def _default(names: list[str]) -> Callable[[str], Pairs]:
    """Find `name=value` and `name: value`, also with quotes, as in JSON or a printed dict."""
    # The names are escaped and the pattern is the operator's own. So Python's engine is safe; it is ten times as fast.
    # A name may begin as another one does (mAP@0.5 and mAP@0.5:0.95), so the longest is tried first.
    longest_first = sorted(set(names), key=len, reverse=True)
    alternatives, sign = f"({'|'.join(map(re.escape, longest_first))})", r"[\"'`*]{0,3}[ \t]*[:=\uff1a][=>]?"
    value = _VALUE.replace("{names}", alternatives.replace("(", "(?:", 1)).replace("{sign}", sign)
    glued = re.compile(rf"{alternatives}{sign}[ \t]*(?:[\"'`*]{{1,3}}[ \t]*)?({value})")
    pattern = re.compile(rf"(?<![{_WORD}]){glued.pattern}")

    def find(line: str) -> Iterator[tuple[str, str]]:
        line = _unescaped(line) if "\\" in line else line
        match = pattern.search(line)
        while match is not None:
            name, word = match.groups()
            if line[match.end(1) : match.start(2)] == ":" and _GOES_ON.match(line, match.start(2)):
                match = pattern.search(line, match.end())  # mAP@0.5:0.95 = 0.41 is no value of mAP@0.5
                continue
            # The full stop of a sentence is no part of the value.
            yield name, word[:-1] if len(word) > 1 and word[-1] in ".:" else word
            end, match = match.end(), None
            # Another writer's name may follow without a gap, but only after a number: val_accuracy is not accuracy.
            # It is tried first, because a search goes through the rest of the line.
            if line[end : end + 1].isalnum() and _is_number(word):
                match = glued.match(line, end)
            match = match or pattern.search(line, end)

    return find


def _is_number(word: str) -> bool:
    try:
        number(word)
    except Unreadable:
        return False
    return True


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

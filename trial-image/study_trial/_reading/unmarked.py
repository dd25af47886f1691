"""Find names beside numbers without `=` or `:` between them: `accuracy 0.91`, `accuracy is 0.91`, `accuracy | 0.91`.

Such a line may be prose: "accuracy improved from 0.80 to 0.91". So a number is taken only if nothing else in the line
could be meant. What names a metric beside a number and is not taken is told.

The operator and the trials' library have the same file, as `numerals`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from itertools import islice

from study_trial._reading.numerals import Unreadable, is_number, number
from study_trial._reading.pairs import GOES_ON

_MOST_NAMES = 20  # in a line; more would only keep the reader busy
_NEAR = 200  # characters after a name in which a number is beside it
_BEFORE = 24  # and before it

_NUMBER = r"[-+]?(?:\.?[0-9]|(?:nan|inf(?:inity)?)\b)"  # how one begins
_WORD = r"(?:[^\s,;|│┃()\[\]{}\"'`]|,(?=[0-9]))+"
# What may stand between a name and its value.
_TAKEN = re.compile(
    rf"(?P<link>[\"'`*]{{0,3}}[ \t]*[|│┃][ \t]*|[ \t]+(?:(?:is|was|are|of|[-=]+>|→)[ \t]+)?"
    rf"|[\"']?[ \t]*,[ \t]*[\"']?(?:metric_?)?value[\"']?[ \t]*[:=][ \t]*[\"']?)"  # Katib's, and that of many loggers
    rf"(?P<word>(?={_NUMBER}){_WORD})(?P<percent>[ \t]%)?",
    re.I,
)
# What may follow a value: the end; what separates values, without another number; the next name with its number.
_SEPARATED = re.compile(
    rf"\.?[ \t]*$|(?:\.[ \t]|[ \t]*[,;|│┃)\]}}\"'(]|\t|[ \t]{{2}}|[ \t]+[-\u2013\u2014][ \t])"
    rf"(?![ \t]*[|│┃]?[ \t]*{_NUMBER})",
    re.I,
)
_PLAIN_WORD = r"[^\W\d][^\s=:,;|()]*"
_NEXT = re.compile(
    rf"[ \t]+(?:(?:at|after|in|on|for|and|with)[ \t]+)?(?P<words>{_PLAIN_WORD}(?:[ \t]+{_PLAIN_WORD}){{0,2}})"
    rf"(?P<sign>[ \t]*[=:][ \t]*|[ \t]+)[\[(]?{_NUMBER}",
    re.I,
)
_NO_NAMES = re.compile(
    r"\b(?:to|of|from|than|or|by|vs|versus|out|over|under|above|below|between|against|times|per|at|after|in|on|for|and)\b",
    re.I,
)

# What is beside a name although it is not taken.
_ANY = rf"({_NUMBER}{_WORD}|{_NUMBER})"
_ADJACENT = re.compile(
    rf"[\"'`*)\]]{{0,3}}[ \t]*(?:is|was|are|of|[-,:;|│┃=~≈<>(\[→]{{1,3}})?[ \t]*[\"'`~≈(\[]{{0,2}}{_ANY}", re.I
)
_AS_VALUE = re.compile(
    rf"[\"']?[ \t]*,?[ \t]*[\"']?\w{{0,20}}(?:value|val|score|result)[\"']?[ \t]*[:=]?[ \t]*[\"'\[(]{{0,2}}{_ANY}", re.I
)
_NUMBERS = re.compile(
    r"(?<![\w.-])(?<!\w[:=/])[-+]?(?:[0-9]+(?:[.,][0-9]+)*|\.[0-9]+)(?:e[-+]?[0-9]+)?%?(?![\w/:-]|\.[0-9])", re.I
)
_CLAUSE = re.compile(r"[^,;|│┃\"'`\n]*")
_BEFORE_NAME = re.compile(r"(?<![\w.=:])(?<![=:] )([0-9]+\.[0-9]+|[0-9]+(?:\.[0-9]+)?[ \t]?%)[ \t]+$")
_GAPS = re.compile(r"[ \t]{3,}")  # of a table; nothing below goes through them twice
_COLUMNS = re.compile(r"[ \t]*[|│┃][ \t]*|\t+| {2,}")
_LONGEST_COLUMN, _LONGEST_HEADS = 40, 400  # characters of the head of a column, and of a line of them


@dataclass(frozen=True)
class Unmarked:
    """What a line says of names without `=` or `:`.

    Attributes:
        values: what was taken, by name.
        unclear: why a name that is beside a number has no value, in words, by name.
    """

    values: Mapping[str, float] = field(default_factory=dict)
    unclear: Mapping[str, str] = field(default_factory=dict)


def unmarked(names: Collection[str], step: str) -> Callable[[str, Collection[str]], Unmarked]:
    """Return what finds names beside numbers in a line.

    Args:
        names: what the program calls the values.
        step: the name under which it writes the step.

    Returns:
        A function of a line and of the names that are looked for in it. Its time is linear in the line's length.
    """
    known = frozenset(names)
    by_spelling = {name.lower(): name for name in names}
    longest_first = sorted(by_spelling, key=len, reverse=True)
    mention = re.compile(rf"(?<![\w./-])(?:{'|'.join(map(re.escape, longest_first))})(?![\w/@-]|\.\w)", re.I)
    marked = known | {step}

    def find(line: str, wanted: Collection[str]) -> Unmarked:
        values: dict[str, float] = {}
        unclear: dict[str, str] = {}
        for found in islice(mention.finditer(line), _MOST_NAMES):
            name = found[0] if found[0] in known else by_spelling.get(found[0].lower(), "")
            rest = line[found.end() : found.end() + _NEAR]
            if found.end() + _NEAR < len(line):
                rest += "\u2026"  # so that a number at the cut is none
            rest = _GAPS.sub("  ", rest)
            if name not in wanted or (rest[:1] == ":" and GOES_ON.match(rest, 1)):
                continue
            word = _taken(rest, marked) if name == found[0] else None
            before = line[max(found.start() - _BEFORE, 0) : found.start()]
            try:
                if word is not None:
                    values[name] = number(word)
                    unclear.pop(name, None)
                    continue
                why = _unclear(name, found[0], before, rest)
            except Unreadable as error:
                why = f"{name} is {error.word}, which {error.why}"
            if why is not None:
                unclear[name] = why
                values.pop(name, None)
        return Unmarked(values, unclear) if values or unclear else Unmarked(unclear=_heads(line, wanted))

    return find


def step_of(name: str) -> Callable[[str], str | None]:
    """Return what finds a step that is written without `=` or `:` in a line, such as `epoch 3/10`."""
    pattern = re.compile(rf"(?<![\w./-]){re.escape(name)}[ \t]+(?:is[ \t]+)?\[?([0-9][^\s,;|\])}}]*)")

    def find(line: str) -> str | None:
        found = pattern.search(line)
        return None if found is None else found[1].rstrip(".:")

    return find


def _taken(rest: str, marked: Collection[str]) -> str | None:
    """Return the value at the beginning of what follows a name, as written; None if it is not clear.

    Args:
        rest: what follows.
        marked: names that may follow with `:`.
    """
    found = _TAKEN.match(rest)
    if found is None:
        return None
    word, end = found["word"], found.end()
    if found["percent"] is None and len(word) > 1 and word[-1] in ".:":
        word, end = word[:-1], end - 1
    after = rest[end:]
    if _SEPARATED.match(after) is not None:
        return word
    following = _NEXT.match(after)
    if following is None or found["link"].strip() in ("of", "|", "│", "┃"):
        return None
    if ":" in following["sign"] and following["words"] not in marked:
        return None
    return word if _NO_NAMES.search(following["words"]) is None else None


def _unclear(name: str, spelled: str, before: str, rest: str) -> str | None:
    """Return why a name has no value although a number is beside it, in words; None if no number is.

    Raises:
        Unreadable: the only number beside it is none.
    """
    adjacent = _ADJACENT.match(rest) or _AS_VALUE.match(rest)
    clause = _CLAUSE.match(rest)
    numbers = [found[0] for found in _NUMBERS.finditer(clause[0] if clause else "")]
    if adjacent is not None and len(numbers) < 2:
        numbers = [adjacent[1].rstrip(".:"), *_NUMBERS.findall(rest[adjacent.end() :])]
    if not numbers and (found := _BEFORE_NAME.search(before)) is not None:
        numbers = [found[1]]
    numbers = list(dict.fromkeys(numbers))
    if not numbers:
        return None
    if spelled != name:
        return f"{spelled} is not {name}: write metric: {spelled} in the Study if that is what the program calls it"
    if len(numbers) > 1:
        return f"{name} has two readings, {numbers[0]:.40} and {numbers[1]:.40}: print {name}=VALUE"
    number(numbers[0])
    return f"{name} stands beside {numbers[0]:.40}, which may be no value of it: print {name}=VALUE"


def _heads(line: str, wanted: Collection[str]) -> dict[str, str]:
    """Return the names that head a column of a table whose rows stand in other lines, each with that in words."""
    if len(line) > _LONGEST_HEADS:
        return {}
    if "," in line and not re.search(r"\s", line.strip()):
        cells = line.strip().split(",")
    else:
        cells = [cell for cell in _COLUMNS.split(line.strip(" \t|│┃")) if cell]
    if len(cells) < 2 or any(len(cell) > _LONGEST_COLUMN or is_number(cell) for cell in cells):
        return {}
    return {
        name: f"{name} heads a column of a table, whose rows are not read: print {name}=VALUE"
        for name in cells
        if name in wanted
    }

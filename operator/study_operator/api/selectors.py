"""Reads label and field selectors, as kubectl sends them, and says what they match.

A selector is read character by character, once: what a user writes costs no more than its length.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from study_operator.api.refusals import bad_request

MOST = 4096  # characters of a selector
_BREAKS = "(),=!<>"


class Operator(StrEnum):
    """How a requirement compares."""

    IN = "in"
    NOT_IN = "notin"
    EXISTS = "exists"
    MISSING = "!"
    GREATER = "gt"
    LESS = "lt"


@dataclass(frozen=True)
class Requirement:
    """One term of a selector: a key, how it compares, and with which values."""

    key: str
    operator: Operator
    values: frozenset[str] = frozenset()

    def matches(self, having: Mapping[str, str]) -> bool:
        """Return whether labels, or fields, by name, are as required. One that is missing is not among any values."""
        value = having.get(self.key)
        match self.operator:
            case Operator.IN:
                return value is not None and value in self.values
            case Operator.NOT_IN:
                return value not in self.values
            case Operator.EXISTS:
                return value is not None
            case Operator.MISSING:
                return value is None
        if value is None or not _is_integer(value):
            return False
        (bound,) = self.values
        return int(value) > int(bound) if self.operator is Operator.GREATER else int(value) < int(bound)


def only(requirements: tuple[Requirement, ...], key: str) -> frozenset[str] | None:
    """Return the values that a key may have, as far as `in` and `=` say; None if they leave it open."""
    found = [one.values for one in requirements if one.key == key and one.operator is Operator.IN]
    return frozenset.intersection(*found) if found else None


def labels(text: str) -> tuple[Requirement, ...]:
    """Read a label selector: `a=b`, `a!=b`, `a in (b,c)`, `a notin (b)`, `a`, `!a`, `a>1`, with commas between them.

    Raises:
        Refusal: it cannot be read.
    """
    words = _words(text)
    found: list[Requirement] = []
    if not words:
        return ()
    position = 0
    while True:
        requirement, position = _requirement(words, position, text)
        found.append(requirement)
        if position == len(words):
            return tuple(found)
        if words[position] != "," or position + 1 == len(words):
            raise _unreadable(text, f"{words[position]!r} stands where a comma or the end was expected")
        position += 1


def _requirement(words: list[str], position: int, text: str) -> tuple[Requirement, int]:
    """Return the requirement that begins at a position, and the position behind it."""

    def word(at: int) -> str:
        return words[at] if at < len(words) else ""

    if word(position) == "!":
        return Requirement(_name(word(position + 1), text), Operator.MISSING), position + 2
    key, operator = _name(word(position), text), word(position + 1)
    if operator in ("", ","):
        return Requirement(key, Operator.EXISTS), position + 1
    if operator in ("=", "==", "!="):
        value = word(position + 2)
        if value in ("", ","):
            value, end = "", position + 2
        else:
            value, end = _name(value, text), position + 3
        return Requirement(key, Operator.NOT_IN if operator == "!=" else Operator.IN, frozenset({value})), end
    if operator in (">", "<"):
        value = word(position + 2)
        if not _is_integer(value):
            raise _unreadable(text, f"{value!r} is no whole number, which {operator} compares with")
        return Requirement(
            key, Operator.GREATER if operator == ">" else Operator.LESS, frozenset({value})
        ), position + 3
    if operator in ("in", "notin"):
        values, end = _values(words, position + 2, text)
        return Requirement(key, Operator.IN if operator == "in" else Operator.NOT_IN, values), end
    raise _unreadable(text, f"{operator!r} is no operator: write =, !=, in (a,b), notin (a,b), >, < or nothing")


def _values(words: list[str], position: int, text: str) -> tuple[frozenset[str], int]:
    """Return the values in parentheses, and the position behind them."""
    if words[position : position + 1] != ["("]:
        raise _unreadable(text, "the values of in and notin stand in parentheses")
    found, value = set(), ""
    for at in range(position + 1, len(words)):
        if words[at] in (",", ")"):
            found.add(value)
            value = ""
            if words[at] == ")":
                return frozenset(found), at + 1
        elif value:
            break
        else:
            value = _name(words[at], text)
    raise _unreadable(text, "the values of in and notin are separated by commas and end with a parenthesis")


def _words(text: str) -> list[str]:
    """Return names, operators and punctuation one by one."""
    if len(text) > MOST:
        raise bad_request(f"the selector has more than {MOST} characters")
    found: list[str] = []
    name = ""
    for character in text:
        if character in _BREAKS or character.isspace():
            if name:
                found.append(name)
                name = ""
            if character == "=" and found and found[-1] in ("=", "!") and not _spaced(found):
                found[-1] += "="
            elif not character.isspace():
                found.append(character)
        else:
            name += character
    return [*found, name] if name else found


def _spaced(words: list[str]) -> bool:
    """Return whether a lone `!` begins a requirement, so that `=` cannot follow."""
    return words[-1] == "!" and (len(words) == 1 or words[-2] == ",")


def _name(word: str, text: str) -> str:
    if not word or word[0] in _BREAKS:
        raise _unreadable(text, f"{word or 'the end'!r} stands where a name was expected")
    return word


def fields(text: str, known: tuple[str, ...]) -> tuple[Requirement, ...]:
    """Read a field selector: `a=b`, `a==b` and `a!=b`, with commas between them; `\\,`, `\\=` and `\\\\` are escaped.

    Args:
        known: the fields that can be selected by.

    Raises:
        Refusal: it cannot be read, or names another field.
    """
    if len(text) > MOST:
        raise bad_request(f"the selector has more than {MOST} characters")
    found = []
    for term in _split(text):
        for sign in ("!=", "==", "="):
            key, there, value = term.partition(sign)
            if there:
                break
        else:
            raise _unreadable(text, f"{term!r} is none of field=value and field!=value")
        if key not in known:
            raise bad_request(f'field label not supported: "{key}"; there are {", ".join(known)}')
        operator = Operator.NOT_IN if sign == "!=" else Operator.IN
        found.append(Requirement(key, operator, frozenset({_unescaped(value)})))
    return tuple(found)


def _split(text: str) -> Iterator[str]:
    """Yield the terms of a field selector, still escaped."""
    term, escaped = "", False
    for character in text:
        if character == "," and not escaped:
            if term:
                yield term
            term = ""
            continue
        escaped = character == "\\" and not escaped
        term += character
    if term:
        yield term


def _unescaped(value: str) -> str:
    found, escaped = "", False
    for character in value:
        if character == "\\" and not escaped:
            escaped = True
            continue
        found, escaped = found + character, False
    return found


def _is_integer(text: str) -> bool:
    digits = text.removeprefix("-")
    return digits.isascii() and digits.isdecimal() and len(digits) <= 19


def _unreadable(text: str, why: str) -> Exception:
    return bad_request(f"unable to parse requirement: the selector {text!r} cannot be read: {why}")

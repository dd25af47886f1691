"""Reader of JSON lines: one object per line, such as {"epoch": 3, "accuracy": 0.91}."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from study_trial._reading.entry import Entry, Names
from study_trial._reading.tail import LONGEST_LINE, Event, Tail

_DEEPEST = 8  # objects in objects
_GAP = re.compile(r"[,\s]*")  # between two objects


class _Written(str):
    """A number as it is written in JSON, because Python would read 1e999 as an infinity."""

    __repr__ = str.__str__


_DECODER = json.JSONDecoder(parse_float=_Written, parse_int=_Written, parse_constant=_Written)


class JsonLines:
    """Reads one file. Ignores names that are not the study's, and null.

    A name counts at any depth, also in an object that is written as text in another; the outermost one counts. What
    stands before the first object of a line, for example a time, is ignored. Objects that two writers have put into
    one line are read one after the other.

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
            else:
                yield from self._entries(line)

    @property
    def trouble(self) -> str | None:
        """Why nothing can be read now. See `Source.trouble`."""
        return self._tail.trouble

    def _entries(self, line: bytes) -> Iterator[Entry]:
        if not line.strip():
            return
        try:
            text = line.decode("utf-8-sig").strip()
            position = max(text.find("{"), 0)
            while position < len(text):
                found, end = _DECODER.raw_decode(text, position)
                if not isinstance(found, dict):
                    yield self._bad("is no JSON object", line)
                elif (entry := self._entry(found)) is not None:
                    yield entry
                position = _GAP.match(text, end).end()  # type: ignore[union-attr]  # it matches nothing, too
        except RecursionError:
            yield self._bad("is nested too deeply", line)
        except ValueError as error:
            yield self._bad(f"is not JSON ({error})", line)

    def _entry(self, record: Mapping[str, Any]) -> Entry | None:
        found, twice = _outermost(record)
        values = {name: value for name, value in found.items() if name in self._names and name not in twice}
        for name, value in found.items():
            if isinstance(value, _Written):
                self._names.note(name)
        entry = self._names.entry(values, found.get(self._step_name))
        bad = [f"{name} is there twice, as {twice[name]}" for name in sorted(twice) if name in self._names]
        if entry is not None and entry.bad is not None:
            bad.append(entry.bad)
        return replace(entry or Entry(), bad=f"line {self._number}: {bad[-1]}") if bad else entry

    def _bad(self, why: str, line: bytes) -> Entry:
        text = "".join(c if c.isprintable() else " " for c in line[:100].decode(errors="replace"))
        return Entry(bad=f"line {self._number} {why}: {text}")


def _outermost(record: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the values of an object and of the objects in it, each name's outermost one, without null.

    Returns:
        The values by name; and those names of which the same depth has different values, with these in words.
    """
    values: dict[str, Any] = {}
    objects: dict[str, Any] = {}  # names of objects are names of values only if there is no better one
    twice: dict[str, str] = {}
    level: list[Mapping[str, Any]] = [record]
    for _ in range(_DEEPEST):
        here: dict[str, Any] = {}
        inner: list[Mapping[str, Any]] = []
        for found in level:
            for name, value in found.items():
                if below := _objects(value):
                    inner += below
                    objects.setdefault(name, value)
                elif value is not None and name not in values:
                    if name in here and here[name] != value:
                        twice[name] = f"{here[name]!r:.50} and {value!r:.50}"
                    here[name] = value
        values |= here
        if not inner:
            break
        level = inner
    return objects | values, twice


def _objects(value: Any) -> list[Mapping[str, Any]]:
    """Return the objects that a value is, or has in a list, or is the JSON text of."""
    if isinstance(value, str) and value.lstrip()[:1] == "{":
        try:
            value = _DECODER.decode(value)
        except (ValueError, RecursionError):
            return []
    return [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, dict)]

"""Writes YAML that kubectl reads: block style, and quotes wherever a plain text could be taken for something else."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

# A plain text begins with a letter and has nothing that YAML gives a meaning to.
_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*(?:[ ][A-Za-z0-9_./()-]+)*")
_OTHER_MEANING = frozenset(("y", "n", "yes", "no", "on", "off", "true", "false", "null", "none", "nan", "inf"))
_FLOW_WIDTH = 100
_LONGEST_KEY = 1000  # characters; YAML wants a sign before a longer one


def to_yaml(value: Any) -> str:
    """Return a value, which JSON could have, as YAML that ends with a newline."""
    return "\n".join(_lines(value)) + "\n"


def _lines(value: Any) -> list[str]:
    if isinstance(value, Mapping) and value:
        return [line for name, item in value.items() for line in _field(str(name), item)]
    if _is_list(value) and value:
        return [line for item in value for line in _item(item)]
    return [scalar(value)]


def _field(name: str, value: Any) -> list[str]:
    key = scalar(name)
    if len(key) > _LONGEST_KEY:
        first, *rest = _field("x", value)
        return [f"? {key}", first.removeprefix("x"), *rest]
    if isinstance(value, str) and "\n" in value.rstrip("\n") and _fits_a_block(value):
        mark = "|" if value.endswith("\n") else "|-"
        return [f"{key}: {mark}", *(f"  {line}" if line else "" for line in value.removesuffix("\n").split("\n"))]
    if isinstance(value, Mapping) and value:
        return [f"{key}:", *(f"  {line}" for line in _lines(value))]
    if _is_list(value) and value:
        return [f"{key}:", *_lines(value)]
    return [f"{key}: {scalar(value)}"]


def _item(value: Any) -> list[str]:
    if isinstance(value, Mapping) and _is_flat(value, 2) and len(flow := _flow(value)) <= _FLOW_WIDTH:
        return [f"- {flow}"]
    first, *rest = _lines(value)
    return [f"- {first}", *(f"  {line}" if line else "" for line in rest)]


def _is_flat(value: Any, depth: int) -> bool:
    if isinstance(value, Mapping):
        return depth > 0 and all(_is_flat(item, depth - 1) for item in value.values())
    if _is_list(value):
        return all(not isinstance(item, Mapping) and not _is_list(item) for item in value)
    return True


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{scalar(str(name))}: {_flow(item)}" for name, item in value.items()) + "}"
    if _is_list(value):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return scalar(value)


def scalar(value: Any) -> str:
    """Return a number, a text, true, false or null as YAML; an empty object or list too."""
    if isinstance(value, str):
        plain = _PLAIN.fullmatch(value) and value.lower() not in _OTHER_MEANING
        return value if plain else _quoted(value)
    if isinstance(value, float) and math.isfinite(value):
        # YAML 1.1 takes 1e-05 for a text: a number needs its point.
        text = repr(value)
        return text if "." in text or "e" not in text else text.replace("e", ".0e")
    return json.dumps(value)


def _quoted(text: str) -> str:
    """Return a text in double quotes. JSON would write a character beyond 16 bits as two, which YAML does not join."""
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    if " " <= character <= "~":
        return character
    return f"\\u{ord(character):04x}" if ord(character) < 0x10000 else f"\\U{ord(character):08x}"


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _fits_a_block(text: str) -> bool:
    """Return whether a block keeps the text as it is. The first line that is not empty decides its indentation."""
    lines = text.removesuffix("\n").split("\n")
    first = next(filter(None, lines), " ")
    return not text.endswith("\n\n") and not first.startswith(" ") and all(map(_printable, lines))


def _printable(line: str) -> bool:
    return line.isprintable() and line == line.rstrip()

"""Makes text of tenants safe to show: on a terminal, and in a spreadsheet.

A parameter's choice, a line of a log or an attribute may hold anything. An escape sequence would speak to the terminal
of whoever reads it, a bidi character would turn around what stands after it, and a cell that begins with `=` is a
formula.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

# Control characters, lone surrogates, line and paragraph separators, and what formats text and cannot be seen. The
# joiners U+200C and U+200D stay, because scripts and emoji need them.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufeff\ufff9-\ufffb\U000e0000-\U000e00ff]"
)
_BREAKS = frozenset("\t\n\v\f\r\x85\u2028\u2029")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|[-+]?(inf|Infinity|nan|NaN)")


def one_line(text: str) -> str:
    """Return a text on one line, in which every character can be seen.

    Whatever breaks a line becomes a space; every other character that cannot be seen becomes its escape, such as
    `\\x1b`.
    """
    if text.isprintable():
        return text
    return _UNSAFE.sub(lambda found: " " if found[0] in _BREAKS else ascii(found[0])[1:-1], text)


def shown_lines(text: str) -> str:
    """Return a text of several lines, each as `one_line` returns it."""
    return "\n".join(map(one_line, text.splitlines()))


def shorten(text: str, most: int) -> str:
    """Return a text on one line and in at most `most` characters."""
    text = one_line(text[: most + 1])
    return text if len(text) <= most else text[: most - 1] + "…"


def value_text(value: Any) -> str:
    """Return a value of a parameter as a program gets it: `true`, `0.001`, `null`, or the text itself."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, float) else str(value)


def is_number(text: str) -> bool:
    """Return whether a text is a number, and nothing beside it."""
    return _NUMBER.fullmatch(text) is not None


def csv_cell(value: Any) -> str:
    """Return a value as the cell of a CSV file that a spreadsheet does not take for a formula.

    Numbers stay as they are. Text that begins as a formula does gets an apostrophe, which spreadsheets do not show.
    """
    if value is None:
        return ""
    text = value_text(value)
    safe = _UNSAFE.sub(lambda found: " " if found[0] in _BREAKS else "", text)
    # Also what begins so once a character that cannot be seen is gone.
    if (text.startswith(_FORMULA) or safe.startswith(_FORMULA)) and not is_number(text):
        return f"'{safe}"
    return safe


def variable_name(parameter: str) -> str:
    """Return the environment variable in which a trial has a parameter."""
    return "PARAM_" + parameter.replace(".", "_").replace("-", "_")


def as_arguments(params: Mapping[str, Any]) -> str:
    """Return parameters as options for a command line, quoted for a shell."""
    return " ".join(shlex.quote(f"--{name}={value_text(value)}") for name, value in params.items())


def as_environment(params: Mapping[str, Any]) -> str:
    """Return parameters as lines `PARAM_lr=0.1`, quoted for a shell."""
    return "\n".join(f"{variable_name(name)}={shlex.quote(value_text(value))}" for name, value in params.items())


def number_text(value: Any) -> str:
    """Return a value of an objective for people: six digits. Empty without one."""
    if value is None or value == "":
        return ""
    try:
        return f"{float(value):.6g}"
    except (TypeError, ValueError):
        return one_line(str(value))

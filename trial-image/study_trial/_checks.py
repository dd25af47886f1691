"""Checks of what a script wants to send, before anything is sent.

Every function raises InvalidValueError for what cannot be sent.
"""

from __future__ import annotations

import json
import operator
from typing import Any

from study_trial._errors import InvalidValueError

_LARGEST_STEP = 2**31 - 1
_LONGEST_ATTRIBUTE_NAME = 512
_LARGEST_ATTRIBUTE = 64 * 1024


def number(value: Any, what: str) -> float:
    """Return a number as a float.

    Args:
        value: anything that `float()` takes, except text.
        what: the value's name in the error.
    """
    if not isinstance(value, str | bytes | bytearray):
        try:
            return float(value)
        except (TypeError, ValueError, OverflowError):
            pass
    kind = type(value).__name__
    raise InvalidValueError(f"{what} must be a number, not {value!r:.100} ({kind}); nothing was sent")


def values(value: Any) -> list[float]:
    """Return one or several final values as a list; an empty one for None."""
    if value is None:
        return []
    several = value if isinstance(value, list | tuple) else [value]
    return [number(one, "the final value") for one in several]


def step(value: Any) -> int:
    """Return a step as an int. It may be an integer of numpy."""
    try:
        index = operator.index(value)
    except TypeError:
        index = -1
    if not 0 <= index <= _LARGEST_STEP:
        raise InvalidValueError(
            f"step must be a whole number from 0 to {_LARGEST_STEP}, not {value!r:.100}; nothing was sent"
        )
    return index


def attribute(key: Any, value: Any) -> str:
    """Return the JSON text of an attribute's value.

    Args:
        key: the attribute's name.
        value: anything that JSON can hold.
    """
    if not isinstance(key, str) or not 0 < len(key) <= _LONGEST_ATTRIBUTE_NAME or "\0" in key:
        raise InvalidValueError(f"an attribute's name is a text of 1 to 512 characters, not {key!r:.100}")
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
        size = len(text.encode())
    except (TypeError, ValueError) as error:
        raise InvalidValueError(f"attribute {key!r} cannot be stored as JSON: {error}") from None
    if size > _LARGEST_ATTRIBUTE:
        raise InvalidValueError(f"attribute {key!r} is larger than 64 KiB; store a file's path instead")
    return text

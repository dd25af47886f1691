"""Checks of what a script wants to send, before anything is sent.

Every function raises InvalidValueError for what cannot be sent.
"""

from __future__ import annotations

import json
import math
import operator
from numbers import Number
from typing import Any

from study_trial._errors import InvalidValueError
from study_trial._reading import numerals

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
            found = float(value)
            exact = isinstance(value, Number)
            if math.isinf(found) and exact and value != found:  # Decimal("1e999"), or such a longdouble of NumPy
                raise OverflowError
            return found
        except OverflowError:
            raise InvalidValueError(f"{what}: {value!s:.100} is too large for a number; nothing was sent") from None
        except (TypeError, ValueError):
            pass
    kind = type(value).__name__
    raise InvalidValueError(f"{what} must be a number, not {value!r:.100} ({kind}); nothing was sent")


def values(value: Any) -> list[float]:
    """Return one or several final values as a list; an empty one for None."""
    if value is None:
        return []
    several = value if isinstance(value, list | tuple) else [value]
    return [number(one, "the final value") for one in several]


def step(value: Any) -> tuple[int | None, str]:
    """Return what Optuna makes of a step: the whole part of a number, which may be text.

    Returns:
        The step, and ""; or None, and why the database cannot hold the step.
    """
    try:
        if isinstance(value, str):
            return numerals.step(value), ""
        try:
            return numerals.whole_step(operator.index(value), f"{value!r:.100}"), ""
        except TypeError:  # a float, or a tensor of one
            return numerals.whole_step(float(value), f"{value!r:.100}"), ""
    except numerals.TooHigh as error:
        return None, f"step {error}"
    except (TypeError, ValueError, OverflowError):
        raise InvalidValueError(
            f"step must be a whole number from 0 to {numerals.HIGHEST_STEP}, or a number of which the whole part "
            f"counts, not {value!r:.100}; nothing was sent"
        ) from None


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

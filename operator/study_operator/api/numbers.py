"""Numbers and times as JSON for Kubernetes' clients has them.

JSON has no infinity and no NaN: such a number becomes the text by which Python, and `float()`, know it. And kubectl's
`--sort-by` ends the program when it compares a whole number with a broken one. A value 1.0 is sent so, but kubectl
writes objects anew before it sorts them, then as 1, and reads a whole number. `comparable` and `sortable` prevent that.
"""

from __future__ import annotations

import json
import math
import sys
from datetime import datetime
from typing import Any

_WHOLE_FROM = 2.0**52  # from here on every float is a whole number
# What brings a float from there to where Go writes an exponent, 1e21: it reads such a number as a float again.
_BEYOND = 2.0**20


def number(value: float) -> float | str:
    """Return a number for JSON: itself, or the text of one that JSON cannot have."""
    return value if math.isfinite(value) else text(value)


def text(value: float) -> str:
    """Return the shortest text that reads back as the same number: 0.1, inf, -inf, nan."""
    return repr(float(value))


def moment(at: datetime | None) -> str | None:
    """Return a time as Kubernetes writes it, to the second; None if there is none."""
    return None if at is None else at.strftime("%Y-%m-%dT%H:%M:%SZ")


def encode(content: Any) -> bytes:
    """Return JSON. What tenants have stored may have any number in it."""
    try:
        return json.dumps(content, separators=(",", ":"), allow_nan=False).encode()
    except ValueError:
        return json.dumps(_finite(content), separators=(",", ":"), allow_nan=False).encode()


def _finite(content: Any) -> Any:
    if isinstance(content, float):
        return number(content)
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    return [_finite(value) for value in content] if isinstance(content, list | tuple) else content


def comparable(value: float) -> float | None:
    """Return a number to sort by: the value, or if that is a whole number the next one above it.

    None stands for what cannot be told so: what is not finite, and what is so large that all numbers are whole.
    """
    return _broken(value) if math.isfinite(value) and abs(value) < _WHOLE_FROM else None


def sortable(content: Any) -> Any:
    """Return an object whose floats are in the same order and none of which is a whole number.

    It is for a Table's rows, which kubectl sorts by and does not show. Very large numbers are larger there.
    """
    if isinstance(content, float):
        return _broken(content)
    if isinstance(content, dict):
        return {key: sortable(value) for key, value in content.items()}
    return [sortable(value) for value in content] if isinstance(content, list | tuple) else content


def _broken(value: float) -> float:
    if not value.is_integer():
        return value
    if abs(value) < _WHOLE_FROM:
        return math.nextafter(value, math.inf)
    return math.copysign(min(abs(value) * _BEYOND, sys.float_info.max), value)

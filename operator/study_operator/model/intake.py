"""How much of a Study is taken in: bounds on size and nesting, which are kept before anything is made of it.

What users write is held in memory for as long as the Study exists, as objects that are up to twenty times as large as
the text. A Study beyond a bound is refused in words, and nothing of it is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Sizes are those of the JSON that the API server sends, in bytes.
KIB = 1024
LONGEST_TEMPLATE = 64 * KIB
# A pod gets the search space as one environment variable, and Linux starts no program with one of 128 KiB.
LONGEST_PARAMETERS = 120 * KIB
_LONGEST = {"jobTemplate": LONGEST_TEMPLATE, "parameters": LONGEST_PARAMETERS, "initialTrials": 128 * KIB}
_LONGEST_FIELD = 16 * KIB  # of any other field of the spec
# Levels of lists and objects. A pod has twelve; copying and writing need a few levels of Python's stack for each.
MOST_LEVELS = 64


class Unreadable(Exception):
    """A Study is not taken in.

    Attributes:
        reason: the reason of the Accepted condition: TooLarge or Unreadable.
        message: which bound it breaks, and what to do.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason, self.message = reason, message


def check_sizes(spec: Mapping[str, bytes]) -> None:
    """Check the size of each field of a spec, before it is decoded.

    Raises:
        Unreadable: one is too large.
    """
    for name, text in spec.items():
        most = _LONGEST.get(name, _LONGEST_FIELD)
        if len(text) > most:
            raise Unreadable(
                "TooLarge",
                f"spec.{name} has {-(-len(text) // KIB)} KiB as JSON, and may have {most // KIB}: make it smaller; "
                "long scripts and data belong in a ConfigMap or in the image",
            )


def check_depth(spec: Mapping[str, Any]) -> None:
    """Check how deeply each field of a spec is nested.

    Raises:
        Unreadable: one is nested too deeply.
    """
    for name, value in spec.items():
        level = [value]
        for _ in range(MOST_LEVELS):
            level = [
                child
                for one in level
                if isinstance(one, (dict, list))
                for child in (one.values() if isinstance(one, dict) else one)
            ]
            if not level:
                break
        else:
            raise Unreadable("Unreadable", f"spec.{name}: {too_deep()}")


def too_deep() -> str:
    """Return what is wrong with a Study that is nested too deeply, in words."""
    return f"lists and objects may be nested {MOST_LEVELS} levels deep: remove what lies deeper"

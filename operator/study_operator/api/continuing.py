"""Continue tokens: where the next page of a list begins, and which state of the list the first page has shown.

A token says nothing that its holder may not see: the position in the order of trials, and a hash of what was asked. Who
may see the next page is decided anew for each page.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass

from study_operator.api.refusals import bad_request

_VERSION = 1
_MOST = 512  # characters


@dataclass(frozen=True)
class Position:
    """Where a list goes on.

    Attributes:
        at: the resource version of the first page, which all pages have: a watch from it shows what the pages missed.
        study_id, number: the last trial that was shown.
    """

    at: int
    study_id: int
    number: int


def question(*asked: str) -> str:
    """Return a short text that stands for what was asked for: path and selectors."""
    return hashlib.sha256("\0".join(asked).encode()).hexdigest()[:16]


def token(position: Position, asked: str) -> str:
    """Return the continue token of a position.

    Args:
        asked: from `question`.
    """
    content = [_VERSION, position.at, position.study_id, position.number, asked]
    return base64.urlsafe_b64encode(json.dumps(content, separators=(",", ":")).encode()).decode().rstrip("=")


def position(text: str, asked: str) -> Position:
    """Return the position that a continue token stands for.

    Raises:
        Refusal: it is no token of this API, or it is of another list.
    """
    try:
        if len(text) > _MOST:
            raise ValueError("too long")
        found = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
        version, at, study_id, number, of = found
        if version != _VERSION or not all(type(one) is int and 0 <= one < 2**63 for one in (at, study_id, number)):
            raise ValueError("not ours")
    except (ValueError, TypeError, RecursionError):
        raise bad_request("continue key is not valid: list again without it") from None
    if of != asked:
        raise bad_request("continue key is of a list with other selectors: list again without it")
    return Position(at, study_id, number)

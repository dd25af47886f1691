"""Times of Kubernetes, and how long ago they were."""

from __future__ import annotations

from datetime import UTC, datetime

_UNITS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


def moment(text: object) -> datetime | None:
    """Return a time as Kubernetes writes it, aware; None if there is none or it cannot be read."""
    if not isinstance(text, str):
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def span(seconds: float | None) -> str:
    """Return a duration as kubectl shows one, such as 3m12s; empty for None."""
    if seconds is None:
        return ""
    left = int(max(seconds, 0))
    for place, (size, name) in enumerate(_UNITS):
        if left >= size:
            text = f"{left // size}{name}"
            if place + 1 < len(_UNITS) and left // size < 10 and (rest := left % size // _UNITS[place + 1][0]):
                text += f"{rest}{_UNITS[place + 1][1]}"
            return text
    return "0s"


def age(text: object, now: datetime) -> str:
    """Return how long ago a time was; empty if there is none."""
    found = moment(text)
    return "" if found is None else span((now - found).total_seconds())

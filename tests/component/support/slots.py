"""How long slots of a played study have been free."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from played_namespace import Life


def slot_waits(lives: Sequence[Life], since: float, until: float) -> list[float]:
    """The seconds from each Job's end to the arrival of the Job that takes its slot.

    A slot that is still free counts with the time that it has been free so far: otherwise a study that stands still
    would look like one that never waits.

    Args:
        lives: of a study's Jobs, in the order in which they arrived.
        since, until: of `time.monotonic`. Slots that have become free in between count.
    """
    events = [(life.arrived, "arrived") for life in lives]
    events += [(life.ended, "ended") for life in lives if life.ended is not None]
    free: deque[float] = deque()
    waits: list[float] = []
    for at, what in sorted(events):
        if at > until:
            break
        if what == "ended":
            free.append(at)
        elif free and (ended := free.popleft()) >= since:
            waits.append(at - ended)
    return waits + [until - ended for ended in free if ended >= since]

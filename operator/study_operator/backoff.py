"""Delays between attempts: longer after each failure, and never the same in two replicas.

All replicas lose the database or the API server at the same moment. Without jitter they would also come back at the
same moment, each time. Half of a delay is fixed and half is random: "equal jitter" in Marc Brooker, "Exponential
Backoff And Jitter", AWS Architecture Blog, 2015.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator


def delay(failures: int, first: float, most: float, uniform: Callable[[float, float], float] = random.uniform) -> float:
    """Return the delay after some failures in a row: up to `first`, then up to twice as long each time.

    Args:
        failures: how many failures there were before this one.
        first, most: upper bounds of the first and of the longest delay, in seconds.
        uniform: returns a random number between its two arguments.

    Returns:
        Seconds, between half of the upper bound and the upper bound.
    """
    bound = min(first * 2 ** min(failures, 30), most)
    return bound * uniform(0.5, 1.0)


def delays(first: float, most: float, uniform: Callable[[float, float], float] = random.uniform) -> Iterator[float]:
    """Yield `delay` after 0, 1, 2, ... failures, without end. To begin again after a success, make a new iterator."""
    return (delay(failures, first, most, uniform) for failures in itertools.count())

"""Tests wait for a condition, never for a fixed time."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


async def until(condition: Callable[[], T], patience: float = 180.0) -> T:
    """Waits until a condition, which may be a coroutine function, gives something true; returns that.

    Args:
        patience: seconds, many more than it should ever take.
    """
    deadline = time.monotonic() + patience
    while True:
        found: Any = condition()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return found
        assert time.monotonic() < deadline, f"not so after {patience:.0f} s: {inspect.getsource(condition).strip()}"
        await asyncio.sleep(0.02)


def wait_until(condition: Callable[[], object], patience: float = 180.0) -> None:
    """Waits, in a test that is no coroutine, until a condition is true; `patience` as above."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"not so after {patience:.0f} s: {inspect.getsource(condition).strip()}"
        time.sleep(0.02)

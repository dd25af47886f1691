"""Do several things at once, and leave none of them running."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


async def gather_all(tasks: Iterable[Awaitable[T]]) -> list[T]:
    """Wait for all tasks, also when one has failed: nothing goes on when a reconciliation has ended.

    Returns:
        Their results, in their order.

    Raises:
        BaseException: that of the first task in this order that has failed, once all have ended.
    """
    results: list[T] = []
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
        results.append(result)
    return results


async def gather_through(gate: asyncio.Semaphore, calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Make calls at once, as many as the gate lets through. Otherwise as `gather_all`."""

    async def one(call: Coroutine[Any, Any, T]) -> T:
        async with gate:
            return await call

    return await gather_all([asyncio.create_task(one(call)) for call in calls])

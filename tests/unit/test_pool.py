"""The threads that may block: shared among namespaces."""

from __future__ import annotations

import asyncio
import threading

import pytest

from study_operator.logs import study_context
from study_operator.pool import BlockingPool


@pytest.fixture
async def pool():
    pool = BlockingPool(4)
    yield pool
    pool.shutdown()


async def run(pool: BlockingPool, namespace: str | None, call):
    if namespace is None:
        return await pool.run(call)
    with study_context(namespace, "study"):
        return await pool.run(call)


async def until(condition) -> None:
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it has not come to that")


async def test_one_namespace_does_not_get_all_threads(pool):
    go_on, begun = threading.Event(), []

    def block() -> None:
        begun.append(1)
        go_on.wait(10)

    blocked = [asyncio.create_task(run(pool, "a", block)) for _ in range(10)]
    await until(lambda: len(begun) == 3)
    assert await run(pool, "b", lambda: "at once") == "at once"
    assert await run(pool, None, lambda: "the operator's own, at once") == "the operator's own, at once"
    assert pool.busy == 3
    go_on.set()
    await asyncio.gather(*blocked)
    assert len(begun) == 10
    await until(lambda: pool.busy == 0)


async def test_a_call_whose_caller_is_cancelled_keeps_its_thread_until_it_ends(pool):
    go_on, begun = threading.Event(), []

    def block() -> None:
        begun.append(1)
        go_on.wait(10)

    running = [asyncio.create_task(run(pool, "a", block)) for _ in range(3)]
    await until(lambda: len(begun) == 3)
    waiting = asyncio.create_task(run(pool, "a", block))
    await asyncio.sleep(0)
    for task in (waiting, *running):
        task.cancel()
    await asyncio.gather(waiting, *running, return_exceptions=True)
    assert pool.busy == 3, "the threads go on"
    go_on.set()
    await until(lambda: pool.busy == 0)
    assert len(begun) == 3, "what waited never ran"
    assert await run(pool, "a", lambda: 7) == 7


async def test_what_a_call_raises_is_raised(pool):
    def fail() -> None:
        raise KeyError("why")

    with pytest.raises(KeyError, match="why"):
        await run(pool, "a", fail)
    await until(lambda: pool.busy == 0)

"""Calls made at once: all are waited for, and only so many are under way."""

from __future__ import annotations

import asyncio

import pytest

from study_operator.reconcile.concurrency import gather_all, gather_through


async def test_all_are_waited_for_although_one_fails():
    ended = []

    async def end(number, seconds):
        await asyncio.sleep(seconds)
        ended.append(number)

    async def fail():
        raise ValueError("the first")

    with pytest.raises(ValueError, match="the first"):
        await gather_all([asyncio.create_task(one) for one in (end(0, 0.02), fail(), end(1, 0.01))])
    assert sorted(ended) == [0, 1]


async def test_the_gate_lets_only_so_many_through_and_results_keep_their_order():
    running, most = 0, 0

    async def call(number):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001 * (5 - number))
        running -= 1
        return number

    assert await gather_through(asyncio.Semaphore(2), (call(number) for number in range(5))) == [0, 1, 2, 3, 4]
    assert most == 2

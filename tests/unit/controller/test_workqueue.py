"""The work queue: each key once, one worker per key, delays and back-off; time is a number that the tests set."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from study_operator.controller.workqueue import WorkQueue


class Clock:
    """Seconds, monotonic, standing still until told otherwise."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def longest(_: float, high: float) -> float:
    """No jitter: delays are then known beforehand."""
    return high


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(clock: Clock) -> WorkQueue[str]:
    return WorkQueue(clock, first=0.5, most=30.0, uniform=longest)


async def taken(queue: WorkQueue[str]) -> str | None:
    """The key that a worker gets at once; None when it would have to wait."""
    task = asyncio.ensure_future(queue.get())
    for _ in range(3):
        await asyncio.sleep(0)
    if task.done():
        return task.result()[0]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return None


async def test_keys_come_in_the_order_in_which_they_were_added(queue):
    for key in "abcab":
        queue.add(key)
    assert len(queue) == 3
    assert [await taken(queue) for _ in range(4)] == ["a", "b", "c", None]


async def test_a_key_tells_since_when_it_waits(queue, clock):
    queue.add("a")
    clock.now += 3
    queue.add("a")
    assert await queue.get() == ("a", 1000.0)


async def test_a_key_that_is_worked_on_is_given_to_nobody_else(queue, clock):
    queue.add("a")
    assert await taken(queue) == "a"
    clock.now = 1001
    queue.add("a")
    clock.now = 1002
    queue.add("a")
    assert len(queue) == 0
    assert await taken(queue) is None
    queue.done("a")
    assert await queue.get() == ("a", 1001.0)
    queue.done("a")
    assert await taken(queue) is None


async def test_two_keys_may_be_worked_on_at_once(queue):
    queue.add("a")
    queue.add("b")
    assert {await taken(queue), await taken(queue)} == {"a", "b"}


async def test_a_key_that_is_added_while_being_worked_on_goes_to_the_end(queue):
    queue.add("a")
    assert await taken(queue) == "a"
    queue.add("a")
    queue.add("b")
    queue.add("c")
    queue.done("a")
    assert [await taken(queue) for _ in range(3)] == ["b", "c", "a"]


async def test_a_key_that_is_always_added_again_starves_no_other(queue):
    for key in "abc":
        queue.add(key)
    worked = []
    for _ in range(9):
        key = await taken(queue)
        worked.append(key)
        queue.add(key)
        queue.done(key)
    assert worked == list("abcabcabc")


async def test_a_waiting_worker_is_woken(queue):
    workers = [asyncio.ensure_future(queue.get()) for _ in range(3)]
    await asyncio.sleep(0)
    for key in "abc":
        queue.add(key)
    found = await asyncio.wait_for(asyncio.gather(*workers), 5)
    assert {key for key, _ in found} == set("abc")


async def test_a_worker_that_is_cancelled_loses_nothing(queue):
    worker = asyncio.ensure_future(queue.get())
    await asyncio.sleep(0)
    queue.add("a")
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)
    assert await taken(queue) == "a"


async def test_a_key_that_rests_comes_afterwards_and_tells_since_when_it_waits(queue, clock):
    queue.add("a")
    assert await taken(queue) == "a"
    queue.done("a", rest=2.0)
    clock.now += 0.5
    queue.add("a")
    queue.add("b")
    assert [await taken(queue), await taken(queue)] == ["b", None]
    clock.now += 1.5
    assert await queue.get() == ("a", 1000.5)
    queue.done("a")
    queue.add("a")
    assert await taken(queue) == "a"


async def test_what_is_added_during_the_work_waits_for_the_end_of_the_rest(queue, clock):
    queue.add("a")
    assert await taken(queue) == "a"
    clock.now += 3
    queue.add("a")
    queue.done("a", rest=2.0)
    queue.add_after("a", 1.0)
    for wait in (0, 1.0, 0.9):
        clock.now += wait
        assert await taken(queue) is None
    clock.now += 0.1
    assert await queue.get() == ("a", 1003.0)
    queue.done("a")
    clock.now += 100
    assert await taken(queue) is None


# Later


async def test_a_delayed_key_comes_when_it_is_due(queue, clock):
    queue.add_after("a", 5)
    clock.now += 4.9
    assert await taken(queue) is None
    clock.now += 0.1
    assert await taken(queue) == "a"
    queue.done("a")
    clock.now += 100
    assert await taken(queue) is None


@pytest.mark.parametrize("delays", [(5, 9), (9, 5), (5, 5), (9, 7, 5, 6)])
async def test_of_several_delays_the_earliest_wins_and_the_key_comes_once(queue, clock, delays):
    for delay in delays:
        queue.add_after("a", delay)
    clock.now += 4
    assert await taken(queue) is None
    clock.now += 1
    assert await taken(queue) == "a"
    queue.done("a")
    clock.now += 100
    assert await taken(queue) is None


async def test_a_delay_may_be_asked_for_again_after_it_has_passed(queue, clock):
    for _ in range(3):
        queue.add_after("a", 5)
        clock.now += 5
        assert await taken(queue) == "a"
        queue.done("a")


async def test_a_key_that_is_due_while_it_is_worked_on_comes_again(queue, clock):
    queue.add("a")
    assert await taken(queue) == "a"
    queue.add_after("a", 1)
    clock.now += 2
    assert await taken(queue) is None
    queue.done("a")
    assert await taken(queue) == "a"


async def test_a_key_wanted_now_and_later_comes_now_and_later(queue, clock):
    queue.add_after("a", 5)
    queue.add("a")
    assert await taken(queue) == "a"
    queue.done("a")
    assert await taken(queue) is None
    clock.now += 5
    assert await taken(queue) == "a"


async def test_a_waiting_worker_looks_again_when_a_key_is_due():
    queue: WorkQueue[str] = WorkQueue()  # in real time
    worker = asyncio.ensure_future(queue.get())
    await asyncio.sleep(0)
    queue.add_after("late", 60)
    queue.add_after("soon", 0.02)
    assert (await asyncio.wait_for(worker, 5))[0] == "soon"


# Failures


async def test_each_failure_waits_longer_up_to_a_bound(queue):
    assert [queue.retry("a") for _ in range(9)] == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    for _ in range(2000):
        assert queue.retry("a") == 30
    assert queue.retry("b") == 0.5


async def test_two_replicas_do_not_try_again_at_the_same_moments(clock):
    ours, theirs = WorkQueue[str](clock), WorkQueue[str](clock)
    for bound in (0.5, 1, 2, 4, 8):
        delays = {ours.retry("a"), theirs.retry("a")}
        assert len(delays) == 2
        assert all(bound / 2 <= delay <= bound for delay in delays)


async def test_success_forgets_failures(queue):
    for _ in range(5):
        queue.retry("a")
    queue.retry("b")
    queue.succeeded("a")
    queue.succeeded("never seen")
    assert (queue.retry("a"), queue.retry("b")) == (0.5, 1.0)


async def test_a_failed_key_comes_again_after_its_delay(queue, clock):
    queue.add("a")
    assert await taken(queue) == "a"
    queue.retry("a")
    queue.done("a")
    assert await taken(queue) is None
    clock.now += 0.5
    assert await taken(queue) == "a"


async def test_news_do_not_wait_for_the_back_off(queue):
    queue.retry("a")
    queue.add("a")
    assert await taken(queue) == "a"


# Fair


@pytest.fixture
def shared(clock: Clock) -> WorkQueue[str]:
    """A queue of eight workers; the first letter of a key is its namespace."""
    return WorkQueue(clock, uniform=longest, workers=8, owner=lambda key: key[0])


async def all_taken(queue: WorkQueue[str]) -> list[str]:
    found = []
    while (key := await taken(queue)) is not None:
        found.append(key)
    return found


async def test_no_namespace_gets_all_workers_and_another_one_begins_at_once(shared):
    for number in range(10):
        shared.add(f"a{number}")
    assert await all_taken(shared) == [f"a{number}" for number in range(6)]
    shared.add("b0")
    shared.add("c0")
    assert await all_taken(shared) == ["b0", "c0"]
    shared.done("a0")
    assert await all_taken(shared) == [], "what a namespace leaves free is for those that have nothing"
    shared.add("d0")
    assert await all_taken(shared) == ["d0"]


async def test_namespaces_take_turns(clock):
    queue = WorkQueue[str](clock, uniform=longest, workers=1, owner=lambda key: key[0])
    for key in ("a1", "a2", "a3", "b1", "b2", "c1"):
        queue.add(key)
    order = []
    while (key := await taken(queue)) is not None:
        order.append(key)
        queue.done(key)
    assert order == ["a1", "b1", "c1", "a2", "b2", "a3"]


async def test_a_key_that_takes_more_than_its_share_of_time_waits_for_the_others(queue, clock):
    queue.add("heavy")
    await taken(queue)
    clock.now += 40
    queue.done("heavy")
    for key in ("heavy", "a", "b"):
        queue.add(key)
    assert not queue.throttled("heavy")
    clock.now += 2
    assert [await taken(queue) for _ in range(3)] == ["a", "b", "heavy"]
    assert queue.throttled("heavy")
    assert not queue.throttled("a")
    clock.now += 61
    assert not queue.throttled("heavy")


async def test_a_heavy_key_does_not_wait_for_ever(queue, clock):
    queue.add("heavy")
    await taken(queue)
    clock.now += 40
    queue.done("heavy")
    queue.add("heavy")
    clock.now += 6
    queue.add("a")
    assert await taken(queue) == "a"
    queue.add("b")
    assert await taken(queue) == "heavy"


async def test_a_heavy_key_with_nobody_else_is_not_slowed(queue, clock):
    for _ in range(3):
        queue.add("heavy")
        assert await taken(queue) == "heavy"
        clock.now += 40
        queue.done("heavy")
    assert not queue.throttled("heavy")


# Whatever happens

KEYS = st.sampled_from("abcd")


class QueueAndModel(RuleBasedStateMachine):
    """The queue beside the simplest description of what it must do."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = Clock()
        self.queue: WorkQueue[str] = WorkQueue(self.clock, first=0.5, most=30.0, uniform=longest)
        self.waiting: list[str] = []
        self.working: set[str] = set()
        self.again: list[str] = []
        self.due: dict[str, float] = {}
        self.failures: dict[str, int] = {}

    def added(self, key: str) -> None:
        if key in self.working:
            if key not in self.again:
                self.again.append(key)
        elif key not in self.waiting:
            self.waiting.append(key)

    @rule(key=KEYS)
    def add(self, key: str) -> None:
        self.queue.add(key)
        self.added(key)

    @rule(key=KEYS, delay=st.integers(1, 10))
    def add_after(self, key: str, delay: int) -> None:
        self.queue.add_after(key, delay)
        self.due[key] = min(self.clock.now + delay, self.due.get(key, float("inf")))

    @rule(key=KEYS)
    def retry(self, key: str) -> None:
        delay = self.queue.retry(key)
        assert delay == min(0.5 * 2 ** self.failures.get(key, 0), 30)
        self.failures[key] = self.failures.get(key, 0) + 1
        self.due[key] = min(self.clock.now + delay, self.due.get(key, float("inf")))

    @rule(key=KEYS)
    def succeeded(self, key: str) -> None:
        self.queue.succeeded(key)
        self.failures.pop(key, None)

    @rule(seconds=st.integers(0, 12))
    def time_passes(self, seconds: int) -> None:
        self.clock.now += seconds

    @rule()
    def get(self) -> None:
        due = [key for key, when in self.due.items() if when <= self.clock.now]
        for key in sorted(due, key=self.due.__getitem__):
            del self.due[key]
            self.added(key)
        found = self.loop.run_until_complete(taken(self.queue))
        if not self.waiting:
            assert found is None
            return
        assert found in self.waiting
        # Which of two that became due at the same moment comes first does not matter.
        self.waiting.remove(found)
        self.working.add(found)

    @precondition(lambda self: self.working)
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.working)))
        self.queue.done(key)
        self.working.remove(key)
        if key in self.again:
            self.again.remove(key)
            self.waiting.append(key)

    def teardown(self) -> None:
        self.loop.close()

    @invariant()
    def as_many_wait(self) -> None:
        assert len(self.queue) == len(self.waiting)


QueueAndModel.TestCase.settings = settings(max_examples=40, stateful_step_count=30)
TestQueueAndModel = QueueAndModel.TestCase

"""How fast logs are read: a flood waits, and holds up nobody else's."""

from __future__ import annotations

import pytest

from study_operator.model.study import StudyKey
from study_operator.podlogs.flow import BURST_SECONDS, LINE_COST, NAMESPACE_RATE, STUDY_RATE, Flows

FLOOD, BESIDE, ELSEWHERE = StudyKey("a", "flood"), StudyKey("a", "beside"), StudyKey("b", "study")
CHUNK = 64 << 10


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.flows = Flows(lambda: self.now, self.sleep)

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def seconds(clock: Clock, key: StudyKey, size: int, lines: int = 0) -> float:
    """How long it takes to read so much, in chunks."""
    begun, chunks = clock.now, size // CHUNK
    for _ in range(chunks):
        await clock.flows.passed(key, CHUNK, lines // chunks)
    return clock.now - begun


async def test_what_is_printed_now_and_then_does_not_wait(clock):
    assert await seconds(clock, FLOOD, int(STUDY_RATE * BURST_SECONDS)) == 0


async def test_a_flood_is_read_at_the_rate_of_a_study(clock):
    await seconds(clock, FLOOD, int(STUDY_RATE * BURST_SECONDS))
    assert await seconds(clock, FLOOD, 20 * STUDY_RATE) == pytest.approx(20)


async def test_lines_cost_more_than_their_bytes(clock):
    await seconds(clock, FLOOD, int(STUDY_RATE * BURST_SECONDS))
    lines = 10 * STUDY_RATE // LINE_COST
    assert await seconds(clock, FLOOD, 10 * STUDY_RATE, lines) == pytest.approx(20, rel=0.01)


async def test_many_studies_of_a_namespace_have_one_rate_and_others_their_own(clock):
    for number in range(8):
        await seconds(clock, StudyKey("a", f"flood-{number}"), int(STUDY_RATE * BURST_SECONDS))
    begun = clock.now
    for number in range(8):
        await seconds(clock, StudyKey("a", f"flood-{number}"), NAMESPACE_RATE)
    assert clock.now - begun > 5
    assert await seconds(clock, ELSEWHERE, int(STUDY_RATE * BURST_SECONDS)) == 0


async def test_nothing_stays_of_studies_that_are_gone(clock):
    for key in (FLOOD, BESIDE, ELSEWHERE):
        await clock.flows.passed(key, 1, 1)
    clock.flows.forget(FLOOD)
    assert set(clock.flows._namespaces) == {"a", "b"}
    clock.flows.forget(BESIDE)
    assert set(clock.flows._namespaces) == {"b"}
    clock.flows.forget(BESIDE)

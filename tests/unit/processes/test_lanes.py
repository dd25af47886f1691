"""Which study may compute where and when."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from study_operator.processes.lanes import (
    BEHAVED_SECONDS,
    FRESH_SECONDS,
    IDLE_SECONDS,
    SUSPECT_SECONDS,
    TURN_SECONDS,
    End,
    Lanes,
    Later,
    Paused,
    Seat,
    StudyId,
    Ticket,
)

MEMORY = 1000


class Floor:
    """Lanes with a clock, in which a request takes no time unless it says so."""

    def __init__(self, processes: int = 4) -> None:
        self.lanes = Lanes(
            processes, 1.0, 60.0, MEMORY, pause=lambda failures, first, most: min(first * 2**failures, most)
        )
        self.now = 1000.0

    def ask(self, study: StudyId, generation: int = 1, must: bool = False) -> Ticket | Later | Paused:
        return self.lanes.ask(study, generation, self.now, must)

    def seat(self, study: StudyId) -> Seat | None:
        """Asks and looks once; a request that would have to wait is given up."""
        ticket = self.ask(study)
        assert isinstance(ticket, Ticket), ticket
        try:
            return self.lanes.seat(ticket)
        finally:
            self.lanes.leave(ticket)

    def done(self, seat: Seat, study: StudyId, took: float = 0.0, data: int = 0, held: bool = False) -> list[StudyId]:
        self.now += took
        return self.lanes.done(seat, study, "suggest", took, data, self.now, held)

    def work(self, study: StudyId, took: float = 0.0, data: int = 0, held: bool = False) -> Seat:
        """One request from beginning to end."""
        seat = self.seat(study)
        assert seat is not None
        self.done(seat, study, took, data, held)
        return seat

    def end(self, study: StudyId, how: End = End.TIME) -> Seat:
        """One request that ends its process."""
        seat = self.seat(study)
        assert seat is not None
        self.lanes.ended(seat, study, "suggest", how, self.now)
        return seat


@pytest.fixture
def floor() -> Floor:
    return Floor()


def of(namespace: str, name: str = "study") -> StudyId:
    return StudyId(namespace, name, f"uid of {namespace}/{name}")


# The common lane


def test_a_study_stays_in_its_process_and_two_studies_have_one_each(floor):
    first, second = floor.seat(of("a")), floor.seat(of("b"))
    assert first is not None
    assert second is not None
    assert first.process != second.process
    assert (first.seconds, first.cpu_seconds, first.slow) == (3.0, 1.0, False)
    floor.done(first, of("a"))
    floor.done(second, of("b"))
    assert floor.work(of("a")).process == first.process


def test_a_namespace_has_one_request_at_a_time(floor):
    running = floor.seat(of("a", "one"))
    assert floor.seat(of("a", "two")) is None
    assert floor.seat(of("b")) is not None
    floor.done(running, of("a", "one"))
    assert floor.seat(of("a", "two")) is not None


def test_whose_namespace_was_served_longest_ago_comes_first():
    floor = Floor(2)  # one process in the common lane
    for _ in range(3):
        floor.work(of("greedy"))
    running = floor.seat(of("c"))
    waiting = {study: floor.ask(study) for study in (of("greedy", "1"), of("greedy", "2"), of("modest"))}
    floor.done(running, of("c"))
    seats = {study: floor.lanes.seat(ticket) for study, ticket in waiting.items()}
    assert [study for study, seat in seats.items() if seat] == [of("modest")]


def test_few_requests_of_a_namespace_wait_in_threads(floor):
    floor.seat(of("a"))
    asked = [floor.ask(of("a", str(number))) for number in range(4)]
    assert [isinstance(ticket, Ticket) for ticket in asked] == [True, True, False, False]
    assert isinstance(floor.ask(of("b")), Ticket)
    assert isinstance(floor.ask(of("b", "another")), Later), "all wait that may"
    assert isinstance(floor.ask(of("c")), Ticket), "who has none there may always wait"
    assert isinstance(floor.ask(of("a", "stored"), must=True), Ticket)


# Who ends a process


@pytest.mark.parametrize("how", [End.TIME, End.MEMORY, End.DIED])
def test_who_ends_a_common_process_is_alone_next_time_and_others_go_on(floor, how):
    floor.work(of("bad"))
    lost = floor.end(of("bad"), how)
    alone = floor.seat(of("bad"))
    assert (alone.slow, alone.seconds, alone.cpu_seconds) == (True, 60.0, 0.0)
    again = [floor.seat(of("good")), floor.seat(of("good too"))]
    assert not any(seat.slow for seat in again)
    assert next(seat for seat in again if seat.process == lost.process).epoch == lost.epoch + 1


def test_nobody_is_blamed_when_all_processes_have_ended(floor):
    floor.end(of("a"), End.AWAY)
    assert not floor.seat(of("a")).slow


def test_a_slow_study_leaves_the_slow_lane_when_it_has_behaved(floor):
    floor.end(of("a"))
    floor.work(of("a"))
    floor.now += BEHAVED_SECONDS / 2
    floor.work(of("a"), took=1.5)
    floor.now += BEHAVED_SECONDS / 2 + 1
    assert floor.work(of("a")).slow
    floor.now += BEHAVED_SECONDS / 2 + 1
    assert floor.work(of("a")).slow  # this one has shown it
    assert not floor.work(of("a")).slow


def test_a_new_study_of_a_namespace_that_has_ended_a_process_begins_alone(floor):
    floor.work(of("a", "known"))
    floor.end(of("a", "bad"))
    assert not floor.work(of("a", "known")).slow
    assert floor.work(of("a", "new")).slow
    assert not floor.work(of("b", "new")).slow
    floor.now += SUSPECT_SECONDS + 1
    floor.work(of("a", "new"))
    assert not floor.work(of("a", "new")).slow


def test_who_ends_its_own_process_rests_ever_longer_until_it_is_edited(floor):
    bad = of("bad")
    floor.end(bad)
    for pause in (60, 120, 240):
        floor.end(bad, End.MEMORY)
        paused = floor.ask(bad)
        assert paused == Paused(pause, End.MEMORY, "suggest")
        floor.now += pause
    for _ in range(10):
        floor.end(bad)
        paused = floor.ask(bad)
        floor.now += paused.seconds
    assert paused.seconds == 3600
    floor.end(bad)
    assert isinstance(floor.ask(bad), Paused)
    assert isinstance(floor.ask(bad, generation=2), Ticket)
    assert isinstance(floor.ask(bad, generation=1), Ticket)  # an optimizer that was loaded before the edit


def test_a_success_ends_the_failures(floor):
    bad = of("bad")
    floor.end(bad)
    floor.end(bad)
    floor.now += 60
    floor.work(bad)
    floor.end(bad)
    assert floor.ask(bad).seconds == 60


# The slow lane


def test_slow_studies_never_take_a_common_process(floor):
    for number in range(8):
        floor.end(of(f"bad {number}"))
    busy = [floor.ask(of(f"bad {number}")) for number in range(8)]
    assert sum(isinstance(ticket, Ticket) for ticket in busy) == 2
    assert not floor.work(of("good")).slow


def test_a_place_is_not_taken_while_a_batch_is_being_stored(floor):
    floor = Floor(2)
    for name in ("a", "b"):
        floor.end(of(name))
    floor.work(of("a"), held=True)
    floor.now += TURN_SECONDS + 1
    assert isinstance(floor.ask(of("b")), Later)
    assert floor.work(of("a"), held=False).slow  # told that it is stored
    assert floor.work(of("b")).slow


def test_places_go_round_by_namespace():
    floor = Floor(2)
    greedy = [of("greedy", str(number)) for number in range(5)]
    studies = [*greedy, of("modest")]
    for study in (greedy[0], studies[-1]):  # the others are suspect from then on
        floor.end(study)
    turns = [study for study in play(floor, studies, 200) if study is not None]
    shares = {namespace: sum(study.namespace == namespace for study in turns) for namespace in ("greedy", "modest")}
    assert shares["modest"] >= len(turns) / 2 - 30
    assert set(turns) == set(studies)


def play(floor: Floor, studies: list[StudyId], rounds: int) -> Iterator[StudyId | None]:
    """Each study asks every second, and works when it may. Yields who has worked."""
    for _ in range(rounds):
        for study in studies:
            ticket = floor.ask(study)
            if isinstance(ticket, Later):
                continue
            seat = floor.lanes.seat(ticket)
            floor.lanes.leave(ticket)
            floor.done(seat, study, took=2.0)
            yield study
        floor.now += 1.0


def test_an_idle_study_loses_its_place_to_one_that_wants_it():
    floor = Floor(2)
    floor.end(of("a"))
    floor.end(of("b"))
    floor.work(of("a"))
    assert isinstance(floor.ask(of("b")), Later)
    floor.now += FRESH_SECONDS
    assert floor.work(of("b")).slow


def test_processes_that_nobody_uses_are_ended(floor):
    seats = {name: floor.work(of(name)) for name in ("a", "b")}
    floor.end(of("slow"))
    slow = floor.work(of("slow"))
    floor.lanes.drop(of("a"))
    assert floor.lanes.tidy(floor.now) == []
    floor.now += IDLE_SECONDS + 1
    ended = floor.lanes.tidy(floor.now)
    assert slow.process in ended
    assert all(floor.lanes.processes[number].studies == {} for number in ended)
    assert of("b") in {study for process in floor.lanes.processes for study in process.studies} or (
        seats["a"].process == seats["b"].process
    )
    assert floor.lanes.tidy(floor.now) == []


# Memory


def test_a_process_whose_memory_grows_lets_go_of_what_was_used_longest_ago():
    floor = Floor(2)
    for name in "abcd":
        floor.work(of(name), data=MEMORY // 4)
        floor.now += 1
    seat = floor.seat(of("e"))
    assert floor.done(seat, of("e"), data=MEMORY * 3 // 4) == [of("a"), of("b")]
    assert floor.lanes.processes[0].studies.keys() == {of("c"), of("d"), of("e")}


def test_it_never_lets_go_of_a_study_whose_batch_is_being_stored():
    floor = Floor(2)
    floor.work(of("a"), held=True)
    seat = floor.seat(of("b"))
    assert floor.done(seat, of("b"), data=MEMORY) == []

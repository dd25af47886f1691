"""Reading a log in pieces: every line once, wherever reading was cut off."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from study_operator.model.log_position import Place, Position, split

SECOND = 1_000_000_000
T = int(datetime(2026, 11, 22, 2, 38, 28, tzinfo=UTC).timestamp()) * SECOND


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"2026-11-22T02:38:28.000000001Z accuracy=1", (T + 1, b"accuracy=1")),
        (b"2026-11-22T02:38:28.5Z  two blanks", (T + SECOND // 2, b" two blanks")),
        (b"2026-11-22T02:38:28Z ", (T, b"")),
        (b"2026-11-22T02:38:28Z", (T, b"")),
        (b"2026-11-22T04:38:28.123456789+02:00 a b", (T + 123456789, b"a b")),
        (b"2026-11-21T21:08:28.1-05:30 \xff", (T + SECOND // 10, b"\xff")),
        (b"unable to retrieve container logs for containerd://0123", None),
        (b"2026-13-41T99:38:28Z no such time", None),
        (b"2026-11-22T02:38:28 accuracy=1", None),
        (b"", None),
    ],
)
def test_time_and_text_of_a_line(line, found):
    assert split(line) == found


def test_reading_goes_on_ten_seconds_before_the_lowest_time():
    place = Place(Position())
    assert place.position.since is None
    for time in (T + 5 * SECOND, T + SECOND + 7):
        assert place.passes(time)
    assert place.position.since == "2026-11-22T02:38:19Z"


def test_another_run_of_the_program_counts_anew():
    position = Position(T, 2, T, restarts=0, counted=7)
    assert position.restarted(0) is position
    assert position.restarted(2) == Position(T, 2, T, restarts=2, counted=0)


def test_a_program_that_prints_steps_is_remembered_as_such():
    position = Position(T, 2, T, restarts=1, counted=None)
    assert Position.of_text(position.as_text()) == position
    assert all(word == "-" or int(word) >= -1 for word in position.as_text().split()), "version 0.2 reads numbers only"


def test_what_was_rotated_away_is_not_missed():
    place = Place(Position(T, taken=3, lowest=T))
    assert [place.passes(time) for time in (T + 1, T + 1, T + 2)] == [True, True, True]


def given_out(log: list[int], position: Position) -> list[int]:
    """The lines, by number, that Kubernetes gives out for this position: those whose second is not before it."""
    since = position.since
    if since is None:
        return list(range(len(log)))
    first = int(datetime.fromisoformat(since).timestamp()) * SECOND
    return [number for number, time in enumerate(log) if time >= first]


# Times that often fall together, and clocks that are sometimes put back, within a second or by several.
STEPS = st.sampled_from([0, 0, 0, 1, 300_000_000, SECOND, 7 * SECOND, -1, -400_000_000, -4 * SECOND])


@given(st.lists(STEPS, max_size=30), st.lists(st.integers(0, 12), max_size=8))
def test_each_line_is_taken_once_wherever_reading_is_cut_off(steps, pieces):
    log: list[int] = []
    for step in steps:  # a clock put back by more than ten seconds while nobody reads is more than can be made good
        log.append(max(sum(steps[: len(log)], T) + step, max(log, default=T) - 10 * SECOND))
    taken: list[int] = []
    position = Position()
    for piece in [*pieces, len(log)]:
        position = Position.of_text(position.as_text())  # as another process finds it
        place = Place(position)
        left = piece
        for number in given_out(log, position):
            if left and place.passes(log[number]):
                taken.append(number)
                left -= 1
        position = place.position
    assert taken == list(range(len(log)))

"""The clock of another machine, as its answers tell it."""

from datetime import UTC, datetime, timedelta, timezone

from study_operator.clocks import RemoteClock

THEN = datetime(2020, 2, 2, 12, tzinfo=timezone(timedelta(hours=2)))


def test_a_clock_goes_on_from_what_was_heard_last():
    seconds = 100.0
    clock = RemoteClock(lambda: seconds)
    clock.heard(THEN)
    assert clock.now() == THEN
    assert clock.now().tzinfo is UTC
    seconds = 160.5
    assert clock.now() == THEN + timedelta(seconds=60.5)
    clock.heard(THEN)  # it was set back
    assert clock.now() == THEN


def test_a_clock_that_was_never_heard_shows_the_time_of_this_machine():
    before = datetime.now(UTC)
    assert before <= RemoteClock().now() <= datetime.now(UTC)

"""Delivery through outages, with an injected clock and a scripted database."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from study_trial._connection import Call, UnavailableError
from study_trial._delivery import Delivery
from study_trial._errors import RefusedError, UndeliveredError


class FakeDatabase:
    """Away by a function of the time; an attempt while it is away takes `hang` seconds of the clock."""

    def __init__(self, away: Callable[[float], bool] = lambda now: False, hang: float = 0.0) -> None:
        self.now = 1000.0
        self.away = away
        self.hang = hang
        self.stored: list[str] = []
        self.attempts = 0
        self.refuse: dict[str, RefusedError] = {}
        self.closed = 0

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now += seconds

    def call(self, call: Call, timeout: float) -> Any:
        assert timeout > 0
        self.attempts += 1
        if self.away(self.now):
            self.now += min(self.hang, timeout)
            raise UnavailableError("connection refused")
        if call.what in self.refuse:
            raise self.refuse[call.what]
        self.now += 0.001
        self.stored.append(call.what)
        return f"answer to {call.what}"

    def close(self) -> None:
        self.closed += 1


def delivery(database: FakeDatabase, report: float = 5.0, finish: float = 60.0) -> Delivery:
    return Delivery(database, report, finish, clock=database.clock, sleep=database.sleep)


def call(what: str) -> Call:
    return Call({}, what)


def test_returns_the_answer():
    database = FakeDatabase()
    assert delivery(database).send(call("a")) == "answer to a"
    assert database.now == pytest.approx(1000.001)


def test_a_short_outage_is_waited_for():
    database = FakeDatabase(away=lambda now: now < 1002)
    sender = delivery(database)
    assert sender.send(call("a")) == "answer to a"
    assert sender.waiting == []
    assert database.now < 1005


@pytest.mark.parametrize("hang", [0.0, 60.0])
def test_a_report_waits_no_longer_than_its_bound(hang, capsys):
    database = FakeDatabase(away=lambda now: True, hang=hang)
    sender = delivery(database)
    assert sender.send(call("a")) is None
    assert database.now <= 1005
    assert sender.waiting == ["a"]
    assert "the database is away (connection refused); training goes on, a waits" in capsys.readouterr().err


def test_in_an_outage_training_goes_on_and_reports_keep_their_order(capsys):
    database = FakeDatabase(away=lambda now: now < 1060, hang=60.0)
    sender = delivery(database)
    waited = 0.0
    for step in range(120):
        before = database.now
        sender.send(call(f"step {step}"))
        waited += database.now - before
        database.now += 1.0  # an epoch
    assert waited <= 35  # of the 60 s away
    assert database.stored == [f"step {step}" for step in range(120)]
    errors = capsys.readouterr().err
    assert errors.count("is away") == 1
    assert errors.count("is back") == 1


def test_final_values_wait_until_the_database_is_back(capsys):
    database = FakeDatabase(away=lambda now: now < 1200)
    sender = delivery(database, finish=3600)
    sender.send(call("a"))
    assert sender.send_final(call("final")) == "answer to final"
    assert database.stored == ["a", "final"]
    assert 1200 <= database.now < 1220
    # Every 30 s at most, at the next of the attempts, which come at random times: not at every one.
    assert 4 <= capsys.readouterr().err.count("final waits for the database") <= 8
    assert database.attempts < 60
    assert database.closed == 1


def test_undelivered_final_values_are_said(capsys):
    database = FakeDatabase(away=lambda now: True, hang=3.0)
    with pytest.raises(UndeliveredError, match=r"0\.93 could not be delivered within 60 s.*connection refused"):
        delivery(database, finish=60).send_final(call("0.93"))
    assert 1060 <= database.now < 1064


def test_a_refused_call_is_raised_and_not_tried_again():
    database = FakeDatabase()
    database.refuse["bad"] = RefusedError("no")
    sender = delivery(database)
    with pytest.raises(RefusedError, match="no"):
        sender.send(call("bad"))
    assert sender.send(call("good")) == "answer to good"
    assert database.attempts == 2


def test_an_earlier_call_that_is_refused_does_not_hold_up_the_final_values(capsys):
    database = FakeDatabase(away=lambda now: now < 1010)
    database.refuse["bad"] = RefusedError("the attribute was refused")
    sender = delivery(database)
    sender.send(call("bad"))
    assert sender.send_final(call("final")) == "answer to final"
    assert "the attribute was refused" in capsys.readouterr().err


def test_a_question_that_cannot_be_asked_is_dropped():
    database = FakeDatabase(away=lambda now: now < 1100)
    sender = delivery(database)
    sender.send(call("a"))
    assert sender.ask(call("stop?")) is None
    assert sender.waiting == ["a"]
    database.now = 1100
    assert sender.ask(call("stop?")) == "answer to stop?"
    assert database.stored == ["a", "stop?"]


@given(
    outages=st.lists(st.tuples(st.floats(0, 300), st.floats(0, 60)), max_size=5),
    hang=st.sampled_from([0.0, 1.0, 100.0]),
    epochs=st.lists(st.floats(0, 20), min_size=1, max_size=40),
)
def test_everything_arrives_once_in_order_and_no_report_waits_too_long(outages, hang, epochs):
    def away(now: float) -> bool:
        return any(start <= now - 1000 < start + length for start, length in outages)

    database = FakeDatabase(away, hang)
    sender = delivery(database, finish=1000)
    for step, seconds in enumerate(epochs):
        before = database.now
        sender.send(call(str(step)))
        assert database.now - before <= 5.1
        database.now += seconds
    sender.send_final(call("final"))
    assert database.stored == [*map(str, range(len(epochs))), "final"]


def test_the_rest_is_tried_once_more_although_the_outage_has_had_its_bound(capsys):
    database = FakeDatabase(away=lambda now: True)
    sender = delivery(database)
    for what in "abc":
        sender.send(call(what))
    assert database.attempts < 10, "b and c are only queued"
    database.away = lambda now: False
    sender.flush(10)
    assert (database.stored, sender.waiting) == (["a", "b", "c"], [])
    assert "the database is back: a is stored" in capsys.readouterr().err


@pytest.mark.parametrize(("seconds", "bound"), [(10, 5), (2, 2)])
def test_the_rest_has_no_more_than_its_time(seconds, bound):
    database = FakeDatabase(away=lambda now: True, hang=1.0)
    sender = delivery(database)
    sender.send(call("a"))
    before = database.now
    sender.flush(seconds)
    assert bound - 1.5 <= database.now - before <= bound
    assert sender.waiting == ["a"]


def test_a_refused_rest_is_said(capsys):
    database = FakeDatabase(away=lambda now: True)
    sender = delivery(database)
    sender.send(call("a"))
    database.away = lambda now: False
    database.refuse["a"] = RefusedError("a was refused")
    sender.flush(10)
    assert sender.waiting == []
    assert "a was refused" in capsys.readouterr().err


def test_a_question_that_is_interrupted_is_dropped_and_a_report_is_not():
    def interrupted(now: float) -> bool:
        raise KeyboardInterrupt

    database = FakeDatabase(away=interrupted)
    sender = delivery(database)
    for send in (sender.send, sender.ask):
        with pytest.raises(KeyboardInterrupt):
            send(call(send.__name__))
    assert sender.waiting == ["send"]


def test_the_rest_is_left_to_a_thread_that_is_sending_it():
    database = FakeDatabase()
    sender = delivery(database, report=0.1)
    entered, goes_on = threading.Event(), threading.Event()

    def away(now: float) -> bool:
        entered.set()
        return not goes_on.wait(30)

    database.away = away
    thread = threading.Thread(target=sender.send_final, args=[call("final")])
    thread.start()
    assert entered.wait(30)
    sender.flush(10)
    assert (database.stored, sender.waiting) == ([], ["final"])
    goes_on.set()
    thread.join()
    assert database.stored == ["final"]


def test_a_final_value_that_was_given_up_is_not_sent_twice():
    database = FakeDatabase(away=lambda now: now < 2000)
    sender = delivery(database)
    with pytest.raises(UndeliveredError):
        sender.send_final(call("final"))
    database.now = 2000
    sender.send_final(call("final"))
    assert database.stored == ["final"]

"""What the processes of one pod hear: rank 0 in a process of its own, which can be killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator

import pytest

from study_trial import _together
from study_trial._together import Answers, Listener, answers_path

FORK = multiprocessing.get_context("fork")


class Clock:
    """Time that passes only while somebody sleeps; then something may happen besides."""

    def __init__(self) -> None:
        self.now, self.slept = 0.0, 0.0
        self.meanwhile = lambda: None

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now, self.slept = self.now + seconds, self.slept + seconds
        self.meanwhile()


class Rank0:
    """The process that reports."""

    def __init__(self, path: str) -> None:
        self._ours, theirs = FORK.Pipe()
        self.process = FORK.Process(target=_rank_0, args=(path, theirs), daemon=True)
        self.process.start()
        assert self._ours.recv()

    def does(self, what: str) -> int:
        """Waits until it has done it. Returns the process that it has forked, if it was to."""
        self._ours.send(what)
        return self._ours.recv()

    def is_killed(self) -> None:
        self.process.kill()
        self.process.join()
        assert self.process.exitcode == -signal.SIGKILL


def _rank_0(path, pipe) -> None:
    answers = Answers(path)
    pipe.send(True)
    while True:
        what = pipe.recv()
        worker = 0
        if what == "end":
            answers.end()
        elif what == "fork":
            worker = os.fork()
            if worker == 0:
                answers.note(True)
                time.sleep(60)
                os._exit(0)
        else:
            answers.note(what == "stop")
        pipe.send(worker)


@pytest.fixture
def path(tmp_path) -> str:
    return str(tmp_path / "answers")


@pytest.fixture
def rank_0(path) -> Iterator[Rank0]:
    process = Rank0(path)
    yield process
    process.process.kill()
    process.process.join()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def listener(path, clock) -> Listener:
    return Listener(path, clock, clock.sleep)


def test_each_answer_is_that_of_the_same_call(rank_0, listener):
    for what in ("go on", "go on", "stop"):
        rank_0.does(what)
    assert [listener.answer() for _ in range(4)] == [False, False, True, True]


def test_an_answer_is_waited_for(rank_0, listener, clock):
    rank_0.does("go on")
    assert listener.answer() is False
    clock.meanwhile = lambda: rank_0.does("stop") if clock.slept > 100 and not listener._stop else None
    assert listener.answer() is True
    assert 100 < clock.slept < 101


@pytest.mark.parametrize("end", ["killed", "finished"])
def test_nobody_waits_for_a_rank_0_that_has_ended(rank_0, listener, clock, end):
    """What it has heard before counts."""
    for what in ("go on", "go on"):
        rank_0.does(what)
    assert listener.answer() is False
    rank_0.is_killed() if end == "killed" else rank_0.does("end")
    assert [listener.answer() for _ in range(3)] == [False, None, None]
    assert clock.slept == 0


def test_a_rank_0_that_ends_while_it_is_waited_for(rank_0, listener, clock):
    rank_0.does("go on")
    listener.answer()
    clock.meanwhile = rank_0.is_killed
    assert listener.answer() is None


def test_a_rank_0_that_never_begins_is_waited_for_once(listener, clock):
    assert listener.answer() is None
    assert clock.slept == pytest.approx(_together._BEGIN_SECONDS, abs=0.1)
    waited = clock.slept
    assert listener.answer() is None
    assert clock.slept == waited


def test_what_an_earlier_run_has_left_is_nobodys_answer(path, listener, clock):
    earlier = Rank0(path)
    earlier.does("go on")
    earlier.is_killed()
    later: list[Rank0] = []

    def begins() -> None:
        if not later:
            later.append(Rank0(path))
            later[0].does("stop")

    clock.meanwhile = begins
    assert listener.answer() is True
    later[0].is_killed()


def test_a_rank_0_that_asks_more_seldom_is_waited_for_once(rank_0, listener, clock, capsys):
    rank_0.does("go on")
    assert [listener.answer() for _ in range(3)] == [False, None, None]
    assert clock.slept == pytest.approx(_together._ANSWER_SECONDS, abs=0.1)
    assert capsys.readouterr().err.count("has not called should_prune() for 300 s") == 1


def test_answers_that_cannot_be_written_are_said_and_no_error(tmp_path, listener, capsys):
    answers = Answers(str(tmp_path / "missing" / "answers"))
    answers.note(False)
    answers.end()
    assert capsys.readouterr().err.count("may hear at another step that it is pruned: [Errno 2]") == 1


def test_a_process_that_rank_0_has_forked_neither_answers_nor_holds_the_others_up(rank_0, listener, clock):
    """A worker of a data loader has a copy of everything, and may live longer."""
    worker = rank_0.does("fork")
    rank_0.does("go on")
    assert listener.answer() is False
    rank_0.is_killed()
    os.kill(worker, 0)  # it is there
    assert listener.answer() is None
    os.kill(worker, signal.SIGKILL)


def test_the_path_is_the_trials():
    assert answers_path("a/job-0/1") == answers_path("a/job-0/1") != answers_path("a/job-0-r1/1")

"""What the sidecar reports of what it reads, with a channel that remembers; the files are real."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from study_trial._errors import RefusedError, TrialFinishedError, WrongKeyError
from study_trial._follow import Follower
from study_trial._reading.entry import Entry, Names
from study_trial._reading.jsonlines import JsonLines
from study_trial._reading.text import Text


class RememberingChannel:
    """Remembers calls. While `away`, reports wait; `refuse` is raised by the next call."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []
        self.queue: list[tuple] = []
        self.away = False
        self.pruned = False
        self.refuse: Exception | None = None

    def report(self, step: int, value: float) -> None:
        self._call("report", step, value)

    def should_stop(self) -> bool:
        if not self.away:
            self.calls, self.queue = self.calls + self.queue, []
        return self.pruned

    def candidate(self, values: list[float], constraints: dict[str, float]) -> None:
        self._call("candidate", values, constraints)

    def clear_candidate(self) -> None:
        self._call("clear")

    def bad_report(self, total: int, message: str) -> None:
        self._call("bad", total, message)

    def waiting(self) -> list[str]:
        return [str(call) for call in self.queue]

    def _call(self, *call) -> None:
        if self.refuse:
            error, self.refuse = self.refuse, None
            raise error
        self.queue.append(call)
        self.should_stop()


class Play:
    """A follower of a JSON lines file, and whatever happens around it."""

    def __init__(self, path: Path, objectives=("accuracy",), constraints=("latency_ms",)) -> None:
        self.path = path
        self.names = Names(objectives, constraints)
        self.channel = RememberingChannel()
        self.now = 0.0
        self.follower = self.start()

    def start(self) -> Follower:
        """A new process."""
        self.follower = Follower(
            JsonLines(str(self.path), self.names, "epoch"), self.names, self.channel, lambda: self.now
        )
        self.follower.begin()
        return self.follower

    def write(self, *lines: dict | str) -> None:
        with self.path.open("a") as file:
            file.writelines((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)

    def said(self) -> list[tuple]:
        """The calls since this was asked last."""
        calls, self.channel.calls = self.channel.calls, []
        return calls


@pytest.fixture
def play(tmp_path: Path) -> Play:
    return Play(tmp_path / "metrics.jsonl")


def test_values_are_reported_live_and_the_last_of_each_name_is_final(play):
    assert play.said() == [("clear",)], "what an earlier pod of the trial has left"
    play.follower.poll()
    play.write({"epoch": 1, "accuracy": 0.5, "latency_ms": 60}, {"epoch": 2, "accuracy": 0.6})
    play.follower.poll()
    assert play.said() == [("report", 1, 0.5), ("report", 2, 0.6)]
    play.write({"latency_ms": 43}, {"epoch": 3, "accuracy": 0.4})
    play.follower.end()
    assert play.said() == [("report", 3, 0.4), ("candidate", [0.4], {"latency_ms": 43.0})]


def test_lines_without_a_step_are_counted_from_0(play):
    play.write({"accuracy": 0.5}, {"latency_ms": 60}, {"accuracy": 0.6})
    play.follower.poll()
    play.write({"accuracy": 0.7})
    play.follower.poll()
    first = play.said()[1:]
    assert first == [("report", 0, 0.5), ("report", 1, 0.6), ("report", 2, 0.7)]
    play.start()
    play.follower.poll()
    assert play.said()[1:] == first, "a restart repeats them exactly"


def test_a_step_that_cannot_be_used_costs_the_report_and_not_the_value(play, capsys):
    play.write({"epoch": "start", "accuracy": 0.4}, {"epoch": 2.99, "accuracy": 0.5}, {"epoch": -1, "accuracy": 0.6})
    play.follower.poll()
    play.follower.end()
    words = "the step is 'start', which is no number: the value counts, but is no report that a pruner could judge"
    assert play.said()[1:] == [("report", 2, 0.5), ("bad", 1, words), ("candidate", [0.6], {})]
    assert capsys.readouterr().err == f"study-trial: warning: {words} (this is said once)\n"


def test_a_value_that_cannot_be_read_costs_none_beside_it(play):
    play.write({"epoch": 1, "accuracy": 0.5, "latency_ms": "slow"}, {"accuracy": "?", "latency_ms": 43})
    play.follower.end()
    *reports, (_, total, last), candidate = play.said()[1:]
    assert (reports, total, candidate) == ([("report", 1, 0.5)], 2, ("candidate", [0.5], {"latency_ms": 43.0}))
    assert last == "line 2: accuracy is '?', which is no number"


def test_a_summary_at_the_end_of_a_file_with_steps_is_no_report(play):
    play.write({"epoch": 1, "accuracy": 0.5}, {"accuracy": 0.55})
    play.follower.end()
    assert play.said()[1:] == [("report", 1, 0.5), ("candidate", [0.55], {})]


def test_with_several_objectives_only_the_last_values_count(tmp_path):
    play = Play(tmp_path / "metrics.jsonl", ["accuracy", "latency"], [])
    play.write({"epoch": 1, "accuracy": 0.5}, {"epoch": 1, "latency": 12}, {"epoch": 2, "accuracy": 0.6})
    play.follower.poll()
    play.follower.end()
    assert play.said() == [("clear",), ("candidate", [0.6, 12.0], {})]


def test_without_a_value_for_each_objective_there_is_no_candidate(tmp_path, capsys):
    play = Play(tmp_path / "metrics.jsonl", ["accuracy", "latency"])
    play.follower.poll()
    play.follower.poll()
    play.follower.end()
    missing = f"{play.path} cannot be read: No such file or directory"
    told = ("bad", 1, f"no value of accuracy, latency; {missing}")
    assert play.said() == [("clear",), told, ("clear",)]
    assert capsys.readouterr().err.splitlines() == [
        f"study-trial: {missing}; trying again once a second",
        f"study-trial: there is no value of accuracy, latency; {missing}",
    ]
    play.write({"accuracy": 0.5})
    play.start().end()
    assert capsys.readouterr().err == "study-trial: there is no value of latency; it has no other values\n"


def test_bad_lines_are_counted_once_a_look(play):
    play.write("accuracy=0.5", {"accuracy": "high"}, {"accuracy": 0.5})
    play.follower.poll()
    play.follower.poll()
    bad = ("bad", 2, "line 2: accuracy is 'high', which is no number")
    assert play.said()[1:] == [("report", 0, 0.5), bad]
    play.write('{"accuracy": 0.')
    play.follower.end()
    name, total, _ = play.said()[0]
    assert (name, total) == ("bad", 3)
    play.start()
    play.follower.poll()
    assert [call[1] for call in play.said() if call[0] == "bad"] == [3], "and not 6"


def test_what_a_program_wrote_before_it_began_anew_does_not_count(play):
    play.write({"accuracy": 0.5, "latency_ms": 43}, {"accuracy": 0.6})
    play.follower.poll()
    play.path.write_text("")
    play.follower.poll()
    play.write({"accuracy": 0.7})
    play.follower.end()
    assert play.said()[1:] == [
        ("report", 0, 0.5),
        ("report", 1, 0.6),
        ("report", 0, 0.7),
        ("candidate", [0.7], {}),
    ]


def test_while_the_database_is_away_the_file_keeps_what_is_not_reported(play):
    play.channel.away = True
    play.write(*({"accuracy": i} for i in range(100)))
    for _ in range(3):
        play.follower.poll()
    assert len(play.channel.queue) == 1
    play.channel.away = False
    play.follower.poll()
    assert play.said()[1:] == [("report", i, float(i)) for i in range(100)]


def test_at_the_end_only_the_final_values_wait_for_the_database(play):
    play.channel.away = True
    play.write(*({"accuracy": i} for i in range(100)))
    play.follower.end()
    assert play.channel.queue == [("report", 0, 0.0), ("candidate", [99.0], {})]


def test_at_the_end_reports_take_no_more_than_their_time(play):
    def report_slowly(step: int, value: float, report=play.channel.report) -> None:
        play.now += 1
        report(step, value)

    play.channel.report = report_slowly
    play.write(*({"accuracy": i} for i in range(100)))
    play.follower.end()
    assert play.said()[1:] == [*(("report", i, float(i)) for i in range(10)), ("candidate", [99.0], {})]


def test_a_pruned_trial_needs_no_more(play):
    play.channel.pruned = True
    play.write({"accuracy": 0.5}, {"accuracy": 0.6})
    play.follower.poll()
    play.follower.poll()
    play.follower.end()
    assert play.said()[1:] == [("report", 0, 0.5)]


def test_a_trial_that_is_pruned_at_the_end_needs_no_candidate(play):
    play.write({"latency_ms": 1})
    play.follower.poll()
    play.channel.pruned = True
    play.follower.end()
    assert play.said()[1:] == []


@pytest.mark.parametrize("error", [TrialFinishedError, WrongKeyError])
def test_when_nothing_can_be_stored_any_more_it_waits_for_its_end(play, error, capsys):
    play.channel.refuse = error("refused: it is over")
    play.write({"accuracy": 0.5}, {"accuracy": 0.6})
    play.follower.poll()
    play.follower.poll()
    play.follower.end()
    assert play.said()[1:] == []
    assert capsys.readouterr().err == "study-trial: refused: it is over\n"


def test_a_report_that_is_refused_does_not_stop_the_next(play, capsys):
    play.channel.refuse = RefusedError("refused: for whatever reason")
    play.write({"accuracy": 0.5}, {"accuracy": 0.6})
    play.follower.end()
    assert play.said()[1:] == [("report", 1, 0.6), ("candidate", [0.6], {})]
    assert "for whatever reason" in capsys.readouterr().err


def test_a_signal_ends_a_long_look(play):
    play.write(*({"accuracy": i} for i in range(100)))
    play.follower.poll(stop=lambda: len(play.channel.calls) == 11)
    assert len(play.said()) == 11
    play.follower.poll()
    assert len(play.said()) == 90


def test_a_value_of_which_it_is_not_known_whether_it_is_meant_is_no_final_one(tmp_path):
    play = Play(tmp_path / "unused")
    first = [Entry({"accuracy": 0.9}, 1), Entry(bad="accuracy is there as a and as b", void="accuracy")]
    source = SimpleNamespace(trouble=None, read=lambda last=False: iter([] if last else first))
    follower = Follower(source, play.names, play.channel, lambda: 0.0)
    follower.poll()
    follower.end()
    assert play.channel.calls[-1] == ("clear",)
    assert not [call for call in play.channel.calls if call[0] == "candidate"]


def test_a_value_without_a_mark_gives_way_to_one_that_has_it(tmp_path):
    path, channel = tmp_path / "log.txt", RememberingChannel()
    names = Names(["accuracy"], [], finals={"accuracy": "Max"})
    path.write_text("accuracy improved from 0.1 to 0.2\nbest accuracy 0.9\nlast accuracy 0.8\n")
    follower = Follower(Text(str(path), names, "epoch"), names, channel, lambda: 0.0)
    follower.poll()
    (reported, (_, count, words)) = channel.calls
    assert (reported, count) == (("report", 0, 0.8), 1), "the first one may be a summary"
    assert words.startswith("line 1: accuracy has two readings, 0.1 and 0.2")
    with path.open("a") as file:
        file.write("accuracy=0.5\nbest accuracy 0.95\naccuracy=0.4\n")
    channel.calls.clear()
    follower.end()
    assert channel.calls == [("report", 1, 0.5), ("report", 2, 0.4), ("candidate", [0.5], {})]


def test_values_without_a_mark_are_final_if_there_are_no_others(tmp_path):
    path, channel = tmp_path / "log.txt", RememberingChannel()
    names = Names(["accuracy"], ["latency_ms"], finals={"accuracy": "Max"})
    path.write_text("epoch 1 accuracy 0.9\nepoch 2 accuracy 0.8 latency_ms 43")
    follower = Follower(Text(str(path), names, "epoch"), names, channel, lambda: 0.0)
    follower.end()
    assert channel.calls == [("report", 1, 0.9), ("report", 2, 0.8), ("candidate", [0.9], {"latency_ms": 43.0})]

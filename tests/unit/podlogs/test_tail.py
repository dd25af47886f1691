"""Lines out of the pieces in which a log arrives."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from study_operator.model.printed_lines import Lines
from study_operator.model.terminal import states
from study_operator.podlogs import tail
from study_operator.podlogs.tail import BATCH_LINES, Source, _Waiting


@given(st.lists(st.binary(max_size=20)), st.lists(st.integers(0, 30)))
def test_lines_are_whole_however_they_were_cut(lines, cuts):
    log = b"".join(line.replace(b"\n", b"?") + b"\n" for line in lines) + b"no end"
    waiting = _Waiting()
    for cut in cuts:
        waiting.add(log[:cut])
        log = log[cut:]
    waiting.add(log)
    assert waiting.lines == [line.replace(b"\n", b"?") for line in lines]
    assert waiting.rest == b"no end"


def test_a_line_without_an_end_takes_no_memory():
    waiting = _Waiting()
    for _ in range(100):
        waiting.add(b"x" * 100_000)
        assert len(waiting.rest) < 10_000
    waiting.add(b"\nnext\n")
    assert [len(line) > 8192 for line in waiting.lines] == [True, False]


@settings(max_examples=30)
@given(st.lists(st.integers(100, 40_000), max_size=60), st.integers(0, 12), st.sampled_from([b"", b"\r", b"\n"]))
def test_a_progress_bar_of_any_length_keeps_its_time_and_its_last_state(cuts, quiet, end):
    stamp = b"2026-11-22T02:38:28.5Z "
    states = [b"train %40d epoch=%d accuracy=0.%03d" % (i, i, i) for i in range(600)]
    log = stamp + b"\r".join([b"", *states, *[b"saving" + b"." * 900] * quiet]) + end
    waiting = _Waiting(lambda state: b"accuracy" in state)
    for cut in [*cuts, len(log)]:
        waiting.add(log[:cut])
        log = log[cut:]
        assert len(waiting.rest) < 20_000
    line = waiting.lines[0] if end == b"\n" else waiting.end()
    assert line.startswith(stamp)
    assert [state for state in line.split(b"\r") if b"accuracy" in state][-1].removeprefix(stamp) == states[-1]
    if end != b"\n":
        whole = _Waiting(lambda state: b"accuracy" in state)
        whole.add(stamp + b"\r".join([b"", *states, *[b"saving" + b"." * 900] * quiet]) + end)
        assert line == whole.end(), "the same in whatever pieces it came"


READER = Lines(["accuracy"], [], "epoch")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 9000), max_size=60), st.sampled_from([b"", b"\n"]))
@pytest.mark.parametrize(
    ("state", "back"),
    [
        ("train %40d epoch=%d accuracy=0.%03d", "\x1b[2K\x1b[1G"),
        ("train %40d epoch=%d accuracy=0.%03d", "\x1b[0G\x1b[J"),
        ("train \u2588 %40d epoch=%d accuracy=0.%03d", "\b" * 100),
        ("\x1b[32mtrain\x1b[0m \u2588 %40d epoch=%d accuracy=0.%03d", "\x1b[100D"),
        ("%40d epoch=%d accuracy=0.%03d \x1b]8;;http://host\x07link\x1b]8;;\x07", "\x1b[100D\x1b[K"),
    ],
)
def test_a_progress_bar_that_moves_the_cursor_is_read_like_one_with_carriage_returns(state, back, cuts, end):
    stamp = b"2026-11-22T02:38:28.5Z "
    log = stamp + b"".join((state % (i, i, i) + back).encode() for i in range(600)) + end
    whole = _Waiting(READER.says)
    whole.add(log)
    waiting = _Waiting(READER.says)
    for cut in [*cuts, len(log)]:
        waiting.add(log[:cut])
        log = log[cut:]
        assert len(waiting.rest) < 20_000
    if not end:
        assert waiting.end() == whole.end(), "the same in whatever pieces it came"
    for line in (waiting.lines[0], whole.lines[0]) if end else (waiting.end(),):
        assert line.startswith(stamp)
        said = READER.read(line.removeprefix(stamp))
        assert said is not None
        assert said.bad is None
        assert (said.values, said.step) == ({"accuracy": 0.599}, 599)


@given(
    st.lists(st.sampled_from([*"ab \u2588", "\b", "\r", "\x1b[2D", "\x1b[1m", "\x1b]0;t\x07", "\x1b[3C"])), st.data()
)
def test_the_states_of_a_line_are_the_same_in_whatever_pieces_it_came(parts, data):
    line = "".join(parts).encode()
    cut = data.draw(st.integers(0, len(line)))
    most = data.draw(st.integers(8, 40))
    *first, rest = states(line[:cut], most)
    assert _said([*first, *states(rest + line[cut:], most)]) == _said(states(line, most))


def _said(states: list[bytes]) -> list[bytes]:
    """The states that show something."""
    return [state for state in states if state.strip(b"\b")]


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (b"accuracy=0.5\b\b\b0.6", [b"accuracy=0.5", b"accuracy=0.6"]),
        (b"accuracy=0.5" + b"\b" * 50 + b"done", [b"accuracy=0.5", b"done"]),
        (b"a\xe2\x96\x88b\x1b[2Dcd", [b"a\xe2\x96\x88b", b"acd"]),
        (b"accuracy=0.5\x1b[3D", [b"accuracy=0.5\b\b\b"]),
        (b"x" * 70 + b"\by", [b"x" * 69 + b"y"]),
        (b"\b\b", []),
    ],
)
def test_a_line_that_is_taken_back_has_several_states(line, shown):
    assert _said(states(line, 100)) == shown


def test_a_line_that_takes_back_for_long_costs_no_more_than_its_length():
    begun = time.process_time()
    for piece in (b"x\b", b"\x1b[999D", b"x\x1b[999D", b"\x1b]", b"\x1b[", b"\x1b[1;", b"\xe2\x96\x88\b\b"):
        for before in (b"", b"x" * 8000):
            assert max(map(len, states(before + piece * 30_000, 8193))) <= 3 * 8193
    assert time.process_time() - begun < 5


def test_lines_wait_until_they_are_many_or_old(monkeypatch: pytest.MonkeyPatch):
    now = [100.0]
    monkeypatch.setattr(tail.time, "monotonic", lambda: now[0])
    waiting = _Waiting()
    assert (waiting.due(), waiting.seconds(300.0)) == (False, 300.0)
    waiting.add(b"one\n")
    now[0] += 0.2
    waiting.add(b"two\n")
    assert not waiting.due()
    assert waiting.seconds(300.0) == pytest.approx(0.05)
    now[0] += 0.06
    assert (waiting.due(), waiting.seconds(300.0)) == (True, 0.0)
    waiting.lines = []
    assert not waiting.due()
    waiting.add(b"x\n" * BATCH_LINES)
    assert waiting.due()


@pytest.mark.parametrize(
    ("statuses", "restarts"),
    [
        ([], None),
        ([{"name": "trial", "state": {"waiting": {}}, "restartCount": 0}], None),
        ([{"name": "trial", "state": {"running": {}}, "restartCount": 0}], 0),
        ([{"name": "trial", "state": {"terminated": {}}, "restartCount": 0}], 0),
        ([{"name": "trial", "state": {"waiting": {}}, "restartCount": 3}], 3),
        ([{"name": "other", "state": {"running": {}}, "restartCount": 9}], None),
    ],
)
def test_the_container_that_is_read_is_the_first_once_it_has_run(statuses, restarts):
    metadata = {"namespace": "team", "name": "job-0-x"}
    spec = {"containers": [{"name": "trial"}, {"name": "other"}]}
    source = Source.of({"metadata": metadata, "spec": spec, "status": {"containerStatuses": statuses}}, "trial")
    assert (source.restarts if source else None) == restarts
    if source:
        assert (source.namespace, source.pod, source.container) == ("team", "job-0-x", "trial")

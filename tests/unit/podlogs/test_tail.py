"""Lines out of the pieces in which a log arrives."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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

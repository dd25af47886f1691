"""Files of text, read while they are written: a line says what it says to the operator when it is printed."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from building import study
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from study_operator.model.log_lines import build
from study_operator.model.printed_lines import LONGEST_LINE
from study_trial._reading.entry import Entry, Names
from study_trial._reading.text import Text

PATTERN = "(?P<name>[a-z_]+) is (?P<value>[^ ]+)"
CONSTRAINTS = [{"name": "latency_ms", "max": 50}]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.txt"


def text(path: Path, pattern: str | None = None, names: Names | None = None) -> Text:
    return Text(str(path), names or Names(["accuracy"], ["latency_ms"]), "epoch", pattern)


def append(path: Path, content: str | bytes) -> None:
    with path.open("ab") as file:
        file.write(content.encode() if isinstance(content, str) else content)


def test_lines_with_and_without_steps_are_read_as_they_come(path):
    source = text(path)
    assert list(source.read()) == []
    assert source.trouble == f"{path} cannot be read: No such file or directory"
    append(path, "epoch 1:\naccuracy=0.5 loss=0.3\nepoch=2 accuracy=0.6\nepoch=3 accura")
    assert list(source.read()) == [Entry({"accuracy": 0.5}), Entry({"accuracy": 0.6}, 2)]
    assert source.trouble is None
    append(path, "cy=0.7\r\n2026-11-29T18:36:28Z accuracy: 0.8 latency_ms: 43")
    assert list(source.read()) == [Entry({"accuracy": 0.7}, 3)]
    assert list(source.read(last=True)) == [Entry({"accuracy": 0.8, "latency_ms": 43})]


def test_what_cannot_be_read_is_told_with_its_line(path):
    append(path, "hello\naccuracy=oops\nepoch=x accuracy=1 latency_ms=inf\n")
    bad, lost = text(path).read()
    assert bad == Entry(bad="line 2: accuracy is 'oops', which is no number: accuracy=oops")
    assert (lost.values, lost.step, lost.lost) == ({"accuracy": 1.0}, None, "epoch is 'x', which is no number")
    assert lost.bad.startswith("line 3: constraint latency_ms is 'inf'; it must be a finite number")


def test_a_file_that_begins_anew(path):
    source = text(path)
    append(path, "accuracy=0.5\n" * 3)
    assert len(list(source.read())) == 3
    path.write_text("accuracy=?\n")
    assert list(source.read()) == [
        Entry(anew=True),
        Entry(bad="line 1: accuracy is '?', which is no number: accuracy=?"),
    ]


def test_names_that_were_seen_instead(path):
    names = Names(["accuracy"], [])
    append(path, "starting\nloss=0.3 val_accuracy: 0.5\n")
    source = text(path, names=names)
    assert list(source.read()) == []
    assert not names.seen
    assert list(source.read(last=True)) == []
    assert list(names.seen) == ["loss", "val_accuracy"]


def test_a_pattern_of_ones_own(path):
    append(path, "accuracy is 0.91 and epoch is 3\naccuracy=0.5\n")
    assert list(text(path, PATTERN).read()) == [Entry({"accuracy": 0.91}, 3)]


@pytest.mark.parametrize("end", ["", "\n", "\rdone\n"])
def test_a_progress_bar_of_any_length_counts_by_its_last_state(path, end):
    source = text(path)
    found = []
    for part in range(10):  # more than a chunk, and longer than any line that is read
        states = (f"\r{i}% |{'#' * 60}| accuracy={i}" for i in range(part * 1000, part * 1000 + 1000))
        append(path, "".join(states))
        found += source.read()
    assert found == []
    append(path, end)
    assert list(source.read(last=True)) == [Entry({"accuracy": 9999.0})]


def test_a_line_that_is_too_long_is_bad_if_it_names_a_metric(path):
    append(path, "x" * 300_000 + "\naccuracy=0." + "9" * 300_000 + "\naccuracy=1\n")
    bad, good = text(path).read()
    assert bad.bad.startswith(f"line 2: a line has more than {LONGEST_LINE} bytes")
    assert good == Entry({"accuracy": 1.0})


@pytest.mark.parametrize(
    "pattern", [None, PATTERN, "(?P<name>\\w+)(?P<value>=?.*)", "(?i)(?P<name>a[^:]*): ?(?P<value>\\S*)"]
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(
            st.sampled_from(
                [
                    "accuracy",
                    "latency_ms",
                    "epoch",
                    "=",
                    ": ",
                    " is ",
                    " ",
                    " to ",
                    "0.91",
                    "91%",
                    "1,234",
                    "\r",
                    "\x1b[1m",
                ]
            ),
            st.text(max_size=5).filter(lambda piece: "\n" not in piece),
            st.floats().map(str),
        )
    ).map("".join)
)
def test_a_line_of_a_file_says_what_it_says_when_it_is_printed(path, pattern, line):
    metrics = {"from": "Stdout", **({"pattern": pattern} if pattern else {})}
    printed = build(study(metrics=metrics, constraints=CONSTRAINTS)).read(line.encode())
    path.write_bytes(line.encode() + b"\n")
    found = list(text(path, pattern).read())
    if printed is None:
        assert found == []
    else:
        (entry,) = found
        said = (repr(printed.values), printed.step, printed.lost, printed.bad)
        assert (repr(entry.values), entry.step, entry.lost, (entry.bad or "").removeprefix("line 1: ") or None) == said


def test_no_line_takes_long(path):
    for line in (
        b"accuracy" + b" " * 8000,
        b"accuracy=" * 900,
        b"a" * 8000 + b"accuracy",
        b"accuracy= " + b"0," * 4000,
    ):
        append(path, (line[:LONGEST_LINE] + b"\n") * 10)
    begun = time.process_time()
    list(text(path).read(last=True))
    assert time.process_time() - begun < 2.0, "milliseconds, unless something is worse than linear"

"""Lines of a log as values: what is read, what is refused, and that no line is taken for what it does not say."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import pytest
from building import study
from hypothesis import given
from hypothesis import strategies as st

from study_operator.model.log_lines import HIGHEST_STEP, LONGEST_LINE, Line, Lines, build, number
from study_operator.model.study import Refused

CONSTRAINTS = [{"name": "latency_ms", "max": 50}]
PATTERN = "(?P<name>[a-z_]+) is (?P<value>[^ ]+)"


def lines_of(pattern: str | None = None, step: str = "epoch", **spec: Any) -> Lines:
    metrics = {"from": "Stdout", "stepName": step, **({"pattern": pattern} if pattern else {})}
    built = build(study(metrics=metrics, **spec))
    assert built is not None
    return built


def read(text: str | bytes, pattern: str | None = None, **more: Any) -> Line | None:
    line = text.encode() if isinstance(text, str) else text
    return lines_of(pattern, constraints=CONSTRAINTS, **more).read(line)


@pytest.mark.parametrize(
    ("text", "values", "step"),
    [
        ("accuracy=0.91", {"accuracy": 0.91}, None),
        ("epoch=3 accuracy=0.91", {"accuracy": 0.91}, 3),
        ("accuracy: 0.91, epoch: 12", {"accuracy": 0.91}, 12),
        ("epoch=3,accuracy=0.91,latency_ms=43", {"accuracy": 0.91, "latency_ms": 43}, 3),
        ("Epoch 3/10 - loss: 0.31 - accuracy: 0.91 - val_accuracy: 0.5", {"accuracy": 0.91}, None),
        ("epoch: 3/10 accuracy: 0.91", {"accuracy": 0.91}, 3),
        ("INFO:root:epoch=3 accuracy=0.91", {"accuracy": 0.91}, 3),
        ("INFO:accuracy=0.91", {"accuracy": 0.91}, None),
        ('{"epoch": 3, "accuracy": 0.91}', {"accuracy": 0.91}, 3),
        ("{'loss': 0.3, 'accuracy': '0.91', 'epoch': 3.0}", {"accuracy": 0.91}, 3),
        ("[epoch = 3] accuracy = 9.1E-1.", {"accuracy": 0.91}, 3),
        ("accuracy=.5|epoch=0", {"accuracy": 0.5}, 0),
        ("accuracy=-1e-3", {"accuracy": -0.001}, None),
        ("accuracy=5.", {"accuracy": 5.0}, None),
        ("accuracy: +inf", {"accuracy": math.inf}, None),
        ("accuracy: -Infinity", {"accuracy": -math.inf}, None),
        ("accuracy=0.1 accuracy=0.2", {"accuracy": 0.2}, None),
        ("accuracy=0.1\raccuracy=0.2\r\n", {"accuracy": 0.2}, None),
        ("\x1b[32maccuracy\x1b[0m=\x1b[1m0.91\x1b[0m", {"accuracy": 0.91}, None),
        ("latency_ms=43 epoch=oops", {"latency_ms": 43}, None),
        (f"epoch={HIGHEST_STEP} accuracy=1", {"accuracy": 1}, HIGHEST_STEP),
    ],
)
def test_what_a_line_says(text, values, step):
    assert read(text) == Line(values, step)


def test_nan_is_a_value():
    line = read("epoch=1 accuracy=NaN")
    assert line is not None
    assert line.bad is None
    assert math.isnan(line.values["accuracy"])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Downloading shards: 30%",
        "epoch=3",
        "epoch=oops",
        "epoch=3 val_accuracy=0.91 accuracy_top5=0.99 train.accuracy=1 top-accuracy=2 test/accuracy=3",
        "the accuracy is 0.91",
        "accuracy 0.91",
        "accuracy\n=0.5",
    ],
)
def test_a_line_that_says_nothing(text):
    assert read(text) is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("accuracy=oops", "accuracy is 'oops', which is no number"),
        ("accuracy=", "accuracy is '', which is no number"),
        ("accuracy: 0,91", "accuracy is '0,91', which is no number"),
        ("accuracy=91%", "accuracy is '91%', which is no number"),
        ("accuracy=0.91±0.02", "no number"),
        ("accuracy=tensor(0.91)", "no number"),
        ("accuracy=1_000", "no number"),
        ("accuracy=٣", "no number"),
        ("accuracy=0x10", "no number"),
        ("accuracy=1e999", "no number"),
        ("accuracy=0.9 accuracy=oops", "no number"),
        ("epoch=3 accuracy=0.91 latency_ms=slow", "latency_ms is 'slow', which is no number"),
        ("accuracy=0.91 latency_ms=inf", "constraint latency_ms is 'inf'; it must be a finite number"),
        ("epoch=-1 accuracy=0.91", "epoch is '-1'; a step is a whole number from 0 to 2147483647"),
        ("epoch=0.5 accuracy=0.91", "epoch is '0.5'; a step"),
        (f"epoch={HIGHEST_STEP + 1} accuracy=0.91", "a step is a whole number"),
        ("epoch=" + "9" * 5000 + " accuracy=0.91", "a step is a whole number"),
        ("accuracy=0.91" + " " * LONGEST_LINE, "a line has more than 8192 bytes"),
        ("a=1 " * 100 + "accuracy=0.91 " * 300, "a line has more than 200 values"),
    ],
)
def test_a_bad_line_says_why_and_gives_no_value(text, why):
    line = read(text)
    assert line is not None
    assert line.bad is not None
    assert why in line.bad
    assert not line.values
    assert line.step is None
    assert len(line.bad) < 700


def test_a_bad_line_shows_the_line_without_what_would_garble_a_terminal():
    line = read(b"accuracy=oops \x1b]0;title\x07\x00 \xff end")
    assert line is not None
    assert line.bad == "accuracy is 'oops', which is no number: accuracy=oops  ]0;title   � end"


def test_a_pattern_of_ones_own():
    assert read("accuracy is 0.91 and epoch is 3", PATTERN) == Line({"accuracy": 0.91}, 3)
    assert read("accuracy=0.91", PATTERN) is None
    bad = read("accuracy is good", PATTERN)
    assert bad is not None
    assert bad.bad == "accuracy is 'good', which is no number: accuracy is good"
    assert read("accuracy", "(?P<name>accuracy)(?P<value>=.*)?") == Line(
        bad="accuracy is '', which is no number: accuracy"
    )


def test_the_step_may_have_another_name():
    assert read("iter=7 epoch=3 accuracy=0.91", step="iter") == Line({"accuracy": 0.91}, 7)


def test_with_several_objectives_each_is_read():
    objectives = [{"name": "accuracy", "direction": "Maximize"}, {"name": "cost", "direction": "Minimize"}]
    lines = lines_of(objectives=objectives)
    assert lines.read(b"cost=3") == Line({"cost": 3})
    assert lines.read(b"cost=3 accuracy=0.5 epoch=1") == Line({"cost": 3, "accuracy": 0.5}, 1)


def test_who_does_not_report_by_lines_needs_none():
    assert build(study()) is None
    assert build(study(metrics={"from": "File", "path": "/out/metrics.jsonl"})) is None


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("(", "is not a regular expression of RE2: missing ): ("),
        ("(?=a)(?P<name>a)(?P<value>b)", "is not a regular expression of RE2: invalid perl operator"),
        (r"(?P<name>a)\1(?P<value>b)", "is not a regular expression of RE2"),
        ("((((a{100}){100}){100}))", "is not a regular expression of RE2"),
        ("(?P<name>a)", "no group named value"),
        ("(a)=(b)", "no group named name and none named value"),
    ],
)
def test_a_pattern_that_cannot_be_used(pattern, words):
    with pytest.raises(Refused, match=r"spec\.metrics\.pattern") as refused:
        lines_of(pattern)
    assert refused.value.reason == "InvalidMetricsPattern"
    assert words in refused.value.message


def test_a_name_cannot_be_step_and_objective():
    with pytest.raises(Refused) as refused:
        lines_of(step="accuracy")
    assert refused.value.reason == "InvalidMetrics"


@pytest.mark.parametrize(
    "pattern", [None, "(?P<name>[a-z]+)(([= ]*)*)*(?P<value>.*)*$", "(?P<name>(a|aa|accuracy)+)(?P<value>x*)*y"]
)
def test_no_line_takes_long(pattern):
    lines = lines_of(pattern)
    evil = [b"accuracy" + b" " * 8000, b"accuracy=" * 900, b"a" * 8000 + b"accuracy", b"accuracy= " + b"0," * 4000]
    begun = time.process_time()
    for line in evil:
        lines.read(line)
    assert time.process_time() - begun < 2.0, "milliseconds, unless something is worse than linear"


@given(st.binary(max_size=300))
def test_any_bytes_are_read_without_an_error(noise):
    for pattern in (None, PATTERN, "(?P<name>)(?P<value>)", "(?P<name>.*)(?P<value>.*)"):
        lines = lines_of(pattern)
        for line in (noise, b"accuracy=" + noise, noise + b"accuracy: 1", b"accuracy" + noise + b"epoch=" + noise):
            found = lines.read(line)
            if found is not None and found.bad is not None:
                assert not found.values
                assert found.bad.isprintable()


@given(st.floats(), st.integers(0, HIGHEST_STEP), st.sampled_from(["{n}={v} {s}", "{s},{n}: {v}", '{{"{n}": {v}}}{s}']))
def test_what_python_prints_comes_back_exactly(value, step, layout):
    found = read(layout.format(n="accuracy", v=repr(value), s=f" epoch={step}"))
    assert found is not None
    assert (repr(found.values["accuracy"]), found.step) == (repr(value), step)


@given(st.text(st.characters(codec="utf-8"), max_size=12))
def test_a_word_is_a_number_only_if_it_reads_as_that_number(word):
    value = number(word)
    if value is not None:
        assert repr(value) == repr(float(word))
        assert word.isascii()
        assert not set(word) - set("0123456789+-.eE") or word.lower().strip("+-") in ("nan", "inf", "infinity")
    elif word and not set(word) - set("0123456789"):
        raise AssertionError("digits are a number")


@given(
    st.dictionaries(st.sampled_from(["accuracy", "latency_ms", "lr"]), st.floats(allow_nan=False, allow_infinity=False))
)
def test_lines_of_json(record):
    found = read(json.dumps(record))
    wanted = {name: value for name, value in record.items() if name != "lr"}
    assert (dict(found.values) if found else {}) == wanted

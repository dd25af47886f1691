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

from study_operator.model.log_lines import build
from study_operator.model.numerals import HIGHEST_STEP
from study_operator.model.printed_lines import LONGEST_LINE, Known, Line, Lines
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
        ("accuracy: 0,91", {"accuracy": 0.91}, None),
        ("accuracy: 0,912", {"accuracy": 0.912}, None),
        ("accuracy=91%", {"accuracy": 91}, None),
        ("accuracy=91,5 %", {"accuracy": 91.5}, None),
        ("latency_ms=1,234.5 accuracy=1.234,5", {"latency_ms": 1234.5, "accuracy": 1234.5}, None),
        ("latency_ms=1,234,567", {"latency_ms": 1234567}, None),
        ("accuracy=tensor(0.91)", {"accuracy": 0.91}, None),
        ("accuracy: tensor(0.9100, device='cuda:0', grad_fn=<NllLossBackward0>) epoch: 2", {"accuracy": 0.91}, 2),
        ("{'accuracy': np.float64(0.91), 'epoch': np.int64(3)}", {"accuracy": 0.91}, 3),
        ("{'accuracy': array(0.91, dtype=float32), 'epoch': 3}", {"accuracy": 0.91}, 3),
        ("{'accuracy': array([0.91]), 'epoch': 3}", {"accuracy": 0.91}, 3),
        ("accuracy: tf.Tensor(0.91, shape=(), dtype=float32), epoch: 3", {"accuracy": 0.91}, 3),
        ("accuracy: <tf.Tensor: shape=(), dtype=float32, numpy=0.91> epoch: 3", {"accuracy": 0.91}, 3),
        ("accuracy=Decimal('0.91')", {"accuracy": 0.91}, None),
        ("accuracy=(0.91) epoch=(3)", {"accuracy": 0.91}, 3),
        ("epoch: [3/30] accuracy: 0.91", {"accuracy": 0.91}, 3),
        ("Epoch: epoch: [3][ 10/100] accuracy: 0.91", {"accuracy": 0.91}, 3),
        ("{'accuracy': 0.93, 'epoch': 2.99}", {"accuracy": 0.93}, 2),
        ("epoch=0.5 accuracy=0.91", {"accuracy": 0.91}, 0),
        ('{"level": "info", "msg": "{\\"accuracy\\": 0.91, \\"epoch\\": 3}"}', {"accuracy": 0.91}, 3),
        (json.dumps({"log": json.dumps({"log": json.dumps({"accuracy": 0.91, "epoch": 3})})}), {"accuracy": 0.91}, 3),
        (json.dumps({"log": "epoch=3\taccuracy=0.91\n", "stream": "stdout"}), {"accuracy": 0.91}, 3),
        ("2026-11-29T18:36:28.123Z INFO 18:36:28 epoch=3 accuracy=0.91", {"accuracy": 0.91}, 3),
        ("\x1b[38:2::255:0:0maccuracy\x1b[m=\x1b[1;31m0.91\x1b[0m", {"accuracy": 0.91}, None),
        ("\x1b[35mac\x1b[0m\x1b[95mcuracy\x1b[0m\x1b[33m=\x1b[0m0.91", {"accuracy": 0.91}, None),
        ("\x1b]8;;https://wandb.ai/x\x1b\\accuracy\x1b]8;;\x1b\\=0.91", {"accuracy": 0.91}, None),
        ("accuracy\x1b(B\x1b[m=0.91\x1b(B\x1b[m\x0f", {"accuracy": 0.91}, None),
        ("accuracy: 0.90\b\b\b\b0.91", {"accuracy": 0.91}, None),
        ("accuracy: 0.90\x1b[4D0.91", {"accuracy": 0.91}, None),
        ("accuracy=0.1\x1b[2K\x1b[1Gaccuracy=0.2\x1b[1A\x1b[2Kaccuracy=0.3", {"accuracy": 0.3}, None),
        ("accuracy=0.1\raccuracy=0.2\rsaving the model\r    \r", {"accuracy": 0.2}, None),
        ("\r".join(f"epoch={i} accuracy={i / 300}" for i in range(301)) + "\r\n", {"accuracy": 1.0}, 300),
        ("epoch=1 accuracy=0.91epoch=2 accuracy=0.92", {"accuracy": 0.92}, 2),
        ("accuracy == 0.91: done", {"accuracy": 0.91}, None),
        ("**accuracy**: `0.91`, epoch => 3", {"accuracy": 0.91}, 3),
        ("accuracy\uff1a0.91\uff0cepoch\uff1a3\u3002", {"accuracy": 0.91}, 3),
        ("\x00accuracy=0.91\x07", {"accuracy": 0.91}, None),
        ("epoch=3 accuracy=0.91 latency_ms=43\r", {"accuracy": 0.91, "latency_ms": 43}, 3),
        (f"epoch={HIGHEST_STEP} accuracy=1", {"accuracy": 1}, HIGHEST_STEP),
    ],
)
def test_what_a_line_says(text, values, step):
    assert read(text) == Line(values, step)


@pytest.mark.parametrize(
    ("metric", "text", "value"),
    [
        ("metrics/mAP50-95(B)", '{"epoch": 3, "metrics/mAP50-95(B)": 0.4}', 0.4),
        ("Val Accuracy", "Epoch 3 - Val Accuracy: 0.91", 0.91),
        ("top-5 %", "top-5 % = 91.5", 91.5),
        ("Précision", '{"Pr\\u00e9cision": 0.9}', 0.9),
        ("précision", "imprécision: 0.9", None),
        ("mAP@0.5", "mAP@0.5:0.6", 0.6),
        ("mAP@0.5", "mAP@0.5:0.95 = 0.41", None),
        ("mAP@0.5", "mAP@0.5:0.95=0.41, mAP@0.5: 0.6", 0.6),
        ("mAP@0.5", '{"mAP@0.5": 0.6, "mAP@0.5:0.95": 0.41}', 0.6),
        ("mAP@0.5:0.95", "mAP@0.5: 0.6 mAP@0.5:0.95: 0.41", 0.41),
        ("精度", "精度=0.9", 0.9),
    ],
)
def test_a_metric_may_have_any_name(metric, text, value):
    of = lines_of(objectives=[{"name": "m", "direction": "Maximize", "metric": metric}])
    line = of.read(text.encode())
    assert (line and (dict(line.values), line.bad)) == (None if value is None else ({metric: value}, None))


def test_the_step_may_have_any_name_too():
    line = lines_of(step="Global Step").read(b"Global Step: 7, accuracy: 0.5")
    assert line == Line({"accuracy": 0.5}, 7)


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
        "accuracy\n=0.5",
        "Evaluating accuracy",
        "accuracy was good",
        "saving accuracy.png",
        "epoch 3 accuracy improved",
        "Namespace(metric='accuracy', epochs=5, lr=0.1)",
        '{"monitor": "accuracy", "patience": 5}',
        "val_accuracy 0.91",
        "Acc@1 75.1",
    ],
)
def test_a_line_that_says_nothing(text):
    assert read(text) is None


@pytest.mark.parametrize(
    ("text", "value", "step"),
    [
        ("accuracy 0.91", 0.91, None),
        ("the accuracy is 0.91.", 0.91, None),
        ("final accuracy of 0.91", 0.91, None),
        ("accuracy -> 0.91", 0.91, None),
        ("accuracy\t-1e-3", -0.001, None),
        ("accuracy is 91 %", 91, None),
        ("accuracy 91%", 91, None),
        ("accuracy 0,91", 0.91, None),
        ("| accuracy | 0.91 |", 0.91, None),
        ("\u2502 accuracy \u2502 0.91 \u2502", 0.91, None),
        ("        accuracy            0.8899999856948853", 0.8899999856948853, None),
        ("epoch 3 loss 0.31 accuracy 0.91", 0.91, 3),
        ("[epoch 3/10] train loss 0.3 accuracy 0.91 val loss 0.2 lr 0.001", 0.91, 3),
        ("epoch 3: accuracy is 0.91, loss is 0.2", 0.91, 3),
        ("accuracy 0.91 epoch: 4", 0.91, 4),
        ("accuracy 0.91 at epoch 5", 0.91, 5),
        ("accuracy 0.91 - loss 0.3", 0.91, None),
        ("accuracy is 0.91 (was 0.80)", 0.91, None),
        ("accuracy is 0.91. Done after 3 epochs", 0.91, None),
        ('{"msg": "accuracy 0.91", "epoch": 3}', 0.91, 3),
        ("{metricName: accuracy, metricValue: 0.91}", 0.91, None),
        ('{"metric": "accuracy", "value": 0.91, "epoch": 3}', 0.91, 3),
        ("\x1b[32maccuracy\x1b[0m 0.91", 0.91, None),
        ("2026-11-29 18:36:28 accuracy 0.91\r", 0.91, None),
    ],
)
def test_a_value_without_a_mark_is_read_where_nothing_else_can_be_meant(text, value, step):
    line = read(text)
    assert line == Line({"accuracy": value}, step, unmarked=frozenset({"accuracy"}))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("accuracy improved from 0.80 to 0.91", "accuracy has two readings, 0.80 and 0.91: print accuracy=VALUE"),
        ("Epoch 3: accuracy improved from 0.8 to 0.9, saving model to w.h5", "two readings, 0.8 and 0.9"),
        ("accuracy 0.91 (0.89)", "two readings, 0.91 and 0.89"),
        ("accuracy 0.80 -> 0.91", "two readings, 0.80 and 0.91"),
        ("| accuracy | 0.91 | 0.89 |", "two readings, 0.91 and 0.89"),
        ("    accuracy            0.97       360", "two readings, 0.97 and 360"),
        ("accuracy 3 of 5 folds done", "two readings, 3 and 5"),
        ("accuracy is 5 points above 0.86", "two readings, 5 and 0.86"),
        ("accuracy of the network on the 10000 test images: 54 %", "two readings, 10000 and 54"),
        ("accuracy on test images: 54 %", "accuracy stands beside 54, which may be no value of it"),
        ("accuracy (%): 91", "stands beside 91"),
        ("accuracy - 0.91", "stands beside 0.91"),
        ("computing accuracy on 100 batches", "stands beside 100"),
        ("accuracy 10 times", "stands beside 10"),
        ("accuracy did not improve from 0.91", "stands beside 0.91"),
        ("('accuracy', 0.91)", "stands beside 0.91"),
        ("accuracy,0.91", "stands beside 0.91"),
        ('{"metric": "accuracy", "score": 0.91}', "stands beside 0.91"),
        ('{"metric": "accuracy", "value": [0.91, 0.92]}', "two readings, 0.91 and 0.92"),
        ("reached 91% accuracy", "stands beside 91%"),
        ("accuracy ~0.91", "stands beside 0.91"),
        ("accuracy 9906/10000", "accuracy is '9906/10000', which is no number"),
        ("accuracy is 1,234", "which has two readings, 1234 and 1.234: print it without a comma"),
        ("accuracy 0.91s", "accuracy is '0.91s', which is no number"),
        ("Accuracy: 0.91", "Accuracy is not accuracy: write metric: Accuracy in the Study"),
        ("epoch   loss   accuracy", "accuracy heads a column of a table, whose rows are not read"),
        ("| epoch | accuracy |", "accuracy heads a column"),
        ("epoch,loss,accuracy", "accuracy heads a column"),
    ],
)
def test_what_names_a_metric_beside_a_number_and_is_not_read_is_told(text, why):
    line = read(text)
    assert line is not None
    assert (line.values, line.unclear) == ({}, {"accuracy"})
    assert why in line.bad
    assert line.bad.endswith(text[-20:])


def test_a_value_with_a_mark_is_read_beside_prose():
    assert read("accuracy=0.9\rsaving accuracy plot 5\r") == Line({"accuracy": 0.9})
    assert read("accuracy=0.9 latency_ms 43") == Line(
        {"accuracy": 0.9, "latency_ms": 43}, unmarked=frozenset({"latency_ms"})
    )
    line = read("accuracy=0.9 latency_ms is 43 of 50")
    assert (line.values, line.unclear) == ({"accuracy": 0.9}, {"latency_ms"})
    assert "latency_ms has two readings, 43 and 50" in line.bad
    assert read("latency_ms inf").bad.startswith("constraint latency_ms is 'inf'; it must be a finite number")


def test_what_has_no_mark_counts_while_there_is_nothing_better():
    lines, known = lines_of(), Known()

    def counting(text: str) -> tuple[dict[str, float], str | None]:
        said = lines.read(text.encode())
        return known.values(said), known.bad(said) and "told"

    prose = "accuracy improved from 0.80 to 0.91"
    assert [counting(prose)[1] for _ in range(9)] == ["told", "told", None, "told", None, None, None, "told", None]
    assert counting("accuracy 0.5") == ({"accuracy": 0.5}, None)
    assert counting(prose) == ({}, None)
    assert counting("accuracy=0.6") == ({"accuracy": 0.6}, None)
    assert counting("best accuracy 0.9") == ({}, None)
    assert counting("accuracy=oops") == ({}, "told"), "what has a mark is always told"


def test_of_values_without_mark_and_step_the_first_is_no_report():
    lines, known = lines_of(), Known()
    texts = [
        "accuracy=0.1",
        "epoch 1 accuracy 0.2",
        "initial accuracy 0.3",
        "accuracy 0.4",
        "epoch 9 is -1, accuracy 0.5",
    ]
    assert [known.reports(lines.read(text.encode()), "accuracy") for text in texts] == [True, True, False, True, True]


def test_a_number_that_is_far_away_is_not_cut_off():
    for far in range(150, 220):
        line = read("accuracy" + " " * far + "0.9123")
        assert line is None or line.values in ({}, {"accuracy": 0.9123})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("accuracy=oops", "accuracy is 'oops', which is no number"),
        ("accuracy=", "accuracy is '', which is no number"),
        ("accuracy=0.91±0.02", "no number"),
        ("accuracy=1_000", "no number"),
        ("accuracy=٣", "no number"),
        ("accuracy=0x10", "no number"),
        ("accuracy=0.91s", "no number"),
        ("accuracy=12:30", "no number"),
        ("accuracy=tensor([0.91, 0.92])", "no number"),
        ("accuracy: [0.91, 0.92]", "no number"),
        ("accuracy=0.91,0.92", "no number"),
        ('{"accuracy": {"mean": 0.91}}', "no number"),
        ("accuracy=1e999", "accuracy is 1e999, which is too large for a number"),
        ("accuracy=1,234", "accuracy is 1,234, which has two readings, 1234 and 1.234: print it without a comma"),
        ("accuracy=0.91val_accuracy=0.95", "no number"),
        ("accuracy=0.accuracy=0.9291", "no number"),
        ("latency_ms=inf", "constraint latency_ms is 'inf'; it must be a finite number"),
        ("accuracy=0.9 accuracy=oops", "no number"),
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


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("epoch=-1 accuracy=0.91", "epoch is -1, which is below 0"),
        ("epoch=final accuracy=0.91", "epoch is 'final', which is no number"),
        ("epoch=nan accuracy=0.91", "epoch is nan, which is no step"),
        ("epoch= accuracy=0.91", "epoch is '', which is no number"),
        (f"epoch={HIGHEST_STEP + 1} accuracy=0.91", "epoch is 2147483648, which is above 2147483647"),
        ("epoch=" + "9" * 5000 + " accuracy=0.91", "too large for a number"),
        ("epoch=1,234 accuracy=0.91", "epoch is 1,234, which has two readings"),
    ],
)
def test_a_step_that_cannot_be_used_costs_no_value(text, why):
    line = read(text)
    assert line is not None
    assert (line.values, line.step, line.bad) == ({"accuracy": 0.91}, None, None)
    assert why in line.lost


@pytest.mark.parametrize("bad", ["latency_ms=slow", "latency_ms=inf", "latency_ms=1e999", "latency_ms=nan"])
def test_a_value_that_cannot_be_read_costs_none_beside_it(bad):
    line = read(f"epoch=3 accuracy=0.91 {bad}")
    assert line is not None
    assert (line.values, line.step) == ({"accuracy": 0.91}, 3)
    assert line.bad is not None
    assert "latency_ms" in line.bad


def test_a_bad_line_shows_the_line_without_what_would_garble_a_terminal():
    line = read(b"accuracy=oops \x1b]0;title\x07\x00 \xff end")
    assert line is not None
    assert line.bad == "accuracy is 'oops', which is no number: accuracy=oops   � end"


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


TEXT = {"from": "File", "path": "/out/log.txt", "format": "Text"}


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("(", "is not a regular expression of RE2: missing ): ("),
        ("(?P<name>a)", "no group named value"),
        (r"(?P<name>\pL+) (?P<value>.*)", "is not a regular expression of Python's re"),
        ("(?P<name>a)(?i)(?P<value>b)", "is not a regular expression of Python's re"),
        ("(?P<name>[[:alpha:]]+) (?P<value>.*)", "has [:alpha:], which RE2 and Python's re read differently"),
        ("(?P<name>a{,3}) (?P<value>.*)", "has {,3}, which RE2 and Python's re read differently"),
    ],
)
def test_a_pattern_for_a_file_means_the_same_to_both_engines(pattern, words):
    with pytest.raises(Refused, match=r"spec\.metrics\.pattern") as refused:
        build(study(metrics={**TEXT, "pattern": pattern}))
    assert refused.value.reason == "InvalidMetricsPattern"
    assert words in refused.value.message


def test_a_file_of_text_is_the_sidecars_to_read():
    assert build(study(metrics={**TEXT, "pattern": PATTERN})) is None
    with pytest.raises(Refused, match="which is what an objective or constraint is called"):
        build(study(metrics={**TEXT, "stepName": "accuracy"}))


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
    evil += [
        b"accuracy 1" + b" \t" * 4000,
        b"accuracy 5 a b c " * 480,
        b"accuracy " + b"9" * 8000,
        b"ACCURACY 5 to " * 580,
    ]
    evil += [b"| \t" * 2700 + b"accuracy", b"epoch " * 1300 + b"accuracy 1"]
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


# Pieces that say nothing, and that a program, a logger or a terminal may put before, between and after what it says.
COLOURS = st.sampled_from(
    [
        "\x1b[0m",
        "\x1b[1;32m",
        "\x1b[38:5:208m",
        "\x1b[K",
        "\x1b(B",
        "\x1b]8;;http://a/b\x07",
        "\x1b]0;epoch=9\x1b\\",
        "\x1b7",
    ]
)
BEFORE = st.sampled_from(
    ["", "2026-11-29 18:36:28,123 INFO ", "[18:36:28] ", "root: ", "100%|███| 5/5 [00:01<00:00, 5it/s]"]
)
VALUES = st.sampled_from(["{!r}", "np.float64({!r})", "tensor({!r}, device='cuda:0')", "'{!r}'", "{!r}%"])
STEPS = st.sampled_from(["{}", "{}.0", "{}.75", "{}/9999999999", "[{}/30]", "'{}'", "np.int64({})"])
FLOATS = st.floats(allow_nan=False)


@st.composite
def lines_that_say(draw: st.DrawFn) -> tuple[str, float, int]:
    """A line, without its end, and what it says."""
    value, step = draw(FLOATS), draw(st.integers(0, HIGHEST_STEP))
    words = [draw(VALUES).format(value), draw(STEPS).format(step)]
    layout = draw(
        st.sampled_from(
            [
                "{c}epoch{c}={s}{c} {c}accuracy{c}: {v}{c}",
                "{c}accuracy={v}, epoch: {s}{c}",
                "{{'accuracy': {v}, 'epoch': {s}}}",
            ]
        )
    )
    text = draw(BEFORE) + layout.format(v=words[0], s=words[1], c=draw(COLOURS))
    for _ in range(draw(st.integers(0, 2))):
        text = json.dumps({"level": "info", "msg": text}, ensure_ascii=draw(st.booleans()))
    return text, value, step


@given(lines_that_say(), st.sampled_from(["", "\r", "\r\n"]))
def test_whatever_is_around_it_a_value_is_read(said, end):
    text, value, step = said
    found = read(text + end)
    assert found is not None
    assert (found.bad, found.values, found.step) == (None, {"accuracy": value}, step)


@given(st.lists(lines_that_say(), min_size=1, max_size=40), st.sampled_from(["", "done", "\x1b[K", "   "]))
def test_a_progress_bar_counts_by_its_last_state(states, last):
    found = read("\r".join(["", *(text for text, _, _ in states), last]))
    assert found is not None
    assert (found.bad, found.values, found.step) == (None, {"accuracy": states[-1][1]}, states[-1][2])


@given(FLOATS, st.integers(0, HIGHEST_STEP), st.data())
def test_a_line_that_is_cut_off_says_nothing_else_or_is_bad(value, step, data):
    whole = f"accuracy={value!r}; epoch={step};"
    cut = data.draw(st.integers(0, len(whole)))
    found = read(whole[:cut])
    if found is not None and found.bad is None:
        written = whole[:cut].partition("accuracy=")[2].partition(";")[0]
        assert found.values == {"accuracy": float(written)}, "what stands there"
    elif found is None:
        assert "accuracy=" not in whole[:cut], "never silence"


@given(st.lists(st.tuples(st.sampled_from(["accuracy", "latency_ms"]), FLOATS.filter(math.isfinite)), min_size=1))
def test_lines_that_two_writers_have_put_into_one(parts):
    found = read("".join(f"{name}={value!r}" for name, value in parts))
    assert found is not None
    assert found.bad is None
    assert found.values == dict(parts)


@given(
    st.dictionaries(st.sampled_from(["accuracy", "latency_ms", "lr"]), st.floats(allow_nan=False, allow_infinity=False))
)
def test_lines_of_json(record):
    found = read(json.dumps(record))
    wanted = {name: value for name, value in record.items() if name != "lr"}
    assert (dict(found.values) if found else {}) == wanted

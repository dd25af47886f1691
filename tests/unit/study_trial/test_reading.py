"""Files of metrics, read while they are written: JSON lines and TensorBoard's event files."""

from __future__ import annotations

import json
import math
import os
import struct
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboardX import SummaryWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.proto.tensor_pb2 import TensorProto

from study_trial._reading.entry import Entry, Names
from study_trial._reading.jsonlines import JsonLines
from study_trial._reading.tensorboard import TensorBoard, masked_crc

NAMES = Names(["accuracy", "val/loss"], ["latency_ms"])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


@pytest.fixture
def lines(path: Path) -> JsonLines:
    return JsonLines(str(path), NAMES, "epoch")


def append(path: Path, *lines: str, end: str = "\n") -> None:
    with path.open("a") as file:
        file.write("\n".join(lines) + end)


def said(source, last: bool = False) -> list[tuple | str]:
    """What a source says that is new, in short."""
    return [
        "anew" if entry.anew else entry.bad or (entry.step, *entry.values.items()) for entry in source.read(last=last)
    ]


# JSON lines


@pytest.mark.parametrize(
    ("line", "entry"),
    [
        ('{"epoch": 3, "accuracy": 0.91, "lr": "cosine"}', Entry({"accuracy": 0.91}, 3)),
        ('{"accuracy": 1}', Entry({"accuracy": 1.0})),
        ('{"epoch": 3.0, "accuracy": -1e-5}', Entry({"accuracy": -1e-5}, 3)),
        ('{"val/loss": 0.5, "latency_ms": 43}', Entry({"val/loss": 0.5, "latency_ms": 43.0})),
        ('{"accuracy": Infinity}', Entry({"accuracy": math.inf})),
        ('{"accuracy": null, "val/loss": 2}', Entry({"val/loss": 2.0})),
        ("  ", None),
        ("{}", None),
        ('{"accuracy": null}', None),
        ('{"epoch": "three", "lr": 0.1}', None),
        ("accuracy=0.91", "line 1 is not JSON (Expecting value: line 1 column 1 (char 0)): accuracy=0.91"),
        ('{"accuracy": 0.9', "line 1 is not JSON"),
        ("[0.91]", "line 1 is no JSON object: [0.91]"),
        ('{"accuracy": "0.91", "epoch": "3"}', Entry({"accuracy": 0.91}, 3)),  # as hypertune has it
        ('{"accuracy": "91,5%", "epoch": "[3/30]"}', Entry({"accuracy": 91.5}, 3)),
        ('{"accuracy": "np.float64(0.91)"}', Entry({"accuracy": 0.91})),
        ('{"eval": {"accuracy": 0.91}, "epoch": 3}', Entry({"accuracy": 0.91}, 3)),
        ('{"accuracy": 0.91, "best": {"accuracy": 0.95, "epoch": 2}, "epoch": 3}', Entry({"accuracy": 0.91}, 3)),
        (json.dumps({"msg": json.dumps({"accuracy": 0.91, "epoch": 3})}), Entry({"accuracy": 0.91}, 3)),
        ('{"epoch": 3, "metrics": [{"lr": 1}, {"accuracy": 0.91}]}', Entry({"accuracy": 0.91}, 3)),
        ('2026-11-29T18:36:28Z INFO {"accuracy": 0.91}', Entry({"accuracy": 0.91})),
        ('{"accuracy": 0.91}\r', Entry({"accuracy": 0.91})),
        ('\ufeff{"accuracy": 0.91}', Entry({"accuracy": 0.91})),
        ('{"accuracy": 0.91, "lr": 1e999}', Entry({"accuracy": 0.91})),
        ('{"accuracy": Infinity, "lr": NaN}', Entry({"accuracy": math.inf})),
        ('{"accuracy": -1e5, "latency_ms": "slow"}', "line 1: latency_ms is 'slow', which is no number"),
        ('{"a": {"accuracy": 0.9}, "b": {"accuracy": 0.8}}', "line 1: accuracy is there twice, as 0.9 and 0.8"),
        ('{"accuracy": "high"}', "line 1: accuracy is 'high', which is no number"),
        ('{"accuracy": ""}', "line 1: accuracy is '', which is no number"),
        ('{"accuracy": "1,234"}', "line 1: accuracy is 1,234, which has two readings, 1234 and 1.234"),
        ('{"accuracy": "1_000"}', "line 1: accuracy is '1_000', which is no number"),
        ('{"accuracy": true}', "line 1: accuracy is True, which is no number"),
        ('{"accuracy": [1]}', "line 1: accuracy is [1], which is no number"),
        ('{"accuracy": {"mean": 1}}', "line 1: accuracy is {'mean': 1}, which is no number"),
        ('{"accuracy": 1e999}', "accuracy is 1e999, which is too large for a number"),
        ('{"accuracy": 1' + "0" * 400 + "}", "which is too large for a number"),
        ('{"accuracy": 1' + "0" * 5000 + "}", "which is too large for a number"),
        ('{"latency_ms": NaN}', "line 1: constraint latency_ms is nan; it must be a finite number"),
        ('{"epoch": -1, "accuracy": 1}', Entry({"accuracy": 1.0}, lost="the step is -1, which is below 0")),
        (
            '{"epoch": 2147483648, "accuracy": 1}',
            Entry({"accuracy": 1.0}, lost="the step is 2147483648, which is above 2147483647"),
        ),
        ('{"epoch": 2.99, "accuracy": 1}', Entry({"accuracy": 1.0}, 2)),
        ('{"epoch": NaN, "accuracy": 1}', Entry({"accuracy": 1.0}, lost="the step is NaN, which is no step")),
        ('{"epoch": true, "accuracy": 1}', Entry({"accuracy": 1.0}, lost="the step is True, which is no number")),
        ('{"epoch": "end", "accuracy": 1}', Entry({"accuracy": 1.0}, lost="the step is 'end', which is no number")),
        ("[" * 100_000, "line 1 is nested too deeply"),
        ("\x1b[2J\x00", "line 1 is not JSON (Expecting value: line 1 column 1 (char 0)):  [2J "),
    ],
)
def test_a_line(lines, path, line, entry):
    append(path, line)
    (got,) = list(lines.read()) or [None]
    if isinstance(entry, str):
        assert entry in got.bad
        assert "accuracy" not in got.values or "latency_ms" in entry
    else:
        assert got == entry


def test_a_nan_of_an_objective_is_a_value(lines, path):
    append(path, '{"epoch": 1, "accuracy": NaN}')
    (entry,) = lines.read()
    assert math.isnan(entry.values["accuracy"])


def test_objects_of_two_writers_in_one_line(lines, path):
    append(path, '{"epoch": 1, "accuracy": 0.5}{"epoch": 1, "val/loss": 2}, {"accuracy": 0.6} done')
    first, second, third, rest = said(lines)
    assert (first, second, third) == ((1, ("accuracy", 0.5)), (1, ("val/loss", 2.0)), (None, ("accuracy", 0.6)))
    assert rest.startswith("line 1 is not JSON")


def test_bytes_that_are_no_text(lines, path):
    path.write_bytes(b'\xff\xfe\xfd\n\x80\x81{"accuracy": 1}\n{"accuracy": 2}\n')
    first, second, third = said(lines)
    assert first.startswith("line 1 is not JSON")
    assert second.startswith("line 2 is not JSON")
    assert third == (None, ("accuracy", 2.0))


def test_a_line_is_read_when_it_is_whole(lines, path):
    assert said(lines) == []
    assert lines.trouble == f"{path} cannot be read: No such file or directory"
    append(path, '{"epoch": 1, "accu', end="")
    assert said(lines) == []
    assert lines.trouble is None
    append(path, 'racy": 0.5}')
    append(path, '{"epoch": 2, "accuracy": 0.6}', end="")
    assert said(lines) == [(1, ("accuracy", 0.5))]
    assert said(lines) == []
    assert said(lines, last=True) == [(2, ("accuracy", 0.6))], "nobody completes it any more"
    assert said(lines, last=True) == []


def test_a_last_line_that_is_half_written_is_bad(lines, path):
    append(path, '{"accuracy": 0.5}', '{"accuracy": 0.', end="")
    first, second = said(lines, last=True)
    assert first == (None, ("accuracy", 0.5))
    assert second.startswith("line 2 is not JSON")


def test_reading_that_was_left_goes_on_where_it_was(lines, path):
    append(path, *(json.dumps({"epoch": step, "accuracy": step}) for step in range(20_000)))
    steps = []
    while True:
        for count, entry in enumerate(lines.read()):
            steps.append(entry.step)
            if count == 6_000:
                break
        else:
            break
    assert steps == list(range(20_000))


def test_a_truncated_file_is_read_anew(lines, path):
    append(path, *['{"epoch": 1, "accuracy": 0.5}'] * 3)
    assert len(said(lines)) == 3
    path.write_text('{"epoch": 1, "accuracy": 0.7}\n')
    assert said(lines) == ["anew", (1, ("accuracy", 0.7))]


def test_a_file_that_was_truncated_and_has_grown_again_meanwhile_is_noticed(lines, path):
    append(path, '{"epoch": 1, "accuracy": 0.5}', '{"half')
    said(lines)
    path.write_text('{"epoch": 1, "accuracy": 0.7}\n' * 10)
    assert said(lines) == ["anew", *[(1, ("accuracy", 0.7))] * 10]


def test_a_replaced_file_is_read_anew(lines, path, tmp_path):
    append(path, '{"accuracy": 0.5}', '{"accuracy": 0.', end="")
    said(lines)
    append(tmp_path / "new", '{"accuracy": 0.5}', '{"accuracy": 0.6}')
    (tmp_path / "new").rename(path)
    assert said(lines) == ["anew", (None, ("accuracy", 0.5)), (None, ("accuracy", 0.6))]


def test_a_rotated_file_goes_on_in_the_next(lines, path, tmp_path):
    append(path, '{"accuracy": 0.5}')
    said(lines)
    append(path, '{"accuracy": 0.6}')
    path.rename(tmp_path / "metrics.jsonl.1")
    assert said(lines) == [(None, ("accuracy", 0.6))]
    append(tmp_path / "metrics.jsonl.1", '{"accuracy": 0.7}', '{"accuracy": 0.8}', end="")
    append(path, '{"accuracy": 0.9}')
    assert said(lines) == [(None, ("accuracy", value)) for value in (0.7, 0.8, 0.9)]


def test_a_file_that_was_removed_is_waited_for(lines, path):
    append(path, '{"accuracy": 0.5}')
    said(lines)
    path.unlink()
    assert said(lines) == []
    append(path, '{"accuracy": 0.5}')
    assert said(lines) == ["anew", (None, ("accuracy", 0.5))]


@pytest.mark.parametrize("kind", ["directory", "pipe"])
def test_what_is_no_file_is_said(lines, path, kind):
    path.mkdir() if kind == "directory" else os.mkfifo(path)
    assert said(lines) == []
    assert lines.trouble == f"{path} is no file"


def test_a_huge_line_takes_no_memory(lines, path):
    append(path, '{"accuracy": 0.5}', "x" * 50_000_000, '{"accuracy": 0.6}')
    tracemalloc.start()
    try:
        found = said(lines)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
    assert found == [
        (None, ("accuracy", 0.5)),
        "line 2 has more than 262144 bytes",
        (None, ("accuracy", 0.6)),
    ]


@given(data=st.binary(max_size=300), cuts=st.lists(st.integers(0, 300), max_size=5))
def test_any_bytes_in_any_pieces_are_read_as_the_whole(tmp_path_factory, data, cuts):
    path = tmp_path_factory.mktemp("any") / "metrics.jsonl"
    whole, pieces = (JsonLines(str(path), NAMES, "epoch") for _ in range(2))
    path.write_bytes(b"")
    found, before = [], 0
    for cut in sorted({*(min(cut, len(data)) for cut in cuts), len(data)}):
        with path.open("ab") as file:
            file.write(data[before:cut])
        before = cut
        found += said(pieces)
    assert found + said(pieces, last=True) == said(whole, last=True)


# TensorBoard's event files


@pytest.fixture
def board(tmp_path: Path) -> TensorBoard:
    return TensorBoard(str(tmp_path), NAMES)


def float32(value: float) -> float:
    return struct.unpack("<f", struct.pack("<f", value))[0]


def event_file(directory: Path) -> Path:
    (path,) = directory.glob("*tfevents*")
    return path


def framed(data: bytes) -> bytes:
    """A record of an event file."""
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc(length)) + data + struct.pack("<I", masked_crc(data))


def write_events(path: Path, *events: Event) -> None:
    with path.open("ab") as file:
        file.writelines(framed(event.SerializeToString()) for event in events)


def scalar(value: float, step: int = 1, tag: str = "accuracy") -> Event:
    return Event(step=step, summary=Summary(value=[Summary.Value(tag=tag, simple_value=value)]))


def tensor(step: int = 1, **content) -> Event:
    proto = TensorProto(**content)
    return Event(step=step, summary=Summary(value=[Summary.Value(tag="accuracy", tensor=proto)]))


def test_what_a_writer_writes(board, tmp_path):
    assert said(board) == []
    assert board.trouble == f"{tmp_path} has no event file"
    with SummaryWriter(str(tmp_path), flush_secs=3600) as writer:
        for step in range(3):
            writer.add_scalar("accuracy", 0.5 + step / 10, step)
            writer.add_scalar("lr", 0.1, step)
        writer.add_scalar("val/loss", 0.25, 7)
        writer.add_text("accuracy_notes", "none", 1)
        writer.add_histogram("weights", [1.0, 2.0, 3.0], 1)
    assert said(board) == [
        *((step or None, ("accuracy", float32(0.5 + step / 10))) for step in range(3)),
        (7, ("val/loss", 0.25)),
    ]
    assert (said(board, last=True), board.trouble) == ([], None)


def test_records_are_read_when_they_are_whole(tmp_path):
    written = tmp_path / "written"
    with SummaryWriter(str(written)) as writer:
        for step in range(20):
            writer.add_scalar("accuracy", step, step)
    data, read = event_file(written).read_bytes(), tmp_path / "read"
    read.mkdir()
    board, found = TensorBoard(str(read), NAMES), []
    for byte in data:
        with (read / "tfevents.1").open("ab") as file:
            file.write(bytes([byte]))
        found += said(board)
    assert found == [(step or None, ("accuracy", float(step))) for step in range(20)]


def test_files_are_read_in_the_order_of_their_names(board, tmp_path):
    write_events(tmp_path / "events.out.tfevents.20.host", scalar(3, 1), scalar(4, 2))
    write_events(tmp_path / "events.out.tfevents.10.host", scalar(1, 1), scalar(2, 2))
    (tmp_path / "sub").mkdir()
    write_events(tmp_path / "sub/events.out.tfevents.5.host", scalar(5))
    (tmp_path / "notes.txt").write_text("no events")
    assert [entry[1][1] for entry in said(board)] == [1, 2, 3, 4]
    write_events(tmp_path / "events.out.tfevents.10.host", scalar(9, 3))
    assert said(board) == [(3, ("accuracy", 9.0))]


def test_reading_event_files_that_was_left_goes_on_where_it_was(board, tmp_path):
    for name in ("tfevents.1", "tfevents.2"):
        write_events(tmp_path / name, *(scalar(step, step) for step in range(1, 6)))
    steps = []
    while (entry := next(board.read(), None)) is not None:
        steps.append(entry.step)
    assert steps == [*range(1, 6), *range(1, 6)]


@pytest.mark.parametrize(
    ("content", "value"),
    [
        ({"dtype": 1, "tensor_content": struct.pack("<f", 0.25)}, 0.25),
        ({"dtype": 1, "float_val": [0.25]}, 0.25),
        ({"dtype": 2, "tensor_content": struct.pack("<d", 0.1)}, 0.1),
        ({"dtype": 2, "double_val": [0.1]}, 0.1),
        ({"dtype": 3, "int_val": [-7]}, -7),
        ({"dtype": 3, "tensor_content": struct.pack("<i", -7)}, -7),
        ({"dtype": 9, "int64_val": [2**40]}, 2**40),
        ({"dtype": 9, "int64_val": [-(2**40)]}, -(2**40)),
        ({"dtype": 19, "tensor_content": struct.pack("<e", 0.5)}, 0.5),
        ({"dtype": 19, "half_val": [0x3800]}, 0.5),
        ({"dtype": 14, "tensor_content": struct.pack("<H", 0x3F00)}, 0.5),
        ({"dtype": 14, "half_val": [0x3F00]}, 0.5),
        ({"dtype": 1, "float_val": [math.inf]}, math.inf),
        ({"dtype": 1, "float_val": [0.25, 0.5]}, None),
        ({"dtype": 9, "int64_val": [1, 2]}, None),
        ({"dtype": 1, "tensor_content": struct.pack("<ff", 1, 2)}, None),
        ({"dtype": 7, "string_val": [b"good"]}, None),
        ({}, None),
    ],
)
def test_scalars_as_tensorflow_2_writes_them(board, tmp_path, content, value):
    write_events(tmp_path / "tfevents.1", tensor(4, **content), scalar(1, 5))
    first, second = said(board)
    if value is None:
        assert first.startswith("tfevents.1 has a record at byte 0 that cannot be read: ")
    else:
        assert first == (4, ("accuracy", value))
    assert second == (5, ("accuracy", 1.0)), "the next record is read"


def test_a_wrong_step_and_a_tag_that_is_no_scalar(board, tmp_path):
    histogram = Event(step=1, summary=Summary(value=[Summary.Value(tag="accuracy")]))
    write_events(tmp_path / "tfevents.1", scalar(1, -1), scalar(1, 2**31), histogram, scalar(math.nan, 3))
    low, high, other, nan = board.read()
    assert (low.values, low.step, low.lost) == ({"accuracy": 1.0}, None, "the step is -1, which is below 0")
    assert (high.values, high.step) == ({"accuracy": 1.0}, None)
    assert high.lost == "the step is 2147483648, which is above 2147483647"
    assert other.bad == "tfevents.1 has a record at byte 87 that cannot be read: accuracy is no scalar"
    assert math.isnan(nan.values["accuracy"])


def test_a_damaged_record_is_passed_over_and_a_damaged_length_ends_the_file(board, tmp_path):
    record = framed(scalar(1, 1).SerializeToString())
    value = record.index(struct.pack("<f", 1.0))
    wrong_value = record[:value] + b"\0\0\0\0" + record[value + 4 :]
    wrong_length = bytes([record[0] ^ 1]) + record[1:]
    (tmp_path / "tfevents.1").write_bytes(record + wrong_value + record + wrong_length + record)
    at = [len(record) * i for i in range(4)]
    good = (1, ("accuracy", 1.0))
    assert said(board) == [
        good,
        f"tfevents.1 has a record at byte {at[1]} that cannot be read: its checksum is wrong",
        good,
        f"tfevents.1 is damaged at byte {at[3]}: the rest is not read",
    ]
    write_events(tmp_path / "tfevents.1", scalar(2))
    assert said(board, last=True) == [], "said once"


def test_a_record_that_is_cut_off_is_bad_at_the_end(board, tmp_path):
    record = framed(scalar(1, 1).SerializeToString())
    (tmp_path / "tfevents.1").write_bytes(record + record[:-1])
    assert said(board) == [(1, ("accuracy", 1.0))]
    assert said(board, last=True) == [f"tfevents.1 ends in the middle of a record, at byte {len(record)}"]
    assert said(board, last=True) == []


def test_pictures_are_passed_over_without_being_read(board, tmp_path):
    picture = Event(
        step=1, summary=Summary(value=[Summary.Value(tag="x", image={"encoded_image_string": b"x" * 2**24})])
    )
    write_events(tmp_path / "tfevents.1", scalar(1, 1), picture, scalar(2, 2))
    tracemalloc.start()
    try:
        assert len(said(board)) == 2
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_a_file_that_begins_anew_is_read_anew(board, tmp_path):
    write_events(tmp_path / "tfevents.1", scalar(1, 1), scalar(2, 2))
    said(board)
    (tmp_path / "tfevents.1").unlink()
    write_events(tmp_path / "tfevents.1", scalar(3, 1))
    assert said(board) == [(1, ("accuracy", 3.0))]


def values_of(board: TensorBoard) -> list[float]:
    return [value for entry in board.read() for value in entry.values.values()]


def test_values_without_steps_are_counted(board, tmp_path):
    with SummaryWriter(str(tmp_path)) as writer:
        for value in (0.25, 0.5):
            writer.add_scalar("accuracy", value)
    assert said(board) == [(None, ("accuracy", 0.25)), (None, ("accuracy", 0.5))]


def test_a_tag_in_the_only_directory_that_has_it_is_found(tmp_path):
    names = Names(["accuracy"], [])
    for place, tag in (("train", "lr"), ("logs/Nov29_host", "accuracy")):
        (tmp_path / place).mkdir(parents=True)
        write_events(tmp_path / place / "tfevents.1", scalar(0.5, tag=tag))
    assert values_of(TensorBoard(str(tmp_path), names)) == [0.5]
    assert list(names.seen) == ["train/lr"]


def test_a_tag_in_several_directories_is_refused_unless_the_metric_names_one(tmp_path):
    for place, value in (("train", 0.9), ("validation", 0.5)):
        (tmp_path / place).mkdir()
        write_events(tmp_path / place / "tfevents.1", scalar(value), scalar(value, 2))
    *_, last = TensorBoard(str(tmp_path), NAMES).read()
    assert last.bad == (
        "validation/tfevents.1: accuracy is there as train/accuracy and as validation/accuracy: "
        "write the one that is meant as metric"
    )
    assert last.void == "accuracy"
    named = Names(["acc"], [], {"acc": "validation/accuracy"})
    assert values_of(TensorBoard(str(tmp_path), named)) == [0.5, 0.5]


def test_the_later_of_two_runs_goes_on(board, tmp_path):
    for place, value in (("version_9", 0.25), ("version_10", 0.5)):
        (tmp_path / place).mkdir()
        write_events(tmp_path / place / "tfevents.1", scalar(value))
    assert values_of(board) == [0.25, 0.5]


def test_a_tag_in_the_directory_itself_wins(board, tmp_path):
    (tmp_path / "train").mkdir()
    write_events(tmp_path / "train/tfevents.1", scalar(0.75))
    assert values_of(board) == [0.75]
    write_events(tmp_path / "tfevents.2", scalar(0.5))
    write_events(tmp_path / "train/tfevents.1", scalar(0.875))
    assert values_of(board) == [0.5]


def test_a_directory_that_is_not_there_is_waited_for(tmp_path):
    board = TensorBoard(str(tmp_path / "logs"), NAMES)
    assert said(board) == []
    assert board.trouble == f"{tmp_path / 'logs'} cannot be read: No such file or directory"
    (tmp_path / "logs").mkdir()
    write_events(tmp_path / "logs/tfevents.1", scalar(1))
    assert len(said(board)) == 1


@given(st.binary(max_size=200))
def test_any_message_is_read_or_bad(tmp_path_factory, data):
    directory = tmp_path_factory.mktemp("any")
    (directory / "tfevents.1").write_bytes(framed(b"\x2a" + bytes([len(data) & 0x7F]) + data) + framed(data))
    board = TensorBoard(str(directory), NAMES)
    assert all(entry.bad or entry.values for entry in board.read())


def test_the_checksum_is_that_of_the_standard():
    assert masked_crc(b"123456789") == ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) & 0xFFFFFFFF

"""Reader of TensorBoard's event files.

An event file is a TFRecord file (TensorFlow's core/lib/io/record_writer.h) of tensorflow.Event messages
(core/util/event.proto, core/framework/summary.proto, core/framework/tensor.proto). Decision 24 says why this reader
does without TensorFlow, TensorBoard and protobuf.
"""

from __future__ import annotations

import contextlib
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

from study_trial._reading.entry import Entry, Names

_DEEPEST, _MOST_DIRECTORIES = 4, 100  # directories in directories, and in each
_DIGITS = re.compile("[0-9]+")
_LARGEST_RECORD = 1024 * 1024  # bytes; a scalar has some 50, a larger record holds pictures and is skipped
_HEADER = struct.Struct("<QI")
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# Types of a TensorProto: the struct format of a number in tensor_content, and the field with such numbers otherwise.
_TYPES = {1: ("<f", 5), 2: ("<d", 6), 3: ("<i", 7), 9: ("<q", 10), 14: ("<H", 13), 19: ("<e", 13)}
_BFLOAT16, _HALF = 14, 19


@dataclass
class _Progress:
    """How far a file has been read.

    Attributes:
        inode: of the file; another one means another file.
        position: of the next record, in bytes.
        damaged: whether the rest cannot be read.
    """

    inode: int
    position: int = 0
    damaged: bool = False


class TensorBoard:
    """Reads the scalars of all event files of a directory and of the directories in it.

    Files of one directory are read in the order of their names, which begin with the time. A metric is a tag as the
    program writes it, or with directories in front of it: validation/accuracy. Without them the tag may lie in any one
    directory. Directories whose names differ by digits alone are runs of which the later one goes on, such as
    version_0 and version_1.

    Attributes:
        trouble: why nothing can be read now, in words; None when all is well.
    """

    def __init__(self, directory: str, names: Names) -> None:
        self._directory = directory
        self._names = names
        self._files: dict[str, _Progress] = {}
        self._places: dict[str, str] = {}  # by metric, the directory that its values come from
        self._ambiguous: set[str] = set()
        self.trouble: str | None = None

    def read(self, last: bool = False) -> Iterator[Entry]:
        """Yield the entries of new records. See `Source.read`."""
        try:
            found = self._event_files(self._directory)
            self.trouble = None if found else f"{self._directory} has no event file"
        except OSError as error:
            self.trouble = f"{self._directory} cannot be read: {error.strerror}"
            return
        for name, status in found:
            progress = self._files.setdefault(name, _Progress(status.st_ino))
            if progress.inode != status.st_ino or status.st_size < progress.position:
                progress = self._files[name] = _Progress(status.st_ino)
            if progress.damaged or status.st_size == progress.position:
                continue
            try:
                with open(os.path.join(self._directory, name), "rb") as file:
                    yield from self._records(name, file, progress)
            except OSError as error:
                self.trouble = f"{name} cannot be read: {error.strerror}"
                continue
            if last and not progress.damaged and status.st_size > progress.position:
                progress.damaged = True
                yield Entry(bad=f"{name} ends in the middle of a record, at byte {progress.position}")

    def _event_files(self, directory: str, depth: int = 0) -> list[tuple[str, os.stat_result]]:
        """Return the event files in a directory and, after them, those in the directories in it."""
        files, below = [], []
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    below.append(entry.path)
                elif "tfevents" in entry.name and entry.is_file():
                    files.append((os.path.relpath(entry.path, self._directory), entry.stat()))
        files.sort(key=lambda file: file[0])
        for path in sorted(below, key=_natural)[:_MOST_DIRECTORIES] if depth < _DEEPEST else ():
            with contextlib.suppress(OSError):  # it is gone again, or not for us: the files beside it count
                files += self._event_files(path, depth + 1)
        return files

    def _meant(self, place: str, tag: str) -> tuple[str | None, Entry | None]:
        """Return which metric a tag in a directory is, and what to say if that is not known.

        Args:
            place: the directory, relative to the one that is read; or "".
            tag: as the program has written it.
        """
        parts = place.split("/") if place else []
        names = ["/".join([*parts[start:], tag]) for start in range(len(parts) + 1)]
        full, metric = names[0], next((name for name in names if name in self._names), None)
        if metric is None:
            self._names.note(full)
            return None, None
        known = self._places.setdefault(metric, full)
        if full == metric:  # the whole name decides, whatever was taken for it before
            self._places[metric] = full
            self._ambiguous.discard(metric)
            return metric, None
        if known == metric or metric in self._ambiguous:
            return None, None
        if _DIGITS.sub("0", known) == _DIGITS.sub("0", full):
            return metric, None
        self._ambiguous.add(metric)
        words = f"{metric} is there as {known} and as {full}: write the one that is meant as metric"
        return None, Entry(bad=words, void=metric)

    def _records(self, name: str, file: BinaryIO, progress: _Progress) -> Iterator[Entry]:
        """Yield the entries of a file from `progress` on.

        `progress` is updated before each entry is yielded, so that the caller may stop after any entry.
        """
        while True:
            file.seek(progress.position)
            header = file.read(_HEADER.size)
            if len(header) < _HEADER.size:
                return
            length, check = _HEADER.unpack(header)
            if check != masked_crc(header[:8]):
                # Without a valid length the next record cannot be found.
                progress.damaged = True
                yield Entry(bad=f"{name} is damaged at byte {progress.position}: the rest is not read")
                return
            end = progress.position + _HEADER.size + length + 4
            if length > _LARGEST_RECORD:
                if os.fstat(file.fileno()).st_size < end:
                    return
                progress.position = end
                continue
            record = file.read(length + 4)
            if len(record) < length + 4:
                return
            at, progress.position = progress.position, end
            try:
                place = os.path.dirname(name)
                entry = self._entry(record[:-4], place)
                if entry and int.from_bytes(record[-4:], "little") != masked_crc(record[:-4]):
                    raise _Malformed("its checksum is wrong")
                if entry and entry.bad:
                    entry = replace(entry, bad=f"{name}: {entry.bad}")
            except _Malformed as error:
                entry = Entry(bad=f"{name} has a record at byte {at} that cannot be read: {error}")
            if entry:
                yield entry

    def _entry(self, record: bytes, place: str) -> Entry | None:
        """Return the entry of an Event: its scalars whose tag is one of the names.

        A step of 0 looks like no step, because protobuf leaves out a 0.
        """
        step, summaries = None, []
        for number, wire, value in _fields(record):
            if (number, wire) == (2, _VARINT):
                step = value - 2**64 if value >= 2**63 else value
            elif (number, wire) == (5, _BYTES):
                summaries.append(value)
        found: dict[str, float] = {}
        unclear: Entry | None = None
        for summary in summaries:
            for number, wire, value in _fields(summary):
                if (number, wire) == (1, _BYTES):
                    tag, simple, tensor = _value(value)
                    if simple is None and tensor is None and tag not in self._names:
                        continue  # a picture, for example
                    metric, said = self._meant(place, tag)
                    unclear = unclear or said
                    if metric is not None:
                        if simple is None and tensor is None:
                            raise _Malformed(f"{tag} is no scalar")
                        found[metric] = simple if simple is not None else _number(tag, tensor or b"")
        entry = self._names.entry(found, step)
        return entry if unclear is None else replace(entry or Entry(), bad=unclear.bad, void=unclear.void)


class _Malformed(Exception):
    """A record is not a valid message."""


def _value(message: bytes) -> tuple[str, float | None, bytes | None]:
    """Return tag, number and tensor of a Summary.Value; it has one of the two if it is a scalar."""
    tag, simple, tensor = "", None, None
    for number, wire, value in _fields(message):
        if (number, wire) == (1, _BYTES):
            tag = value.decode(errors="replace")
        elif (number, wire) == (2, _FIXED32):
            (simple,) = struct.unpack("<f", value)
        elif (number, wire) == (8, _BYTES):
            tensor = value
    return tag, simple, tensor


def _natural(path: str) -> list[tuple[int, str]]:
    """Return a key by which version_10 comes after version_9."""
    return [(int(part) if part.isdecimal() else -1, part) for part in re.split(r"([0-9]+)", path)]


def _number(tag: str, tensor: bytes) -> float:
    """Return the only number of a TensorProto. TensorFlow 2 writes scalars as such."""
    kind, content, parts = 0, b"", {}
    for number, wire, value in _fields(tensor):
        if (number, wire) == (1, _VARINT):
            kind = value
        elif (number, wire) == (4, _BYTES):
            content = value
        elif number >= 5:
            parts[number] = value
    form, field = _TYPES.get(kind, ("", 0))
    if content and form and len(content) == struct.calcsize(form):
        (value,) = struct.unpack(form, content)
    elif field in parts:
        value = _part(kind, parts[field], struct.calcsize(form), form)
    else:
        raise _Malformed(f"{tag} is no scalar of a type that is read: float, double, half, bfloat16, int32, int64")
    if kind == _BFLOAT16:
        (value,) = struct.unpack("<f", struct.pack("<I", value << 16))
    return float(value)


def _part(kind: int, value: int | bytes, size: int, form: str) -> float:
    """Return the only number of a repeated field, packed or not.

    Args:
        kind: the tensor's type.
        value: the field's content.
        size: of a number, in bytes.
        form: struct format of a number.
    """
    if kind in (1, 2):
        if isinstance(value, int) or len(value) != size:
            raise _Malformed("it is a tensor of several numbers")
        number: float = struct.unpack(form, value)[0]
        return number
    if isinstance(value, bytes):
        packed = value
        value, end = _varint(packed, 0)
        if end != len(packed):
            raise _Malformed("it is a tensor of several numbers")
    if kind == _HALF:
        half: float = struct.unpack("<e", struct.pack("<H", value & 0xFFFF))[0]
        return half
    return value - 2**64 if value >= 2**63 else value


def _fields(message: bytes) -> Iterator[tuple[int, int, Any]]:
    """Yield the fields of a protobuf message: number, wire type, and an int (varint) or bytes (all others)."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, position = _varint(message, position)
            yield number, wire, value
            continue
        if wire == _BYTES:
            size, position = _varint(message, position)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            raise _Malformed("it is no message of TensorBoard")
        if position + size > len(message):
            raise _Malformed("it is cut off")
        yield number, wire, message[position : position + size]
        position += size


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """Return the number that begins at this position, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if position == len(data):
            raise _Malformed("it is cut off")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 2**64 - 1, position
    raise _Malformed("it has a number that is too long")


def masked_crc(data: bytes) -> int:
    """Return the CRC-32C (Castagnoli) of the data, masked as TFRecord does."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC_TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_CRC_TABLE = _crc_table()

"""Reads names, UIDs and generations of Studies, and nothing else of them: in lists, and in the events of a watch.

What a user writes into a Study must not keep the operator from seeing the others. A decoder of JSON has to look at
every byte of what it skips, and gives up at some depth. So the API server is asked for metadata alone
(PartialObjectMetadata), in its binary encoding (protobuf). There each field has its length in front, and what is not
wanted is passed over in one step: annotations and managedFields, which users fill, too.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

CONTENT_TYPE = "application/vnd.kubernetes.protobuf"
# What to ask for: one object or a watch, or a list. Where metadata cannot be had, the answer is JSON: for errors, and
# for lists of the resources that there are.
ACCEPT = f"{CONTENT_TYPE};as=PartialObjectMetadata;g=meta.k8s.io;v=v1, application/json"
ACCEPT_LIST = f"{CONTENT_TYPE};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1, application/json"
# How many objects to ask for at once. Each may have managedFields and annotations of a megabyte and a half.
PAGE = 25
_MAGIC = b"k8s\0"
_LONGEST_FRAME = 1 << 26  # bytes of one event; an object has two million at most
# Numbers of fields in Kubernetes' generated.proto.
_LIST_METADATA, _ITEMS = 1, 2  # of a PartialObjectMetadataList
_LIST_VERSION, _CONTINUE = 2, 3  # of a ListMeta
_METADATA = 1  # of a PartialObjectMetadata
_NAME, _NAMESPACE, _UID, _VERSION, _GENERATION, _CREATED, _DELETED = 1, 3, 5, 6, 7, 8, 9  # of an ObjectMeta
_SECONDS = 1  # of a Time
_EVENT_TYPE, _EVENT_OBJECT, _RAW = 1, 2, 1  # of a WatchEvent, and of its RawExtension
_UNKNOWN_RAW = 2  # of an Unknown, the envelope around each object
_MESSAGE, _REASON, _CODE = 3, 4, 6  # of a Status


class Identity(NamedTuple):
    """Which object it is.

    Attributes:
        namespace: where it lies.
        name: its name.
        uid: tells it from other objects of that name.
        generation: counts the edits of its spec.
        version: its resourceVersion.
        created: when, as JSON has it: 2026-11-29T15:06:00Z.
        deleting: whether it is being deleted.
    """

    namespace: str
    name: str
    uid: str
    generation: int
    version: str
    created: str
    deleting: bool

    def manifest(self) -> dict[str, Any]:
        """Return what is known of the object as the API server has it in JSON."""
        meta: dict[str, Any] = {
            "namespace": self.namespace,
            "name": self.name,
            "uid": self.uid,
            "generation": self.generation,
            "resourceVersion": self.version,
            "creationTimestamp": self.created,
        }
        # When it was deleted matters to nobody.
        return {"metadata": meta | ({"deletionTimestamp": "1970-01-01T00:00:00Z"} if self.deleting else {})}


class Page(NamedTuple):
    """A part of a list. `rest` asks for the next part; it is empty after the last one."""

    items: list[Identity]
    version: str
    rest: str


class Event(NamedTuple):
    """One event of a watch.

    Attributes:
        type: ADDED, MODIFIED, DELETED, BOOKMARK or ERROR.
        object: what is known of the object as the API server has it in JSON; with ERROR a Status.
    """

    type: str
    object: Mapping[str, Any]


def page(answer: bytes) -> Page:
    """Return what is in a list.

    Raises:
        ValueError: the answer is none.
    """
    items, version, rest = [], "", ""
    for number, value in _fields(_opened(memoryview(answer))):
        if number == _LIST_METADATA:
            found = _some(value, _LIST_VERSION, _CONTINUE)
            version, rest = _text(found.get(_LIST_VERSION)), _text(found.get(_CONTINUE))
        elif number == _ITEMS:
            items.append(_identity(value))
    return Page(items, version, rest)


def identity(answer: bytes) -> Identity:
    """Return which object an answer is about.

    Raises:
        ValueError: the answer is no object.
    """
    return _identity(_opened(memoryview(answer)))


def events(received: bytearray) -> Iterator[Event]:
    """Take the whole events out of what has been received of a watch, and leave the rest there.

    Raises:
        ValueError: what was received is no watch.
    """
    while len(received) >= 4:
        (length,) = struct.unpack_from(">I", received)
        if length > _LONGEST_FRAME:
            raise ValueError(f"an event of {length} bytes")
        if len(received) < 4 + length:
            return
        frame = bytes(received[4 : 4 + length])
        del received[: 4 + length]
        yield _event(memoryview(frame))


def _event(frame: memoryview) -> Event:
    found = _some(frame, _EVENT_TYPE, _EVENT_OBJECT)
    kind = _text(found.get(_EVENT_TYPE))
    about = _opened(_some(_bytes(found.get(_EVENT_OBJECT)), _RAW).get(_RAW))
    if kind != "ERROR":
        return Event(kind, _identity(about).manifest())
    status = _some(about, _MESSAGE, _REASON, _CODE)
    words = {"message": _text(status.get(_MESSAGE)), "reason": _text(status.get(_REASON))}
    return Event(kind, {"kind": "Status", "code": status.get(_CODE, 0), **words})


def _identity(value: Any) -> Identity:
    meta = _some(
        _some(_bytes(value), _METADATA).get(_METADATA),
        *(_NAME, _NAMESPACE, _UID, _VERSION, _GENERATION, _CREATED, _DELETED),
    )
    return Identity(
        _text(meta.get(_NAMESPACE)),
        _text(meta.get(_NAME)),
        _text(meta.get(_UID)),
        int(meta.get(_GENERATION, 0)),
        _text(meta.get(_VERSION)),
        _time(_some(_bytes(meta.get(_CREATED)), _SECONDS).get(_SECONDS, 0)),
        _DELETED in meta,
    )


def _opened(value: Any) -> memoryview:
    """Return what is in the envelope that has an object's version and kind."""
    envelope = _bytes(value)
    if bytes(envelope[:4]) != _MAGIC:
        raise ValueError("the answer is not in Kubernetes' binary encoding")
    return _bytes(_some(envelope[4:], _UNKNOWN_RAW).get(_UNKNOWN_RAW))


def _some(message: Any, *wanted: int) -> dict[int, Any]:
    """Return some fields of a message.

    They are written in the order of their numbers. So nothing behind the last one wanted is looked at: an object may
    have a hundred thousand labels.
    """
    found, last = {}, max(wanted)
    for number, value in _fields(_bytes(message)):
        if number > last:
            break
        if number in wanted:
            found[number] = value
    return found


def _fields(message: memoryview) -> Iterator[tuple[int, Any]]:
    """Yield number and value of each field: a whole number, or bytes."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        kind = key & 7
        if kind == 0:
            value, place = _varint(message, place)
            yield key >> 3, value
            continue
        if kind == 2:
            length, place = _varint(message, place)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"a field of the unknown kind {kind}")
        if place + length > len(message):
            raise ValueError("a field ends too early")
        yield key >> 3, message[place : place + length]
        place += length


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(message) and shift < 64:
        byte = message[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
    raise ValueError("a number ends too early")


def _bytes(value: Any) -> memoryview:
    if value is None:
        return memoryview(b"")
    if not isinstance(value, memoryview):
        raise ValueError("a number where a message was expected")
    return value


def _time(seconds: Any) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (TypeError, OverflowError, OSError) as error:
        raise ValueError(f"no time: {error}") from None


def _text(value: Any) -> str:
    return bytes(_bytes(value)).decode("utf-8", "replace")

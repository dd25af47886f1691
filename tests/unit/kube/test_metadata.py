"""Names, UIDs and generations in Kubernetes' binary encoding. That the API server writes it so, component tests see."""

from __future__ import annotations

import contextlib
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from study_operator.kube import metadata
from study_operator.kube.metadata import Event, Identity


def varint(value: int) -> bytes:
    value &= 2**64 - 1
    written = bytearray()
    while value > 127:
        written.append(value & 127 | 128)
        value >>= 7
    return bytes([*written, value])


def message(**fields: Any) -> bytes:
    """A message; `_3=...` is the value of the field of that number."""
    written = b""
    for name, value in fields.items():
        number = int(name[1:]) << 3
        if isinstance(value, int):
            written += varint(number) + varint(value)
        else:
            data = value.encode() if isinstance(value, str) else value
            written += varint(number | 2) + varint(len(data)) + data
    return written


def envelope(content: bytes) -> bytes:
    return b"k8s\0" + message(_1=message(_1="meta.k8s.io/v1"), _2=content, _3="", _4="")


def study(name: str, **more: Any) -> bytes:
    return message(
        _1=message(_1=name, _3="team", _5=f"uid-{name}", _6="12", _7=300, _8=message(_1=1_700_000_000), **more)
    )


LABELS_AND_MANAGED_FIELDS = {"_11": message(_1="a", _2="b"), "_17": message(_7=message(_1=b"{" * 100_000))}


def test_a_page_of_a_list():
    listed = message(_1=message(_1="", _2="77", _3="more"), _2=study("a", **LABELS_AND_MANAGED_FIELDS))
    page = metadata.page(envelope(listed + message(_2=study("b", _9=message(_1=1_700_000_001)))))
    assert page.items == [
        Identity("team", "a", "uid-a", 300, "12", "2023-11-14T22:13:20Z", False),
        Identity("team", "b", "uid-b", 300, "12", "2023-11-14T22:13:20Z", True),
    ]
    assert (page.version, page.rest) == ("77", "more")


def test_one_object():
    assert metadata.identity(envelope(study("a"))).manifest() == {
        "metadata": {
            "namespace": "team",
            "name": "a",
            "uid": "uid-a",
            "generation": 300,
            "resourceVersion": "12",
            "creationTimestamp": "2023-11-14T22:13:20Z",
        }
    }


@pytest.mark.parametrize("pieces", [1, 3, 1000])
def test_events_of_a_watch_come_in_any_pieces(pieces):
    status = message(_2="Failure", _3="too old resource version", _4="Expired", _6=410)
    sent = b""
    for kind, about in ("ADDED", study("a")), ("DELETED", study("a")), ("ERROR", status):
        frame = message(_1=kind, _2=message(_1=envelope(about)))
        sent += struct.pack(">I", len(frame)) + frame
    received, seen = bytearray(), []
    for place in range(0, len(sent), pieces):
        received += sent[place : place + pieces]
        seen += metadata.events(received)
    assert [event.type for event in seen] == ["ADDED", "DELETED", "ERROR"]
    assert seen[0].object["metadata"]["name"] == "a"
    error = {"kind": "Status", "code": 410, "message": "too old resource version", "reason": "Expired"}
    assert seen[2] == Event("ERROR", error)
    assert not received


@given(st.one_of(st.binary(max_size=60), st.binary(max_size=60).map(envelope)))
def test_whatever_comes_it_is_read_or_refused(answer):
    """An error of another kind would end what reads it."""
    for read in (metadata.page, metadata.identity, lambda data: list(metadata.events(bytearray(data)))):
        with contextlib.suppress(ValueError):
            read(answer)

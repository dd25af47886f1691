"""Frames on the socket between the manager and an optimizer process: a length of four bytes, then so many of msgpack.

Both sides speak in requests and answers, one at a time. Nothing is ever pickled.
"""

from __future__ import annotations

import socket
import struct
from enum import StrEnum
from typing import Any

import msgspec

MOST_BYTES = 8 * 2**20  # of one frame; a history goes in several
_LENGTH = struct.Struct(">I")


class WireError(Exception):
    """The other side does not keep to the protocol, or a message is too large for it."""


class Request(msgspec.Struct, array_like=True, frozen=True):
    """What an optimizer process is to do.

    Attributes:
        call: the name of the call.
        study: namespace and name of the Study, for log lines.
        handle: which optimizer in the process this is for; each that is loaded has another number.
        seconds: the process ends itself when it has not answered by then.
        cpu_seconds: or when it has computed for so long; 0 for any time.
        arguments: of the call, encoded.
        forget: handles of optimizers that are no longer needed.
    """

    call: str
    study: tuple[str, str]
    handle: int
    seconds: float
    cpu_seconds: float
    arguments: msgspec.Raw = msgspec.Raw(b"\x90")
    forget: list[int] = []


class Outcome(StrEnum):
    """What came of a request."""

    DONE = "done"
    REFUSED = "refused"  # the Study cannot be run as it is written
    STALE = "stale"  # another program has written to the study
    FAILED = "failed"  # the sampler, pruner or convergence test has raised an exception
    OUT_OF_MEMORY = "out of memory"  # the process ends after this answer


class Answer(msgspec.Struct, array_like=True, frozen=True):
    """What an optimizer process says to a request.

    Attributes:
        outcome: what came of it.
        data: bytes of data memory that the process has beyond those of its start.
        cpu_seconds: for how long it has computed.
        result: of the call, encoded, if it is done.
        words: why it is not; for a refusal the reason in CamelCase and the message.
    """

    outcome: Outcome
    data: int
    cpu_seconds: float = 0.0
    result: msgspec.Raw = msgspec.Raw(b"\xc0")
    words: tuple[str, ...] = ()


def _plain(value: Any) -> Any:
    """Return a number of NumPy's as Python's own."""
    if isinstance(value, float):
        return float(value)
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"a {type(value).__name__} cannot be sent")


_encoder = msgspec.msgpack.Encoder(enc_hook=_plain)
_request, _answer = msgspec.msgpack.Decoder(Request), msgspec.msgpack.Decoder(Answer)


def encode(value: Any) -> bytes:
    """Encode a message, arguments or a result."""
    return _encoder.encode(value)


def raw(value: Any) -> msgspec.Raw:
    """Encode arguments or a result as a part of a message."""
    return msgspec.Raw(_encoder.encode(value))


def decode(data: bytes | msgspec.Raw, kind: Any) -> Any:
    """Decode arguments or a result.

    Raises:
        WireError: it is not of this kind.
    """
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        raise WireError(str(error)) from None


def request_of(frame: bytes) -> Request:
    """Decode a request. Raises WireError."""
    try:
        return _request.decode(frame)
    except msgspec.MsgspecError as error:
        raise WireError(str(error)) from None


def answer_of(frame: bytes) -> Answer:
    """Decode an answer. Raises WireError."""
    try:
        return _answer.decode(frame)
    except msgspec.MsgspecError as error:
        raise WireError(str(error)) from None


def send(to: socket.socket, frame: bytes) -> None:
    """Send a frame.

    Raises:
        WireError: it is too large. Nothing has been sent.
        OSError: the other side is gone, or does not read.
    """
    if len(frame) > MOST_BYTES:
        raise WireError(f"a message of {len(frame)} bytes is too large; {MOST_BYTES} are allowed")
    to.sendall(_LENGTH.pack(len(frame)) + frame)


def receive(at: socket.socket) -> bytes:
    """Receive a frame.

    Raises:
        EOFError: the other side has ended.
        WireError: the frame is too large.
        OSError: nothing has come in time.
    """
    (length,) = _LENGTH.unpack(_exactly(at, _LENGTH.size))
    if length > MOST_BYTES:
        raise WireError(f"a message of {length} bytes is too large; {MOST_BYTES} are allowed")
    return _exactly(at, length)


def _exactly(at: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        try:
            part = at.recv(min(count - len(data), 2**20))
        except ConnectionError:
            part = b""
        if not part:
            raise EOFError
        data += part
    return bytes(data)

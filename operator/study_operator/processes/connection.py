"""One connection to `study-operator optimize`, and with it one optimizer process."""

from __future__ import annotations

import contextlib
import socket
import time

from study_operator.processes import wire
from study_operator.processes.lanes import End
from study_operator.processes.wire import Answer, Request

# The process ends itself when its time is over. The manager waits a little longer.
GRACE_SECONDS = 2.0
CONNECT_SECONDS = 5.0
READY_SECONDS = 30.0  # for a fork on a busy node


class Ended(Exception):
    """The optimizer process has ended. `how` says how."""

    def __init__(self, how: End) -> None:
        super().__init__(how.value)
        self.how = how


class Connection:
    """A connection; the process at its other end lives as long. Used by one thread at a time.

    Args:
        path: of the Unix socket.

    Attributes:
        pid: the process's, in its own container.

    Raises:
        Ended: nobody answers there.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket = _connect(path)
        self._socket.settimeout(READY_SECONDS)
        try:
            self.pid: int = wire.decode(wire.receive(self._socket), int)
            return
        except (OSError, EOFError, wire.WireError):
            pass
        self.close()
        raise Ended(End.AWAY)

    def ask(self, request: Request) -> Answer:
        """Send a request and wait for its answer.

        Raises:
            Ended: the process has ended, or has to. This connection is of no use any more.
            WireError: the request is too large. Nothing has been sent.
        """
        frame = wire.encode(request)
        begun = time.monotonic()
        self._socket.settimeout(request.seconds + GRACE_SECONDS)
        try:
            wire.send(self._socket, frame)
            answer = wire.answer_of(wire.receive(self._socket))
        except (TimeoutError, EOFError, ConnectionError) as error:
            self.close()
            # CPU time is never more than the clock's, as long as a sampler has one thread.
            least = min(request.seconds, request.cpu_seconds or request.seconds)
            if isinstance(error, TimeoutError) or time.monotonic() - begun >= least:
                raise Ended(End.TIME) from None
            if not _answers(self._path):
                raise Ended(End.AWAY) from None
            raise Ended(End.DIED) from None
        except wire.WireError:
            if len(frame) <= wire.MOST_BYTES:  # the answer is at fault
                self.close()
                raise Ended(End.DIED) from None
            raise
        if answer.outcome is wire.Outcome.OUT_OF_MEMORY:
            self.close()
            raise Ended(End.MEMORY)
        return answer

    def close(self) -> None:
        """End the process, which is idle now."""
        with contextlib.suppress(OSError):
            self._socket.close()


def _connect(path: str) -> socket.socket:
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    opened.settimeout(CONNECT_SECONDS)
    try:
        opened.connect(path)
    except OSError:
        opened.close()
        raise Ended(End.AWAY) from None
    return opened


def _answers(path: str) -> bool:
    """Return whether anybody listens. A process that dies with its parent dies after the socket is closed."""
    try:
        _connect(path).close()
    except Ended:
        return False
    return True

"""What keeps a process that has lost a study from writing about it, however late it finds out.

A replica serves a study while it holds the study's lock in PostgreSQL. The server takes the lock from a replica that
has been silent for `SESSION_TIMEOUT_SECONDS` seconds, and may do so at any time by ending the connection; the replica learns of it too
late. Two fences stand between:

- What goes to Kubernetes is sent only while the server is known to have heard from this process within the last `LEASE_SECONDS`
  seconds.
- What goes to the database carries the number of the hold, and the database compares it with that of the latest one, in
  the same transaction (`storage/database.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

# A replica asks the server every HEARTBEAT_SECONDS seconds, and the server ends a connection that has been silent for SESSION_TIMEOUT_SECONDS seconds.
# Between LEASE_SECONDS and SESSION_TIMEOUT_SECONDS lies the time that a request may take which was sent at the last moment.
HEARTBEAT_SECONDS, LEASE_SECONDS, SESSION_TIMEOUT_SECONDS = 1.0, 3.0, 6.0


class NotHeld(Exception):
    """This process does not serve the study, or cannot know whether it still does: nothing was written."""


class Lease:
    """How long the locks of one connection are certain to be held.

    Args:
        clock: seconds, monotonic; it must go on while the process is stopped (CLOCK_MONOTONIC does).
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._confirmed = float("-inf")
        self.over = False

    def confirm(self, sent: float) -> None:
        """The server has answered a statement that was sent at this time. Its silence is counted from later on."""
        self._confirmed = max(self._confirmed, sent)

    def valid(self) -> bool:
        return not self.over and self._clock() < self._confirmed + LEASE_SECONDS


class Hold:
    """One study is served by this process.

    Attributes:
        epoch: the number of this hold; a later hold of the same study, by whomever, has a higher one.
        leaving: the study is being handed over; no look at it begins any more.
        superseded: the database knows of a later hold.
    """

    def __init__(self, epoch: int, lease: Lease) -> None:
        self.epoch, self._lease = epoch, lease
        self.leaving = self.superseded = False

    def valid(self) -> bool:
        return not self.superseded and self._lease.valid()

    def check(self) -> None:
        """To be called before each write.

        Raises:
            NotHeld: it must not be made.
        """
        if not self.valid():
            raise NotHeld("the study's lock is lost, or the database has not confirmed it for too long")


_current: ContextVar[Hold | None] = ContextVar("hold", default=None)


@contextmanager
def under(hold: Hold) -> Iterator[None]:
    """What is done inside, in tasks and storage threads that begin there too, is done by right of this hold."""
    token = _current.set(hold)
    try:
        yield
    finally:
        _current.reset(token)


def current() -> Hold | None:
    """The hold by right of which something is being done; None for what is about no study."""
    return _current.get()


def check() -> None:
    """As `Hold.check`, of the current one if there is one."""
    if (hold := current()) is not None:
        hold.check()

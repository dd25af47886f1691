"""Keeps a process that has lost a study from writing about it, however late the process finds out.

A replica serves a study while it holds the study's lock in PostgreSQL. The server takes the lock from a replica that
has been silent for `SESSION_TIMEOUT_SECONDS`. It may also end the connection at any time. The replica learns of both
too late. Two fences stand between:

- A write goes to Kubernetes only while the server is known to have heard from this process within the last
  `LEASE_SECONDS`.
- A write to the database carries the epoch of the hold. The database compares it with the latest epoch of the study, in
  the same transaction (`storage/database.py`). The epoch is a fencing token: Martin Kleppmann, "How to do distributed
  locking", 2016.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

# A replica asks the server every HEARTBEAT_SECONDS. The server ends a connection that has been silent for
# SESSION_TIMEOUT_SECONDS. A request that is sent at the end of the lease has the time from LEASE_SECONDS to
# SESSION_TIMEOUT_SECONDS to arrive.
HEARTBEAT_SECONDS, LEASE_SECONDS, SESSION_TIMEOUT_SECONDS = 1.0, 3.0, 6.0


class NotHeld(Exception):
    """This process does not serve the study, or cannot know whether it still does: nothing was written."""


class Lease:
    """How long the locks of one connection are certain to be held.

    Args:
        clock: seconds, monotonic; it must go on while the process is stopped (CLOCK_MONOTONIC does).

    Attributes:
        over: set when the connection is closed.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._confirmed = float("-inf")
        self.over = False

    def confirm(self, sent: float) -> None:
        """Begin the lease anew, because the server has answered a statement.

        Args:
            sent: when the statement was sent. The server counts this process's silence from later on.
        """
        self._confirmed = max(self._confirmed, sent)

    def valid(self) -> bool:
        """Return whether the locks are certain to be held."""
        return not self.over and self._clock() < self._confirmed + LEASE_SECONDS


class Hold:
    """This process's right to write about one study.

    Args:
        epoch: see below.
        lease: of the connection that holds the study's lock.

    Attributes:
        epoch: the number of this hold, a fencing token: a later hold of the same study, by any replica, has a higher
            one.
        leaving: the study is being handed over, so that no reconciliation begins any more.
        superseded: the database knows of a later hold.
    """

    def __init__(self, epoch: int, lease: Lease) -> None:
        self.epoch, self._lease = epoch, lease
        self.leaving = self.superseded = False

    def valid(self) -> bool:
        """Return whether this process may write about the study."""
        return not self.superseded and self._lease.valid()

    def check(self) -> None:
        """Let a write pass; to be called before each.

        Raises:
            NotHeld: this process may not write about the study.
        """
        if not self.valid():
            raise NotHeld("the study's lock is lost, or the database has not confirmed it for too long")


_current: ContextVar[Hold | None] = ContextVar("hold", default=None)


@contextmanager
def under(hold: Hold) -> Iterator[None]:
    """Make a hold the current one for what is done inside, also in tasks and threads that begin there."""
    token = _current.set(hold)
    try:
        yield
    finally:
        _current.reset(token)


def current() -> Hold | None:
    """Return the current hold; None for what is about no study."""
    return _current.get()


def check() -> None:
    """Check the current hold if there is one. Raises as `Hold.check` does."""
    if (hold := current()) is not None:
        hold.check()

"""A look at one study that is going on: when it began, what it does, and whether it is to end before its time.

Work that takes long asks `check` between its pieces, in the event loop and in threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

# From when on a look is named in the log, and again whenever it has taken twice as long.
NAMED_AFTER_SECONDS = 30.0


class Ended(Exception):
    """The look is to end now. What it has left undone is found by the next one, if there is a next one."""


class Look:
    """One look.

    Args:
        clock: seconds, monotonic.

    Attributes:
        doing: what it does now, in words that follow "it".
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._begun, self._named = clock, clock(), NAMED_AFTER_SECONDS
        self._why: str | None = None
        self.doing = "begins"

    @property
    def seconds(self) -> float:
        """For how long it has been going on."""
        return self._clock() - self._begun

    def end(self, why: str) -> None:
        """Let it end between two pieces of its work. Any thread may call this."""
        self._why = why

    def check(self) -> None:
        """Go on.

        Raises:
            Ended: it is to end.
        """
        if self._why is not None:
            raise Ended(self._why)

    def to_be_named(self) -> bool:
        """Return whether it is time to name this look in the log."""
        if self.seconds < self._named:
            return False
        self._named *= 2
        return True


_current: ContextVar[Look | None] = ContextVar("look", default=None)


@contextmanager
def under(look: Look) -> Iterator[None]:
    """Make a look the current one for what is done inside, also in tasks and threads that begin there."""
    token = _current.set(look)
    try:
        yield
    finally:
        _current.reset(token)


def check(doing: str) -> None:
    """Go on with a piece of work of the current look, if there is one.

    Args:
        doing: what this piece does, in words that follow "it".

    Raises:
        Ended: the look is to end.
    """
    if (look := _current.get()) is not None:
        look.check()
        look.doing = doing

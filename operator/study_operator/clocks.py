"""Other machines' clocks: rows have the database's times, Jobs the API server's. This machine's own may be wrong."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta


class RemoteClock:
    """Another machine's clock as it was last heard, carried on by this machine's monotonic clock, which cannot be set.

    Until the clock is heard for the first time, it shows this machine's time.

    Args:
        monotonic: seconds.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._heard: tuple[datetime, float] | None = None

    def heard(self, now: datetime) -> None:
        """Set the clock to what the other machine says (aware)."""
        self._heard = now, self._monotonic()  # one assignment: it may be read in another thread

    def now(self) -> datetime:
        """Return the time, aware, UTC."""
        if self._heard is None:
            return datetime.now(UTC)
        then, at = self._heard
        return then.astimezone(UTC) + timedelta(seconds=self._monotonic() - at)

"""How late the machine itself is: tests that measure seconds share it with others."""

from __future__ import annotations

import threading
import time

_BEAT_SECONDS = 0.01


class Metronome:
    """Sleeps for so long again and again, in a thread, and notes how much longer it was. Close it at the end."""

    def __init__(self) -> None:
        self._late: list[tuple[float, float]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="metronome", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join()

    def latest(self, since: float) -> float:
        """By how many seconds it has been late at most, since a moment of `time.monotonic`."""
        return max((late for at, late in self._late if at >= since), default=0.0)

    def _beat(self) -> None:
        while not self._over.is_set():
            begun = time.monotonic()
            time.sleep(_BEAT_SECONDS)
            now = time.monotonic()
            late = now - begun - _BEAT_SECONDS
            if late > _BEAT_SECONDS:  # what is less does not matter, and all of it would be much
                self._late.append((now, late))

"""Remember how far the log of one pod has been read, so that no line is lost or read twice.

Kubernetes gives each line the time at which it was written, and returns lines from a given second on. Several lines may
have the same time, and a node's clock may be put back. So a position has an anchor: the highest time of the lines
taken. It counts the lines taken from the first line with that time on. Whatever times those lines have, they are passed
over when the log is read again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime

_SECOND = 1_000_000_000  # ns
_PUT_BACK = 10  # seconds by which a node's clock may be put back between two requests for the log
_NOT_COUNTED = -1  # as the count: version 0.2, which reads this after a rollback, wants a number
# 2026-11-22T02:38:28.123456789Z, or with the offset of a node's time zone.
_STAMP = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)(?: |$)")


@dataclass(frozen=True)
class Position:
    """A position in a log. Times are in nanoseconds since 1970.

    Attributes:
        anchor: the highest time that a line taken has; None when none has been taken.
        taken: how many lines have been taken from the first line with that time on, including that line.
        lowest: the lowest time of those lines.
        restarts: how often the container had been restarted when it wrote those lines.
        counted: how many values without a step this run of the program has reported; None if its first has a step.
    """

    anchor: int | None = None
    taken: int = 0
    lowest: int = 0
    restarts: int = 0
    counted: int | None = 0

    @property
    def since(self) -> str | None:
        """The second from which to request the log; None for the whole log."""
        if self.anchor is None:
            return None
        return datetime.fromtimestamp(self.lowest // _SECOND - _PUT_BACK, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def restarted(self, restarts: int) -> Position:
        """Return the same place for another run of the program: a new container of the same pod."""
        return self if restarts == self.restarts else replace(self, restarts=restarts, counted=0)

    def as_text(self) -> str:
        """Return the position as a text that `of_text` reads."""
        anchor = "-" if self.anchor is None else self.anchor
        counted = _NOT_COUNTED if self.counted is None else self.counted
        return f"{anchor} {self.taken} {self.lowest} {self.restarts} {counted}"

    @classmethod
    def of_text(cls, text: str) -> Position:
        """Return the position that `as_text` has written."""
        anchor, taken, lowest, restarts, counted = text.split()
        count = None if int(counted) == _NOT_COUNTED else int(counted)
        return cls(None if anchor == "-" else int(anchor), int(taken), int(lowest), int(restarts), count)


class Place:
    """The place of a reader in a log that is read again, from `Position.since` on.

    Attributes:
        position: the position after the last line that `passes` has let through.
    """

    def __init__(self, position: Position) -> None:
        self.position = position
        self._anchor = position.anchor  # None once it has been passed
        self._known = 0

    def passes(self, time: int) -> bool:
        """Return whether the next line, with this time, is new. If so, move the position behind it."""
        if self._anchor is not None:
            if time < self._anchor:
                return False
            # With a later time: the lines taken are not returned any more, because their file was rotated away.
            self._known = self.position.taken if time == self._anchor else 0
            self._anchor = None
        if self._known:
            self._known -= 1
            return False
        at = self.position
        if at.anchor is None or time > at.anchor:
            self.position = replace(at, anchor=time, taken=1, lowest=time)
        else:
            self.position = replace(at, taken=at.taken + 1, lowest=min(at.lowest, time))
        return True


def split(line: bytes) -> tuple[int, bytes] | None:
    """Return time and text of a line as Kubernetes returns it; None for the kubelet's own lines, which have no time."""
    found = _STAMP.match(line)
    if found is None:
        return None
    second, fraction, offset = found.groups()
    try:
        moment = datetime.fromisoformat((second + offset).decode())
    except ValueError:
        return None
    return int(moment.timestamp()) * _SECOND + int((fraction or b"0").ljust(9, b"0")), line[found.end() :]

"""How far the log of one pod has been read, so that reading goes on there without losing or doubling a line.

Kubernetes gives each line the time at which it was written, and gives out lines from a second on. Several may have
the same time, and a node's clock may be put back. So a position names the first of the lines taken that has the highest
time, its anchor, and counts the lines taken from there on: whatever their times are, those are the ones to pass over.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime

_SECOND = 1_000_000_000  # ns
_PUT_BACK = 10  # seconds by which a clock may be put back while nobody reads
# 2026-11-22T02:38:28.123456789Z, or with the offset of a node's time zone.
_STAMP = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)(?: |$)")


@dataclass(frozen=True)
class Position:
    """Times are in nanoseconds since 1970.

    Attributes:
        anchor: the highest time that a line taken has; None when none has been taken.
        taken: how many lines have been taken from the first with that time on, itself included.
        lowest: the lowest time of those.
        restarts: how often the container had been restarted when it wrote them.
        counted: how many values without a step this run of the program has reported.
    """

    anchor: int | None = None
    taken: int = 0
    lowest: int = 0
    restarts: int = 0
    counted: int = 0

    @property
    def since(self) -> str | None:
        """The second from which on the log is to be asked for; None for all of it."""
        if self.anchor is None:
            return None
        return datetime.fromtimestamp(self.lowest // _SECOND - _PUT_BACK, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def restarted(self, restarts: int) -> Position:
        """The same place, for another run of the program: a new container of the same pod."""
        return self if restarts == self.restarts else replace(self, restarts=restarts, counted=0)

    def as_text(self) -> str:
        anchor = "-" if self.anchor is None else self.anchor
        return f"{anchor} {self.taken} {self.lowest} {self.restarts} {self.counted}"

    @classmethod
    def of_text(cls, text: str) -> Position:
        anchor, *rest = text.split()
        return cls(None if anchor == "-" else int(anchor), *map(int, rest))


class Place:
    """The place of a reader in a log that is given out again, from `Position.since` on.

    Attributes:
        position: after the last line that `passes`.
    """

    def __init__(self, position: Position) -> None:
        self.position = position
        self._anchor = position.anchor  # None once it has been passed
        self._known = 0

    def passes(self, time: int) -> bool:
        """Whether the next line, of this time, is a new one; then the position is moved behind it."""
        if self._anchor is not None:
            if time < self._anchor:
                return False
            # A later time: what was taken is not given out any more, its file has been rotated away.
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
    """Time and text of a line as Kubernetes gives it out; None for a line of the kubelet's own, which has no time."""
    found = _STAMP.match(line)
    if found is None:
        return None
    second, fraction, offset = found.groups()
    try:
        moment = datetime.fromisoformat(second.decode() + ("+00:00" if offset == b"Z" else offset.decode()))
    except ValueError:
        return None
    return int(moment.timestamp()) * _SECOND + int((fraction or b"0").ljust(9, b"0")), line[found.end() :]

"""Reader of the lines of a file that another program writes, truncates, renames or replaces meanwhile."""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Callable, Iterator
from enum import Enum

_CHUNK = 64 * 1024
_HEAD = 256  # so many first bytes tell whether a file is still the same
LONGEST_LINE = 256 * 1024


class Event(Enum):
    """What happens to a file between two of its lines."""

    ANEW = "the file begins anew: it was truncated or replaced"
    TOO_LONG = "a line was too long to be read"


class Tail:
    """Reads the file at a path from its beginning. Needs no more memory than the longest line and one chunk.

    If the file was renamed (rotated), the reader finishes it and goes on with the file that has the name now. If the
    file was truncated, or deleted and replaced, the reader begins anew.

    Args:
        path: the file.
        shorten: makes the beginning of a line shorter that is longer than LONGEST_LINE; None if such a line is not
            read.

    Attributes:
        trouble: why nothing can be read now, in words; None when all is well.
    """

    def __init__(self, path: str, shorten: Callable[[bytes], bytes] | None = None) -> None:
        self._path, self._shorten = path, shorten
        self._file: int | None = None
        self._position = 0
        self._head = b""
        self._buffer = b""
        self._skipping = False  # inside a line that was too long
        self._lines: deque[bytes | Event] = deque()
        self.trouble: str | None = None

    def read(self, last: bool = False) -> Iterator[bytes | Event]:
        """Yield new lines without their line ends, and events between them. See `Source.read`."""
        while True:
            while self._lines:
                yield self._lines.popleft()
            if not (self._read_on() or self._reopen()):
                break
        if last and self._buffer:
            line, self._buffer = self._buffer, b""
            yield line

    def _read_on(self) -> bool:
        """Read a chunk of the open file. Return False at its end."""
        if self._file is None:
            return False
        try:
            if os.fstat(self._file).st_size < self._position or os.pread(self._file, len(self._head), 0) != self._head:
                os.lseek(self._file, 0, os.SEEK_SET)
                self._begin(anew=True)
            data = os.read(self._file, _CHUNK)
        except OSError as error:  # for example a stale handle of a network file system
            self.trouble = f"{self._path} cannot be read: {error.strerror}"
            os.close(self._file)
            self._file = None
            self._begin(anew=True)
            return False
        self._position += len(data)
        self._head += data[: _HEAD - len(self._head)]
        self._split(data)
        return bool(data)

    def _reopen(self) -> bool:
        """Open the file that has the name now. Return False if it is still the same file, or cannot be opened."""
        try:
            there = os.stat(self._path)
        except OSError as error:
            self.trouble = f"{self._path} cannot be read: {error.strerror}"
            return False
        if not stat.S_ISREG(there.st_mode):
            self.trouble = f"{self._path} is no file"
            return False
        here = None if self._file is None else os.fstat(self._file)
        if here and (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino):
            return False
        try:
            opened = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            self.trouble = f"{self._path} cannot be read: {error.strerror}"
            return False
        if here and here.st_nlink and self._buffer:
            self._split(b"\n")  # the renamed file ends here, so its last line is complete
        if self._file is not None:
            os.close(self._file)
        self._file, self.trouble = opened, None
        self._begin(anew=here is not None and here.st_nlink == 0)
        return True

    def _begin(self, anew: bool) -> None:
        self._position, self._head, self._buffer, self._skipping = 0, b"", b"", False
        if anew:
            self._lines.append(Event.ANEW)

    def _split(self, data: bytes) -> None:
        *lines, rest = data.split(b"\n")
        for line in lines:
            if not self._skipping:
                self._lines.append(self._buffer + line)
            self._buffer, self._skipping = b"", False
        self._buffer += rest
        if len(self._buffer) > LONGEST_LINE and self._shorten is not None:
            self._buffer = self._shorten(self._buffer)
        if len(self._buffer) > LONGEST_LINE:
            self._lines.append(Event.TOO_LONG)
            self._skipping = True
        if self._skipping:
            self._buffer = b""

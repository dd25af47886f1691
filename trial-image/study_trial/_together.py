"""Let the processes of one pod hear at the same step that the trial has been pruned.

Each of them would hear it at another step if each asked the database, and those that go on would wait for the others
for ever: in a collective operation all must take part. So the process of rank 0, which reports, notes each answer of
`should_prune()` in a file, and the n-th answer of the others is its n-th one. They wait for it while it lives.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Callable

from study_trial._output import say

# For how long a process waits in all for rank 0 to begin, and for one answer of a rank 0 that lives. NCCL and Gloo wait
# longer for each other. A script in which rank 0 asks more seldom than the others waits once, and not for ever.
_BEGIN_SECONDS, _ANSWER_SECONDS = 10.0, 300.0
_POLL_SECONDS = 0.01
_GO_ON, _STOP, _END = b"0", b"1", b"."


def answers_path(trial: str) -> str:
    """Return where the processes of one pod find the answers of a trial. Nothing is written.

    Args:
        trial: what tells this pod's trial from others of the machine.
    """
    # Containers have no other directory that is in memory, and there even if the root file system is read-only.
    directory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else os.environ.get("TMPDIR") or "/tmp"
    return os.path.join(directory, f"study-trial-{hashlib.sha256(trial.encode()).hexdigest()[:16]}")


class Answers:
    """What rank 0 writes: a byte for each answer. It holds a lock on the file as long as it lives.

    Such a lock is the process's alone. A process that it forks does not inherit it.

    Args:
        path: see `answers_path`.
    """

    def __init__(self, path: str) -> None:
        self._owner, self._file = os.getpid(), -1
        mine = f"{path}.{self._owner}"
        try:
            self._file = os.open(mine, os.O_CREAT | os.O_TRUNC | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC, 0o644)
            fcntl.lockf(self._file, fcntl.LOCK_EX)
            os.rename(mine, path)  # over what an earlier run in this container has left
        except OSError as error:
            self._give_up(error)

    def note(self, stop: bool) -> None:
        """Note the answer of one call of `should_prune()`."""
        self._write(_STOP if stop else _GO_ON)

    def end(self) -> None:
        """Note that there will be no more answers."""
        self._write(_END)

    def _write(self, what: bytes) -> None:
        if self._file < 0 or os.getpid() != self._owner:
            return
        try:
            os.write(self._file, what)
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        say(f"the trial's other processes may hear at another step that it is pruned: {error}")
        if self._file >= 0:
            os.close(self._file)  # which ends the lock, so that nobody waits
        self._file = -1


class Listener:
    """What the other processes of the pod read.

    Args:
        path: see `answers_path`.
        clock: monotonic time in seconds.
        sleep: waits for so many seconds.
    """

    def __init__(
        self, path: str, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._path, self._clock, self._sleep = path, clock, sleep
        self._file, self._asked = -1, 0
        self._begin_left, self._waits = _BEGIN_SECONDS, True
        self._stop = False

    def answer(self) -> bool | None:
        """Return rank 0's answer to its call of `should_prune()` that is this one's counterpart.

        Returns:
            None if there is none, because rank 0 has ended, or has not asked in time.
        """
        self._asked += 1
        if self._stop:
            return True
        if self._file < 0 and not self._open():
            return None
        begun = self._clock()
        while True:
            alive = self._writer_lives()  # before the file is read: its last words count
            said = os.pread(self._file, 1, self._asked - 1)
            if said in (_GO_ON, _STOP):
                self._stop = said == _STOP
                return self._stop
            self._waits = self._waits and said != _END
            if not (alive and self._waits):
                return None
            if self._clock() - begun > _ANSWER_SECONDS:
                self._waits = False
                say(
                    f"the process of rank 0 has not called should_prune() for {_ANSWER_SECONDS:g} s: this process asks "
                    "by itself, and may hear at another step that the trial is pruned"
                )
                return None
            self._sleep(_POLL_SECONDS)

    def _open(self) -> bool:
        """Open the file of a rank 0 that lives. Return whether there is one by the time that it should have begun."""
        begun = self._clock()
        while True:
            with contextlib.suppress(OSError):
                self._file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
                if self._writer_lives():
                    return True
                os.close(self._file)  # it was left by an earlier run in this container, or rank 0 has ended
            self._file = -1
            if self._clock() - begun >= self._begin_left:
                self._begin_left = 0.0
                return False
            self._sleep(_POLL_SECONDS)

    def _writer_lives(self) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        fcntl.lockf(self._file, fcntl.LOCK_UN)
        return False

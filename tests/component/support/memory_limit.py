"""A container's limit of memory for a process of this machine."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
import uuid
from pathlib import Path

_V1, _V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
# Without a control group the limit is one of data memory, of which the imports alone map this much.
_IMPORTS = 384 * 2**20


class MemoryLimit:
    """A memory control group of its own, as a container has one; where none can be made, a limit of data memory.

    In a control group the kernel kills what takes more. With a limit of data memory, memory is refused instead.

    Args:
        amount: bytes.
    """

    def __init__(self, amount: int) -> None:
        self._amount = amount
        self._group = _group(amount)

    @property
    def kills(self) -> bool:
        """Whether the kernel kills what takes more, as in a container."""
        return self._group is not None

    def hold(self, pid: int) -> None:
        """Put a process that has just been started under the limit, with all that it will start."""
        if self._group is not None:
            (self._group / "cgroup.procs").write_text(str(pid))
        else:
            most = self._amount + _IMPORTS
            resource.prlimit(pid, resource.RLIMIT_DATA, (most, most))

    def peak(self) -> int:
        """The most memory that has been taken, in bytes; 0 where nobody counts it."""
        for name in ("memory.peak", "memory.max_usage_in_bytes"):
            if self._group is not None and (self._group / name).exists():
                return int((self._group / name).read_text())
        return 0

    def remove(self) -> None:
        """Kill what is left in the group, and remove it."""
        if self._group is None:
            return
        deadline = time.monotonic() + 30
        while True:  # a process that has been killed is in the group until it is gone
            for pid in (self._group / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            try:
                return self._group.rmdir()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)


def _group(amount: int) -> Path | None:
    """A new control group with this limit; None where none can be made."""
    name = f"study-operator-test-{uuid.uuid4().hex[:8]}"
    try:
        if (_V1 / "memory.limit_in_bytes").exists():
            group, settings = _V1 / name, {"memory.limit_in_bytes": amount}
        elif "memory" in (_V2 / "cgroup.subtree_control").read_text().split():
            group = _V2 / name
            settings = {"memory.max": amount, "memory.swap.max": 0, "memory.oom.group": 1}
        else:
            return None
        group.mkdir()
    except OSError:
        return None
    for file, value in settings.items():
        with contextlib.suppress(FileNotFoundError):  # without swap there is no limit of it
            (group / file).write_text(str(value))
    return group

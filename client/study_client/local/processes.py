"""Starts a trial's program, keeps its output, and ends it with all that it has started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from study_client.errors import ClientError
from study_client.local.programs import Program

_KILL_SECONDS = 5.0  # between SIGTERM and SIGKILL
_LAST_READ_SECONDS = 2.0  # for output, once the program has ended: what it has started may keep its pipe open
_FOLLOWER_SECONDS = 30.0  # for the last values of a file
_OWN = ("STUDY_", "PARAM_")


class Process:
    """A trial's program that runs.

    Args:
        program: what to start.
        folder: the trial's own; `log` in it gets the output.
        printed: is given the output, piece by piece.

    Raises:
        ClientError: there is no such program.
    """

    def __init__(self, program: Program, folder: Path, printed: Callable[[bytes], None]) -> None:
        for directory in [folder, *program.directories]:
            directory.mkdir(parents=True, exist_ok=True)
        self.log, self.started = folder / "log", time.monotonic()
        self._printed, environment = printed, _environment(os.environ, program.environment)
        self._terminated: float | None = None
        self._follower = _start_follower(program.follower, environment, folder)
        try:
            # A session of its own: Ctrl-C reaches this program first, which then ends all in order.
            self._process = subprocess.Popen(
                program.command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            self._end_follower(signal.SIGKILL)
            raise ClientError(f"{program.command[0]} cannot be started: {error.strerror}") from None
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def poll(self) -> int | None:
        """Return the exit code, that of a signal as a shell has it; None while it runs."""
        code = self._process.poll()
        if code is None:
            if self._terminated is not None and time.monotonic() - self._terminated > _KILL_SECONDS:
                self._signal(signal.SIGKILL)
            return None
        self._reader.join(_LAST_READ_SECONDS)
        self._signal(signal.SIGKILL)  # what it has left behind
        self._end_follower(signal.SIGTERM)
        return code if code >= 0 else 128 - code

    def terminate(self) -> None:
        """Ask it to end. `poll` kills it when it takes too long."""
        if self._terminated is None:
            self._terminated = time.monotonic()
            self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it now, and wait for that."""
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._end_follower(signal.SIGKILL)

    def last_bytes(self) -> bytes:
        """Return the end of its output."""
        with contextlib.suppress(OSError), self.log.open("rb") as opened:
            opened.seek(max(opened.seek(0, os.SEEK_END) - 4096, 0))
            return opened.read()
        return b""

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self.log.open("wb", buffering=0) as log:
            while chunk := os.read(self._process.stdout.fileno(), 65536):
                log.write(chunk)
                self._printed(chunk)

    def _signal(self, which: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, which)

    def _end_follower(self, which: signal.Signals) -> None:
        """End the reader of the file, which stores the last values on SIGTERM."""
        if self._follower is None:
            return
        self._follower.send_signal(which)
        try:
            self._follower.wait(_FOLLOWER_SECONDS)
        except subprocess.TimeoutExpired:
            self._follower.kill()
            self._follower.wait()
        self._follower = None


def _start_follower(arguments: list[str], environment: dict[str, str], folder: Path) -> subprocess.Popen[bytes] | None:
    if not arguments:
        return None
    # The program may end before the reader runs. A signal that is blocked now waits until then.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        with (folder / "follow.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "study_trial", *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _environment(machine: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """Return a program's environment: this machine's, without a study's, and its own. Where PATH has no `python`, it
    is the one that runs this."""
    kept = {name: value for name, value in machine.items() if not name.startswith(_OWN)}
    path = os.pathsep.join([*filter(None, [kept.get("PATH")]), str(Path(sys.executable).parent)])
    return {**kept, "PATH": path, "PYTHONUNBUFFERED": "1", **own}

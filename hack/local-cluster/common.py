"""What every module of the tool shares: where its state lives, how it talks, how it runs commands."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
_STARTED = time.monotonic()


class Problem(Exception):
    """Something the user has to know: what was wrong, where, and what to do about it."""


def cache_dir() -> Path:
    """The directory of everything the tool keeps outside the checkout."""
    explicit = os.environ.get("STUDY_OPERATOR_CACHE")
    if explicit:
        return Path(explicit).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "study-operator"


def say(message: str) -> None:
    """Prints one progress line on stderr, with the seconds since the command began: stdout is for results."""
    print(f"[{time.monotonic() - _STARTED:5.0f}s] {message}", file=sys.stderr, flush=True)


def run(
    argv: Sequence[str | Path],
    *,
    check: bool = True,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs a command and captures its output.

    `env` is added to the tool's own environment; `timeout` is in seconds. With `check`, a non-zero exit or a
    time-out raises Problem with the command and the end of what it printed.
    """
    command = [str(word) for word in argv]
    try:
        done = subprocess.run(
            command,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            env={**os.environ, **(env or {})},
            cwd=cwd,
            timeout=timeout,
        )
    except FileNotFoundError as error:
        raise Problem(f"{command[0]} is not installed (needed for: {' '.join(command)})") from error
    except subprocess.TimeoutExpired as error:
        raise Problem(f"`{' '.join(command)}` did not end within {timeout:.0f} s") from error
    if check and done.returncode != 0:
        said = tail(done.stderr or done.stdout)
        raise Problem(f"`{' '.join(command)}` failed with exit status {done.returncode}:\n{said}")
    return done


def tail(text: str, lines: int = 20) -> str:
    """The last lines of a text, indented for an error message."""
    return "\n".join("    " + line[:300] for line in text.rstrip().splitlines()[-lines:])


def write(path: Path, text: str, mode: int = 0o600) -> bool:
    """Writes a file in one step and only when its content differs; returns whether it did."""
    if path.exists() and path.read_text() == text:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    fresh.touch(mode)
    fresh.chmod(mode)
    fresh.write_text(text)
    fresh.replace(path)
    return True


def unmount_below(directory: Path) -> None:
    """Unmounts everything that is mounted below a directory, innermost first.

    Raises Problem when something stays mounted: to delete the directory then would delete what is mounted there.
    """

    def mounts() -> list[str]:
        points = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        return [point for point in points if point.startswith(f"{directory}/")]

    for mount in reversed(mounts()):
        run(["umount", "--lazy", mount], check=False)
    if remaining := mounts():
        raise Problem(f"cannot unmount {', '.join(remaining)}: unmount by hand and try again")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock file: two of these commands at once wait for each other. Freed by the kernel at exit."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another `local-cluster` command to finish (it holds {path})")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield

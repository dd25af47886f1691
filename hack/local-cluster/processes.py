"""Daemons that outlive the command: started once, found again and ended by recorded process id only."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common import Problem, say, tail, write


@dataclass(frozen=True)
class Component:
    """One daemon: how it is started and how one sees that it works."""

    name: str
    argv: Sequence[str | Path]
    health: Callable[[], None]
    """Returns when the daemon works; raises OSError (or anything else) with the reason while it does not."""
    config: Sequence[Path] = ()
    """Files it reads at its start: when one of them changed, it is started anew."""
    env: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    """System user to run as (needs root); None: as the tool."""
    start_seconds: float = 60
    stop_signal: signal.Signals = signal.SIGTERM

    def fingerprint(self) -> str:
        """Identifies this command line and the content of its files."""
        how = [[str(word) for word in self.argv], dict(self.env), self.user]
        digest = hashlib.sha256(json.dumps(how).encode())
        for path in self.config:
            digest.update(path.read_bytes())
        return digest.hexdigest()


class Processes:
    """The daemons of one directory: `run/<name>.json` says which process, `logs/<name>.log` what it said."""

    def __init__(self, directory: Path) -> None:
        self._run = directory / "run"
        self._logs = directory / "logs"

    def log(self, name: str) -> Path:
        """The log file of one component."""
        return self._logs / f"{name}.log"

    def pid(self, name: str) -> int | None:
        """The process id of a component that is running; None when it is not."""
        record = self._record(name)
        if not record:
            return None
        state, started = _process(record["pid"])
        return record["pid"] if started == record["started"] and state not in "ZX" else None

    def running(self) -> list[str]:
        """Names of all recorded components that are running."""
        return [path.stem for path in sorted(self._run.glob("*.json")) if self.pid(path.stem)]

    def ensure(self, *components: Component) -> bool:
        """Starts those components that are not running, side by side, and waits until all of them work.

        Returns whether any was started. Raises Problem with the end of the log of the first that ends or does
        not work within its time.
        """
        fresh = [component for component in components if self._start(component)]
        for component in components:
            self._wait(component)
        return bool(fresh)

    def unhealthy(self, component: Component) -> str | None:
        """Why a component is not in order, in one sentence; None when it is."""
        if self.pid(component.name) is None:
            return "not running"
        try:
            component.health()
        except Exception as error:  # a probe may fail in any way; each is an answer
            return str(error) or type(error).__name__
        return None

    def stop(self, *names: str, stop_signal: signal.Signals = signal.SIGTERM, seconds: float = 20) -> None:
        """Ends those of these components that are running: politely, and by force after that many seconds."""
        running = {name: pid for name in names if (pid := self.pid(name)) is not None}
        if running:
            say(f"stopping {', '.join(f'{name} (pid {pid})' for name, pid in running.items())}")
        for step in (stop_signal, signal.SIGKILL):
            for name, pid in running.items():
                if self.pid(name) is not None:
                    os.kill(pid, step)
            deadline = time.monotonic() + seconds
            while any(self.pid(name) for name in running) and time.monotonic() < deadline:
                time.sleep(0.05)

    def _start(self, component: Component) -> bool:
        fingerprint = component.fingerprint()
        if self.pid(component.name) is not None:
            if (self._record(component.name) or {}).get("fingerprint") == fingerprint:
                return False
            say(f"{component.name}: its configuration changed")
            self.stop(component.name, stop_signal=component.stop_signal)
        self._wait_collected(component.name)
        self._logs.mkdir(parents=True, exist_ok=True)
        self._run.mkdir(parents=True, exist_ok=True)
        log = self.log(component.name)
        if log.exists():
            log.replace(log.with_suffix(".log.previous"))
        say(f"starting {component.name}")
        argv = [str(word) for word in component.argv]
        if component.user:
            argv = [*as_user(component.user), *argv]
        with open(log, "w") as output:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **component.env},
                cwd="/",
                start_new_session=True,
            )
        record = {"pid": process.pid, "started": _process(process.pid)[1], "fingerprint": fingerprint}
        write(self._file(component.name), json.dumps(record))
        return True

    def _wait(self, component: Component) -> None:
        deadline = time.monotonic() + component.start_seconds
        mentioned = time.monotonic()
        while True:
            reason = self.unhealthy(component)
            if reason is None:
                return
            ended = self.pid(component.name) is None
            if ended or time.monotonic() > deadline:
                late = f"does not work after {component.start_seconds:.0f} s: {reason}"
                log = self.log(component.name)
                raise Problem(
                    f"{component.name} {'ended right after its start' if ended else late}\n"
                    f"  the end of {log}:\n{tail(log.read_text(errors='replace'))}"
                )
            if time.monotonic() - mentioned > 10:
                mentioned = time.monotonic()
                say(f"waiting for {component.name}: {reason}")
            time.sleep(0.1)

    def _wait_collected(self, name: str) -> None:
        """Waits until an ended process is out of the process table.

        Its parent is init, which may take its time, and PostgreSQL takes a zombie for another server.
        """
        record = self._record(name)
        deadline = time.monotonic() + 10
        while record and _process(record["pid"])[1] == record["started"] and time.monotonic() < deadline:
            time.sleep(0.05)

    def _file(self, name: str) -> Path:
        return self._run / f"{name}.json"

    def _record(self, name: str) -> dict | None:
        try:
            return json.loads(self._file(name).read_text())
        except (FileNotFoundError, ValueError):
            return None


def as_user(user: str) -> list[str]:
    """The words before a command that make it run as another user, when this is root.

    setpriv and not runuser, because it becomes the command: the process recorded is the daemon itself.
    """
    return ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"] if os.geteuid() == 0 else []


def _process(pid: int) -> tuple[str, int | None]:
    """State letter and start time (clock ticks since boot) of a process; the time is None when there is none.

    Both together name one process, even after process ids wrap around.
    """
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # a child of this very command would stay as a zombie
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return "X", None
    return after_name[0], int(after_name[19])

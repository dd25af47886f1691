"""A PostgreSQL of a test's own, which the test may stop, restart and freeze."""

from __future__ import annotations

import contextlib
import os
import pwd
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from ports import free_port

_BIN = Path("/usr/lib/postgresql/15/bin")


class PostgresServer:
    """Stopped at first. Listens on loopback; the superuser has `password`.

    Args:
        programs: the directory of PostgreSQL's programs.
        superuser: its name.
        data_kib: the limit of each process' data, as `ulimit -d` sets it.
        settings: of its configuration.
    """

    password = "super-secret"

    def __init__(
        self, programs: Path = _BIN, superuser: str = "postgres", data_kib: int | None = None, **settings: object
    ) -> None:
        self._programs, self._superuser, self._data_kib = programs, superuser, data_kib
        # Not below pytest's own directory: PostgreSQL refuses to run as root, and its user cannot enter that.
        self.directory = self._directory = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        self._data = self._directory / "data"
        self._settings = settings
        shutil.chown(self._directory, self._user)
        self.port = free_port()
        password_file = self._directory / "password"
        password_file.write_text(self.password)
        shutil.chown(password_file, self._user)
        self._run(
            "initdb", "--no-sync", "-U", superuser, f"--pwfile={password_file}", "-A", "scram-sha-256", "-E", "UTF8"
        )

    def url(self, database: str = "postgres") -> str:
        """The superuser's URL."""
        return f"postgresql://{self._superuser}:{self.password}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Starts it and returns when it answers."""
        settings = f"-c listen_addresses=127.0.0.1 -p {self.port} -k {self._directory}"
        settings += "".join(f" -c {name}={value}" for name, value in self._settings.items())
        self._run("pg_ctl", "start", "-w", "-s", "-l", str(self._directory / "log"), "-o", settings)

    def create_database(self, name: str) -> None:
        """Creates a database while the server runs."""
        environment = {"PGPASSWORD": self.password, "PATH": os.environ["PATH"]}
        place = ["-h", "127.0.0.1", "-p", str(self.port), "-U", self._superuser]
        subprocess.run([self._programs / "createdb", *place, name], env=environment, check=True)

    def stop(self) -> None:
        """Stops it at once, ending every connection."""
        self._run("pg_ctl", "stop", "-w", "-s", "-m", "fast")

    def runs(self) -> bool:
        """Whether it has been started and not stopped."""
        return (self._data / "postmaster.pid").exists()

    def version(self) -> str:
        """As `postgres --version` says it, 15.9 for example."""
        done = subprocess.run([self._programs / "postgres", "--version"], capture_output=True, text=True, check=True)
        return done.stdout.split()[2]

    def memory(self) -> int:
        """What all its processes take, in bytes; what they share is counted once."""
        total = 0
        for pid in self._processes():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a session that has just ended
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
                total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
        return total * 1024

    def freeze(self) -> None:
        """Suspends it with all its connections: it accepts new ones and answers nobody."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Ends what `freeze` began."""
        self._signal(signal.SIGCONT)

    def remove(self) -> None:
        """Stops it if it runs, and removes its data."""
        if self.runs():
            self.thaw()
            self._run("pg_ctl", "stop", "-w", "-s", "-m", "immediate")
        shutil.rmtree(self._directory)

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self._programs / program, "-D", self._data, *arguments],
            user=self._user if os.geteuid() == 0 else None,
            cwd=self._directory,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
            stdout=subprocess.DEVNULL,
            check=True,
            preexec_fn=self._limit,
        )

    def _limit(self) -> None:
        if self._data_kib is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (self._data_kib * 1024,) * 2)

    def _processes(self) -> list[int]:
        postmaster = int((self._data / "postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        return [postmaster, *map(int, children)]

    def _signal(self, number: signal.Signals) -> None:
        processes = self._processes()
        for pid in processes:
            with contextlib.suppress(ProcessLookupError):  # a session that has just ended
                os.kill(pid, number)
        running = "RSD" if number == signal.SIGSTOP else "T"
        while any(_state(pid) in running for pid in processes):
            time.sleep(0.01)


def _state(pid: int) -> str:
    """The state of a process as in /proc, Z for one that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):  # also while it is being read
        return "Z"

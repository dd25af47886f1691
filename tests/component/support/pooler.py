"""Debian's PgBouncer in transaction mode, as docs/install.md configures it."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from ports import free_port

ROOT = Path(__file__).resolve().parents[3]
_PROGRAM = "/usr/sbin/pgbouncer"  # not in everybody's PATH


class Pooler:
    """Runs on loopback from its creation until `close`, in front of the database of a url with the reporter's login.

    Args:
        stored: what PostgreSQL has stored of the password; None for PgBouncer to have the password itself.
        settings: what differs from the configuration in docs/install.md.
    """

    def __init__(self, url: str, stored: str | None = None, **settings: object) -> None:
        self._url = urlsplit(url)
        # Not below pytest's own directory: PgBouncer refuses to run as root, and its user cannot enter that.
        self._directory = Path(tempfile.mkdtemp(prefix="pgbouncer-"))
        user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        self.port = free_port()
        name, password = unquote(self._url.username or ""), stored or unquote(self._url.password or "")
        users = self._directory / "userlist.txt"
        users.write_text('"{}" "{}"\n'.format(*(text.replace('"', '""') for text in (name, password))))
        config = self._directory / "pgbouncer.ini"
        config.write_text(
            _configuration(
                f"host={self._url.hostname} port={self._url.port} dbname={self._url.path[1:]}",
                {
                    "listen_addr": "127.0.0.1",
                    "listen_port": self.port,
                    "unix_socket_dir": "",
                    "auth_file": users,
                    "logfile": self._directory / "log",
                    **settings,
                },
            )
        )
        for path in (self._directory, users, config):
            shutil.chown(path, user)
        self._process = subprocess.Popen(
            [_PROGRAM, config],
            user=user if os.geteuid() == 0 else None,
            group=user if os.geteuid() == 0 else None,
            extra_groups=[] if os.geteuid() == 0 else None,
            cwd="/",
            stderr=subprocess.DEVNULL,
        )
        self._wait()

    @property
    def url(self) -> str:
        """The same url, by way of the pooler."""
        login = self._url.netloc.rpartition("@")[0]
        place = {"netloc": f"{login}@127.0.0.1:{self.port}", "path": "/studies"}
        return urlunsplit(self._url._replace(**place))

    @staticmethod
    def version() -> str:
        """As `pgbouncer --version` says it, 1.18.0 for example."""
        done = subprocess.run([_PROGRAM, "--version"], capture_output=True, text=True, check=True)
        return done.stdout.split()[1]

    def log(self) -> str:
        """What it has written so far."""
        return (self._directory / "log").read_text(errors="replace")

    def close(self) -> None:
        """Ends it and removes its files."""
        self._process.terminate()
        self._process.wait(30)
        shutil.rmtree(self._directory)

    def _wait(self) -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert self._process.poll() is None, self.log()
                assert time.monotonic() < deadline, self.log()
                time.sleep(0.02)


def _configuration(database: str, settings: dict[str, object]) -> str:
    """The pgbouncer.ini of docs/install.md, with other settings put in: what is documented is what is tested."""
    text = (ROOT / "docs/install.md").read_text()
    (documented,) = re.findall(r"```ini\n(\[databases\].*?)```", text, re.DOTALL)
    lines = []
    for line in documented.splitlines():
        name = line.partition("=")[0].strip()
        if name == "studies":
            line = f"studies = {database}"
        elif name in settings or name.endswith(("_file", "_key")):
            continue  # of files that are somewhere else, or not needed without TLS
        lines.append(line)
    return "\n".join([*lines, *(f"{name} = {value}" for name, value in settings.items()), ""])

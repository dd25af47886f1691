"""The chart's embedded database on this machine: PostgreSQL and PgBouncer, started by the chart's own files."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from database import TestDatabase, settings_for
from ports import free_port
from postgres_server import PostgresServer

from study_operator.settings import Settings
from study_operator.storage.migrate import migrate

FILES = Path(__file__).resolve().parents[3] / "helm/study-operator/files/database"
TEMPLATE = FILES.parents[1] / "templates/database.yaml"
POOL_SIZE = 4


class Embedded:
    """Runs from its creation until `close`. The superuser is `study_operator`, as in the chart.

    Args:
        session_kib: what a session may take of the memory.
    """

    def __init__(self, session_kib: int = 262144) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="embedded-"))
        shutil.chown(self._directory, "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name)
        hba = self._directory / "pg_hba.conf"
        hba.write_text((FILES / "pg_hba.conf").read_text().replace("HOST   ", "host   "))
        hba.chmod(0o644)
        self.server = PostgresServer(
            superuser="study_operator", data_kib=session_kib, fsync="off", hba_file=hba, **_chart_settings()
        )
        self.server.start()
        self.server.create_database("studies")
        self.database = TestDatabase(self.server.url("postgres"), "studies")
        self.port = free_port()
        configuration = (FILES / "pgbouncer.ini").read_text()
        for name, value in (
            ("POOL_SIZE", POOL_SIZE),
            ("SERVER_CONNECTIONS", 60),
            ("listen_port = 6432", f"listen_port = {self.port}"),
            ("listen_addr = *", "listen_addr = 127.0.0.1"),
        ):
            configuration = configuration.replace(name, str(value))
        if os.geteuid() == 0:
            configuration += "user = postgres\n"
        (self._directory / "template.ini").write_text(configuration)
        self._log = (self._directory / "log").open("w")
        self._pooler = subprocess.Popen(
            [sys.executable, "-m", "study_operator.storage.pooler"],
            env={
                **os.environ,
                "PATH": f"{os.environ['PATH']}:/usr/sbin",
                "POOLER_CONFIG": str(self._directory / "template.ini"),
                "POOLER_DIRECTORY": str(self._directory),
                "DATABASE_SOCKETS": str(self.server.directory),
                "DATABASE_PORT": str(self.server.port),
                "MEMORY_KIB": "262144",
            },
            stdout=self._log,
            stderr=self._log,
        )
        self.settings = self.settings_with()
        migrate(self.settings)

    @property
    def environment(self) -> dict[str, str]:
        """What the chart's operator is told of this database beside its url."""
        return {"REPORTER_LOGINS": "namespace", "REPORTER_PORT": str(self.port), "POOLER_USER": "study_pooler"}

    def settings_with(self, **more: str) -> Settings:
        """Settings of the chart's operator."""
        return settings_for(self.database, **self.environment, **more)

    def log(self) -> str:
        """What PgBouncer has written so far."""
        return (self._directory / "log").read_text()

    def knows(self, user: str) -> bool:
        """Whether PgBouncer has heard of a login."""
        users = self._directory / "userlist.txt"
        return users.exists() and f'"{user}"' in users.read_text()

    def close(self) -> None:
        self._pooler.terminate()
        self._pooler.wait(30)
        self._log.close()
        self.server.remove()
        shutil.rmtree(self._directory)


def _chart_settings() -> dict[str, str]:
    """The server's settings in the chart that are the same for all values."""
    found = re.findall(r"- -c(\w+)=([\w]+)$", TEMPLATE.read_text(), re.MULTILINE)
    return {name: value for name, value in found if name != "ssl"}

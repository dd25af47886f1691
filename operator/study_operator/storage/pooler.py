"""PgBouncer in the embedded database's pod: started with the chart's configuration, and told of logins as they change.

PgBouncer could ask PostgreSQL about each login that it does not know (auth_query). Then whoever sends it names of
logins, without any password, would keep PostgreSQL busy. So it has a list, and this process keeps the list right.

The pod's container runs this module by itself: it needs nothing of Kubernetes, and little memory.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import psycopg2
from psycopg2.extensions import connection

LOGIN = "study_pooler"
# How long a new login may wait until PgBouncer knows it. A trial's pod takes longer to start.
_INTERVAL_SECONDS = 1.0
_KIB_PER_CLIENT = 48  # with TLS
_OTHER_FILES = 1000

log = logging.getLogger(__name__)


def serve(environment: Mapping[str, str]) -> int:
    """Run PgBouncer until it ends, or SIGTERM comes.

    Args:
        environment: POOLER_CONFIG, the chart's pgbouncer.ini; POOLER_DIRECTORY, a directory for this process alone;
            DATABASE_SOCKETS, the directory of PostgreSQL's socket, and DATABASE_PORT; MEMORY_KIB, what this container
            may take; TLS_DIRECTORY, with tls.crt and tls.key, where there is TLS.

    Returns:
        PgBouncer's exit code.
    """
    directory = Path(environment["POOLER_DIRECTORY"])
    users, file = directory / "userlist.txt", directory / "pgbouncer.ini"
    users.touch()
    file.write_text(_configuration(Path(environment["POOLER_CONFIG"]).read_text(), users, environment))
    process = subprocess.Popen(["pgbouncer", str(file)])
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    _wait_until_it_listens(process, file.read_text())
    sockets, port = _place(environment)
    dsn = f"host={sockets} port={port} user={LOGIN} dbname=studies connect_timeout=5"
    opened, known = None, ""
    while process.poll() is None:
        try:
            opened = opened or _connect(dsn)
            found = _logins(opened)
        except psycopg2.Error as error:  # it has not started yet, or is not migrated
            log.info("PostgreSQL does not tell its logins: %s", " ".join(str(error).split()))
            opened = None
        else:
            if found != known:
                _replace(users, found)
                process.send_signal(signal.SIGHUP)
                known = found
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_INTERVAL_SECONDS)
    return process.returncode


def _wait_until_it_listens(process: subprocess.Popen[bytes], configuration: str) -> None:
    """Wait until PgBouncer listens, or has ended. Before that, the signal to read its list again would end it."""
    found = re.search(r"^listen_port = (\d+)$", configuration, re.MULTILINE)
    assert found, "the chart's configuration names the port"
    while process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", int(found[1])), 1.0).close()
            return
        except OSError:
            time.sleep(0.05)


def _configuration(template: str, users: Path, environment: Mapping[str, str]) -> str:
    """Return the configuration, with as many clients as this container has files and memory for."""
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = min(files, 1 << 20) if files != resource.RLIM_INFINITY else 1 << 20
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))  # PgBouncer inherits it
    clients = min(int(environment.get("MEMORY_KIB") or 1 << 20) // _KIB_PER_CLIENT, files - _OTHER_FILES)
    sockets, port = _place(environment)
    text = template.replace("CLIENTS", str(clients)).replace("LOGINS", str(users))
    text = text.replace("SOCKETS", f"{sockets} port={port}")
    if tls := environment.get("TLS_DIRECTORY"):
        # Pods of an earlier release know no certificate, so TLS is not demanded.
        text += "client_tls_sslmode = allow\n"
        text += f"client_tls_cert_file = {tls}/tls.crt\nclient_tls_key_file = {tls}/tls.key\n"
    return text


def _place(environment: Mapping[str, str]) -> tuple[str, str]:
    """Return the directory of PostgreSQL's socket, and its port."""
    return environment.get("DATABASE_SOCKETS", "/var/run/postgresql"), environment.get("DATABASE_PORT", "5432")


def _connect(dsn: str) -> connection:
    opened = psycopg2.connect(dsn)
    opened.autocommit = True
    return opened


def _logins(opened: connection) -> str:
    """Return PgBouncer's list of the logins of trials' pods, with what PostgreSQL has stored of their passwords."""
    with opened.cursor() as cursor:
        cursor.execute("SELECT login, secret FROM study_operator.pooled_logins() ORDER BY 1")
        return "".join(f'"{login}" "{secret}"\n' for login, secret in cursor.fetchall())


def _replace(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    sys.exit(serve(os.environ))

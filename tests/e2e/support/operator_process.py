"""The operator as a process of this machine: with the chart's settings and rights, and to be killed at any moment.

A pod whose container is killed waits longer and longer for its next start, up to five minutes. Here the next one runs
at once: a process that has imported everything waits, and each operator is a fork of it.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from e2e import SYSTEM, kubectl

from study_operator.processes.launch import optimizer_process

ROOT = Path(__file__).resolve().parents[3]
# For each line that it reads it forks an operator and prints its process id. What it has forked ends with it.
_NURSERY = """
import ctypes, os, signal, sys
import study_operator.manager
from study_operator.__main__ import main
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
libc = ctypes.CDLL(None)
for _ in sys.stdin:
    if (pid := os.fork()) == 0:
        libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.close(0)
        os.dup2(2, 1)
        os._exit(main(["run"]))
    print(pid, flush=True)
"""
# Lets PgBouncer read its configuration again.
_RELOAD = (
    "import glob, os; [os.kill(int(p.split('/')[2]), 1) for p in glob.glob('/proc/[0-9]*/comm')"
    " if open(p).read().strip() == 'pgbouncer']"
)


class OperatorProcess:
    """Operators outside the cluster, one after the other. The chart's own has to be away: see `operator_away`.

    Args:
        directory: an empty one, for kubeconfig and log.
        env: replaces settings of the chart, or adds to them.
    """

    def __init__(self, directory: Path, env: Mapping[str, str] | None = None) -> None:
        self.log = directory / "operator.log"
        self.pid: int | None = None
        kubeconfig = directory / "kubeconfig"
        kubeconfig.touch(0o600)
        kubeconfig.write_text(json.dumps(_kubeconfig()))
        authority = directory / "database-ca.crt"
        authority.write_text(_authority())
        self._optimizer = optimizer_process()  # what the pod's other container is
        settings = {**_settings(), "KUBECONFIG": str(kubeconfig), "HTTP_PORT": "0", "REPORTER_CA_FILE": str(authority)}
        settings["LOG_FORMAT"] = "text"  # which tests read
        settings["OPTIMIZER_SOCKET"] = self._optimizer.__enter__()
        paths = {"PYTHONPATH": f"{ROOT}/operator", "PATH": os.environ["PATH"], "HOME": str(directory)}
        self._env = {**paths, **settings, **(env or {})}
        self._output = self.log.open("w")
        self._nursery = subprocess.Popen(
            [sys.executable, "-c", _NURSERY],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._output,
            text=True,
            env=self._env,
        )

    def __enter__(self) -> OperatorProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._nursery.kill()
        self._nursery.communicate()
        self._output.close()
        self._optimizer.__exit__(None, None, None)
        print("".join(self.log.read_text(errors="replace").splitlines(keepends=True)[-200:]))  # shown if the test fails

    def run(self, command: str) -> None:
        """Runs another command of the operator's to its end."""
        subprocess.run([sys.executable, "-m", "study_operator", command], env=self._env, check=True, timeout=300)

    def start(self) -> int:
        """Starts an operator. Returns its process id."""
        assert self.pid is None, "the one before still runs"
        assert self._nursery.stdin
        assert self._nursery.stdout
        self._nursery.stdin.write("\n")
        self._nursery.stdin.flush()
        line = self._nursery.stdout.readline()
        assert line, f"the operator cannot be started:\n{self.log.read_text()}"
        self.pid = int(line)
        return self.pid

    def signal(self, number: signal.Signals) -> None:
        """SIGSTOP and SIGCONT, for one."""
        assert self.pid is not None
        os.kill(self.pid, number)

    def alive(self) -> bool:
        return self.pid is not None and Path(f"/proc/{self.pid}").exists()

    def kill(self) -> None:
        """SIGKILL; returns when the process is gone."""
        assert self.alive(), f"the operator has ended by itself:\n{self.log.read_text()[-5000:]}"
        self.signal(signal.SIGKILL)
        while self.alive():
            time.sleep(0.01)
        self.pid = None


def _kubeconfig() -> dict[str, Any]:
    """What the chart's service account may do, and no more."""
    cluster = json.loads(kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json"))["clusters"][0]
    token = kubectl("-n", SYSTEM, "create", "token", SYSTEM, "--duration=12h").strip()
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [cluster],
        "users": [{"name": "operator", "user": {"token": token}}],
        "contexts": [{"name": "operator", "context": {"cluster": cluster["name"], "user": "operator"}}],
        "current-context": "operator",
    }


def _settings() -> dict[str, str]:
    """The environment of the chart's Deployment, with an address of the database that this machine can reach."""
    deployment = json.loads(kubectl("-n", SYSTEM, "get", "deployment", SYSTEM, "-o", "json"))
    container = next(c for c in deployment["spec"]["template"]["spec"]["containers"] if c["name"] == "operator")
    env = {variable["name"]: _value(variable) for variable in container["env"]}
    url = urlsplit(env["DATABASE_URL"])
    assert url.hostname
    name, _, _ = url.hostname.partition(".")
    service = json.loads(kubectl("-n", SYSTEM, "get", "service", name, "-o", "json"))
    # The certificate does not know the address by which this machine reaches the database, but the name that pods use.
    address = env["DATABASE_URL"].replace(url.hostname, service["spec"]["clusterIP"])
    env["DATABASE_URL"] = address.replace("sslmode=verify-full", "sslmode=require")
    del env["DATABASE_CA_FILE"]
    return {"REPORTER_HOST": url.hostname, "REPORTER_SSLMODE": "verify-full", **env}


def _authority() -> str:
    """The certificate authority of the chart's embedded database."""
    secret = json.loads(kubectl("-n", SYSTEM, "get", "secret", f"{SYSTEM}-database-tls", "-o", "json"))
    return base64.b64decode(secret["data"]["ca.crt"]).decode()


def let_pods_reach(database: str) -> None:
    """Let trials' pods reach another database of the chart's server: it knows only the one of the chart."""
    pod = f"{SYSTEM}-database-0"
    line = f"local {database} all scram-sha-256"
    hba = f"grep -q '^{line}$' /tmp/pg_hba.conf || sed -i '1i {line}' /tmp/pg_hba.conf"
    kubectl("-n", SYSTEM, "exec", pod, "-c", "postgresql", "--", "sh", "-c", hba)
    reload = "psql -q -U $POSTGRES_USER -d $POSTGRES_DB -c 'SELECT pg_reload_conf()'"
    kubectl("-n", SYSTEM, "exec", pod, "-c", "postgresql", "--", "sh", "-c", reload)
    line = f"{database} = host=/var/run/postgresql dbname={database}"
    known = f"grep -q '^{line}$' /tmp/pgbouncer.ini || sed -i '/^.databases.$/a {line}' /tmp/pgbouncer.ini"
    kubectl("-n", SYSTEM, "exec", pod, "-c", "pgbouncer", "--", "sh", "-c", f'{known}; python3 -c "{_RELOAD}"')


def database_url(name: str) -> str:
    """DATABASE_URL of another database on the server of the chart's."""
    return urlsplit(_settings()["DATABASE_URL"])._replace(path=f"/{name}").geturl()


def _value(variable: Mapping[str, Any]) -> str:
    source = variable.get("valueFrom") or {}
    if reference := source.get("secretKeyRef"):
        secret = json.loads(kubectl("-n", SYSTEM, "get", "secret", reference["name"], "-o", "json"))
        return base64.b64decode(secret["data"][reference["key"]]).decode()
    return "process" if source else variable.get("value", "")  # fields of a pod: its name, its address


@contextmanager
def operator_away() -> Iterator[None]:
    """The chart's operator has no pod, for as long as any test process on this machine wants it so."""
    with (Path(tempfile.gettempdir()) / "study-operator-e2e-operator-away.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        try:
            _scale(0)
            yield
        finally:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass  # Another test process still needs it away, and brings it back.
            else:
                _scale(1)


def _scale(replicas: int) -> None:
    kubectl("-n", SYSTEM, "scale", f"deployment/{SYSTEM}", f"--replicas={replicas}")
    if replicas:
        kubectl("-n", SYSTEM, "rollout", "status", f"deployment/{SYSTEM}", "--timeout=240s")
    else:
        label = "app.kubernetes.io/component=operator"
        kubectl("-n", SYSTEM, "wait", "pod", "-l", label, "--for=delete", "--timeout=240s")

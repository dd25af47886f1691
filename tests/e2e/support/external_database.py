"""PostgreSQL servers of an administrator's own, in a pod beside an installation with `database.mode: external`."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

from authority import Authority
from e2e import Cluster
from page import Page

PASSWORD = "of-the-operators-login"
# On the first port is the right one. The second server, on another port, is as empty as `CREATE DATABASE` leaves it.
PORTS = (5432, 5433)
_START = """
cp /tls/tls.crt /tls/tls.key /tmp/ && chmod 0600 /tmp/tls.key
printf 'local all all trust\\nhostssl all all all scram-sha-256\\n' > /tmp/pg_hba.conf
exec docker-entrypoint.sh postgres -p {port} -c hba_file=/tmp/pg_hba.conf -c unix_socket_directories=/tmp \
  -c ssl=on -c ssl_cert_file=/tmp/tls.crt -c ssl_key_file=/tmp/tls.key
"""
# What the chart is told of them.
VALUES = (
    "database.mode=external",
    "database.external.host=postgres.NAME.svc",
    "database.external.existingSecret=study-database",
    "database.external.ca.configMapName=database-ca",
)


class ExternalDatabase:
    """Two servers with TLS and SCRAM, as docs/install.md asks for. The commands run in the first one's container.

    Args:
        cluster: of the release's namespace, where the pod is.
        directory: for the authority's files.
    """

    def __init__(self, cluster: Cluster, directory: Path) -> None:
        self._cluster = cluster
        self._host = f"postgres.{cluster.namespace}.svc"
        self._directory = directory
        self.authority = Authority(directory, "first")
        self.functions = "\n".join(
            f'{name}() {{ kubectl -n {cluster.namespace} exec -i postgres -c server-{PORTS[0]} -- {name} "$@"; }}'
            for name in ("psql", "pg_dump")
        )

    def create(self) -> None:
        """Start both, and prepare what the chart needs of them by the steps of docs/install.md."""
        install = Page("install.md", self._cluster.system, self._directory, self.functions)
        objects = [self._secret(), self._service(), self._pod()]
        self._cluster.kubectl(
            "apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        )
        (self._directory / "ca.crt").write_text(self.authority.pem)
        install.run("kubectl -n study-operator create configmap database-ca --from-file=ca.crt")
        install.run(
            "kubectl -n study-operator create secret generic study-database --from-literal=password='...'",
            dots=PASSWORD,
        )
        self._cluster.kubectl("wait", "--for=condition=Ready", "pod/postgres", "--timeout=240s")
        first = install.sql("CREATE ROLE study_operator").replace("'...'", f"$${PASSWORD}$$")
        for port in PORTS:
            for statement in first.strip().split(";\n"):
                self.sql(statement, "postgres", port)

    def sql(self, statement: str, database: str = "studies", port: int = PORTS[0]) -> str:
        """Return what psql prints, as a superuser."""
        return self._exec("psql", "-d", database, "-AtX", "-v", "ON_ERROR_STOP=1", "-c", statement, port=port)

    def present(self, authority: Authority) -> None:
        """Give the servers a certificate of this authority. Sessions are ended, so that all have to look at it."""
        certificate, key = authority.sign(f"DNS:{self._host}")
        self._exec("sh", "-c", "cat > /tmp/tls.crt", stdin=certificate.read_text())
        self._exec("sh", "-c", "cat > /tmp/tls.key", stdin=key.read_text())
        self.sql("SELECT pg_reload_conf()")
        self.end_sessions()

    def end_sessions(self) -> None:
        """End the sessions of all pods."""
        self.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename LIKE 'study\\_%'")

    def accepts(self, user: str, password: str) -> bool:
        """Whether the right server lets a login in with this password."""
        dsn = f"host={self._host} user={user} password={password} dbname=studies sslmode=require"
        command = ["kubectl", "-n", self._cluster.namespace, "exec", "postgres", "-c", f"server-{PORTS[0]}", "--"]
        done = subprocess.run([*command, "psql", dsn, "-c", "SELECT 1"], capture_output=True, text=True)
        assert done.returncode == 0 or "password authentication failed" in done.stderr, done.stderr
        return done.returncode == 0

    def _exec(self, *command: str, stdin: str | None = None, port: int = PORTS[0]) -> str:
        return self._cluster.kubectl("exec", "-i", "postgres", "-c", f"server-{port}", "--", *command, stdin=stdin)

    def _secret(self) -> dict[str, Any]:
        files = zip(("tls.crt", "tls.key"), self.authority.sign(f"DNS:{self._host}"), strict=True)
        data = {name: base64.b64encode(file.read_bytes()).decode() for name, file in files}
        return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "postgres-tls"}, "data": data}

    def _service(self) -> dict[str, Any]:
        ports = [{"name": f"port-{port}", "port": port} for port in PORTS]
        spec = {"selector": {"app": "postgres"}, "ports": ports}
        return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "postgres"}, "spec": spec}

    def _pod(self) -> dict[str, Any]:
        spec = {
            "containers": [self._container(port) for port in PORTS],
            "volumes": [{"name": "tls", "secret": {"secretName": "postgres-tls"}}],
            "terminationGracePeriodSeconds": 0,
        }
        meta = {"name": "postgres", "labels": {"app": "postgres"}}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}

    def _container(self, port: int) -> dict[str, Any]:
        env = {"POSTGRES_PASSWORD": "of the superuser", "PGHOST": "/tmp", "PGPORT": str(port), "PGUSER": "postgres"}
        ready = ["pg_isready", "--quiet", "--host=127.0.0.1"]
        return {
            "name": f"server-{port}",
            "image": self._cluster.images["study-postgres"],
            "command": ["sh", "-euc", _START.format(port=port)],
            "env": [{"name": name, "value": value} for name, value in env.items()],
            "volumeMounts": [{"name": "tls", "mountPath": "/tls", "readOnly": True}],
            "readinessProbe": {"exec": {"command": ready}, "periodSeconds": 1},
        }

"""The control plane that load is put on, and what runs there: the operator as a process of its own, and whoever plays
the pods. Everything is thrown away at the end."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit, urlunsplit

import aiohttp
import psycopg2
import yaml
from figures import ROOT, Failed
from kubernetes import client, config

from study_operator.kube.streams import lines
from study_operator.settings import Settings
from study_operator.storage.migrate import migrate

LOCAL_CLUSTER = [sys.executable, str(ROOT / "hack/local-cluster")]
NAMESPACE = "load"
STUDIES = f"/apis/study-operator.io/v1alpha1/namespaces/{NAMESPACE}/studies"
JOBS = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
_DATABASE = "load"


class Api:
    """JSON in and out of the API server, as one of its clients.

    Args:
        kubeconfig: path; it says who that is.
    """

    def __init__(self, kubeconfig: str) -> None:
        settings = client.Configuration()
        config.load_kube_config(config_file=kubeconfig, client_configuration=settings)
        tls = ssl.create_default_context(cafile=settings.ssl_ca_cert)
        tls.load_cert_chain(settings.cert_file, settings.key_file)
        self._host = settings.host
        # No limit: a watch is one connection for hours, and creators bound themselves.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls, limit=0), timeout=aiohttp.ClientTimeout(sock_connect=30)
        )

    async def close(self) -> None:
        await self._session.close()

    async def call(
        self, method: str, path: str, body: Any = None, content: str = "application/json", **query: str
    ) -> dict[str, Any]:
        """One request.

        Raises:
            Failed: with the server's own words.
        """
        data = None if body is None else json.dumps(body)
        headers = {"Content-Type": content}
        async with self._session.request(method, self._url(path, query), data=data, headers=headers) as response:
            text = await response.text()
            if response.status >= 300:
                raise Failed(f"{method} {path}: {response.status} {text[:300]}")
            return json.loads(text)

    async def watch(self, path: str, **query: str) -> AsyncIterator[dict[str, Any]]:
        """What happens to some resources: first those that are there, as ADDED.

        The API server ends a watch whose client is late, which on a busy machine happens; it goes on from there.

        Raises:
            Failed: it cannot go on.
        """
        version: dict[str, str] = {}
        while True:
            url = self._url(path, {"watch": "true", "timeoutSeconds": "7200", **query, **version})
            async with self._session.get(url) as response:
                if response.status >= 300:
                    raise Failed(f"watch {path}: {response.status} {(await response.text())[:300]}")
                async for line in lines(response.content):
                    event = json.loads(line)
                    if event["type"] == "ERROR" and event["object"].get("code") == 504:
                        await asyncio.sleep(1)  # its cache is seconds behind what it has sent before
                        break
                    if event["type"] == "ERROR":
                        raise Failed(f"watch {path}: {event['object'].get('message')}")
                    version = {"resourceVersion": event["object"]["metadata"]["resourceVersion"]}
                    yield event

    def _url(self, path: str, query: Mapping[str, str]) -> str:
        return f"{self._host}{path}" + (f"?{urlencode(query)}" if query else "")


@dataclass(frozen=True)
class Services:
    """Where everything is: paths of kubeconfigs, by client; process ids by component; the operator's settings."""

    kubeconfig: str
    clients: Mapping[str, str]
    audit_log: Path
    processes: Mapping[str, int]
    environment: Mapping[str, str]
    settings: Settings

    def query(self, statement: str, *values: Any) -> list[tuple]:
        """Rows of one statement, run as the superuser."""
        opened = psycopg2.connect(self.settings.dsn)
        try:
            with opened.cursor() as cursor:
                cursor.execute(statement, values)
                return cursor.fetchall()
        finally:
            opened.close()

    def writes(self, user: str) -> Counter[str]:
        """What a client has written so far, by verb and resource."""
        found: Counter[str] = Counter()
        for line in self.audit_log.read_text().splitlines():
            event = json.loads(line)
            if event["user"]["username"] == user and "objectRef" in event:
                what = event["objectRef"]
                below = f"/{what['subresource']}" if what.get("subresource") else ""
                trial = " (dry run)" if "dryRun=All" in event["requestURI"] else ""
                found[f"{event['verb']} {what['resource']}{below}{trial}"] += 1
        return found

    async def audited(self, api: Api) -> None:
        """Waits until the audit log has everything up to now."""
        name = f"marker-{secrets.token_hex(4)}"
        marker = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}
        await api.call("POST", f"/api/v1/namespaces/{NAMESPACE}/configmaps", marker)
        # The name of what is created is not in the URI but in the object's reference.
        await eventually(
            lambda: f'"name":"{name}"' in self.audit_log.read_text()[-100_000:], "the audit log is written"
        )


async def eventually(check, what: str, seconds: float = 60) -> None:
    """Waits until the check is true.

    Raises:
        Failed: it is not, after that time.
    """
    deadline = asyncio.get_running_loop().time() + seconds
    while not check():
        if asyncio.get_running_loop().time() > deadline:
            raise Failed(f"{what}: not within {seconds:.0f} s")
        await asyncio.sleep(0.1)


@asynccontextmanager
async def services(default_limits: bool) -> AsyncIterator[Services]:
    """A control plane that nobody has used, which knows Studies and has a namespace, and a migrated database."""
    command = [*LOCAL_CLUSTER, "load-services"]
    _quietly([*command, "down"])
    try:
        up = _quietly([*command, "up", *(["--default-limits"] if default_limits else [])])
        found = json.loads(up.strip().splitlines()[-1])
        environment = {
            "DATABASE_URL": urlunsplit(urlsplit(found["database_url"])._replace(path=f"/{_DATABASE}")),
            "REPORTER_PASSWORD": secrets.token_hex(16),
            "REPORTER_LOGINS": "shared",
            "STUDY_KEY_SEED": secrets.token_hex(16),
            "HTTP_PORT": "0",
        }
        opened = psycopg2.connect(found["database_url"])
        opened.autocommit = True
        opened.cursor().execute(f"CREATE DATABASE {_DATABASE}")
        opened.close()
        settings = Settings.from_environment(environment)
        await asyncio.to_thread(migrate, settings, patience=60)
        made = Services(
            found["kubeconfig"],
            found["clients"],
            Path(found["audit_log"]),
            found["processes"],
            environment,
            settings,
        )
        await _prepare(made)
        yield made
    finally:
        _quietly([*command, "down"])


async def _prepare(found: Services) -> None:
    api = Api(found.kubeconfig)
    try:
        crd = yaml.safe_load((ROOT / "crds/study.yaml").read_text())
        await api.call("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd)
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
        await api.call("POST", "/api/v1/namespaces", namespace)
        for path in (STUDIES, f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/default"):  # no pod without the second
            for attempt in range(100):
                try:
                    await api.call("GET", path)
                    break
                except Failed:
                    if attempt == 99:
                        raise
                    await asyncio.sleep(0.1)
    finally:
        await api.close()


def _quietly(command: list[str]) -> str:
    """Runs a command whose progress is of interest only if it fails. Returns what it printed."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"{' '.join(command)}:\n{done.stderr}")
    return done.stdout


@contextmanager
def process(argv: list[str], log: Path, **options: Any) -> Iterator[subprocess.Popen]:
    """A process that is ended at the end, in a group of its own, so that Ctrl-C reaches it through this."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w") as errors:
        started = subprocess.Popen(argv, stderr=errors, text=True, start_new_session=True, **options)
    try:
        yield started
    finally:
        started.send_signal(signal.SIGTERM)
        try:
            started.wait(20)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


@contextmanager
def operator(found: Services, log: Path, port: int) -> Iterator[subprocess.Popen]:
    """The operator as it is installed: a process with an identity of its own, and settings from its environment."""
    environment = {
        **os.environ,
        **found.environment,
        "KUBECONFIG": found.clients["operator"],
        "HTTP_PORT": str(port),
        "PYTHONPATH": str(ROOT / "operator"),
    }
    with process([sys.executable, "-m", "study_operator", "run"], log, env=environment) as started:
        yield started


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def scrape(port: int) -> dict[str, float]:
    """The operator's metrics that have no labels but a bucket's."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return {
        name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line.startswith("study_"))
    }


def ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
            return True
    except OSError:
        return False


def cpu(pid: int) -> float:
    """CPU seconds of a process and of the children that it has or has had."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    alive = 0.0
    for child in children:
        try:
            alive += cpu(int(child))
        except FileNotFoundError:
            continue  # in the parent's figures from now on
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return alive + sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def peak_memory(pid: int) -> float:
    """The most memory that a process has had resident, in MB."""
    text = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmHWM")) * 1024 / 1e6

"""The trials API as a process, behind a real API server: the chart's rights, an APIService, and a database to read.

The chart's Service has pods behind it; this one leads to loopback, where no controllers and no nodes are needed for it.
"""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any

import optuna
import psycopg2
import yaml
from chart import render
from database import TestDatabase
from kubectl_cli import Kubectl
from kubernetes import client
from kubernetes.config import load_kube_config
from optuna.trial import TrialState
from ports import free_port
from process import Process
from reading import READER_PASSWORD, Reading, reading_database
from waiting import wait_until

NAMESPACE, NAME = "system", "study-operator-trials-api"
API_SERVICE = "v1alpha1.results.study-operator.io"
BASE = "/apis/results.study-operator.io/v1alpha1"
# What of the chart is installed: the rights, and the APIService. Nothing here runs pods.
_INSTALLED = ("ServiceAccount", "ClusterRole", "ClusterRoleBinding", "RoleBinding", "APIService")
_DISTRIBUTIONS = {
    "lr": optuna.distributions.FloatDistribution(0.0, 1.0),
    "layers": optuna.distributions.IntDistribution(1, 9),
    "optimizer": optuna.distributions.CategoricalDistribution(["adam", "sgd", "\x1b[31mred", None]),
}

# Trials by the thousand, as the operator and pods store them.
_FILL = """
    SET LOCAL study_operator.own = 'on';
    INSERT INTO trials (number, study_id, state, datetime_start, datetime_complete)
    SELECT n, %(study)s, 'COMPLETE', now(), now() FROM generate_series(0, %(most)s - 1) n;
    INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json)
    SELECT trial_id, 'lr', number / 1e6,
           '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.0, "log": false}}'
    FROM trials WHERE study_id = %(study)s;
    INSERT INTO trial_values (trial_id, objective, value, value_type)
    SELECT trial_id, 0, number / 1e5, 'FINITE' FROM trials WHERE study_id = %(study)s;
    INSERT INTO trial_intermediate_values (trial_id, step, intermediate_value, intermediate_value_type)
    SELECT trial_id, s, random(), 'FINITE' FROM trials, generate_series(1, 20) s WHERE study_id = %(study)s
"""


@dataclass
class Aggregated:
    """The trials API behind an API server.

    Attributes:
        kubectl: as administrator.
        reading: the database.
        cluster_id: the UID of kube-system.
    """

    kubectl: Kubectl
    reading: Reading
    cluster_id: str
    folder: Path
    port: int = 0
    process: Process | None = None

    @property
    def database(self) -> TestDatabase:
        return self.reading.database

    def spawn(self, **environment: str) -> Process:
        """Start a replica."""
        settings = {
            "READER_USER": self.reading.reader,
            "READER_PASSWORD": READER_PASSWORD,
            "KUBECONFIG": str(self.folder / "api-kubeconfig"),
            "API_SERVICE": f"{NAMESPACE}/{NAME}",
            "API_PORT": str(self.port),
            "LOG_LEVEL": "debug",
        }
        log = self.folder / f"serve-api-{uuid.uuid4().hex[:8]}.log"
        return Process(self.database, log, "serve-api", **settings | environment)

    def start(self) -> None:
        """Start a replica, and wait until it is ready."""
        self.process = started = self.spawn()
        wait_until(lambda: started.get("/readyz")[0] == 200 or started.process.poll() is not None)
        assert started.process.poll() is None, started.log()

    def stop(self) -> None:
        """End it, as Kubernetes does."""
        if self.process is not None and self.process.process.poll() is None:
            self.process.process.terminate()
            self.process.process.wait(30)

    def available(self) -> bool:
        """Whether the API server reaches it."""
        return (
            self.kubectl.ok(
                *("get", "apiservice", API_SERVICE),
                *("-o", 'jsonpath={.status.conditions[?(@.type=="Available")].status}'),
            )
            == "True"
        )

    def get(self, path: str) -> Any:
        """What the API server answers to a path below the API's."""
        return json.loads(self.kubectl.ok("get", "--raw", f"{BASE}{path}"))

    @contextmanager
    def proxied(self) -> Iterator[Callable[[str, dict[str, str]], tuple[Message, bytes]]]:
        """A function that asks the API server, with headers: it returns those of the answer, and its body."""
        config = client.Configuration()
        load_kube_config(config_file=self.kubectl.kubeconfig, client_configuration=config)
        tls = ssl.create_default_context(cafile=config.ssl_ca_cert)
        tls.load_cert_chain(config.cert_file, config.key_file)

        def get(path: str, headers: dict[str, str]) -> tuple[Message, bytes]:
            with urllib.request.urlopen(
                urllib.request.Request(config.host + path, headers=headers), context=tls
            ) as got:
                return got.headers, got.read()

        yield get

    def namespace(self) -> str:
        """A new namespace."""
        name = f"team-{uuid.uuid4().hex[:8]}"
        self.kubectl.ok("create", "namespace", name)
        return name

    def study(self, namespace: str, name: str = "digits", objectives: int = 1) -> StudyRows:
        """A study of the operator's, without trials."""
        uid = str(uuid.uuid4())
        stored = f"{namespace}/{name}-{uid[:8]}"
        studies = self.database.studies(self.cluster_id)
        directions = ["MAXIMIZE"] * objectives
        study_id = studies.ensure(stored, directions, namespace, name, uid, "Retain", uuid.uuid4().bytes * 2)
        return StudyRows(self, stored, study_id, namespace, name, uid)

    def user(self, name: str, *groups: str) -> Kubectl:
        """kubectl as another user."""
        return As(self.kubectl.kubeconfig, self.kubectl.cache, self.kubectl.namespace, (name, *groups))


class As(Kubectl):
    """kubectl that speaks for somebody."""

    def __init__(self, kubeconfig: str, cache: Path, namespace: str, who: tuple[str, ...]) -> None:
        super().__init__(kubeconfig, cache, namespace)
        self._who = [f"--as={who[0]}", *(f"--as-group={group}" for group in who[1:])]

    def run(self, *args: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return super().run(*self._who, *args, stdin=stdin)


@dataclass(frozen=True)
class StudyRows:
    """A study's rows, to which a test adds trials by stock Optuna, as a notebook does."""

    api: Aggregated
    stored: str
    study_id: int
    namespace: str
    name: str
    uid: str

    def add(
        self,
        *values: float,
        state: TrialState = TrialState.COMPLETE,
        reports: dict[int, float] | None = None,
        attributes: dict[str, Any] | None = None,
        **params: Any,
    ) -> None:
        """Add a trial."""
        ended = state.is_finished()
        trial = optuna.create_trial(
            state=state if ended else TrialState.WAITING,
            values=list(values) if state is TrialState.COMPLETE else None,
            params=params,
            distributions={name: _DISTRIBUTIONS[name] for name in params},
            intermediate_values=reports or {},
            user_attrs=attributes or {},
        )
        with self.api.database.optuna_study(self.stored) as study:
            study.add_trial(trial)
            if state is TrialState.RUNNING:
                study.ask()

    def fill(self, count: int) -> None:
        """Add so many trials, of 20 reports each, by SQL."""
        with closing(psycopg2.connect(self.api.database.url)) as opened, opened, opened.cursor() as cursor:
            cursor.execute(_FILL, {"study": self.study_id, "most": count})

    def tell(self, number: int, value: float) -> None:
        """End a running trial."""
        with self.api.database.optuna_study(self.stored) as study:
            study.tell(number, value)

    def forget(self) -> None:
        """Do what the operator does when the Study is deleted, whose rows are to be kept."""
        studies = self.api.database.studies(self.api.cluster_id)
        (known,) = studies.known((self.namespace, self.name))
        studies.forget(known)


@contextmanager
def aggregated(services: dict[str, str], folder: Path) -> Iterator[Aggregated]:
    """The trials API behind the API server of these services, with a database of its own; gone with the context."""
    kubectl = Kubectl(services["kubeconfig"], folder / "kubectl")
    cluster_id = kubectl.ok("get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}")
    with reading_database(services["database_url"]) as reading:
        api = Aggregated(kubectl, reading, cluster_id, folder, free_port())
        _install(api)
        try:
            api.start()
            wait_until(api.available)
            yield api
        finally:
            api.stop()
            kubectl.ok("delete", "apiservice", API_SERVICE, "--ignore-not-found")


def _install(api: Aggregated) -> None:
    """Install what the chart installs, but for pods, and write the kubeconfig of its account."""
    api.kubectl.run("create", "namespace", NAMESPACE)
    objects = [
        found
        for found in render("trialsApi.enabled=true")
        if found["kind"] in _INSTALLED and ("trials" in found["metadata"]["name"] or found["kind"] == "APIService")
    ]
    (service,) = [found for found in objects if found["kind"] == "APIService"]
    service["spec"]["service"]["port"] = api.port
    external = {"type": "ExternalName", "externalName": "127.0.0.1"}
    metadata = {"name": NAME, "namespace": NAMESPACE}
    objects.append({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": external})
    for namespace in {found["metadata"].get("namespace", "default") for found in objects}:
        there = [found for found in objects if found["metadata"].get("namespace", "default") == namespace]
        here = Kubectl(api.kubectl.kubeconfig, api.kubectl.cache, namespace)
        here.ok("apply", "-f", "-", stdin=yaml.safe_dump_all(there))
    token = api.kubectl.ok("create", "token", NAME, "-n", NAMESPACE, "--duration=2h").strip()
    config = yaml.safe_load(Path(api.kubectl.kubeconfig).read_text())
    config["users"] = [{"name": "local", "user": {"token": token}}]
    (api.folder / "api-kubeconfig").write_text(yaml.safe_dump(config))


def ca_bundle(api: Aggregated) -> str:
    """The certificates by which the API server knows the replicas, as PEM."""
    text = api.kubectl.ok("get", "apiservice", API_SERVICE, "-o", "jsonpath={.spec.caBundle}")
    return base64.b64decode(text).decode()

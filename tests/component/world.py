"""The operator's reconciler in a real API server and database, with the test in the place of kubelet and Job controller."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg2
import yaml
from database import TestDatabase, settings_for
from kubernetes.aio import client, config

from study_operator.cluster import ApiError, Cluster
from study_operator.model.job import TRIAL_ID_ANNOTATION, Reporting
from study_operator.model.study import TRIAL_LABEL, parse
from study_operator.reconcile import Key, Look, Reconciler
from study_operator.storage.database import Database
from study_operator.storage.threads import StorageThreads

CRD = Path(__file__).resolve().parents[2] / "crds/study.yaml"


class World:
    """One namespace, one database, one operator, and a clock that the test can put forward."""

    def __init__(self, cluster: Cluster, database: TestDatabase, namespace: str) -> None:
        self.cluster, self.database, self.namespace = cluster, database, namespace
        self.settings = settings_for(database)
        self.threads = StorageThreads(4)
        self.ahead = timedelta(0)
        self.start_operator()

    @classmethod
    async def create(cls, kubeconfig: str, database: TestDatabase) -> World:
        configuration = client.Configuration()
        await config.load_kube_config(config_file=kubeconfig, client_configuration=configuration)
        cluster = Cluster(configuration)
        await _install_crd(cluster)
        namespace = f"test-{uuid.uuid4().hex[:8]}"
        await cluster._call(
            "POST", "/api/v1/namespaces", body={"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
        )
        return cls(cluster, database, namespace)

    async def close(self) -> None:
        await self.cluster.close()
        self.threads.shutdown()

    def start_operator(self) -> None:
        """A new process, as it were: nothing that the old one held in memory is left."""
        self.reconciler = Reconciler(
            self.settings, self.cluster, "test-cluster", Database(self.settings.dsn), self.threads, self.now
        )

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    # What a user does

    async def apply(self, name: str = "study", **spec: Any) -> dict[str, Any]:
        """Creates a Study; `spec` replaces fields of a small one that needs no GPU."""
        manifest = study_manifest(name, self.namespace, **spec)
        return await self.cluster._call("POST", self._path("studies"), body=manifest)

    async def edit(self, name: str = "study", **spec: Any) -> dict[str, Any]:
        return await self.cluster._call(
            "PATCH", f"{self._path('studies')}/{name}", body={"spec": spec}, content="application/merge-patch+json"
        )

    async def study(self, name: str = "study") -> dict[str, Any]:
        found = await self.cluster.get_study(self.namespace, name)
        assert found is not None
        return found

    async def condition(self, type_: str, name: str = "study") -> dict[str, Any]:
        conditions = (await self.study(name)).get("status", {}).get("conditions", [])
        return next((condition for condition in conditions if condition["type"] == type_), {})

    async def events(self) -> dict[str, dict[str, Any]]:
        """The Events of the namespace by reason."""
        found = await self.cluster._call("GET", f"/api/v1/namespaces/{self.namespace}/events")
        return {event["reason"]: event for event in found["items"]}

    # What the operator does

    async def look(self, name: str = "study") -> Look:
        return await self.reconciler.reconcile(Key(self.namespace, name), time.monotonic())

    async def settle(self, name: str = "study", most: int = 20) -> Look:
        """Looks until a look changes nothing any more; the clock passes over waits for a later status write."""
        for _ in range(most):
            before = await self.everything(name)
            self.reconciler._publisher._written.clear()
            look = await self.look(name)
            if await self.everything(name) == before:
                return look
        raise AssertionError(f"not settled after {most} looks")

    async def everything(self, name: str) -> Any:
        """What a look can change: rows, Jobs, status."""
        study = await self.cluster.get_study(self.namespace, name)
        jobs = {job["metadata"]["name"]: job["metadata"].get("deletionTimestamp") for job in await self.jobs()}
        return self.rows(), jobs, (study or {}).get("status")

    # What there is

    def rows(self) -> list[tuple[int, str]]:
        """Number and state of every trial."""
        return self.database.query("SELECT number, state::text FROM trials ORDER BY study_id, number")

    async def jobs(self) -> list[dict[str, Any]]:
        return (await self.cluster._call("GET", self._path("jobs")))["items"]

    async def job(self, number: int) -> dict[str, Any]:
        return next(job for job in await self.jobs() if job["metadata"]["labels"][TRIAL_LABEL] == str(number))

    # What pods, kubelet and Job controller do

    async def as_pod(self, number: int, function: str, *arguments: Any) -> Any:
        """Calls a reporting function as the pod of a trial does. Returns its answer."""
        job, study = await self.job(number), parse(await self.study())
        settings = self.settings
        reporting = Reporting.of(study, "test-cluster", settings.study_key_seed, settings.reporter_url, None)
        trial_id = int(job["metadata"]["annotations"][TRIAL_ID_ANNOTATION])
        return call_as_reporter(self.database, function, reporting.key, trial_id, *arguments)

    async def finish(self, number: int, *values: float) -> Any:
        return await self.as_pod(number, "finish", list(values))

    async def end_job(self, number: int, failed: str | None = None, message: str = "") -> None:
        """Sets a Job's status as the Job controller does; `failed` is the reason of the Failed condition."""
        job = await self.job(number)
        now = _timestamp()
        types = ("FailureTarget", "Failed") if failed else ("SuccessCriteriaMet", "Complete")
        status: dict[str, Any] = {
            "startTime": now,
            "conditions": [
                {
                    "type": type_,
                    "status": "True",
                    "reason": failed or "CompletionsReached",
                    "message": message,
                    "lastTransitionTime": now,
                    "lastProbeTime": now,
                }
                for type_ in types
            ],
            **({"failed": 1} if failed else {"succeeded": 1, "completionTime": now}),
        }
        await self.cluster._call(
            "PATCH",
            f"{self._path('jobs')}/{job['metadata']['name']}/status",
            body={"status": status},
            content="application/merge-patch+json",
        )
        await self.remove_finalizers()

    async def end_pod(self, number: int, reason: str, exit_code: int, phase: str = "Failed") -> None:
        """A pod of the trial that has ended, as the kubelet leaves it."""
        job = await self.job(number)
        template = job["spec"]["template"]
        name = f"{job['metadata']['name']}-{uuid.uuid4().hex[:5]}"
        metadata = {"name": name, "namespace": self.namespace, "labels": template["metadata"]["labels"]}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
        await self.cluster._call("POST", f"/api/v1/namespaces/{self.namespace}/pods", body=pod)
        container = template["spec"]["containers"][0]
        terminated = {"exitCode": exit_code, "reason": reason, "startedAt": _timestamp(), "finishedAt": _timestamp()}
        await self.patch_pod(
            name,
            {
                "phase": phase,
                "containerStatuses": [
                    {
                        "name": container["name"],
                        "image": container["image"],
                        "imageID": "",
                        "ready": False,
                        "restartCount": 0,
                        "state": {"terminated": terminated},
                    }
                ],
            },
        )

    async def patch_pod(self, name: str, status: dict[str, Any]) -> None:
        await self.cluster._call(
            "PATCH",
            f"/api/v1/namespaces/{self.namespace}/pods/{name}/status",
            body={"status": status},
            content="application/merge-patch+json",
        )

    async def remove_finalizers(self) -> None:
        """Lets go of Jobs that are being deleted, as garbage collector and Job controller do once their pods are gone."""
        for job in await self.jobs():
            if "deletionTimestamp" in job["metadata"] and job["metadata"].get("finalizers"):
                await self.cluster._call(
                    "PATCH",
                    f"{self._path('jobs')}/{job['metadata']['name']}",
                    body={"metadata": {"finalizers": None}},
                    content="application/merge-patch+json",
                )

    async def run_trials(self, value: Callable[[int], float], name: str = "study") -> None:
        """Lets every trial run to its end, one round after the other, until the study has ended."""
        for _ in range(100):
            await self.settle(name)
            active = [j for j in await self.jobs() if not (j.get("status") or {}).get("conditions")]
            if not active:
                return
            for job in active:
                number = int(job["metadata"]["labels"][TRIAL_LABEL])
                await self.finish(number, value(number))
                await self.end_job(number)
        raise AssertionError("the study does not end")

    def _path(self, plural: str) -> str:
        group = "study-operator.io/v1alpha1" if plural == "studies" else "batch/v1"
        return f"/apis/{group}/namespaces/{self.namespace}/{plural}"


def study_manifest(name: str, namespace: str, **spec: Any) -> dict[str, Any]:
    """A Study of four trials, two at a time, with the given fields of its spec replaced."""
    return {
        "apiVersion": "study-operator.io/v1alpha1",
        "kind": "Study",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "objectives": [{"name": "score", "direction": "Maximize"}],
            "parameters": [
                {"name": "x", "float": {"low": 0, "high": 1}},
                {"name": "layers", "int": {"low": 1, "high": 4}},
                {"name": "kind", "categorical": {"choices": ["a", "b"]}},
            ],
            "maxTrials": 4,
            "parallelism": 2,
            "gpusPerTrial": 0,
            "jobTemplate": {
                "spec": {"template": {"spec": {"containers": [{"name": "trial", "image": "trial:1"}]}}},
            },
            **spec,
        },
    }


def call_as_reporter(database: TestDatabase, function: str, *arguments: Any) -> Any:
    """Calls a reporting function with the reporter's own login."""
    connection = psycopg2.connect(database.reporter_url)
    try:
        with connection, connection.cursor() as cursor:
            places = ", ".join(["%s"] * len(arguments))
            cursor.execute(f"SELECT study_operator.{function}({places})", arguments)
            return cursor.fetchone()[0]
    finally:
        connection.close()


def _timestamp() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


async def _install_crd(cluster: Cluster) -> None:
    manifest = yaml.safe_load(CRD.read_text())
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    query = {"fieldManager": "tests", "force": "true"}
    name = manifest["metadata"]["name"]
    await cluster._call("PATCH", f"{path}/{name}", query, manifest, content="application/apply-patch+yaml")
    deadline = time.monotonic() + 30
    while True:
        try:
            await cluster.list_studies()
            return
        except ApiError as error:
            if error.status not in (404, 429) or time.monotonic() > deadline:  # the API server is just taking it in
                raise

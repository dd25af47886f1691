"""The operator's reconciler in a real API server and database; the test is kubelet and Job controller."""

from __future__ import annotations

import asyncio
import base64
import copy
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from database import KeptConnection, TestDatabase, TrialPod, settings_for
from faults import FaultyCluster, FaultyDatabase
from kubernetes.aio import client, config
from optimizer_server import remembered, shared_socket
from raw_api import Api
from waiting import until

from study_operator.kube.api_server import ApiError
from study_operator.kube.client import Cluster
from study_operator.manifests.job import Reporting
from study_operator.model.study import STUDY_LABEL, TRIAL_ID_ANNOTATION, TRIAL_LABEL, StudyKey, parse
from study_operator.model.trial import attempt_of
from study_operator.podlogs.follower import Follower
from study_operator.podlogs.stream import PodLogs
from study_operator.podlogs.tail import Tails
from study_operator.pool import BlockingPool
from study_operator.processes.client import Limits, Optimizers
from study_operator.reconcile.reconciler import Reconciler
from study_operator.reconcile.result import ReconcileResult
from study_operator.storage.printed_output import Output
from study_operator.storage.studies import Studies

CRD = Path(__file__).resolve().parents[3] / "crds/study.yaml"
MERGE = "application/merge-patch+json"

Manifest = dict[str, Any]

# Phases of a study that goes on. No Job here gets a pod by itself, and after some seconds the status says so.
GOES_ON = ("Running", "Waiting")


def owners(pod: Manifest) -> list[str]:
    """The UIDs of a pod's owners."""
    return [owner["uid"] for owner in pod["metadata"].get("ownerReferences") or ()]


class World:
    """One namespace, one database, one operator, and a clock that the test can put forward.

    Attributes:
        cluster: the test's own client; what the operator does through `operators_cluster` may be made to fail.
        ahead: how far the operator's clock is put forward.
        logs_from: where the operator gets pods' logs, for the API server has no kubelet to ask; a url.
        woken: studies to be looked at, because a log has been read to its end.
        optimizers: where the operator's studies compute.
    """

    def __init__(
        self, configuration: client.Configuration, cluster_id: str, database: TestDatabase, namespace: str
    ) -> None:
        self._configuration, self.cluster_id = configuration, cluster_id
        self.cluster, self.database, self.namespace = Cluster(configuration), database, namespace
        self.settings = settings_for(database)
        self.threads = BlockingPool(4)
        self.operators_cluster = FaultyCluster(configuration)
        self.operators_database = FaultyDatabase(self.settings.dsn)
        self.ahead = timedelta(0)
        self._kept = KeptConnection()
        self.logs_from = ""
        self.woken: list[tuple[str, str]] = []
        self._followers: list[Follower] = []
        self.optimizers: Optimizers | None = None
        self.start_operator()

    @classmethod
    async def create(cls, kubeconfig: str, database: TestDatabase) -> World:
        """A world in an API server that knows Studies."""
        configuration = client.Configuration()
        await config.load_kube_config(config_file=kubeconfig, client_configuration=configuration)
        cluster = Cluster(configuration)
        cluster_id = await cluster.cluster_id()
        await cluster.close()
        world = cls(configuration, cluster_id, database, f"test-{uuid.uuid4().hex[:8]}")
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": world.namespace}}
        await world.cluster._call("POST", "/api/v1/namespaces", body=namespace)
        return world

    @asynccontextmanager
    async def another_operator(self) -> AsyncIterator[World]:
        """The same namespace and database, with an operator and a clock of its own, for other studies."""
        world = World(self._configuration, self.cluster_id, self.database, self.namespace)
        try:
            yield world
        finally:
            await world.close()

    async def leave(self) -> None:
        """Closes, and removes the namespace and what operators read in it: those of other tests, which watch all
        namespaces, would read each object."""
        await self.close()
        api = Api(self._configuration)  # it does not decode what is deleted, which may be nested too deeply for that
        place = f"/api/v1/namespaces/{self.namespace}"
        try:
            core = [f"{place}/{plural}" for plural in ("pods", "secrets", "persistentvolumeclaims", "events")]
            for path in (self._path("studies"), self._path("jobs"), *core):
                await api.call("DELETE", path, propagationPolicy="Background", gracePeriodSeconds="0")
            # Here is no namespace controller, which would let the namespace go.
            going = json.loads(await api.call("DELETE", place))
            await api.call("PUT", f"{place}/finalize", {**going, "spec": {"finalizers": []}})
        finally:
            await api.close()

    async def close(self) -> None:
        self._kept.close()
        await self.cluster.close()
        await self.operators_cluster.close()
        for follower in self._followers:
            await follower.close()
        self.threads.shutdown()
        if self.optimizers is not None:
            self.optimizers.close()

    def start_operator(self) -> None:
        """A new process, as it were: nothing that the old one held in memory is left."""
        for old in self._followers:
            for key in list(old._studies):
                old.forget(key)
        if self.optimizers is not None:
            self.optimizers.close()
        settings = self.settings
        # A test looks once, and then has expectations: a busy machine may take its time.
        limits = Limits(settings.optimizer_processes, settings.optimizer_seconds, settings.optimizer_memory, 20.0)
        self.optimizers = Optimizers(settings.optimizer_socket or shared_socket(), limits, settings.sampler_classes)
        configuration = copy.copy(self._configuration)
        configuration.host = self.logs_from or configuration.host
        logs = PodLogs(configuration)
        tails = Tails(self.operators_cluster, logs, self.threads, Output(self.operators_database))
        self._followers.append(Follower(tails, lambda key: self.woken.append(key)))
        self.reconciler = Reconciler(
            self.settings,
            self.operators_cluster,
            self.cluster_id,
            self.operators_database,
            Studies(self.operators_database, self.cluster_id),
            self.threads,
            self.optimizers,
            self._followers[-1],
            self.now,
            self.now,
        )

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    # What a user does

    async def apply(self, name: str = "study", annotations: dict[str, str] | None = None, **spec: Any) -> Manifest:
        """Creates a Study; `spec` replaces fields of a small one that needs no GPU."""
        manifest = study_manifest(name, self.namespace, **spec)
        manifest["metadata"]["annotations"] = annotations
        return await self.cluster._call("POST", self._path("studies"), body=manifest)

    async def edit(self, name: str = "study", **spec: Any) -> Manifest:
        return await self.cluster._call("PATCH", self._path("studies", name), body={"spec": spec}, content=MERGE)

    async def delete_study(self, name: str = "study") -> None:
        await self.cluster._call("DELETE", self._path("studies", name))

    async def delete_job(self, number: int, study: str = "study") -> None:
        """A Job is deleted, and nothing is left of it."""
        name = (await self.job(number, study))["metadata"]["name"]
        await self.cluster._call("DELETE", self._path("jobs", name), {"propagationPolicy": "Background"})
        await self.remove_finalizers()

    async def study(self, name: str = "study") -> Manifest:
        found = await self.cluster.get_study(self.namespace, name)
        assert found is not None
        return found

    async def condition(self, type_: str, name: str = "study") -> dict[str, Any]:
        conditions = (await self.study(name)).get("status", {}).get("conditions", [])
        return next((condition for condition in conditions if condition["type"] == type_), {})

    async def events(self) -> dict[str, Manifest]:
        """The Events of the namespace by reason."""
        found = await self.cluster._call("GET", f"/api/v1/namespaces/{self.namespace}/events")
        return {event["reason"]: event for event in found["items"]}

    # What the operator does

    async def look(self, name: str = "study") -> ReconcileResult:
        return await self.reconciler.reconcile(StudyKey(self.namespace, name), time.monotonic())

    async def settle(self, name: str = "study", most: int = 20) -> ReconcileResult:
        """Looks until a look changes nothing any more; the clock passes over waits for a later status write."""
        before = await self.everything(name)
        for _ in range(most):
            self.reconciler._publisher._written.clear()
            look = await self.look(name)
            after = await self.everything(name)
            if after == before:
                return look
            before = after
        raise AssertionError(f"not settled after {most} looks")

    async def logs_are_read(self, name: str = "study") -> None:
        """Waits until the logs of Jobs that have ended are read, as far as the operator has begun with it."""
        known = self._followers[-1]._studies.get((self.namespace, name))
        if known is not None and (tasks := [work.task for work in known.work.values() if work.draining]):
            await asyncio.wait(tasks, timeout=30)

    async def late_writes_arrive(self) -> int:
        """Lets writes happen whose answers nobody waits for any more. Returns how many there were."""
        return await self.operators_cluster.deliver_late() + self.operators_database.wait_for_late()

    def remembered(self, name: str = "study") -> list[tuple[int, str]] | None:
        """Number and state of every trial, as the operator has them in memory; None when it has none there."""
        live = self.reconciler._live.get(StudyKey(self.namespace, name))
        if live is None or live.trials._optimizer is None:
            return None
        return remembered(live.trials._optimizer)

    async def everything(self, name: str) -> Any:
        """What a look can change: rows, Jobs, status."""
        study = await self.cluster.get_study(self.namespace, name)
        jobs = {job["metadata"]["uid"]: job["metadata"].get("deletionTimestamp") for job in await self.jobs(name)}
        return self.rows(name), jobs, (study or {}).get("status")

    # What there is

    def rows(self, study: str = "study") -> list[tuple[int, str]]:
        """Number and state of every trial of the Studies that have or had this name."""
        return self._kept.query(
            self.database.url,
            "SELECT number, state::text FROM trials JOIN studies USING (study_id) WHERE study_name LIKE %s"
            " ORDER BY study_id, number",
            f"{self.namespace}/{study}-{'_' * 8}",
        )

    async def jobs(self, study: str | None = None) -> list[Manifest]:
        """The Jobs of the namespace, or those of the Studies of one name."""
        query = {"labelSelector": f"{STUDY_LABEL}={study}"} if study else None
        return (await self.cluster._call("GET", self._path("jobs"), query))["items"]

    async def job(self, number: int, study: str = "study") -> Manifest:
        """The latest Job of a trial."""
        jobs = [job for job in await self.jobs(study) if number_of(job) == number]
        return max(jobs, key=lambda job: attempt_of(job["metadata"]["name"]))

    async def active(self, study: str = "study") -> list[int]:
        """The numbers of the trials whose Jobs have not ended."""
        return [number_of(job) for job in await self.jobs(study) if not has_ended(job)]

    async def secrets(self, study: str = "study") -> dict[str, Manifest]:
        """The Secrets of the Studies of one name, by their own names."""
        query = {"labelSelector": f"{STUDY_LABEL}={study}"}
        found = await self.cluster._call("GET", f"/api/v1/namespaces/{self.namespace}/secrets", query)
        return {secret["metadata"]["name"]: secret for secret in found["items"]}

    async def objects_of(self, study: str = "study") -> dict[str, list[Manifest]]:
        """What the Studies of one name have had made, by plural; without what is being deleted, and pods."""
        query = {"labelSelector": f"{STUDY_LABEL}={study}"}
        found = {"jobs": await self.jobs(study)}
        for plural in ("secrets", "services", "persistentvolumeclaims"):
            path = f"/api/v1/namespaces/{self.namespace}/{plural}"
            found[plural] = (await self.cluster._call("GET", path, query))["items"]
        return {
            plural: [item for item in items if "deletionTimestamp" not in item["metadata"]]
            for plural, items in found.items()
        }

    def reporting(self, study: Manifest) -> Reporting:
        """Address and key that the pods of a Study get."""
        settings = self.settings
        return Reporting.of(parse(study), self.cluster_id, settings.study_key_seed, settings.reporter_url, None)

    # What pods, kubelet and Job controller do

    async def pod(self, number: int, study: str = "study") -> TrialPod:
        """The pod of a trial, as far as the database goes: it may still report when its Job is gone."""
        job, key = await self.job(number, study), self.reporting(await self.study(study)).key
        return TrialPod(self.database, key, int(job["metadata"]["annotations"][TRIAL_ID_ANNOTATION]))

    async def environment(self, number: int, study: str = "study") -> dict[str, str]:
        """The variables that the kubelet sets in a trial's container."""
        found, secrets = environment_of(await self.job(number, study)), await self.secrets(study)
        plain = {name: value.replace("$$", "$") for name, value in found.items() if isinstance(value, str)}
        references = {name: value["secretKeyRef"] for name, value in found.items() if name not in plain}
        return plain | {
            name: base64.b64decode(secrets[reference["name"]]["data"][reference["key"]]).decode()
            for name, reference in references.items()
        }

    async def finish(self, number: int, *values: float, study: str = "study") -> Any:
        return (await self.pod(number, study)).call("finish", list(values))

    async def patch_job(self, number: int, patch: dict[str, Any], study: str = "study") -> None:
        """Changes a trial's Job, as a queue manager does."""
        name = (await self.job(number, study))["metadata"]["name"]
        await self.cluster._call("PATCH", self._path("jobs", name), body=patch, content=MERGE)

    async def begin_job(self, number: int, study: str = "study") -> None:
        """The Job controller has begun with a Job: its pod may come now."""
        await self.patch_job_status(number, {"startTime": timestamp()}, study)

    async def patch_job_status(self, number: int, status: dict[str, Any], study: str = "study") -> None:
        """Changes the status of a trial's Job, as the Job controller does."""
        path = self._path("jobs", (await self.job(number, study))["metadata"]["name"], "status")
        await self.cluster._call("PATCH", path, body={"status": status}, content=MERGE)

    async def end_job(
        self, number: int, failed: str | None = None, message: str = "", study: str = "study", pods_left: bool = True
    ) -> None:
        """Sets a Job's status as the Job controller does; `failed` is the reason of the Failed condition. Unless its
        pods have been deleted, a Job that has failed by its back-off limit has one that has failed."""
        job = await self.job(number, study)
        if failed == "BackoffLimitExceeded" and pods_left and not await self.pods(job):
            await self.end_pod(number, "Error", 1, study=study)
        now = timestamp()
        types = ("FailureTarget", "Failed") if failed else ("SuccessCriteriaMet", "Complete")
        status: dict[str, Any] = {
            "startTime": (job.get("status") or {}).get("startTime") or now,
            "active": None,
            "ready": None,
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
        path = self._path("jobs", job["metadata"]["name"], "status")
        await self.cluster._call("PATCH", path, body={"status": status}, content=MERGE)

    async def start_pod(self, number: int, status: dict[str, Any], study: str = "study") -> str:
        """A pod of the trial with this status. Returns its name."""
        job = await self.job(number, study)
        template = job["spec"]["template"]
        name = f"{job['metadata']['name']}-{uuid.uuid4().hex[:5]}"
        owner = {"apiVersion": "batch/v1", "kind": "Job", "controller": True}
        metadata = {
            "name": name,
            "namespace": self.namespace,
            "labels": template["metadata"]["labels"],
            "ownerReferences": [owner | {key: job["metadata"][key] for key in ("name", "uid")}],
        }
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
        await self.cluster._call("POST", f"/api/v1/namespaces/{self.namespace}/pods", body=pod)
        await self.set_pod_status(name, status)
        path, ready = self._path("jobs", job["metadata"]["name"], "status"), int(status.get("phase") == "Running")
        await self.cluster._call("PATCH", path, body={"status": {"active": 1, "ready": ready}}, content=MERGE)
        return name

    async def set_pod_status(self, name: str, status: dict[str, Any]) -> None:
        """Sets a pod's status as the kubelet does; None takes a field away."""
        path = f"/api/v1/namespaces/{self.namespace}/pods/{name}/status"
        await self.cluster._call("PATCH", path, body={"status": status}, content=MERGE)

    async def pods(self, job: Manifest) -> list[Manifest]:
        """The pods of a Job."""
        found = await self.cluster._call("GET", f"/api/v1/namespaces/{self.namespace}/pods")
        owner = job["metadata"]["uid"]
        return [pod for pod in found["items"] if owner in owners(pod)]

    async def end_pod(
        self, number: int, reason: str, exit_code: int, phase: str = "Failed", study: str = "study"
    ) -> None:
        """A pod of the trial whose container has ended, as the kubelet leaves it."""
        ended = {"exitCode": exit_code, "reason": reason, "startedAt": timestamp(), "finishedAt": timestamp()}
        status = {"phase": phase, "containerStatuses": [container_status({"terminated": ended})]}
        await self.start_pod(number, status, study)

    async def remove_finalizers(self, study: str | None = None) -> None:
        """Lets go of Jobs that are being deleted, as the garbage collector does once their pods are gone."""
        for job in await self.jobs(study):
            if "deletionTimestamp" in job["metadata"] and job["metadata"].get("finalizers"):
                path = self._path("jobs", job["metadata"]["name"])
                await self.cluster._call("PATCH", path, body={"metadata": {"finalizers": None}}, content=MERGE)

    async def collect_garbage(self, study: str | None = None) -> None:
        """Deletes what belongs to a Study or Job that is gone, and lets go of what is being deleted, as the garbage
        collector and the controllers of Jobs and claims do."""
        studies = {study.uid for study in await self.cluster.list_studies(self.namespace)}
        jobs = {}
        for job in await self.jobs(study):
            jobs[job["metadata"]["uid"]] = "deletionTimestamp" not in job["metadata"]
            if job["metadata"]["ownerReferences"][0]["uid"] not in studies:
                await self.cluster._call("DELETE", self._path("jobs", job["metadata"]["name"]))
        query = {"labelSelector": f"{STUDY_LABEL}={study}"} if study else None
        for plural in ("pods", "secrets", "services", "persistentvolumeclaims"):
            path = f"/api/v1/namespaces/{self.namespace}/{plural}"
            owners = jobs if plural == "pods" else dict.fromkeys(studies, True)
            for item in (await self.cluster._call("GET", path, query))["items"]:
                meta = item["metadata"]
                reference = (meta.get("ownerReferences") or [None])[0]
                if reference is not None and not owners.get(reference["uid"]):
                    await self.cluster._call("DELETE", f"{path}/{meta['name']}", body={"gracePeriodSeconds": 0})
        path = f"/api/v1/namespaces/{self.namespace}/persistentvolumeclaims"
        for claim in (await self.cluster._call("GET", path, query))["items"]:
            if "deletionTimestamp" in claim["metadata"]:
                patch = {"metadata": {"finalizers": None}}
                await self.cluster._call("PATCH", f"{path}/{claim['metadata']['name']}", body=patch, content=MERGE)
        await self.remove_finalizers(study)

    async def run_trials(self, value: Callable[[int], float], name: str = "study") -> None:
        """Lets every trial run to its end, one round after the other, until the study has ended."""
        for _ in range(100):
            await self.settle(name)
            active = await self.active(name)
            if not active:
                return
            for number in active:
                await self.finish(number, value(number), study=name)
                await self.end_job(number, study=name)
        raise AssertionError("the study does not end")

    def _path(self, plural: str, *below: str) -> str:
        group = "study-operator.io/v1alpha1" if plural == "studies" else "batch/v1"
        return "/".join((f"/apis/{group}/namespaces/{self.namespace}/{plural}", *below))


def study_manifest(name: str, namespace: str, **spec: Any) -> Manifest:
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
            # Tests look at what has ended.
            "successfulJobsHistoryLimit": 1000,
            "failedJobsHistoryLimit": 1000,
            "jobTemplate": job_template(),
            **spec,
        },
    }


def job_template(**container: Any) -> dict[str, Any]:
    """A Job template of one container, with the given fields replaced."""
    return {"spec": {"template": {"spec": {"containers": [{"name": "trial", "image": "trial:1", **container}]}}}}


def container_status(state: dict[str, Any]) -> dict[str, Any]:
    """The kubelet's status of the container of `job_template`."""
    return {"name": "trial", "image": "trial:1", "imageID": "", "ready": False, "restartCount": 0, "state": state}


def counted(status: Manifest) -> dict[str, int]:
    """The trials of a status, by state; states that no trial has are left out."""
    return {state: count for state, count in status["trials"].items() if count}


def number_of(job: Manifest) -> int:
    return int(job["metadata"]["labels"][TRIAL_LABEL])


def environment_of(job: Manifest) -> dict[str, Any]:
    """The environment variables of a Job's container: their values, or where they come from."""
    variables = job["spec"]["template"]["spec"]["containers"][0]["env"]
    return {variable["name"]: variable.get("value", variable.get("valueFrom")) for variable in variables}


def params_of(job: Manifest) -> dict[str, Any]:
    return json.loads(environment_of(job)["STUDY_PARAMS"])


def secret_of(job: Manifest) -> str:
    """The name of the Secret that a Job's pods take address and key from."""
    return environment_of(job)["STUDY_STORAGE_KEY"]["secretKeyRef"]["name"]


def has_ended(job: Manifest) -> bool:
    """Whether a Job is complete or has failed; one that is being deleted may still have a pod."""
    conditions = (job.get("status") or {}).get("conditions") or ()
    return any(condition["type"] in ("Complete", "Failed") for condition in conditions)


def timestamp() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


async def install_crd(kubeconfig: str) -> None:
    """Lets an API server know Studies, as crds/study.yaml has them now."""
    configuration = client.Configuration()
    await config.load_kube_config(config_file=kubeconfig, client_configuration=configuration)
    cluster = Cluster(configuration)
    manifest = yaml.safe_load(CRD.read_text())
    path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{manifest['metadata']['name']}"
    query = {"fieldManager": "tests", "force": "true"}
    await cluster._call("PATCH", path, query, manifest, content="application/apply-patch+yaml")
    await until(lambda: _serves_studies(cluster))
    await cluster.close()


async def _serves_studies(cluster: Cluster) -> bool:
    try:
        await cluster.list_studies()
    except ApiError as error:
        if error.status in (404, 429):  # it is just taking it in
            return False
        raise
    return True

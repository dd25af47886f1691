"""The few Kubernetes calls there are. JSON in and out: building the client's model objects costs more than the call."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
from kubernetes.aio import client, config

from study_operator import fence
from study_operator.clocks import RemoteClock
from study_operator.kube import decoding
from study_operator.model.job_state import JobState, job_state
from study_operator.model.study import (
    GROUP,
    JOB_LABEL,
    PLURAL,
    STUDY_LABEL,
    TRIAL_LABEL,
    VERSION,
)

_TIMEOUT_SECONDS = 30.0  # seconds; a call that hangs must not hold its study for ever
INDEX_LABEL = "batch.kubernetes.io/job-completion-index"
_MERGE_PATCH = "application/merge-patch+json"


class ApiError(Exception):
    """The API server refused a call, or could not be reached (`status` 0). `message` is its own sentence."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}" if status else message)
        self.status, self.reason, self.message = status, reason, message


class Cluster:
    """Calls to one API server. Close it at the end.

    Args:
        configuration: of the kubernetes client; `connect` makes it from the pod's service account or KUBECONFIG.

    Attributes:
        clock: the API server's, to a second: what the times of Jobs and pods are to be compared with.
    """

    def __init__(self, configuration: client.Configuration) -> None:
        self._client = client.ApiClient(configuration)
        self.clock = RemoteClock()

    @classmethod
    async def connect(cls) -> Cluster:
        configuration = client.Configuration()
        try:
            config.load_incluster_config(client_configuration=configuration)
        except config.ConfigException:
            await config.load_kube_config(client_configuration=configuration)
        return cls(configuration)

    @property
    def configuration(self) -> client.Configuration:
        return self._client.configuration

    async def close(self) -> None:
        await self._client.close()

    async def nobody_ready(self, namespace: str, service: str) -> bool:
        """Whether there are pods behind a Service, and none of them is ready."""
        query = {"labelSelector": f"kubernetes.io/service-name={service}"}
        found = await self._call("GET", f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices", query)
        endpoints = [endpoint for item in found["items"] for endpoint in item.get("endpoints") or ()]
        # A missing condition is to be read as ready.
        return bool(endpoints) and not any((e.get("conditions") or {}).get("ready", True) for e in endpoints)

    async def cluster_id(self) -> str:
        """The UID of kube-system, which is as old as the cluster and tells it from others."""
        return (await self._call("GET", "/api/v1/namespaces/kube-system"))["metadata"]["uid"]

    # Studies

    async def list_studies(self, namespace: str | None = None) -> list[dict[str, Any]]:
        return (await self._call("GET", _studies(namespace)))["items"]

    async def get_study(self, namespace: str, name: str) -> dict[str, Any] | None:
        try:
            return await self._call("GET", f"{_studies(namespace)}/{quote(name)}")
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def patch_status(self, manifest: Mapping[str, Any], status: Mapping[str, Any]) -> None:
        """Merges into the status of a Study as it was read. If it has changed since, or is another one of that name, it
        fails with 409 or 422: a request that was long on its way overwrites nothing newer."""
        meta = manifest["metadata"]
        body = {"metadata": {key: meta[key] for key in ("uid", "resourceVersion")}, "status": status}
        path = f"{_studies(meta['namespace'])}/{quote(meta['name'])}/status"
        await self._call_text("PATCH", path, body=body, content=_MERGE_PATCH)

    # Jobs and their pods

    async def list_jobs(self, namespace: str, study: str, uid: str, gpus: str) -> dict[str, JobState]:
        """The Jobs of one Study by name, read from the store, not from a cache that may lag behind.

        Jobs of another owner are left out: of a Study of the same name that was deleted, or of nobody's.

        Args:
            gpus: the resource that is counted as GPUs.
        """
        query = {"labelSelector": f"{STUDY_LABEL}={study}"}
        text = await self._call_text("GET", f"/apis/batch/v1/namespaces/{namespace}/jobs", query)
        jobs = (job_state(item, gpus) for item in decoding.jobs(text) if owner_uid(item) == uid)
        return {job.name: job for job in jobs if job is not None}

    async def get_job(self, namespace: str, name: str) -> dict[str, Any] | None:
        try:
            return await self._call("GET", f"/apis/batch/v1/namespaces/{namespace}/jobs/{quote(name)}")
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def create_job(self, manifest: Mapping[str, Any], dry_run: bool = False) -> Mapping[str, Any]:
        """Creates a Job, and returns what a list has of it; as a dry run, only asks whether that could be done. Then,
        misspelt fields are refused too, as kubectl would: the Study's schema cannot, and they would be dropped without
        a word."""
        query = {"fieldManager": "study-operator"}
        if dry_run:
            query |= {"dryRun": "All", "fieldValidation": "Strict"}
        namespace = manifest["metadata"]["namespace"]
        return decoding.job(
            await self._call_text("POST", f"/apis/batch/v1/namespaces/{namespace}/jobs", query, manifest)
        )

    async def delete_job(self, namespace: str, name: str, uid: str, waiting: bool = True) -> None:
        """Deletes a Job and its pods.

        Args:
            waiting: the Job is gone only when its pods are, so that its slot is free only then.
        """
        body = {"propagationPolicy": "Foreground" if waiting else "Background", "preconditions": {"uid": uid}}
        await self._delete(f"/apis/batch/v1/namespaces/{namespace}/jobs", name, body)

    async def list_pods(self, namespace: str, study: str, job: str | None = None, pending: bool = False) -> list[dict]:
        """Pods of a Study, or of one of its Jobs; with `pending` those of them that have not started."""
        selector = f"{STUDY_LABEL}={study}" + ("" if job is None else f",{JOB_LABEL}={job}")
        query = {"labelSelector": selector, "limit": "500" if pending else "20"}
        if pending:
            query["fieldSelector"] = "status.phase=Pending"
        return (await self._call("GET", f"/api/v1/namespaces/{namespace}/pods", query))["items"]

    async def delete_pods(self, namespace: str, study: str, job: JobState, grace_seconds: int) -> None:
        """Ends the pods of a Job within this time, whatever their own terminationGracePeriodSeconds is; pods that are
        being deleted already get no longer than this either."""
        query = {"labelSelector": f"{STUDY_LABEL}={study},{TRIAL_LABEL}={job.number}"}
        found = await self._call("GET", f"/api/v1/namespaces/{namespace}/pods", query)
        for pod in found["items"]:
            if owner_uid(pod) == job.uid:
                body = {"gracePeriodSeconds": grace_seconds, "preconditions": {"uid": pod["metadata"]["uid"]}}
                await self._delete(f"/api/v1/namespaces/{namespace}/pods", pod["metadata"]["name"], body)

    async def pods_of_job(self, namespace: str, job: str, indexed: bool) -> list[dict]:
        """The pods of a Job; of an Indexed one, those of index 0, which alone reports."""
        selector = f"{JOB_LABEL}={job}" + (f",{INDEX_LABEL}=0" if indexed else "")
        query = {"labelSelector": selector, "limit": "100"}
        return (await self._call("GET", f"/api/v1/namespaces/{namespace}/pods", query))["items"]

    async def last_log_line(self, namespace: str, pod: str, container: str) -> str:
        """The last line of a container's log; empty when there is none or no kubelet to ask."""
        query = {"container": container, "tailLines": "1", "limitBytes": "2048"}
        try:
            text = await self._call_text("GET", f"/api/v1/namespaces/{namespace}/pods/{quote(pod)}/log", query)
        except ApiError:
            return ""  # the failure is told without it
        return " ".join(text.split())

    # What a study needs beside Jobs

    async def create_secret(self, manifest: Mapping[str, Any]) -> None:
        """Creates a Secret; one of that name is left as it is, for the name says what is in it."""
        await self._create("secrets", manifest)

    async def create_service(self, manifest: Mapping[str, Any]) -> dict[str, Any] | None:
        """Creates a Service. Returns the one of that name that was there, and is left as it is; None when none was."""
        if await self._create("services", manifest):
            return None
        meta = manifest["metadata"]
        return await self._call("GET", f"/api/v1/namespaces/{meta['namespace']}/services/{quote(meta['name'])}")

    async def create_claim(self, manifest: Mapping[str, Any]) -> bool:
        """Creates a PersistentVolumeClaim, or finds it there. False when one of that name stands there that belongs to
        somebody else, or is being deleted."""
        if await self._create("persistentvolumeclaims", manifest):
            return True
        meta = manifest["metadata"]
        ours = await self.list_claims(meta["namespace"], meta["labels"][STUDY_LABEL], owner_uid(manifest) or "")
        return meta["name"] in {name for name, _ in ours.values()}

    async def try_claim(self, manifest: Mapping[str, Any]) -> None:
        """Asks whether a claim could be created; misspelt fields are refused, as `create_job` does in a dry run."""
        query = {"dryRun": "All", "fieldValidation": "Strict"}
        await self._create("persistentvolumeclaims", manifest, query)

    async def list_claims(self, namespace: str, study: str, uid: str) -> dict[int, tuple[str, str]]:
        """Name and UID of the claims that were made for the trials of one Study and are not being deleted, by trial
        number."""
        query = {"labelSelector": f"{STUDY_LABEL}={study},{TRIAL_LABEL}"}
        found = await self._call("GET", f"/api/v1/namespaces/{namespace}/persistentvolumeclaims", query)
        return {
            int(number): (item["metadata"]["name"], item["metadata"]["uid"])
            for item in found["items"]
            if owner_uid(item) == uid
            and "deletionTimestamp" not in item["metadata"]
            and (number := item["metadata"]["labels"][TRIAL_LABEL]).isdecimal()
        }

    async def delete_claim(self, namespace: str, name: str, uid: str) -> None:
        """Deletes a claim, and with it, as its StorageClass says, what is in it, once no pod uses it any more.

        Raises:
            ApiError: also when another one of that name stands there (409): unlike Jobs, claims are not looked at again
                without a reason.
        """
        body = {"preconditions": {"uid": uid}}
        await self._delete(f"/api/v1/namespaces/{namespace}/persistentvolumeclaims", name, body, but=(404,))

    async def create_event(self, manifest: Mapping[str, Any]) -> bool:
        """Creates an Event; False when there is one of that name."""
        return await self._create("events", manifest)

    async def patch_event(self, namespace: str, name: str, patch: Mapping[str, Any]) -> dict[str, Any]:
        path = f"/api/v1/namespaces/{namespace}/events/{quote(name)}"
        return await self._call("PATCH", path, body=patch, content=_MERGE_PATCH)

    async def _create(self, plural: str, manifest: Mapping[str, Any], query: Mapping[str, str] | None = None) -> bool:
        """Creates an object of the core API; False when there is one of that name."""
        path = f"/api/v1/namespaces/{manifest['metadata']['namespace']}/{plural}"
        try:
            await self._call_text("POST", path, query, manifest)
        except ApiError as error:
            if error.reason == "AlreadyExists":
                return False
            raise
        return True

    async def _delete(self, path: str, name: str, body: Mapping[str, Any], but: Collection[int] = (404, 409)) -> None:
        """Deletes an object; one that is gone, or has given way to another of that name, is no error.

        Args:
            but: the statuses that are none.
        """
        try:
            await self._call_text("DELETE", f"{path}/{quote(name)}", body=body)
        except ApiError as error:
            if error.status not in but:
                raise

    async def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content: str = "application/json",
    ) -> dict[str, Any]:
        return json.loads(await self._call_text(method, path, query, body, content))

    async def _call_text(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content: str = "application/json",
    ) -> str:
        if method != "GET":
            fence.check()
        # Not compressed: that would cost the API server more than the network gains.
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "Content-Type": content}
        try:
            _, url, headers, _, _ = await self._client.param_serialize(
                method, path, header_params=headers, auth_settings=["BearerToken"]
            )
            if query:
                url = f"{url}?{urlencode(query)}"
            response = await self._client.call_api(method, url, headers, body, _request_timeout=_TIMEOUT_SECONDS)
            text = (await response.read()).decode("utf-8", "replace")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise unreachable(error) from None
        if date := response.headers.get("Date"):
            self.clock.heard(parsedate_to_datetime(date))
        if response.status >= 300:
            raise refusal(response.status, text)
        return text


def _studies(namespace: str | None) -> str:
    where = f"namespaces/{namespace}/" if namespace else ""
    return f"/apis/{GROUP}/{VERSION}/{where}{PLURAL}"


def refusal(status: int, text: str) -> ApiError:
    """What an answer with a status of 300 or more says."""
    try:
        found = json.loads(text)
        return ApiError(status, found.get("reason", ""), found.get("message", text))
    except (ValueError, AttributeError):
        return ApiError(status, "", text[:500])


def unreachable(error: Exception) -> ApiError:
    return ApiError(0, "Unreachable", f"the API server cannot be reached: {error or type(error).__name__}")


def owner_uid(manifest: Mapping[str, Any]) -> str | None:
    """The UID of an object's controller."""
    references = manifest["metadata"].get("ownerReferences") or ()
    return next((reference["uid"] for reference in references if reference.get("controller")), None)

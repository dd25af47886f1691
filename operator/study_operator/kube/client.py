"""The Kubernetes calls that the operator makes: which objects it reads, creates, changes and deletes, and how.

This module knows objects, label selectors and UIDs of owners; it knows nothing of trials.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from study_operator.kube import decoding, metadata
from study_operator.kube.api_server import MERGE_PATCH, ApiError, ApiServer, decoded, owner_uid
from study_operator.model.log_position import split
from study_operator.model.study import GROUP, PLURAL, VERSION

LOG_END = 16 * 1024  # bytes of a failed trial's log that are kept
LOG_TAIL_BYTES = 1 << 18
EVENTS_READ = 100  # about one object: Kubernetes makes one for each reason


class Cluster(ApiServer):
    """What the operator asks of one API server. Its own requests, and when they are not sent: `ApiServer`."""

    async def nobody_ready(self, namespace: str, service: str) -> bool:
        """Return whether there are pods behind a Service and none of them is ready.

        Raises:
            ApiError: the API server refuses the call or cannot be reached.
        """
        query = {"labelSelector": f"kubernetes.io/service-name={service}"}
        found = await self._call("GET", f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices", query)
        endpoints = [endpoint for item in found["items"] for endpoint in item.get("endpoints") or ()]
        # A missing condition is to be read as ready.
        return bool(endpoints) and not any((e.get("conditions") or {}).get("ready", True) for e in endpoints)

    async def cluster_id(self) -> str:
        """Return the UID of kube-system, which is as old as the cluster and tells it from others.

        Raises:
            ApiError: the API server refuses the call or cannot be reached.
        """
        return (await self._call("GET", "/api/v1/namespaces/kube-system"))["metadata"]["uid"]

    # Studies

    async def list_studies(self, namespace: str | None = None) -> list[metadata.Identity]:
        """Return which Studies there are in a namespace, or in all namespaces. What they say is not read.

        Raises:
            ApiError: the API server refuses the call, does not know Studies (404), or cannot be reached.
        """
        found: list[metadata.Identity] = []
        query = {"limit": str(metadata.PAGE)}
        while True:
            answer = await self._send("GET", _studies(namespace), query, accept=metadata.ACCEPT_LIST)
            page = decoded(metadata.page, answer)
            found += page.items
            if not page.rest:
                return found
            query["continue"] = page.rest

    async def get_study(self, namespace: str, name: str) -> dict[str, Any] | None:
        """Return a Study; None if there is none of that name.

        Raises:
            ApiError: the API server refuses the call or cannot be reached.
            Unreadable: the Study has too much in it, or is nested too deeply. `identify_study` still tells which it is.
        """
        path = f"{_studies(namespace)}/{quote(name)}"
        try:
            return decoding.study(await self._send("GET", path))
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def identify_study(self, namespace: str, name: str) -> metadata.Identity | None:
        """Return which Study has a name, whatever it says; None if there is none of that name.

        Raises:
            ApiError: the API server refuses the call or cannot be reached.
        """
        path = f"{_studies(namespace)}/{quote(name)}"
        try:
            return decoded(metadata.identity, await self._send("GET", path, accept=metadata.ACCEPT))
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def patch_status(self, manifest: Mapping[str, Any], status: Mapping[str, Any]) -> None:
        """Merge fields into the status of a Study, if the Study has not changed since it was read.

        So a request that was on its way for long overwrites nothing newer.

        Args:
            manifest: the Study as it was read.
            status: the fields to change; None removes a field.

        Raises:
            ApiError: the Study has changed since (409), is another one of that name (409 or 422), or is gone (404); or
                the API server refuses the call or cannot be reached.
            NotHeld: by the fence.
        """
        meta = manifest["metadata"]
        body = {"metadata": {key: meta[key] for key in ("uid", "resourceVersion")}, "status": status}
        path = f"{_studies(meta['namespace'])}/{quote(meta['name'])}/status"
        await self._send("PATCH", path, body=body, content=MERGE_PATCH)

    async def annotate_study(
        self, manifest: Mapping[str, Any], annotations: Mapping[str, str | None]
    ) -> dict[str, Any]:
        """Merge annotations into a Study, if it has not changed since it was read. Return the Study as it is then.

        Args:
            manifest: the Study as it was read.
            annotations: by name; None removes one.

        Raises:
            ApiError: as `patch_status`.
            NotHeld: by the fence.
        """
        meta = manifest["metadata"]
        body = {"metadata": {key: meta[key] for key in ("uid", "resourceVersion")} | {"annotations": annotations}}
        path = f"{_studies(meta['namespace'])}/{quote(meta['name'])}"
        return decoding.study(await self._send("PATCH", path, {"fieldManager": "study-operator"}, body, MERGE_PATCH))

    # Jobs

    async def list_jobs(self, namespace: str, selector: str, owner: str) -> list[decoding.Job]:
        """Return Jobs, read from the store and not from a cache that may lag behind.

        Args:
            selector: of labels.
            owner: the UID of the object that controls the Jobs; Jobs of other owners are left out.

        Raises:
            ApiError: the API server refuses the call or cannot be reached.
        """
        return await self._list(_jobs(namespace), {"labelSelector": selector}, decoding.jobs, owner)

    async def get_job(self, namespace: str, name: str) -> decoding.Job | None:
        """Return a Job; None if there is none of that name.

        Raises:
            ApiError: the API server refuses the call or cannot be reached.
        """
        try:
            return decoded(decoding.job, await self._send("GET", f"{_jobs(namespace)}/{quote(name)}"))
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def create_job(self, manifest: Mapping[str, Any], dry_run: bool = False) -> decoding.Job:
        """Create a Job, and return it as a list would show it.

        Args:
            manifest: the Job.
            dry_run: only ask whether the Job could be created. Then misspelt fields are refused too, as kubectl refuses
                them: the Study's schema cannot, and the API server would drop them without a word.

        Raises:
            ApiError: a Job of that name exists (409, AlreadyExists), the API server refuses the Job, or it cannot be
                reached.
            NotHeld: by the fence.
        """
        query = {"fieldManager": "study-operator"}
        if dry_run:
            query |= {"dryRun": "All", "fieldValidation": "Strict"}
        path = _jobs(manifest["metadata"]["namespace"])
        return decoded(decoding.job, await self._send("POST", path, query, manifest))

    async def delete_job(self, namespace: str, name: str, uid: str, waiting: bool = True) -> None:
        """Delete a Job and its pods. A Job that is gone, or that is another one of that name, is no error.

        Args:
            waiting: the Job is gone only when its pods are, so that its slot is free only then.

        Raises:
            ApiError: the API server refuses the call or cannot be reached.
            NotHeld: by the fence.
        """
        body = {"propagationPolicy": "Foreground" if waiting else "Background", "preconditions": {"uid": uid}}
        await self._delete(_jobs(namespace), name, body)

    async def annotate_job(self, namespace: str, name: str, uid: str, annotations: Mapping[str, str]) -> None:
        """Set annotations of a Job. A Job that is gone, or that is another one of that name, is no error.

        Raises:
            ApiError: the API server refuses the call or cannot be reached.
            NotHeld: by the fence.
        """
        body = {"metadata": {"uid": uid, "annotations": annotations}}
        try:
            await self._send("PATCH", f"{_jobs(namespace)}/{quote(name)}", body=body, content=MERGE_PATCH)
        except ApiError as error:
            if error.status not in (404, 409):
                raise

    # Pods

    async def list_pods(
        self, namespace: str, selector: str, owner: str | None = None, phase: str | None = None, limit: int = 20
    ) -> list[decoding.Pod]:
        """Return pods.

        Args:
            selector: of labels.
            owner: the UID of the object that controls the pods; pods of other owners are left out. None for any owner.
            phase: only pods in this phase, such as Pending; None for any.
            limit: how many pods are asked for at most.

        Raises:
            ApiError: the API server refuses the call or cannot be reached.
        """
        query = {"labelSelector": selector, "limit": str(limit)}
        if phase is not None:
            query["fieldSelector"] = f"status.phase={phase}"
        found = decoded(decoding.pods, await self._send("GET", _core(namespace, "pods"), query))
        return [pod for pod in found.items if owner is None or owner_uid(pod) == owner]

    async def delete_pods(self, namespace: str, selector: str, owner: str, grace_seconds: int) -> None:
        """Delete pods within a time, whatever their own terminationGracePeriodSeconds is.

        Pods that are being deleted already get no longer than this either.

        Args:
            selector: of labels.
            owner: the UID of the object that controls the pods; pods of other owners are left alone.
            grace_seconds: after how many seconds the kubelet kills the containers.

        Raises:
            ApiError: the API server refuses a call or cannot be reached.
            NotHeld: by the fence.
        """
        for pod in await self._list(_core(namespace, "pods"), {"labelSelector": selector}, decoding.pods, owner):
            body = {"gracePeriodSeconds": grace_seconds, "preconditions": {"uid": pod["metadata"]["uid"]}}
            await self._delete(_core(namespace, "pods"), pod["metadata"]["name"], body)

    async def log_end(self, namespace: str, pod: str, container: str) -> str:
        """Return the last LOG_END bytes of a container's log, at most 200 lines; empty if they cannot be read."""
        text, limit = b"", 4 * LOG_END
        for lines in ("200", "3"):  # a limit keeps the beginning; a container's runtime breaks lines after 16 KiB
            query = {"container": container, "tailLines": lines, "limitBytes": str(limit), "timestamps": "true"}
            try:
                text = await self._send("GET", f"{_core(namespace, 'pods')}/{quote(pod)}/log", query)
            except ApiError:
                return ""
            if len(text) < limit:
                break
        # Lines have their times, because what the kubelet says instead of a log that it has lost has none.
        said = [parts[1] for line in text.split(b"\n") if (parts := split(line)) is not None]
        return b"\n".join(said)[-LOG_END:].decode("utf-8", "replace")

    async def log_tail(self, namespace: str, pod: str, container: str) -> str:
        """Return the last lines of a container's log, LOG_TAIL_BYTES at most; empty if it cannot be read."""
        query = {"container": container, "tailLines": "500", "limitBytes": str(LOG_TAIL_BYTES)}
        try:
            text = await self._send("GET", f"{_core(namespace, 'pods')}/{quote(pod)}/log", query)
        except ApiError:
            return ""
        return text.decode("utf-8", "replace")

    # Other objects

    async def limit_ranges(self, namespace: str) -> list[dict[str, Any]]:
        """Return what the LimitRanges of a namespace ask of containers, pods and claims: the items of all of them.

        Raises:
            ApiError: the API server refuses the call or cannot be reached.
        """
        found = await self._call("GET", _core(namespace, "limitranges"))
        return [item for one in found["items"] for item in (one.get("spec") or {}).get("limits") or ()]

    async def write_secret(self, manifest: Mapping[str, Any]) -> None:
        """Create a Secret, or write its content and its owner into the one of that name, without reading that.

        Raises:
            ApiError: the API server refuses the Secret or cannot be reached.
            NotHeld: by the fence.
        """
        if await self._create("secrets", manifest):
            return
        meta = manifest["metadata"]
        body = {"metadata": {"ownerReferences": meta["ownerReferences"]}, "stringData": manifest["stringData"]}
        path = f"{_core(meta['namespace'], 'secrets')}/{quote(meta['name'])}"
        await self._send("PATCH", path, body=body, content=MERGE_PATCH)

    async def create_service(self, manifest: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Create a Service.

        Returns:
            The metadata of the Service of that name that existed before, and is left as it is; None if none existed.

        Raises:
            ApiError: the API server refuses the Service or cannot be reached; or the Service of that name was deleted
                meanwhile (404).
            NotHeld: by the fence.
        """
        if await self._create("services", manifest):
            return None
        meta = manifest["metadata"]
        path = f"{_core(meta['namespace'], 'services')}/{quote(meta['name'])}"
        return decoded(decoding.claim, await self._send("GET", path))

    async def create_claim(self, manifest: Mapping[str, Any]) -> bool:
        """Create a PersistentVolumeClaim; return False if one of that name exists.

        Raises:
            ApiError: the API server refuses the claim or cannot be reached.
            NotHeld: by the fence.
        """
        return await self._create("persistentvolumeclaims", manifest)

    async def try_claim(self, manifest: Mapping[str, Any]) -> None:
        """Ask whether a claim could be created. Misspelt fields are refused, as in a dry run of `create_job`.

        Raises:
            ApiError: the API server refuses the claim or cannot be reached.
            NotHeld: by the fence.
        """
        query = {"dryRun": "All", "fieldValidation": "Strict"}
        await self._create("persistentvolumeclaims", manifest, query)

    async def list_claims(self, namespace: str, selector: str, owner: str) -> Sequence[Mapping[str, Any]]:
        """Return the metadata of claims, also of claims that are being deleted.

        Args:
            selector: of labels.
            owner: the UID of the object that controls the claims; claims of other owners are left out.

        Raises:
            ApiError: the API server refuses the call or cannot be reached.
        """
        path = _core(namespace, "persistentvolumeclaims")
        return await self._list(path, {"labelSelector": selector}, decoding.claims, owner)

    async def delete_claim(self, namespace: str, name: str, uid: str) -> None:
        """Delete a claim. Its StorageClass says what becomes of its content, once no pod uses it any more.

        Raises:
            ApiError: another claim of that name exists (409), because claims, unlike Jobs, are not read again
                without a reason; or the API server refuses the call or cannot be reached.
            NotHeld: by the fence.
        """
        body = {"preconditions": {"uid": uid}}
        await self._delete(_core(namespace, "persistentvolumeclaims"), name, body, but=(404,))

    async def events_of(self, namespace: str, uid: str) -> list[dict[str, Any]]:
        """Return the Events about one object, at most EVENTS_READ.

        Raises:
            ApiError: the API server refuses the call or cannot be reached.
        """
        query = {"fieldSelector": f"involvedObject.uid={uid}", "limit": str(EVENTS_READ)}
        found = await self._call("GET", _core(namespace, "events"), query)
        return found["items"]

    async def create_event(self, manifest: Mapping[str, Any]) -> bool:
        """Create an Event; return False if one of that name exists.

        Raises:
            ApiError: the API server refuses the Event or cannot be reached.
            NotHeld: by the fence.
        """
        return await self._create("events", manifest)

    async def patch_event(self, namespace: str, name: str, patch: Mapping[str, Any]) -> dict[str, Any]:
        """Merge fields into an Event, and return the whole Event.

        Raises:
            ApiError: the Event is gone (404), or the API server refuses the call or cannot be reached.
            NotHeld: by the fence.
        """
        path = f"{_core(namespace, 'events')}/{quote(name)}"
        return await self._call("PATCH", path, body=patch, content=MERGE_PATCH)

    async def _create(self, plural: str, manifest: Mapping[str, Any], query: Mapping[str, str] | None = None) -> bool:
        """Create an object of the core API; return False if one of that name exists."""
        try:
            await self._send("POST", _core(manifest["metadata"]["namespace"], plural), query, manifest)
        except ApiError as error:
            if error.reason == "AlreadyExists":
                return False
            raise
        return True


def _studies(namespace: str | None) -> str:
    where = f"namespaces/{namespace}/" if namespace else ""
    return f"/apis/{GROUP}/{VERSION}/{where}{PLURAL}"


def _jobs(namespace: str) -> str:
    return f"/apis/batch/v1/namespaces/{namespace}/jobs"


def _core(namespace: str, plural: str) -> str:
    return f"/api/v1/namespaces/{namespace}/{plural}"

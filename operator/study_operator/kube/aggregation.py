"""The calls that a server behind the aggregation layer makes: whom it may believe, who may do what, its APIService."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from study_operator.kube.api_server import MERGE_PATCH, ApiServer

_AUTHENTICATION = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication"
_REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
_SERVICES = "/apis/apiregistration.k8s.io/v1/apiservices"


class Aggregation(ApiServer):
    """What a server behind the aggregation layer asks of the API server."""

    async def cluster_id(self) -> str:
        """Return the UID of kube-system, which tells the cluster from others.

        Raises:
            ApiError: the API server refuses the call or cannot be reached.
        """
        return (await self._call("GET", "/api/v1/namespaces/kube-system"))["metadata"]["uid"]

    async def authentication(self) -> dict[str, str]:
        """Return how the API server proves itself to servers behind it: the data of a ConfigMap.

        Raises:
            ApiError: the API server refuses the call or cannot be reached.
        """
        return (await self._call("GET", _AUTHENTICATION)).get("data") or {}

    async def review(
        self, user: Mapping[str, Any], verb: str, group: str, version: str, resource: str, namespace: str, name: str
    ) -> tuple[bool, str]:
        """Ask whether a user may do something, and why not.

        Args:
            user: fields of the review's spec: user, uid, groups and extra.
            resource: the plural, or resource/subresource.
            namespace: empty for all namespaces.
            name: of one object; empty for all.

        Raises:
            ApiError: the API server refuses the call or cannot be reached.
        """
        plural, _, subresource = resource.partition("/")
        attributes = {
            "namespace": namespace,
            "verb": verb,
            "group": group,
            "version": version,
            "resource": plural,
            "subresource": subresource,
            "name": name,
        }
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {**user, "resourceAttributes": attributes},
        }
        status = (await self._call("POST", _REVIEWS, body=body))["status"]
        return bool(status.get("allowed")), str(status.get("reason") or "")

    async def api_service(self, name: str) -> dict[str, Any]:
        """Return an APIService.

        Raises:
            ApiError: there is none (404), or the API server refuses the call or cannot be reached.
        """
        return await self._call("GET", f"{_SERVICES}/{quote(name)}")

    async def set_ca_bundle(self, service: Mapping[str, Any], bundle: str) -> None:
        """Set the certificates by which the API server knows the servers of an APIService, if it is as it was read.

        Args:
            service: the APIService as it was read.
            bundle: base64 of PEM.

        Raises:
            ApiError: the APIService has changed since (409), is another one of that name, or is gone; or the API server
                refuses the call or cannot be reached.
        """
        meta = {key: service["metadata"][key] for key in ("uid", "resourceVersion")}
        body = {"metadata": meta, "spec": {"caBundle": bundle}}
        path = f"{_SERVICES}/{quote(service['metadata']['name'])}"
        await self._send("PATCH", path, {"fieldManager": "study-operator-api"}, body, MERGE_PATCH)


def reviewed(name: str, uid: str, groups: Sequence[str], extra: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return a user as `Aggregation.review` has them."""
    found: dict[str, Any] = {"user": name, "groups": list(groups)}
    if uid:
        found["uid"] = uid
    return found | ({"extra": {key: list(values) for key, values in extra.items()}} if extra else {})

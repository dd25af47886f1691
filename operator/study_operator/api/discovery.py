"""Says which resources there are, as clients and the API server ask for it: group by group, or all at once.

The API server asks for all at once (`APIGroupDiscoveryList`, v2 or v2beta1). If it got no answer, it would call the
group stale, and the namespace controller would end no namespace of the cluster. None of this needs the database.
"""

from __future__ import annotations

from typing import Any

from study_operator.api import accepting
from study_operator.api.resources import GROUP, GROUP_VERSION, RESOURCES, VERSION, Resource

_AGGREGATED = "apidiscovery.k8s.io"
_VERSIONS = ("v2", "v2beta1")


def groups() -> dict[str, Any]:
    """Return the APIGroupList."""
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group()]}


def group() -> dict[str, Any]:
    """Return the APIGroup."""
    return {"kind": "APIGroup", "apiVersion": "v1", **_group()}


def resources() -> dict[str, Any]:
    """Return the APIResourceList of the only version."""
    found = []
    for one in RESOURCES:
        entry: dict[str, Any] = {
            "name": one.name,
            "singularName": one.singular,
            "namespaced": True,
            "kind": one.kind,
            "verbs": list(one.verbs),
        }
        found.append(entry | ({"shortNames": list(one.short)} if one.short else {}))
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": GROUP_VERSION, "resources": found}


def aggregated_version(header: str) -> str | None:
    """Return in which version an Accept header wants all at once; None if it wants the APIGroupList."""
    for one in accepting.wanted(header):
        if not accepting.is_json(one.media):
            continue
        if not one.kind:
            return None
        if (one.kind, one.group) == ("APIGroupDiscoveryList", _AGGREGATED) and one.version in _VERSIONS:
            return one.version
    return None


def aggregated(version: str) -> tuple[dict[str, Any], str]:
    """Return the APIGroupDiscoveryList of a version, and its content type."""
    items = [_entry(one) for one in RESOURCES if "/" not in one.name]
    served = {"version": VERSION, "freshness": "Current", "resources": items}
    found = {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": f"{_AGGREGATED}/{version}",
        "metadata": {},
        "items": [{"metadata": {"name": GROUP}, "versions": [served]}],
    }
    return found, f"application/json;g={_AGGREGATED};v={version};as=APIGroupDiscoveryList"


def _group() -> dict[str, Any]:
    only = {"groupVersion": GROUP_VERSION, "version": VERSION}
    return {"name": GROUP, "versions": [only], "preferredVersion": only}


def _entry(resource: Resource) -> dict[str, Any]:
    found: dict[str, Any] = {
        "resource": resource.name,
        "responseKind": _kind(resource),
        "scope": "Namespaced",
        "singularResource": resource.singular,
        "verbs": list(resource.verbs),
    }
    if resource.short:
        found["shortNames"] = list(resource.short)
    prefix = f"{resource.name}/"
    below = [
        {"subresource": one.name.removeprefix(prefix), "responseKind": _kind(one), "verbs": list(one.verbs)}
        for one in RESOURCES
        if one.name.startswith(prefix)
    ]
    return found | ({"subresources": below} if below else {})


def _kind(resource: Resource) -> dict[str, str]:
    return {"group": GROUP, "version": VERSION, "kind": resource.kind}

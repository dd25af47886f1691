"""`doctor`: what of study-operator this cluster has, and what this user may do with it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from study_client import VERSION
from study_client.errors import ClientError
from study_client.kubectl import RESULTS, STUDIES, TRIALS, Kubectl
from study_client.output import print_table
from study_client.texts import one_line
from study_client.yaml_text import to_yaml

_STUDIES = "/apis/study-operator.io/v1alpha1"


class Right(NamedTuple):
    """A right that a command needs, and the ClusterRole of Kubernetes that has it."""

    verb: str
    resource: str
    commands: str
    role: str


RIGHTS = (
    Right("list", STUDIES, "list, status, best, wait", "view"),
    Right("list", "pods", "logs", "view"),
    Right("get", "pods/log", "logs", "view"),
    Right("list", TRIALS, "trials, describe, compare, importance, export", "view"),
    Right("get", f"{TRIALS}/reports", "curve", "view"),
    Right("create", STUDIES, "clone", "edit"),
    Right("patch", STUDIES, "suspend, resume, scale, extend, stop", "edit"),
)


def doctor(kubectl: Kubectl, name: str | None) -> int:
    """Print what is there and what is missing. Return 1 if something that every user needs is missing.

    Args:
        name: a Study whose GPUs are looked for on the nodes; None for none.
    """
    rows, missing = list(_versions(kubectl)), False
    served = rows[-1][1] == "ok"
    lacking: set[str] = set()
    for right in RIGHTS:
        may = _may(kubectl, right)
        about_trials = TRIALS in right.resource
        if may or (about_trials and not served):
            note = "" if may else "the cluster does not serve trials"
        else:
            note = f"needed by {right.commands}"
            lacking.add(right.role)
        rows.append((f"may {right.verb} {right.resource}", "ok" if may else "missing", note))
        missing = missing or (not may and right.role == "view" and not about_trials)
    if name is not None:
        rows.append(_gpus(kubectl, name))
    print_table(["WHAT", "IS", "NOTE"], rows)
    if lacking:
        print("\nthe rights that are missing come with this RoleBinding, by whoever administers the namespace:\n")
        role = "edit" if "edit" in lacking else "view"
        print(to_yaml(role_binding(_namespace(kubectl), role, _user(kubectl))), end="")
    return int(missing or any(row[0] == "Studies" and row[1] != "ok" for row in rows))


def _versions(kubectl: Kubectl) -> Iterator[tuple[str, str, str]]:
    yield "kubectl study", "ok", VERSION
    try:
        found = kubectl.read("version", "-o", "json")
        versions = (found.get(side, {}).get("gitVersion", "unknown") for side in ("clientVersion", "serverVersion"))
        yield "kubectl, Kubernetes", "ok", one_line(", ".join(versions))
    except ClientError as error:
        yield "kubectl, Kubernetes", "missing", str(error)
    yield _served(kubectl, "Studies", _STUDIES, "study-operator is not installed")
    yield _served(kubectl, "trials API", RESULTS, "trialsApi.enabled of the chart; status and best work without")


def _served(kubectl: Kubectl, what: str, path: str, without: str) -> tuple[str, str, str]:
    try:
        kubectl.raw(path)
    except ClientError as error:
        return what, "missing", f"{without}; the API server says: {error}"
    return what, "ok", path.removeprefix("/apis/")


def _may(kubectl: Kubectl, right: Right) -> bool:
    resource, _, subresource = right.resource.partition("/")
    args = [f"--subresource={subresource}"] if subresource else []
    try:
        return kubectl.run("auth", "can-i", right.verb, resource, *args).strip() == "yes"
    except ClientError:
        return False  # `can-i` exits with 1 for no


def _gpus(kubectl: Kubectl, name: str) -> tuple[str, str, str]:
    spec = kubectl.study(name)["spec"]
    resource, wanted = spec.get("gpuResourceName") or "nvidia.com/gpu", spec.get("gpusPerTrial", 1)
    what = f"{wanted} {resource} for each trial"
    if not wanted:
        return what, "ok", ""
    try:
        nodes = kubectl.read("get", "nodes", "-o", "json")["items"]
    except ClientError:
        return what, "unknown", "you may not look at nodes: ask whoever runs the cluster"
    most = max((_amount(node, resource) for node in nodes), default=0)
    if most >= wanted:
        return what, "ok", f"a node has {most}"
    return what, "missing", f"the node with most has {most}: set gpusPerTrial or gpuResourceName to what nodes have"


def _amount(node: dict[str, Any], resource: str) -> int:
    with contextlib.suppress(ValueError):
        return int(((node.get("status") or {}).get("allocatable") or {}).get(resource) or 0)
    return 0


def _namespace(kubectl: Kubectl) -> str:
    if kubectl.namespace:
        return kubectl.namespace
    with contextlib.suppress(ClientError):
        return kubectl.run("config", "view", "--minify", "-o", "jsonpath={..namespace}").strip() or "default"
    return "default"


def _user(kubectl: Kubectl) -> str:
    """Return the user's name as the API server knows it."""
    with contextlib.suppress(ClientError, KeyError):
        return str(kubectl.read("auth", "whoami", "-o", "json")["status"]["userInfo"]["username"])
    return "USER"


def role_binding(namespace: str, role: str, user: str) -> dict[str, Any]:
    """Return the RoleBinding that gives a user one of Kubernetes' own roles in a namespace."""
    subject: dict[str, str] = {"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": user}
    match user.split(":"):
        case ["system", "serviceaccount", where, name]:
            subject = {"kind": "ServiceAccount", "namespace": where, "name": name}
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": f"studies-{role}", "namespace": namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [subject],
    }

"""Add the container that reads metrics from a file beside the program (spec.metrics.from: File).

It must fit wherever the program fits: what the namespace asks of every container, which user writes the file, and which
part of a volume it is written to.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence
from typing import Any

from study_operator.manifests.limit_ranges import fit
from study_operator.manifests.metrics_directory import directory_of
from study_operator.manifests.volumes import TRIAL_IMAGE_ID, containers, mount_in_all, mounted_above
from study_operator.model.study import SIDECAR, Refused, Study

NAME = SIDECAR  # of the container, and of the volume where one is needed
# The program may end, and the kubelet send its signal, before Python runs. A blocked signal waits until then.
_COMMAND = ("env", "--block-signal=TERM", "study-trial", "follow")
# The kubelet ends the sidecar after the program, within the pod's time. On a busy node Python alone starts in seconds.
_LEAST_GRACE_SECONDS = 30
_REQUESTS, _LIMITS = {"cpu": "10m", "memory": "64Mi"}, {"memory": "256Mi"}
# What it is given as well where the program has to say so much: a quota asks for a limit in every container.
_IF_LIMITED = {"cpu": "200m", "ephemeral-storage": "64Mi"}
# Directories without which the trial image does not run. A volume of the program's there is mounted elsewhere.
_OWN = ("/bin", "/dev", "/etc", "/lib", "/lib64", "/opt/venv", "/proc", "/sbin", "/sys", "/usr")
_ELSEWHERE = "/study-metrics"
# Volumes whose files have no owner that fsGroup could change for good.
_TEMPORARY = {"name", "emptyDir", "configMap", "downwardAPI"}
_REFERENCE = re.compile(r"\$\$|\$\(([^()]+)\)")


def add_sidecar(study: Study, pod: dict[str, Any], image: str | None, ranges: Sequence[Mapping[str, Any]] = ()) -> None:
    """Add the sidecar to a trial's pod, and a volume that it shares with the program.

    If the program's container mounts a volume there already, the sidecar shares that one.

    The sidecar is an init container that is always restarted: the kubelet starts it before all other containers and
    ends it after the program, and the Job does not wait for it.

    Args:
        study: the Study.
        pod: the pod's spec; it is changed.
        image: the trial image; None if the installation has none.
        ranges: the items of the namespace's LimitRanges.

    Raises:
        Refused: there is no trial image, or the template has a container or a volume of the same name.
    """
    metrics = study.metrics
    if metrics.source != "File":
        return
    assert metrics.path is not None
    if image is None:
        raise Refused(
            "TrialImageMissing",
            "spec.metrics.from File needs the trial image, and this operator has none: ask whoever installed it to set "
            "trialImage.repository in the chart's values (TRIAL_IMAGE of the operator)",
        )
    if any(container.get("name") == NAME for container in containers(pod)):
        raise Refused(
            "JobTemplateInvalid",
            f"the jobTemplate has a container {NAME!r}, and spec.metrics.from File adds one of that name: rename it",
        )
    directory = directory_of(metrics)
    program = pod["containers"][0]
    if mounted_above(program, directory) is None:
        mount_in_all(pod, {"emptyDir": {}}, {"name": NAME, "mountPath": directory}, "spec.metrics")
        _share_by_group(pod, program)
    found = mounted_above(program, directory)
    assert found is not None
    grace = pod.get("terminationGracePeriodSeconds")
    if type(grace) is int and 0 <= grace < _LEAST_GRACE_SECONDS:  # what is no time, the API server refuses
        pod["terminationGracePeriodSeconds"] = _LEAST_GRACE_SECONDS
    at, path = _place(str(found["mountPath"]), metrics.path)
    mount = {name: found[name] for name in ("name", "subPath", "subPathExpr") if name in found}
    pod["initContainers"] = [
        {
            "name": NAME,
            "image": image,
            "restartPolicy": "Always",
            "command": _command(study, path),
            "resources": _resources(program, ranges),
            "securityContext": _security(pod, program),
            "volumeMounts": [{**mount, "mountPath": at, "readOnly": True}],
            **_variables(program, found.get("subPathExpr")),
        },
        *(pod.get("initContainers") or ()),
    ]


def _command(study: Study, path: str) -> list[str]:
    metrics = study.metrics
    options = [("--format", metrics.format), ("--path", path), ("--step-name", metrics.step_name)]
    # What an earlier trial image does not know is named only where the Study has it.
    options += [("--final", f"{one.name}={one.final}") for one in study.objectives if one.final != "Last"]
    options += [("--additional", name) for name in metrics.additional]
    options += [("--pattern", metrics.pattern)] if metrics.pattern is not None else []
    # One argument each, so that a name may begin with a dash. Kubernetes expands $(...) in arguments. A doubled dollar
    # sign stands for itself.
    return [*_COMMAND, *(f"{option}={value}".replace("$", "$$") for option, value in options)]


def _place(mounted_at: str, path: str) -> tuple[str, str]:
    """Return where the sidecar mounts the volume, and the path of the file there."""
    volume = posixpath.normpath(mounted_at).rstrip("/") + "/"
    if not any(volume.startswith(f"{own}/") or f"{own}/".startswith(volume) for own in _OWN):
        return mounted_at, path
    return _ELSEWHERE, posixpath.join(_ELSEWHERE, posixpath.normpath(path)[len(volume) :]).rstrip("/")


def _resources(program: Mapping[str, Any], ranges: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the sidecar's resources: a limit of everything that the program limits, within the LimitRanges."""
    limited = (program.get("resources") or {}).get("limits") or {}
    more = {name: amount for name, amount in _IF_LIMITED.items() if name in limited}
    return fit(_REQUESTS, {**_LIMITS, **more}, _IF_LIMITED, ranges)


def _security(pod: Mapping[str, Any], program: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sidecar's security context: the program's user, who can read its files whatever its umask is."""
    security: dict[str, Any] = {
        "runAsNonRoot": True,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    own = program.get("securityContext") or {}
    security |= {name: own[name] for name in ("runAsUser", "runAsGroup", "seLinuxOptions") if own.get(name) is not None}
    if _user(pod, program) == 0:
        security["runAsNonRoot"] = False
    return security


def _user(pod: Mapping[str, Any], program: Mapping[str, Any]) -> Any:
    """Return the program's user; None if only its image says so."""
    own = (program.get("securityContext") or {}).get("runAsUser")
    return own if own is not None else (pod.get("securityContext") or {}).get("runAsUser")


def _share_by_group(pod: dict[str, Any], program: Mapping[str, Any]) -> None:
    """Let the sidecar read by its group what a user writes whom only the image knows, with a umask of 027.

    A pod with volumes of its own is left alone: the kubelet would change the group of every file in them.
    """
    security = dict(pod.get("securityContext") or {})
    volumes = pod.get("volumes") or ()
    if _user(pod, program) is None and all(_TEMPORARY.issuperset(volume) for volume in volumes):
        security.setdefault("fsGroup", TRIAL_IMAGE_ID)  # null is a choice too: see checkpoints
        pod["securityContext"] = security


def _variables(program: Mapping[str, Any], expression: Any) -> dict[str, Any]:
    """Return the program's variables that the path of its volume is made of."""
    variables = [variable for variable in program.get("env") or () if isinstance(variable.get("name"), str)]
    wanted, todo = set[str](), [expression]
    while todo:
        for name in _REFERENCE.findall(str(todo.pop() or "")):
            if name and name not in wanted:
                wanted.add(name)
                todo += [variable.get("value") for variable in variables if variable["name"] == name]
    found: dict[str, Any] = {"env": [_as_seen_by(program, v) for v in variables if v["name"] in wanted]}
    if wanted - {variable["name"] for variable in variables} and program.get("envFrom"):
        found["envFrom"] = program["envFrom"]
    return {name: value for name, value in found.items() if value}


def _as_seen_by(program: Mapping[str, Any], variable: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a variable for another container of the pod. One about resources is about the container that has it."""
    resource = (variable.get("valueFrom") or {}).get("resourceFieldRef")
    if not resource or resource.get("containerName"):
        return variable
    return {**variable, "valueFrom": {"resourceFieldRef": {**resource, "containerName": program.get("name")}}}

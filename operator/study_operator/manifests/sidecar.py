"""Add the container that reads metrics from a file beside the program (spec.metrics.from: File)."""

from __future__ import annotations

import posixpath
from typing import Any

from study_operator.manifests.volumes import TRIAL_IMAGE_ID, containers, mount_in_all, mounted_above
from study_operator.model.study import Refused, Study

NAME = "study-metrics"  # of the container, and of the volume where one is needed
# The program may end, and the kubelet send its signal, before Python runs. A blocked signal waits until then.
_COMMAND = ("env", "--block-signal=TERM", "study-trial", "follow")


def add_sidecar(study: Study, pod: dict[str, Any], image: str | None) -> None:
    """Add the sidecar to a trial's pod, and a volume that it shares with the program.

    If the program's container mounts a volume there already, the sidecar shares that one.

    The sidecar is an init container that is always restarted: the kubelet starts it before all other containers and
    ends it after the program, and the Job does not wait for it.

    Args:
        study: the Study.
        pod: the pod's spec; it is changed.
        image: the trial image; None if the installation has none.

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
    directory = metrics.path if metrics.format == "TensorBoard" else posixpath.dirname(metrics.path)
    program = pod["containers"][0]
    if mounted_above(program, directory) is None:
        mount_in_all(pod, {"emptyDir": {}}, {"name": NAME, "mountPath": directory}, "spec.metrics")
    found = mounted_above(program, directory)
    assert found is not None
    sidecar = _container(study, image, pod)
    mount = {name: found[name] for name in ("name", "mountPath", "subPath", "subPathExpr") if name in found}
    sidecar["volumeMounts"] = [{**mount, "readOnly": True}]
    pod["initContainers"] = [sidecar, *(pod.get("initContainers") or ())]


def _container(study: Study, image: str, pod: dict[str, Any]) -> dict[str, Any]:
    metrics = study.metrics
    security: dict[str, Any] = {
        "runAsNonRoot": True,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    if (pod.get("securityContext") or {}).get("runAsUser") == 0:
        security["runAsUser"] = TRIAL_IMAGE_ID
    options = {"--format": metrics.format, "--path": metrics.path or "", "--step-name": metrics.step_name}
    return {
        "name": NAME,
        "image": image,
        "restartPolicy": "Always",
        # Kubernetes expands $(...) in arguments. A doubled dollar sign stands for itself.
        "command": [*_COMMAND, *(w.replace("$", "$$") for option in options.items() for w in option)],
        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": security,
    }

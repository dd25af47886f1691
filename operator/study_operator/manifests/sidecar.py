"""The container beside the program that reads its metrics from a file (spec.metrics.from: File)."""

from __future__ import annotations

import posixpath
from typing import Any

from study_operator.manifests.volumes import containers, mounted_above, share
from study_operator.model.study import Refused, Study

NAME = "study-metrics"  # of the container, and of the volume where one is needed
_USER = 65532  # of the trial image
# The program may have ended, and the kubelet have sent its signal, before Python runs: a blocked one waits until then.
_COMMAND = ("env", "--block-signal=TERM", "study-trial", "follow")


def add_sidecar(study: Study, pod: dict[str, Any], image: str | None) -> None:
    """Adds the sidecar to a trial's pod, and a volume that it shares with the program. Where the program's container
    has a volume there already, it shares that.

    It is an init container that is restarted always, so that the kubelet starts it before all others and ends it after
    the program, and the Job does not wait for it.

    Args:
        image: the trial image; None where the installation has none.

    Raises:
        Refused: when that cannot be done.
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
        share(pod, {"emptyDir": {}}, {"name": NAME, "mountPath": directory}, "spec.metrics")
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
        security["runAsUser"] = _USER
    options = {"--format": metrics.format, "--path": metrics.path or "", "--step-name": metrics.step_name}
    return {
        "name": NAME,
        "image": image,
        "restartPolicy": "Always",
        # Kubernetes expands $(...) in arguments; doubled, a dollar sign is only that.
        "command": [*_COMMAND, *(w.replace("$", "$$") for option in options.items() for w in option)],
        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": security,
    }

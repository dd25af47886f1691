"""Request GPUs for a trial."""

from __future__ import annotations

from typing import Any

from study_operator.manifests.volumes import containers
from study_operator.model.study import Study


def request_gpus(study: Study, pod: dict[str, Any]) -> None:
    """Request gpusPerTrial GPUs in the first container, unless the template asks for GPUs itself.

    It does so by a resource that counts as GPUs, or by a claim for devices (DRA), of which only the cluster knows what
    they are. A network device (RDMA, EFA) is no GPU.
    """
    if study.gpus_per_trial == 0 or pod.get("resourceClaims"):
        return
    for container in containers(pod):
        resources = container.get("resources") or {}
        if any(study.is_gpu(name) for kind in ("limits", "requests") for name in resources.get(kind) or {}):
            return
    first = pod["containers"][0]
    resources = first["resources"] = dict(first.get("resources") or {})
    resources["limits"] = {**(resources.get("limits") or {}), study.gpu_resource_name: str(study.gpus_per_trial)}

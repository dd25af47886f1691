"""How many GPUs a trial asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from study_operator.model.study import Study
from study_operator.model.volumes import containers


def request_gpus(study: Study, pod: dict[str, Any]) -> None:
    """Gives the first container its GPUs, unless the template asks for an extended resource itself."""
    if study.gpus_per_trial == 0:
        return
    for container in containers(pod):
        resources = container.get("resources") or {}
        # Every resource with a domain in its name is an extended one: nvidia.com/gpu, amd.com/gpu, a MIG slice.
        if any("/" in name for kind in ("limits", "requests") for name in resources.get(kind) or {}):
            return
    first = pod["containers"][0]
    resources = first["resources"] = dict(first.get("resources") or {})
    resources["limits"] = {**(resources.get("limits") or {}), study.gpu_resource_name: str(study.gpus_per_trial)}


def gpus_of(job: Mapping[str, Any], resource_name: str) -> int:
    """How many of a resource all pods of a Job ask for together.

    Of init containers nothing is counted: they run before the others and use the same devices. What is not a plain
    number counts nothing either; the API server has no other for extended resources below 1000.
    """
    spec = job["spec"]
    wanted = 0
    for container in spec["template"]["spec"]["containers"]:
        resources = container.get("resources") or {}
        for kind in ("limits", "requests"):  # equal where both are given: extended resources are not overcommitted
            if resource_name in (found := resources.get(kind) or {}):
                number = str(found[resource_name])
                wanted += int(number) if number.isdecimal() else 0
                break
    return wanted * (spec.get("parallelism") or 1)

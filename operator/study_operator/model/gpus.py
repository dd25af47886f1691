"""Tell GPUs from other devices, and count those that a Job asks for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

# What the name of a GPU, or of another accelerator that programs train on, has in it. A chart value replaces them.
NAMES = ("gpu", "mig", "tpu", "gaudi", "neuron", "npu")


def is_gpu(resource: str, names: Collection[str]) -> bool:
    """Return whether an extended resource counts as GPUs: its name has a `/`, and one of `names` in it."""
    return "/" in resource and any(name in resource.lower() for name in names)


def gpus_of(job: Mapping[str, Any], counts: Callable[[str], bool]) -> int:
    """Return how many GPUs all pods of a Job ask for together, as Kubernetes reserves them.

    A pod is given what its containers and sidecars ask for together, or what one of its other init containers asks for
    if that is more. An amount that is not a plain number counts nothing; for extended resources the API server writes
    amounts below 1000 as plain numbers. Devices that a pod claims (DRA) are not in the Job, and are not counted.

    Args:
        job: the Job.
        counts: whether a resource counts as GPUs.
    """
    spec = job["spec"]
    pod = spec["template"]["spec"]
    together, alone = sum(_gpus(container, counts) for container in pod["containers"]), 0
    for container in pod.get("initContainers") or ():
        if container.get("restartPolicy") == "Always":  # it goes on beside all that start after it
            together += _gpus(container, counts)
        else:
            alone = max(alone, _gpus(container, counts))
    return max(together, alone) * (spec.get("parallelism") or 1)


def _gpus(container: Mapping[str, Any], counts: Callable[[str], bool]) -> int:
    resources = container.get("resources") or {}
    # Limits and requests are equal if both are given: extended resources are not overcommitted.
    wanted = {**(resources.get("requests") or {}), **(resources.get("limits") or {})}
    return sum(_number(amount) for name, amount in wanted.items() if counts(name) and not _is_share(name.lower()))


def _is_share(resource: str) -> bool:
    """Return whether it is how much memory, or which share of the cores, of a GPU is wanted: no number of GPUs."""
    _, _, what = resource.partition("gpu")
    return "mem" in what or "core" in what


def _number(amount: str | int) -> int:
    text = str(amount)
    return int(text) if len(text) < 10 and text.isascii() and text.isdecimal() else 0

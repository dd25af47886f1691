"""Check amounts of resources in a Job template, such as 500m and 2Gi, as Kubernetes reads them.

The API server refuses others as well, without their place: "quantities must match the regular expression ...".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from study_operator.model.study import Refused, Study

_WHERE = "spec.jobTemplate.spec.template.spec"
_QUANTITY = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[numkMGTPE]?|[KMGTPE]i|[eE][+-]?[0-9]+)")
_BYTES = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kmgtp])i?b?", re.IGNORECASE)  # as people write them
_LONGEST_SHOWN = 40


def check_quantities(study: Study) -> None:
    """Check the amounts of a template that has the shape of a Job's.

    Raises:
        Refused: one of them is no quantity. The message says which, and what to write.
    """
    for where, value in _quantities(study.job_template["spec"]["template"]["spec"]):
        text = value.strip() if isinstance(value, str) else json.dumps(value)
        if value is None or "$" in text or _QUANTITY.fullmatch(text):  # references are told elsewhere
            continue
        found = _BYTES.fullmatch(text)
        write = f"{found[1]}{found[2].upper()}i" if found else "an amount such as 2, 500m or 4Gi"
        shown = json.dumps(value)
        shown = shown if len(shown) <= _LONGEST_SHOWN else f"{shown[: _LONGEST_SHOWN - 3]}..."
        raise Refused("JobTemplateInvalid", f"{where} is {shown}, which is no quantity of Kubernetes: write {write}")


def _quantities(pod: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield each amount of a pod that is often written by hand, with its place."""
    yield from _resources(_WHERE, pod)
    for kind in ("initContainers", "containers"):
        for number, container in enumerate(pod.get(kind) or ()):
            yield from _resources(f"{_WHERE}.{kind}[{number}]", container)
    for number, volume in enumerate(pod.get("volumes") or ()):
        empty = volume.get("emptyDir")
        if isinstance(empty, Mapping):
            yield f"{_WHERE}.volumes[{number}].emptyDir.sizeLimit", empty.get("sizeLimit")


def _resources(where: str, of: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    resources = of.get("resources")
    if not isinstance(resources, Mapping):
        return
    for kind in ("limits", "requests"):
        amounts = resources.get(kind)
        if isinstance(amounts, Mapping):
            yield from ((f"{where}.resources.{kind}.{name}", amount) for name, amount in amounts.items())

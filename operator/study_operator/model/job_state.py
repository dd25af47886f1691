"""A trial's Job as Kubernetes has it: the state that decisions need, decoded from the object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from study_operator.model.study import GENERATION_ANNOTATION, TRIAL_ID_ANNOTATION, TRIAL_LABEL


class JobPhase(Enum):
    ACTIVE = "Active"
    COMPLETE = "Complete"
    FAILED = "Failed"


@dataclass(frozen=True)
class JobState:
    """A trial's Job as the cluster has it: how many `pods` it has had so far, how many are `ready` now, and how many
    `leave`, which were told to end and have not; `reason` and `message` are the Failed condition's. `gpus` are those
    that all its pods together ask for. `generation` is the Study's that it was made from."""

    name: str
    uid: str
    number: int
    trial_id: int
    phase: JobPhase
    created_at: datetime  # UTC, aware
    started_at: datetime | None = None  # when it was last created or resumed
    finished_at: datetime | None = None
    pods: int = 0
    ready: int = 0
    leave: int = 0
    gpus: int = 0
    generation: int = 0
    suspended: bool = False
    deleting: bool = False
    reason: str = ""
    message: str = ""


def _pods(status: Mapping[str, Any]) -> int:
    """How many pods a Job has or has had; one that has just ended is counted in `uncountedTerminatedPods` at first."""
    uncounted = status.get("uncountedTerminatedPods") or {}
    return sum(status.get(name) or 0 for name in ("active", "succeeded", "failed", "terminating")) + sum(
        len(uncounted.get(name) or ()) for name in ("succeeded", "failed")
    )


def job_state(manifest: Mapping[str, Any], gpus: str) -> JobState | None:
    meta, status = manifest["metadata"], manifest.get("status") or {}
    number = (meta.get("labels") or {}).get(TRIAL_LABEL, "")
    trial_id = (meta.get("annotations") or {}).get(TRIAL_ID_ANNOTATION, "")
    if not (number.isdecimal() and trial_id.isdecimal()):
        return None  # not made by the operator, whatever its owner says
    phase, finished, reason, message = JobPhase.ACTIVE, None, "", ""
    for condition in status.get("conditions") or ():
        if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
            phase, finished = JobPhase(condition["type"]), condition["lastTransitionTime"]
            reason, message = condition.get("reason", ""), condition.get("message", "")
    generation = (meta.get("annotations") or {}).get(GENERATION_ANNOTATION, "")
    return JobState(
        name=meta["name"],
        uid=meta["uid"],
        number=int(number),
        trial_id=int(trial_id),
        phase=phase,
        created_at=datetime.fromisoformat(meta["creationTimestamp"]),
        started_at=datetime.fromisoformat(status["startTime"]) if status.get("startTime") else None,
        finished_at=datetime.fromisoformat(finished) if finished else None,
        pods=_pods(status),
        ready=status.get("ready") or 0,
        leave=status.get("terminating") or 0,
        generation=int(generation) if generation.isdecimal() else 0,
        suspended=bool(manifest["spec"].get("suspend")),
        deleting="deletionTimestamp" in meta,
        gpus=gpus_of(manifest, gpus),
        reason=reason,
        message=message,
    )


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

"""Decode a trial's Job into the state that decisions need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from study_operator.model.gpus import gpus_of
from study_operator.model.study import (
    GENERATION_ANNOTATION,
    INCARNATION_ANNOTATION,
    STARTED_ANNOTATION,
    TRIAL_ID_ANNOTATION,
    TRIAL_LABEL,
)
from study_operator.model.trial import TrialRow


class JobPhase(Enum):
    """How far a Job has come. COMPLETE and FAILED are the types of the Job's own conditions.

    A Job that is suspended or being deleted and has not ended is ACTIVE: its pods may hold GPUs.
    """

    ACTIVE = "Active"
    COMPLETE = "Complete"
    FAILED = "Failed"


@dataclass(frozen=True)
class JobState:
    """A trial's Job as Kubernetes has it. Times are aware, UTC.

    Attributes:
        name: names the trial and its attempt.
        uid: tells it from other Jobs of this name.
        number: the trial's number.
        trial_id: the trial's id in the database.
        phase: whether it has ended.
        created_at: when the API server created it.
        started_at: when it was last created or resumed.
        finished_at: when it completed or failed.
        pods: how many pods it has or has had.
        active: how many of its pods have neither ended nor been told to.
        ready: how many of its pods are ready now.
        leave: how many of its pods are terminating: they have been told to end and have not ended yet.
        gpus: how many GPUs all its pods together ask for.
        generation: that of the Study from which it was made.
        suspended: whether a queue manager or a user has suspended it.
        deleting: whether it is being deleted.
        reason: the reason of the condition with which it has ended; empty before.
        message: the message of that condition.
        token: that of its trial's row, `TrialRow.token`; empty if an operator before 0.3 made the Job.
        incarnation: that of the database when the Job was made; empty likewise.
        backoff_limit: how many of its pods may fail before it fails.
        in_place: whether the kubelet restarts its containers in their pods (restartPolicy OnFailure). Then Kubernetes
            deletes the last pod, too, when the Job fails.
        left: the containers that still run although the program has ended, by name. Their pods may hold GPUs when
            `phase` says already how the program has ended: see `ended_programs`.
    """

    name: str
    uid: str
    number: int
    trial_id: int
    phase: JobPhase
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    pods: int = 0
    active: int = 0
    ready: int = 0
    leave: int = 0
    gpus: int = 0
    generation: int = 0
    suspended: bool = False
    deleting: bool = False
    reason: str = ""
    message: str = ""
    token: str = ""
    incarnation: str = ""
    backoff_limit: int = 0
    in_place: bool = False
    left: tuple[str, ...] = ()

    @property
    def busy(self) -> bool:
        """Whether its pods may hold GPUs: it has not ended, or nothing of it has ended but the program."""
        return self.phase is JobPhase.ACTIVE or bool(self.left)

    def is_of(self, row: TrialRow | None) -> bool:
        """Return whether the Job is one of this trial's, of whichever attempt.

        A restored database gives a trial's number and id once more, to another trial.
        """
        if row is None or row.trial_id != self.trial_id:
            return False
        return not (self.token and row.token) or self.token == row.token


def _pods(status: Mapping[str, Any]) -> int:
    """Return how many pods a Job has or has had. A pod that has just ended is in `uncountedTerminatedPods` at first."""
    uncounted = status.get("uncountedTerminatedPods") or {}
    return sum(status.get(name) or 0 for name in ("active", "succeeded", "failed", "terminating")) + sum(
        len(uncounted.get(name) or ()) for name in ("succeeded", "failed")
    )


def job_state(manifest: Mapping[str, Any], is_gpu: Callable[[str], bool]) -> JobState | None:
    """Return the state of a Job; None if the operator has not made it, whatever its owner reference says.

    Args:
        manifest: the Job, as the API server has it.
        is_gpu: whether a resource is counted as GPUs.
    """
    meta, status = manifest["metadata"], manifest.get("status") or {}
    number = _count((meta.get("labels") or {}).get(TRIAL_LABEL))
    trial_id = _count((meta.get("annotations") or {}).get(TRIAL_ID_ANNOTATION))
    if number is None or trial_id is None:
        return None
    phase, finished, reason, message = JobPhase.ACTIVE, None, "", ""
    for condition in status.get("conditions") or ():
        if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
            phase, finished = JobPhase(condition["type"]), condition["lastTransitionTime"]
            reason, message = condition.get("reason", ""), condition.get("message", "")
    return JobState(
        name=meta["name"],
        uid=meta["uid"],
        number=number,
        trial_id=trial_id,
        phase=phase,
        created_at=datetime.fromisoformat(meta["creationTimestamp"]),
        started_at=datetime.fromisoformat(status["startTime"]) if status.get("startTime") else None,
        finished_at=datetime.fromisoformat(finished) if finished else None,
        pods=_pods(status),
        active=status.get("active") or 0,
        ready=status.get("ready") or 0,
        leave=status.get("terminating") or 0,
        generation=_count((meta.get("annotations") or {}).get(GENERATION_ANNOTATION)) or 0,
        suspended=bool(manifest["spec"].get("suspend")),
        deleting="deletionTimestamp" in meta,
        gpus=gpus_of(manifest, is_gpu),
        reason=reason,
        message=message,
        token=(meta.get("annotations") or {}).get(STARTED_ANNOTATION, ""),
        incarnation=(meta.get("annotations") or {}).get(INCARNATION_ANNOTATION, ""),
        in_place=manifest["spec"]["template"]["spec"].get("restartPolicy") == "OnFailure",
        backoff_limit=manifest["spec"].get("backoffLimit") or 0,
    )


def _count(text: str | None) -> int | None:
    """Return a number as the operator writes it; None if this is none, or one that the database cannot hold.

    Users may write anything into labels and annotations, such as 200,000 digits.
    """
    if text is None or len(text) > 10 or not (text.isascii() and text.isdecimal()):
        return None
    return number if (number := int(text)) < 2**31 else None

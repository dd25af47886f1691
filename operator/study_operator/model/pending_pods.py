"""Find out why trials' pods do not start, and when this counts as a failure of the infrastructure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from study_operator.model import pod_status
from study_operator.model.job_state import JobState
from study_operator.model.observed import Stuck
from study_operator.model.study import JOB_LABEL, TRIAL_LABEL, Study
from study_operator.model.trial import Failure, FailureClass
from study_operator.texts import one_line

# After this time the operator asks why a pod has not become ready. It asks again each time that the pod has waited a
# quarter longer, within these bounds, because a pod may wait for a GPU for days.
PENDING_AFTER_SECONDS, _ASK_AGAIN_SECONDS, _ASK_AGAIN_MOST_SECONDS = 8.0, 10.0, 30.0

Pod = Mapping[str, Any]


def waiting(jobs: Iterable[JobState]) -> list[JobState]:
    """Return the active Jobs that should have a ready pod and have none. A Job that is suspended need not have one."""
    return [job for job in jobs if not (job.ready or job.deleting or job.suspended)]


def ask_again(jobs: Iterable[JobState], now: datetime) -> tuple[bool, float | None]:
    """Return whether to ask now why waiting Jobs have no ready pod, and in how many seconds to reconcile again."""
    ages = [(now - _since(job)).total_seconds() for job in jobs]
    late = [age for age in ages if age >= PENDING_AFTER_SECONDS]
    if not late:
        return False, PENDING_AFTER_SECONDS if ages else None
    return True, min(max(min(late) / 4, _ASK_AGAIN_SECONDS), _ASK_AGAIN_MOST_SECONDS)


def why(jobs: Iterable[JobState], pending: Iterable[Pod]) -> str | None:
    """Return why a trial's pod does not run; None if each Job has a pod and it is just starting."""
    for pod in pending:
        number = (pod["metadata"].get("labels") or {}).get(TRIAL_LABEL)  # a user may have taken it away
        if number is not None and (found := pod_status.waiting_for(pod)):
            reason, message = found
            return f"the pod of trial {one_line(number)} waits: {reason}: {message}"
    for job in jobs:
        if job.pods == 0:
            return (
                f"Job {job.name} has no pod: a quota or a policy of the namespace may forbid it; "
                f"`kubectl describe job {job.name}` says more"
            )
        if job.leave:
            return (
                f"the pod of trial {job.number} was told to end and has not ended yet: if its node is lost, the trial "
                "runs again as soon as the node is back, or is deleted with `kubectl delete node`"
            )
    return None


def stuck(study: Study, jobs: Iterable[JobState], pending: Iterable[Pod], now: datetime) -> dict[str, Stuck]:
    """Return the waiting Jobs that have waited too long for a node or an image, by name.

    If the Study was edited since, the edit may have removed the cause. Then the Job is created again, and this does not
    count as a failure.

    Args:
        study: the Study.
        jobs: the waiting Jobs.
        pending: the study's pods that have not started.
        now: the time of the API server's clock, aware, UTC.
    """
    by_job = {(pod["metadata"].get("labels") or {}).get(JOB_LABEL): pod for pod in pending}
    found: dict[str, Stuck] = {}
    for job in jobs:
        pod = by_job.get(job.name)
        if pod is None and (job.pods or job.started_at is None):
            continue  # its pod has started, or the Job controller has not begun with it since it was resumed
        reason, message = ("NoPod", "a quota or a policy of the namespace may forbid it")
        if pod is not None:
            reason, message = pod_status.waiting_for(pod) or ("Pending", "it is being started")
        if study.pending_deadline is not None and (now - _since(job, pod)).total_seconds() >= study.pending_deadline:
            message = f"its pod did not start within {study.pending_deadline} s: {message}"
            found[job.name] = Stuck(Failure(reason, message, kind=FailureClass.INFRASTRUCTURE))
        elif pod is not None and pod_status.cannot_start(pod) and job.generation < study.generation:
            found[job.name] = Stuck(Failure(reason, message, kind=FailureClass.INFRASTRUCTURE), counts=False)
    return found


def unready(study: Study, jobs: Iterable[JobState], pending: Iterable[Pod], now: datetime) -> set[str]:
    """Return the UIDs of the waiting Jobs whose pods are not pending and yet, for long, not ready: the program may have
    ended while other containers go on. Such a pod is pending only if it waits for the image of another container.

    Args:
        study: the Study.
        jobs: the waiting Jobs.
        pending: the study's pods that have not started.
        now: the time of the API server's clock, aware, UTC.
    """
    starting = {
        (pod["metadata"].get("labels") or {}).get(JOB_LABEL)
        for pod in pending
        if pod_status.program_ended(pod, study.program) is None
    }
    return {
        job.uid
        for job in jobs
        if job.active and job.name not in starting and (now - _since(job)).total_seconds() >= PENDING_AFTER_SECONDS
    }


def until_stuck(study: Study, jobs: Iterable[JobState], now: datetime) -> float | None:
    """Return in how many seconds the first waiting Job has waited too long; None if all may go on waiting."""
    if study.pending_deadline is None:
        return None
    left = (study.pending_deadline - (now - _since(job)).total_seconds() for job in jobs)
    return min((seconds for seconds in left if seconds > 0), default=None)


def _since(job: JobState, pod: Pod | None = None) -> datetime:
    if pod is not None:
        return datetime.fromisoformat(pod["metadata"]["creationTimestamp"])
    return max(job.created_at, job.started_at or job.created_at)

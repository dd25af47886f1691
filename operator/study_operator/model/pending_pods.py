"""Find out why trials' pods do not start, and when this counts as a failure of the infrastructure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from study_operator.model import pod_status
from study_operator.model.cluster_events import Told
from study_operator.model.job_state import JobState
from study_operator.model.observed import Stuck
from study_operator.model.study import JOB_LABEL, TRIAL_LABEL, Study
from study_operator.model.trial import Failure, FailureClass
from study_operator.texts import one_line

# After this time the operator asks why a pod has not become ready. It asks again each time that the pod has waited a
# quarter longer, within these bounds, because a pod may wait for a GPU for days.
PENDING_AFTER_SECONDS, _ASK_AGAIN_SECONDS, _ASK_AGAIN_MOST_SECONDS = 8.0, 10.0, 30.0
# A pod that has neither condition nor Event is said to wait after this time, although it may just be slow.
_SLOW_SECONDS = 15.0

Pod = Mapping[str, Any]


def waiting(jobs: Iterable[JobState]) -> list[JobState]:
    """Return the active Jobs that should have a ready pod and have none. A Job that is suspended need not have one."""
    return [job for job in jobs if not (job.ready or job.deleting or job.suspended)]


def without_pod(jobs: Iterable[JobState]) -> list[JobState]:
    """Return the waiting Jobs that the Job controller has begun with, and for which it has made no pod."""
    return [job for job in waiting(jobs) if job.pods == 0 and job.started_at is not None]


def ask_again(jobs: Iterable[JobState], now: datetime) -> tuple[bool, float | None]:
    """Return whether to ask now why waiting Jobs have no ready pod, and in how many seconds to reconcile again."""
    ages = [(now - _since(job)).total_seconds() for job in jobs]
    late = [age for age in ages if age >= PENDING_AFTER_SECONDS]
    if not late:
        return False, PENDING_AFTER_SECONDS if ages else None
    return True, min(max(min(late) / 4, _ASK_AGAIN_SECONDS), _ASK_AGAIN_MOST_SECONDS)


def started(jobs: Iterable[JobState], pending: Iterable[Pod]) -> list[JobState]:
    """Return the waiting Jobs whose pods have started, and are not ready."""
    not_started = {(pod["metadata"].get("labels") or {}).get(JOB_LABEL) for pod in pending}
    return [job for job in jobs if job.pods and job.name not in not_started]


def unexplained(jobs: Iterable[JobState], pods: Iterable[Pod], now: datetime) -> list[str]:
    """Return the UIDs of the Jobs that get no pod and of the pods that wait and do not say why, the oldest first."""
    late = [
        *((_since(job), job.uid) for job in without_pod(jobs)),
        *((_since_made(pod), str(pod["metadata"]["uid"])) for pod in pods if not pod_status.waiting_for(pod)),
    ]
    return [uid for since, uid in sorted(late) if (now - since).total_seconds() >= PENDING_AFTER_SECONDS]


def why(
    jobs: Iterable[JobState],
    pods: Iterable[Pod],
    told: Mapping[str, Told],
    now: datetime,
    others_run: bool = False,
) -> str | None:
    """Return why a trial's pod does not run; None if each Job has a pod and it is just starting.

    Args:
        jobs: the waiting Jobs.
        pods: their pods that have not started, or in which a container crashes again and again.
        told: what Events say of the `unexplained`, by UID.
        now: the time of the API server's clock, aware, UTC.
        others_run: whether other pods of the study run. Then a pod that is merely slow is not worth a word.
    """
    for pod in pods:
        number = (pod["metadata"].get("labels") or {}).get(TRIAL_LABEL)  # a user may have taken it away
        if number is not None and (found := _why_waits(pod, told, now, others_run)):
            reason, message = found
            return f"the pod of trial {one_line(number)} waits: {reason}: {message}"
    for job in jobs:
        if job.pods == 0:
            return f"Job {job.name} has no pod: {_why_no_pod(job, told)}"
        if job.leave:
            return (
                f"the pod of trial {job.number} was told to end and has not ended yet: if its node is lost, the trial "
                "runs again as soon as the node is back, or is deleted with `kubectl delete node`"
            )
    return None


def _why_no_pod(job: JobState, told: Mapping[str, Told]) -> str:
    if (said := told.get(job.uid)) is not None:
        return f"{said.reason}: {said.message}"
    return f"a quota or a policy of the namespace may forbid it; `kubectl describe job {job.name}` says more"


def _why_waits(pod: Pod, told: Mapping[str, Told], now: datetime, may_be_slow: bool = False) -> tuple[str, str] | None:
    if found := pod_status.waiting_for(pod):
        return found
    said = told.get(str(pod["metadata"]["uid"]))
    slow = not may_be_slow and (now - _since_made(pod)).total_seconds() >= _SLOW_SECONDS
    if said is not None and (said.warning or slow):
        return None if said.at_work else (said.reason, said.message)
    if not slow:
        return None
    name = pod["metadata"]["name"]
    return "ContainerCreating", f"its containers have not been created, and no Event says why; see pod {name}"


def stuck(
    study: Study,
    jobs: Iterable[JobState],
    pending: Iterable[Pod],
    now: datetime,
    told: Mapping[str, Told],
    pods_until: datetime | None = None,
) -> dict[str, Stuck]:
    """Return the waiting Jobs that have waited too long for a node or an image, by name.

    If the Study was edited since, the edit may have removed the cause. Then the Job is created again, and this does not
    count as a failure.

    Args:
        study: the Study.
        jobs: the waiting Jobs.
        pending: the study's pods that have not started.
        now: the time of the API server's clock, aware, UTC.
        told: what Events say of the `unexplained`, by UID.
        pods_until: when another Job of the study last had pods. A Job that gets none while others have some waits its
            turn, and its time counts from then.
    """
    by_job = {(pod["metadata"].get("labels") or {}).get(JOB_LABEL): pod for pod in pending}
    found: dict[str, Stuck] = {}
    for job in jobs:
        pod = by_job.get(job.name)
        if pod is None and (job.pods or job.started_at is None):
            continue  # its pod has started, or the Job controller has not begun with it since it was resumed
        since = _since(job) if pod is None else _since_made(pod)
        if pod is not None:
            reason, message = _why_waits(pod, told, now) or ("Pending", "it is being started")
        else:
            reason, message = "NoPod", _why_no_pod(job, told)
            since = max(since, pods_until or since)
        if study.pending_deadline is not None and (now - since).total_seconds() >= study.pending_deadline:
            message = f"its pod did not start within {study.pending_deadline} s: {message}"
            found[job.name] = Stuck(Failure(reason, message, kind=FailureClass.INFRASTRUCTURE))
        elif job.generation < study.generation and (pod is None or _edit_may_help(pod, told)):
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


def _edit_may_help(pod: Pod, told: Mapping[str, Told]) -> bool:
    """Return whether the template may be why a pod does not start: an image, a ConfigMap, a claim of devices."""
    said = told.get(str(pod["metadata"]["uid"]))
    return pod_status.cannot_start(pod) is not None or (said is not None and said.warning)


def until_stuck(study: Study, jobs: Iterable[JobState], now: datetime) -> float | None:
    """Return in how many seconds the first waiting Job has waited too long; None if all may go on waiting."""
    if study.pending_deadline is None:
        return None
    left = (study.pending_deadline - (now - _since(job)).total_seconds() for job in jobs)
    return min((seconds for seconds in left if seconds > 0), default=None)


def _since_made(pod: Pod) -> datetime:
    return datetime.fromisoformat(pod["metadata"]["creationTimestamp"])


def _since(job: JobState) -> datetime:
    return max(job.created_at, job.started_at or job.created_at)

"""What a pod's status says about why it waits or how it ended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from study_operator.model.trial import Failure, JobState

# A container that waits with one of these is on its way, not in trouble.
_STARTING = ("", "ContainerCreating", "PodInitializing")


def waiting_for(pod: Mapping[str, Any]) -> str | None:
    """Why a pending pod does not run, in the scheduler's or the kubelet's own words; None when it is just starting."""
    status = pod.get("status") or {}
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"{condition.get('reason', 'Unschedulable')}: {condition.get('message', 'not scheduled yet')}"
    for container in _statuses(status):
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason", "") not in _STARTING:
            return f"{waiting['reason']}: {waiting.get('message') or 'container ' + container['name']}"
    return None


def no_pod(jobs: Iterable[JobState]) -> str | None:
    """Why the first of some Jobs that has no pod has none, as far as the Job itself tells; None when each has one."""
    for job in jobs:
        if job.suspended:
            return f"Job {job.name} is suspended: a queue manager holds it back, or somebody has suspended it"
        if job.pods == 0:
            return (
                f"Job {job.name} has no pod: a quota or a policy of the namespace may forbid it; "
                f"`kubectl describe job {job.name}` says more"
            )
    return None


def last_container(pods: Iterable[Mapping[str, Any]]) -> tuple[str, str] | None:
    """Pod and container whose log says most about the end of a Job: the one that failed, or else the first of the
    latest pod; None when there is no pod any more."""
    latest_first = _latest_first(pods)
    for pod in latest_first:
        if (failed := _failed_container(pod)) is not None:
            return pod["metadata"]["name"], failed["name"]
    if not latest_first:
        return None
    return latest_first[0]["metadata"]["name"], latest_first[0]["spec"]["containers"][0]["name"]


def _latest_first(pods: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return sorted(pods, key=lambda pod: pod["metadata"].get("creationTimestamp") or "", reverse=True)


def _failed_container(pod: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The container that failed first: sidecars beside it are then ended by the kubelet, as if they had failed too,
    often within the same second."""
    sidecars_last = reversed(_statuses(pod.get("status") or {}))  # they are init containers
    failed = [container for container in sidecars_last if _terminated(container).get("exitCode", 0) != 0]
    return min(failed, key=lambda container: _terminated(container).get("finishedAt") or "", default=None)


def failure(job: JobState, pods: Iterable[Mapping[str, Any]], last_log_line: str = "") -> Failure:
    """Why a Job failed: the Job's own time limit, or of its latest pod that says so, what the kubelet did to it or how
    its container ended."""
    if job.reason == "DeadlineExceeded":
        return Failure("DeadlineExceeded", job.message, last_log_line=last_log_line)
    for pod in _latest_first(pods):
        status = pod.get("status") or {}
        if status.get("reason") and status.get("phase") == "Failed":  # Evicted, NodeLost, ...
            return Failure(status["reason"], status.get("message", ""), last_log_line=last_log_line)
        if (failed := _failed_container(pod)) is not None:
            ended = _terminated(failed)
            return Failure(
                ended.get("reason") or "Error",
                ended.get("message") or "",
                exit_code=ended["exitCode"],
                last_log_line=last_log_line,
            )
    return Failure(job.reason or "JobFailed", job.message, last_log_line=last_log_line)


def _statuses(status: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]


def _terminated(container: Mapping[str, Any]) -> Mapping[str, Any]:
    return (container.get("state") or {}).get("terminated") or {}

"""What a pod's status says about why it waits or how it ended."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from study_operator.model.job_state import JobState
from study_operator.model.trial import Failure, FailureClass

# A container that waits with one of these is on its way, not in trouble.
_STARTING = ("", "ContainerCreating", "PodInitializing")


def waiting_for(pod: Mapping[str, Any]) -> tuple[str, str] | None:
    """Why a pending pod does not run, in the scheduler's or the kubelet's own words, as reason and message; None when
    it is just starting."""
    status = pod.get("status") or {}
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return condition.get("reason") or "Unschedulable", condition.get("message") or "not scheduled yet"
    return cannot_start(pod)


def cannot_start(pod: Mapping[str, Any]) -> tuple[str, str] | None:
    """Why the kubelet cannot start a container of a pod: mostly its image."""
    for container in _statuses(pod.get("status") or {}):
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason", "") not in _STARTING:
            return waiting["reason"], waiting.get("message") or "container " + container["name"]
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


def failure(
    job: JobState, pods: Iterable[Mapping[str, Any]], last_log_line: str = "", infeasible: Collection[int] = ()
) -> Failure:
    """Why a Job failed: the Job's own time limit, or of its latest pod that says so, what the cluster did to it or how
    its container ended.

    Args:
        infeasible: exit codes by which a program says that its parameters cannot work.
    """
    if job.reason == "DeadlineExceeded":
        return Failure("DeadlineExceeded", job.message, last_log_line=last_log_line)
    if job.reason == "PodFailurePolicy" and _DISRUPTION in job.message:
        reason, message = _disruption(pods) or ("Disrupted", job.message)
        return Failure(reason, message, None, last_log_line, FailureClass.INFRASTRUCTURE)
    for pod in _latest_first(pods):
        status = pod.get("status") or {}
        if status.get("reason") and status.get("phase") == "Failed":  # Evicted, NodeLost, OutOfcpu, ...
            # A pod's own time limit is the user's; everything else that befalls a whole pod is the cluster's doing.
            kind = FailureClass.PROGRAM if status["reason"] == "DeadlineExceeded" else FailureClass.INFRASTRUCTURE
            return Failure(status["reason"], status.get("message", ""), None, last_log_line, kind)
        if disrupted := _disruption([pod]):
            return Failure(*disrupted, None, last_log_line, FailureClass.INFRASTRUCTURE)
        if (failed := _failed_container(pod)) is not None:
            ended = _terminated(failed)
            code, reason = ended["exitCode"], ended.get("reason") or "Error"
            if code in infeasible:
                words = ended.get("message") or f"exit code {code} is one of infeasibleExitCodes"
                return Failure("Infeasible", words, code, last_log_line, FailureClass.INFEASIBLE)
            # What the kubelet says of a container that it has lost, after its node went down.
            lost = reason == "ContainerStatusUnknown"
            kind = FailureClass.INFRASTRUCTURE if lost else FailureClass.PROGRAM
            return Failure(reason, ended.get("message") or "", code, last_log_line, kind)
    return Failure(job.reason or "JobFailed", job.message, last_log_line=last_log_line)


_DISRUPTION = "DisruptionTarget"


def _disruption(pods: Iterable[Mapping[str, Any]]) -> tuple[str, str] | None:
    """Why the cluster ended one of some pods: evicted, pre-empted, its node lost or tainted."""
    for pod in _latest_first(pods):
        for condition in (pod.get("status") or {}).get("conditions") or ():
            if condition["type"] == _DISRUPTION and condition["status"] == "True":
                return condition.get("reason") or "Disrupted", condition.get("message") or ""
    return None


def _statuses(status: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]


def _terminated(container: Mapping[str, Any]) -> Mapping[str, Any]:
    return (container.get("state") or {}).get("terminated") or {}

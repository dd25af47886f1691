"""Read from a pod's status why it waits, or how it has ended."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from study_operator.model.job_state import JobState
from study_operator.model.reach import why_undelivered
from study_operator.model.trial import Failure, FailureClass
from study_operator.texts import one_line

# With one of these reasons a container is being started, and nothing is wrong.
_STARTING = ("", "ContainerCreating", "PodInitializing")


def waiting_for(pod: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return why a pending pod does not run, as reason and message; None if it is just starting.

    Both are the scheduler's or the kubelet's own words, on one line: they quote what the Study says.
    """
    status = pod.get("status") or {}
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            reason, message = (
                condition.get("reason") or "Unschedulable",
                condition.get("message") or "not scheduled yet",
            )
            return one_line(reason), one_line(message)
    return cannot_start(pod)


def cannot_start(pod: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return why the kubelet cannot start a container of a pod, or has to start it again and again; None if it can.

    Mostly it is the image. Or a sidecar or another init container crashes. The kubelet says CrashLoopBackOff of it, or,
    in a pod that is never restarted, only how it has ended.

    Args:
        pod: one that has not ended.
    """
    status = pod.get("status") or {}
    for container in _statuses(status):
        waiting = (container.get("state") or {}).get("waiting") or {}
        ended = ((container.get("lastState") or {}).get("terminated") or {}).get("exitCode", 0)
        if waiting.get("reason", "") not in _STARTING:
            words = waiting.get("message") or "container " + container["name"]
            words = f"container {container['name']} exits with {ended}: {words}" if ended else words
            return one_line(waiting["reason"]), one_line(words)
    for container in status.get("initContainerStatuses") or ():
        ended = _terminated(container)
        if ended.get("exitCode", 0) != 0:  # otherwise the pod would have failed
            words = f"container {container['name']} exits with {ended['exitCode']}, and is started again and again"
            return one_line(ended.get("reason") or "Error"), one_line(
                ": ".join(filter(None, (words, ended.get("message"))))
            )
    return None


def crashes(pod: Mapping[str, Any]) -> bool:
    """Return whether a pod runs, and a container of it crashes again and again."""
    return (pod.get("status") or {}).get("phase") == "Running" and cannot_start(pod) is not None


def last_container(pods: Iterable[Mapping[str, Any]]) -> tuple[str, str] | None:
    """Return the names of the pod and the container whose log says most about the end of a Job.

    This is a container that failed, of the latest pod with such a container, or else the first container of the latest
    pod. None if there are no pods.
    """
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
    """Return the container that failed first.

    The kubelet then ends the sidecars, and they look as if they had failed too, often within the same second.
    """
    sidecars_last = reversed(_statuses(pod.get("status") or {}))  # sidecars are init containers
    failed = [container for container in sidecars_last if _terminated(container).get("exitCode", 0) != 0]
    return min(failed, key=lambda container: _terminated(container).get("finishedAt") or "", default=None)


def failure(
    job: JobState, pods: Iterable[Mapping[str, Any]], last_log_line: str = "", infeasible: Collection[int] = ()
) -> Failure:
    """Find out why a Job failed.

    In this order: the Job exceeded its deadline; a pod was disrupted (evicted, preempted, its node lost); a container
    exited with an error, perhaps because it could not reach the database. The latest pod that gives a reason decides.

    Args:
        job: the Job.
        pods: its pods, as far as they still exist.
        last_log_line: the last line that its program has logged.
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
            # A pod's deadline is the user's. Everything else that happens to a whole pod is done by the cluster.
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
            if (why := why_undelivered(last_log_line)) is not None:
                words = f"the pod could not reach the database, and its final value is not stored: {why}"
                return Failure("DatabaseUnreachable", words, code, last_log_line, FailureClass.INFRASTRUCTURE)
            # The kubelet says this about a container that it has lost, after its node went down.
            lost = reason == "ContainerStatusUnknown"
            kind = FailureClass.INFRASTRUCTURE if lost else FailureClass.PROGRAM
            return Failure(reason, ended.get("message") or "", code, last_log_line, kind)
    return Failure(job.reason or "JobFailed", job.message, last_log_line=last_log_line)


_DISRUPTION = "DisruptionTarget"


def _disruption(pods: Iterable[Mapping[str, Any]]) -> tuple[str, str] | None:
    """Return why the cluster ended one of these pods; None if it did not.

    A pod was evicted or preempted, or its node was lost or tainted.
    """
    for pod in _latest_first(pods):
        for condition in (pod.get("status") or {}).get("conditions") or ():
            if condition["type"] == _DISRUPTION and condition["status"] == "True":
                return condition.get("reason") or "Disrupted", condition.get("message") or ""
    return None


def _statuses(status: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]


def _terminated(container: Mapping[str, Any]) -> Mapping[str, Any]:
    return (container.get("state") or {}).get("terminated") or {}

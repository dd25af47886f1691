"""Read from a pod's status why it waits, or how it has ended."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from study_operator.model.job_state import JobState
from study_operator.model.reach import why_undelivered
from study_operator.model.study import PROGRAM_ANNOTATION
from study_operator.model.terminal import shown
from study_operator.model.trial import Failure, FailureClass
from study_operator.texts import one_line

OUT_OF_TIME = "DeadlineExceeded"  # Kubernetes' reason, of Jobs and of pods
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


def program_of(pod: Mapping[str, Any], program: str) -> str:
    """Return the name of the container that runs the program, wherever a webhook has put others.

    Args:
        pod: the pod. It says so itself, unless an operator before 0.3 made its Job.
        program: the name of that container in the Study, as it is now.
    """
    names: list[str] = [container["name"] for container in pod["spec"]["containers"]]
    said = (pod["metadata"].get("annotations") or {}).get(PROGRAM_ANNOTATION)
    return next((name for name in (said, program) if name in names), names[0])


def program_ended(pod: Mapping[str, Any], program: str) -> Mapping[str, Any] | None:
    """Return how the container that runs the program has ended for good, as the kubelet says; None if it has not.

    Args:
        pod: the pod.
        program: the name of that container in the Study, as it is now.
    """
    name = program_of(pod, program)
    for container in (pod.get("status") or {}).get("containerStatuses") or ():
        if container["name"] == name and (ended := _terminated(container)):
            again = ended["exitCode"] != 0 and pod["spec"].get("restartPolicy") == "OnFailure"
            return None if again else ended
    return None


def last_container(pods: Iterable[Mapping[str, Any]], program: str) -> tuple[str, str] | None:
    """Return the names of the pod and the container whose log says most about the end of a Job.

    This is a container that failed, of the latest pod with such a container, or else the program's container of the
    latest pod. None if there are no pods.

    Args:
        pods: the Job's pods.
        program: the name of the program's container in the Study.
    """
    latest_first = _latest_first(pods)
    for pod in latest_first:
        if (failed := _failed_container(pod)) is not None:
            return pod["metadata"]["name"], failed["name"]
    if not latest_first:
        return None
    return latest_first[0]["metadata"]["name"], program_of(latest_first[0], program)


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

    In this order: the Job exceeded its deadline; a pod was disrupted (evicted, preempted, its node lost); a pod was
    deleted; a container exited with an error, perhaps because it could not reach the database. The latest pod that
    gives a reason decides.

    Args:
        job: the Job.
        pods: its pods, as far as they still exist.
        last_log_line: the last line that its program has logged.
        infeasible: exit codes by which a program says that its parameters cannot work.
    """
    if job.reason == OUT_OF_TIME:
        return Failure(OUT_OF_TIME, job.message, last_log_line=last_log_line)
    if job.reason == "PodFailurePolicy" and _DISRUPTION in job.message:
        reason, message = _disruption(pods) or ("Disrupted", job.message)
        return Failure(reason, message, None, last_log_line, FailureClass.INFRASTRUCTURE)
    own = [pod for pod in _latest_first(pods) if _disruption([pod]) or not _deleted_before_its_end(pod)]
    if _pods_were_deleted(job, own):
        if job.deleting:  # its pods are deleted with it
            return job_deleted(job.name, last_log_line)
        return _pod_deleted(last_log_line)
    for pod in own:
        status = pod.get("status") or {}
        if status.get("reason") and status.get("phase") == "Failed":  # Evicted, NodeLost, OutOfcpu, ...
            # A pod's deadline is the user's. Everything else that happens to a whole pod is done by the cluster.
            kind = FailureClass.PROGRAM if status["reason"] == OUT_OF_TIME else FailureClass.INFRASTRUCTURE
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


def last_line(log: str) -> str:
    """Return the last line of a log as a terminal shows it, safe to show, in at most 2048 characters.

    Of a progress bar it is the last state. Colours are left out, because only their codes would be seen.
    """
    *_, last = shown(log.removesuffix("\n")).split("\n")
    *_, state = last.rstrip().split("\r")
    return one_line(" ".join(state[:2048].split()))


def without_value(job: JobState, pods: Iterable[Mapping[str, Any]], otherwise: Failure, last_log_line: str) -> Failure:
    """Return why a Job has completed without a value. Its pods stay as long as it does, unless they are deleted: then
    the program has ended well because it was told to, or what it printed is lost.

    Args:
        job: the Job.
        pods: its pods, as far as they still exist.
        otherwise: why, if they were not deleted.
        last_log_line: the last line that its program has logged.
    """
    if not job.deleting and all("deletionTimestamp" in pod["metadata"] for pod in pods):
        return _pod_deleted(last_log_line)
    return replace(otherwise, last_log_line=last_log_line)


def _pod_deleted(last_log_line: str) -> Failure:
    """Return the failure of a trial whose pod was deleted, and not by the operator."""
    message = (
        "its pod was deleted before the trial had ended: by somebody, by a drain without evictions, or by what removes "
        "nodes"
    )
    return Failure("PodDeleted", message, None, last_log_line, FailureClass.INFRASTRUCTURE)


def job_deleted(name: str, last_log_line: str = "") -> Failure:
    """Return why a trial ended whose Job somebody has deleted: nobody's failure, for so one ends a trial."""
    message = f"Job {name} was deleted before the trial had ended"
    return Failure("JobMissing", message, None, last_log_line, FailureClass.TERMINATED)


# The reasons of Jobs that failed because pods did. Pods that failed by themselves stay as long as their Job.
_BY_PODS = ("BackoffLimitExceeded", "FailedIndexes", "MaxFailedIndexesExceeded")


def _pods_were_deleted(job: JobState, left: Iterable[Mapping[str, Any]]) -> bool:
    """Return whether a Job has failed because pods of it were deleted: fewer have failed by themselves than it takes.

    Args:
        job: the Job.
        left: its pods that were not deleted before their end.
    """
    if job.reason not in _BY_PODS or job.in_place:
        return False
    failed = sum((pod.get("status") or {}).get("phase") == "Failed" or bool(_failed_container(pod)) for pod in left)
    return failed <= (job.backoff_limit if job.reason == "BackoffLimitExceeded" else 0)


def _deleted_before_its_end(pod: Mapping[str, Any]) -> bool:
    """Return whether a pod that is being deleted was to be deleted before its program had ended by itself.

    Kubernetes keeps it until the Job controller has counted it, and its containers look as if they had failed.
    """
    meta = pod["metadata"]
    if "deletionTimestamp" not in meta:
        return False
    asked = datetime.fromisoformat(meta["deletionTimestamp"])
    asked -= timedelta(seconds=meta.get("deletionGracePeriodSeconds") or 0)
    ended = _terminated(_failed_container(pod) or {}).get("finishedAt")
    return ended is None or datetime.fromisoformat(ended) >= asked


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

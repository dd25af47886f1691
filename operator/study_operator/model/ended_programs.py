"""Find Jobs whose program has ended while other containers of their pods go on.

Kubernetes ends a pod when all its containers have ended. A service mesh's proxy or a log shipper that a webhook adds as
an ordinary container never ends. So the end of the program's container counts as the Job's, once the others have had
time to end by themselves. The pod is not ready any more as soon as one of its containers has ended, which shows in the
Job's status: only then are pods asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from study_operator.model import pod_status
from study_operator.model.job_state import JobPhase, JobState

# For how long other containers may go on: the pod's terminationGracePeriodSeconds, within these bounds. Some look only
# every few seconds whether the program still runs.
LEAST_GRACE_SECONDS, MOST_GRACE_SECONDS, USUAL_GRACE_SECONDS = 10, 300, 30
# How long before the Job's deadline the program's end counts at the latest. The Job would fail, and take the pods and
# what they have printed with it.
_BEFORE_DEADLINE = timedelta(seconds=5)

Pod = Mapping[str, Any]


@dataclass(frozen=True)
class ProgramEnd:
    """How the program of a Job has ended, while its pods go on.

    Attributes:
        exit_code: the program's.
        at: when it ended, aware, UTC.
        grace: for how long the other containers may go on then.
        left: the names of these containers.
    """

    exit_code: int
    at: datetime
    grace: timedelta
    left: tuple[str, ...]

    @property
    def counts_from(self) -> datetime:
        """When the program's end becomes the Job's."""
        return self.at + self.grace


def program_end(job: JobState, pods: Iterable[Pod], program: str) -> ProgramEnd | None:
    """Return how the program of an active Job has ended while its pods go on; None if it has not.

    A Job of several pods has ended well when the programs of all of them have, and has failed when one has failed.

    Args:
        job: the Job.
        pods: its pods that have not ended.
        program: the name of the program's container in the Study.
    """
    pods = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    ends = [end for pod in pods if (end := _end_of(pod, program)) is not None]
    if failed := [end for end in ends if end.exit_code != 0]:
        return min(failed, key=lambda end: end.at)
    if not ends or len(ends) < max(len(pods), job.active):
        return None
    return max(ends, key=lambda end: end.counts_from)


def before_deadline(end: ProgramEnd, job: JobState, seconds: int | None) -> ProgramEnd:
    """Return the end of a program with less grace, if the Job's deadline would come first.

    Args:
        end: how the program has ended.
        job: its Job.
        seconds: the Job's activeDeadlineSeconds; None if it has none.
    """
    if seconds is None or job.started_at is None:
        return end
    left = job.started_at + timedelta(seconds=seconds) - _BEFORE_DEADLINE - end.at
    return replace(end, grace=min(end.grace, max(left, timedelta())))


def as_ended(job: JobState, end: ProgramEnd, now: datetime) -> JobState:
    """Return the Job with what of its pods still runs, and as ended if that has had its time.

    Args:
        job: the Job; it is active.
        end: how its program has ended.
        now: the time by the API server's clock, aware, UTC.
    """
    job = replace(job, left=end.left)
    if now < end.counts_from:
        return job
    phase = JobPhase.FAILED if end.exit_code else JobPhase.COMPLETE
    return replace(job, phase=phase, finished_at=end.at, reason="Error" if end.exit_code else "")


def still_running(jobs: Iterable[JobState]) -> str | None:
    """Return in words which containers still run although the program of a trial has ended; None if none does."""
    jobs = [job for job in jobs if job.left and not job.deleting]
    if not jobs:
        return None
    first = min(jobs, key=lambda job: job.number)
    what = "container " + first.left[0] if len(first.left) == 1 else "containers " + ", ".join(first.left)
    more = f", and of {len(jobs) - 1} more trials likewise" if len(jobs) > 1 else ""
    return (
        f"the program of trial {first.number} has ended, and {what} of its pod still runs{more}: the pod is ended soon"
    )


def _end_of(pod: Pod, program: str) -> ProgramEnd | None:
    """Return how the program of one pod has ended while the pod goes on; None if it has not."""
    name = pod_status.program_of(pod, program)
    ended = pod_status.program_ended(pod, program)
    if ended is None:
        return None
    left = tuple(
        container["name"]
        for container in (pod.get("status") or {}).get("containerStatuses") or ()
        if container["name"] != name and "terminated" not in (container.get("state") or {})
    )
    if not left:  # the kubelet is about to end the pod
        return None
    seconds = pod["spec"].get("terminationGracePeriodSeconds")
    grace = min(max(USUAL_GRACE_SECONDS if seconds is None else seconds, LEAST_GRACE_SECONDS), MOST_GRACE_SECONDS)
    at = datetime.fromisoformat(ended.get("finishedAt") or pod["metadata"]["creationTimestamp"])
    return ProgramEnd(ended["exitCode"], at, timedelta(seconds=grace), left)

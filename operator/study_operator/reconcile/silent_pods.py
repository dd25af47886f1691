"""Looks into the logs of pods from which nothing has come: only there can a pod say that it reaches no database.

A network policy shuts out all pods of a namespace, so a few of them are looked at.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from study_operator.kube.client import Cluster
from study_operator.model.job_state import JobPhase, JobState
from study_operator.model.pod_status import program_of
from study_operator.model.reach import why_unreachable
from study_operator.model.study import JOB_LABEL, SIDECAR, STUDY_LABEL, Study

# A pod is looked at so long after its Job has begun, and then ever more seldom; a pod that cannot reach the database
# again after the first of these times, because it may be able to now.
_FIRST, _MOST_SELDOM = timedelta(seconds=20), timedelta(minutes=10)
_AT_ONCE = 3


@dataclass
class _Known:
    """What is known of one Job: when it is looked at next, after which pause, and why its pod reaches no database."""

    due: datetime
    pause: timedelta = _FIRST
    why: str | None = None


class SilentPods:
    """The running Jobs of one study of which nothing has been stored. What it holds may be dropped at any time."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}
        self._heard: set[str] = set()

    async def look(
        self,
        cluster: Cluster,
        study: Study,
        jobs: Sequence[JobState],
        reported: Callable[[list[int]], Awaitable[Collection[int]]],
        now: datetime,
    ) -> tuple[str | None, float | None]:
        """Return why a pod cannot reach the database, None if none says so, and in how many seconds to look again.

        Args:
            cluster: where the pods are.
            study: the Study.
            jobs: the study's Jobs.
            reported: tells which of some trials, by their ids, have stored a report.
            now: the time of the API server's clock, aware, UTC.

        Raises:
            ApiError: the API server refuses to list pods or cannot be reached.
        """
        if study.metrics.source == "Stdout":
            return None, None  # the operator reads what they print, and they need no database
        running = [job for job in jobs if job.phase is JobPhase.ACTIVE and job.ready and not job.deleting]
        uids = {job.uid for job in running}
        self._heard &= uids
        silent = [job for job in running if job.uid not in self._heard]
        self._known = {job.uid: self._known.get(job.uid) or _Known(_begun(job) + _FIRST) for job in silent}
        due = sorted((job for job in silent if self._known[job.uid].due <= now), key=lambda job: job.number)[:_AT_ONCE]
        if due:
            heard = await reported([job.trial_id for job in due])
            for job in due:
                if job.trial_id in heard:
                    self._heard.add(job.uid)
                    del self._known[job.uid]
                else:
                    await self._ask(cluster, study, job, now)
        words = (
            f"the pod of trial {job.number} cannot reach the database: {known.why}"
            for job in silent
            if (known := self._known.get(job.uid)) is not None and known.why
        )
        dues = sorted(known.due for known in self._known.values())[:1]
        return next(words, None), max((dues[0] - now).total_seconds(), 1.0) if dues else None

    async def _ask(self, cluster: Cluster, study: Study, job: JobState, now: datetime) -> None:
        known = self._known[job.uid]
        selector = f"{STUDY_LABEL}={study.name},{JOB_LABEL}={job.name}"
        container = SIDECAR if study.metrics.source == "File" else None
        known.why = None
        for pod in await cluster.list_pods(study.namespace, selector, job.uid):
            name = container or program_of(pod, study.program)
            log = await cluster.log_tail(study.namespace, pod["metadata"]["name"], name)
            known.why = known.why or why_unreachable(log)
        known.pause = _FIRST if known.why else min(known.pause * 2, _MOST_SELDOM)
        known.due = now + known.pause


def _begun(job: JobState) -> datetime:
    return max(job.created_at, job.started_at or job.created_at)

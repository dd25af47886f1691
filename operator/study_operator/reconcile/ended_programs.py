"""Asks the pods of Jobs that are not ready any more whether their program has ended while other containers go on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from study_operator.kube.api_server import owner_uid
from study_operator.kube.client import Cluster
from study_operator.model.ended_programs import ProgramEnd, as_ended, before_deadline, program_end
from study_operator.model.job_state import JobPhase, JobState
from study_operator.model.study import JOB_LABEL, STUDY_LABEL, Study

# Most pods that are not ready any more have just ended, and the Job says so within this time.
_FALLEN_FOR = timedelta(seconds=2)
# A pod may be unready for other reasons, for example while its node does not answer: it is asked again after this time.
_ASK_AGAIN = timedelta(seconds=10)
_JOBS_AT_ONCE, _PODS_AT_ONCE = 50, 500  # that are asked for in one call

Pod = Mapping[str, Any]


@dataclass
class _Known:
    """What this process knows of one active Job.

    Attributes:
        ready: how many of its pods have been ready at once.
        fallen_at: since when fewer are; None if as many are.
        asked_at: when its pods were last asked; None for never.
        end: how its program had ended then; None if it had not.
    """

    ready: int = 0
    fallen_at: datetime | None = None
    asked_at: datetime | None = None
    end: ProgramEnd | None = None

    def due(self, waits: bool) -> datetime | None:
        """Return when to ask the pods; None while there is no reason to.

        Args:
            waits: whether the Job has waited for its first ready pod for long, and none of its pods is pending.
        """
        if self.asked_at is not None and self.end is not None:
            end = self.end.counts_from
            return end if self.asked_at < end else self.asked_at + _ASK_AGAIN
        if self.asked_at is not None:
            return self.asked_at + _ASK_AGAIN if waits or self.fallen_at is not None else None
        if self.fallen_at is not None:
            return self.fallen_at + _FALLEN_FOR
        return datetime.min.replace(tzinfo=UTC) if waits else None


class EndedPrograms:
    """The Jobs of one study whose programs have ended before their pods. What it holds may be dropped at any time."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}

    async def look(
        self, cluster: Cluster, study: Study, jobs: Iterable[JobState], waiting: Iterable[str], now: datetime
    ) -> tuple[dict[str, JobState], float | None]:
        """Return the Jobs whose programs have ended before their pods, by name, and in how many seconds to look again.

        Args:
            cluster: whose pods.
            study: the Study.
            jobs: the study's.
            waiting: UIDs of the Jobs that have waited for their first ready pod for long, and have no pending pod.
            now: the time by the API server's clock, aware, UTC.

        Raises:
            ApiError: the API server refuses the call or cannot be reached.
        """
        active = {job.uid: job for job in jobs if _may_end(job)}
        self._known = {uid: self._known.get(uid, _Known()) for uid in active}
        for uid, job in active.items():
            known = self._known[uid]
            known.ready = max(known.ready, job.ready)
            fallen = job.ready < job.active and (job.ready < known.ready or job.ready > 0)
            known.fallen_at = (known.fallen_at or now) if fallen else None
        waits = set(waiting)
        due = {uid: at for uid, known in self._known.items() if (at := known.due(uid in waits)) is not None}
        ask = sorted((uid for uid, at in due.items() if at <= now), key=lambda uid: due[uid])[:_JOBS_AT_ONCE]
        if ask:
            await self._ask(cluster, study, [active[uid] for uid in ask], now)
        ended = {uid: known.end for uid, known in self._known.items() if known.end is not None}
        later = (known.due(uid in waits) for uid, known in self._known.items())
        again = min((max((at - now).total_seconds(), 1.0) for at in later if at is not None), default=None)
        return {active[uid].name: as_ended(active[uid], end, now) for uid, end in ended.items()}, again

    async def _ask(self, cluster: Cluster, study: Study, jobs: list[JobState], now: datetime) -> None:
        names = ",".join(job.name for job in jobs)
        selector = f"{STUDY_LABEL}={study.name},{JOB_LABEL} in ({names})"
        # Not in a phase: if the image of a second container cannot be pulled, the pod is pending for ever.
        found = await cluster.list_pods(study.namespace, selector, limit=_PODS_AT_ONCE)
        pods: dict[str | None, list[Pod]] = {}
        for pod in found:
            if (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed"):
                pods.setdefault(owner_uid(pod), []).append(pod)  # anybody in the namespace may give a pod these labels
        for job in jobs:
            known = self._known[job.uid]
            end = program_end(job, pods.get(job.uid, ()), study.program)
            end = before_deadline(end, job, study.trial_deadline) if end is not None else None
            known.asked_at, known.end = now, end


def _may_end(job: JobState) -> bool:
    return job.phase is JobPhase.ACTIVE and not job.deleting and not job.suspended

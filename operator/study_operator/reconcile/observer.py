"""Observe one study: its Jobs, what their pods say of themselves, and its rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from study_operator.kube import decoding
from study_operator.kube.api_server import owner_uid
from study_operator.kube.client import Cluster
from study_operator.model import pending_pods, pod_status
from study_operator.model.job_state import JobState, job_state
from study_operator.model.observed import Observed, Stuck
from study_operator.model.study import JOB_LABEL, STUDY_LABEL, Study, StudyKey
from study_operator.model.trial import Rows
from study_operator.podlogs.follower import Follower
from study_operator.pool import BlockingPool
from study_operator.reconcile.live_study import LiveStudy
from study_operator.reconcile.result import ReconcileResult

PENDING_PODS = 500  # how many pods that have not started are asked for at most
STARTED_ASKED = 20  # of how many Jobs the pods that have started, and are not ready, are asked for


class Observer:
    """Observes studies. It remembers nothing itself.

    Args:
        follower: reads the logs of trials that report by what they print.
        now: the time by the database's clock, aware, UTC.
        cluster_now: the time by the API server's clock, aware, UTC.
    """

    def __init__(
        self,
        cluster: Cluster,
        pool: BlockingPool,
        follower: Follower,
        now: Callable[[], datetime],
        cluster_now: Callable[[], datetime],
    ) -> None:
        self._cluster, self._pool, self._follower = cluster, pool, follower
        self._now, self._cluster_now = now, cluster_now

    async def observe(
        self,
        key: StudyKey,
        live: LiveStudy,
        manifest: dict[str, Any],
        result: ReconcileResult,
        launching: bool,
    ) -> tuple[Observed, str | None]:
        """Read Jobs first, rows second: a pod stores its values before it ends, so the rows have the last word of every
        Job that was seen finished.

        Args:
            manifest: the Study as it was read; its status tells how the study has ended.
            result: is told when to look again.
            launching: whether trials may be started.

        Returns:
            What there is, and why a trial's pod does not run, in the scheduler's or the kubelet's own words.

        Raises:
            Refused: as `StudyTrials.observe`.
            StorageUnavailable: the database does not answer.
            StorageError: the database refuses it.
            ApiError: the API server did not answer as it must.
        """
        study = live.study
        listed = await self._cluster.list_jobs(key.namespace, f"{STUDY_LABEL}={key.name}", study.uid)
        states = (job_state(item, study.is_gpu) for item in listed)
        found = {state.name: state for state in states if state is not None}
        observed = Observed(study, Rows({}, {}), found, self._now(), launching=launching)
        stuck, waits, unready = await self._ask_pods(live, observed.active, result)
        now = self._cluster_now()
        ended, again = await live.ended_programs.look(self._cluster, study, found.values(), unready, now)
        result.sooner(again)
        found |= ended  # which is what `observed` has
        to_try, again = live.stuck_jobs.to_try(observed.active, now)
        await live.stuck_jobs.try_again(self._cluster, study.namespace, to_try, now)
        result.sooner(again)
        drained = self._follower.drained(key, found.values())
        end = _end_before(manifest)
        rows, outlook = await self._pool.run(
            live.trials.observe, list({job.number for job in observed.active}), launching=launching, end=end
        )
        if live.trials.behind:
            result.sooner(0.0)
        self._follower.sync(key, study, found.values(), rows.open)
        live.known.launched.update(name for name, job in found.items() if job.is_of(rows.open.get(job.number)))
        observed = replace(
            observed,
            rows=rows,
            launched=frozenset(live.known.launched),
            prune=frozenset(live.trials.prune),
            behind=live.trials.behind,
            ended=end,
            exhausted=outlook.exhausted,
            converged=outlook.converged,
            impossible=outlook.impossible,
            stuck=stuck,
            drained=drained,
            incarnation=live.incarnation,
            restored_at=live.restored_at,
        )
        return observed, waits

    async def _ask_pods(
        self, live: LiveStudy, active: Sequence[JobState], result: ReconcileResult
    ) -> tuple[dict[str, Stuck], str | None, set[str]]:
        """Return which active Jobs have waited too long for their pods, why one of them waits, and the UIDs of those
        that have a pod which is not pending and, for long, not ready.
        """
        study, now, waiting = live.study, self._cluster_now(), pending_pods.waiting(active)
        ask, again = pending_pods.ask_again(waiting, now)
        result.sooner(again)
        result.sooner(pending_pods.until_stuck(study, waiting, now))
        if not ask:
            return {}, None, set()
        found = await self._cluster.list_pods(
            study.namespace, f"{STUDY_LABEL}={study.name}", phase="Pending", limit=PENDING_PODS
        )
        # Anybody in the namespace may give a pod the study's labels.
        jobs = {job.uid for job in waiting}
        found = [pod for pod in found if owner_uid(pod) in jobs]
        mute = pending_pods.unexplained(waiting, found, now)
        told = await live.stuck_jobs.ask(self._cluster, study.namespace, mute, now)
        stuck = pending_pods.stuck(study, waiting, found, now, told, live.stuck_jobs.pods_until)
        crashing = await self._crashing(study, pending_pods.started(waiting, found))
        unready = pending_pods.unready(study, waiting, found, now)
        others_run = any(job.ready for job in active)
        return stuck, pending_pods.why(waiting, [*found, *crashing], told, now, others_run), unready

    async def _crashing(self, study: Study, jobs: list[JobState]) -> list[decoding.Pod]:
        """Return the pods of some Jobs that run, and in which a container crashes again and again."""
        if not jobs:
            return []
        names = ",".join(job.name for job in jobs[:STARTED_ASKED])
        selector = f"{STUDY_LABEL}={study.name},{JOB_LABEL} in ({names})"
        found = await self._cluster.list_pods(study.namespace, selector, limit=PENDING_PODS)
        uids = {job.uid for job in jobs}
        return [pod for pod in found if owner_uid(pod) in uids and pod_status.crashes(pod)]


def _end_before(manifest: dict[str, Any]) -> str | None:
    """Return the reason with which the study has ended, according to the status."""
    conditions = (manifest.get("status") or {}).get("conditions") or ()
    return next(
        (c["reason"] for c in conditions if c["type"] in ("Complete", "Failed") and c["status"] == "True"), None
    )

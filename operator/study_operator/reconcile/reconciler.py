"""One look at one study: observe, plan, act, and say what is so.

Nothing here remembers anything that a decision depends on: a look that is lost, repeated or cut off at any point is
made good by the next one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from study_operator import metrics
from study_operator.kube.client import ApiError, Cluster
from study_operator.manifests.job import Reporting, job
from study_operator.model import log_lines, pending
from study_operator.model.initial_trials import initial_trials
from study_operator.model.job_state import JobState, job_state
from study_operator.model.plan import Observed, Outcome, Stuck, outcome, plan
from study_operator.model.search_space import example_params
from study_operator.model.status import Condition, Situation, accepted, refused, storage_down, storage_ready
from study_operator.model.study import STUDY_LABEL, Refused, Study, StudyKey, parse
from study_operator.model.trial import Failure, Rows, TrialRow
from study_operator.optimizer.convergence import build_judge
from study_operator.optimizer.pruners import build_pruner
from study_operator.optimizer.samplers import build_sampler
from study_operator.podlogs.follower import Follower
from study_operator.pool import BlockingPool
from study_operator.reconcile import dependents
from study_operator.reconcile.actor import CALLS_AT_ONCE, Actor
from study_operator.reconcile.deleted_studies import DeletedStudies
from study_operator.reconcile.live_study import LiveStudy
from study_operator.reconcile.publisher import Publisher
from study_operator.settings import Settings
from study_operator.storage.database import Database, StorageError, StorageUnavailable
from study_operator.storage.initial_trials import InitialTrials
from study_operator.storage.studies import Studies
from study_operator.storage.trials import Trials

# A Job that the API server refused is shown to it again after this time: quotas and policies change, in seconds.
REFUSED_AGAIN_SECONDS = 60.0
PENDING_PODS = 500  # how many pods that have not started are asked for at most

Manifest = dict[str, Any]

log = logging.getLogger(__name__)


@dataclass
class ReconcileResult:
    """What came of one look: when to look again though nothing happens, in seconds; whether to look again soon
    because something went wrong, and what, in sentences for people; whether the Study is gone and its rows ended; for
    how many seconds it has acted, not read."""

    again: float | None = None
    failed: bool = False
    gone: bool = False
    troubles: list[str] = field(default_factory=list)
    acted: float = 0.0

    def sooner(self, seconds: float | None) -> None:
        if seconds is not None:
            self.again = seconds if self.again is None else min(self.again, seconds)


class Reconciler:
    """Serves the studies of one cluster.

    Args:
        cluster_id: the UID of the cluster's kube-system namespace.
        threads: where everything that blocks is done.
        follower: reads the logs of trials that report by what they print.
        now: the time by the database's clock, aware, UTC: that of the times in rows.
        cluster_now: the time by the API server's clock: that of the times in Jobs and pods.

    Attributes:
        full: that the database has no room for what pods report, in its words; None when it has. Looks go on.
    """

    def __init__(
        self,
        settings: Settings,
        cluster: Cluster,
        cluster_id: str,
        database: Database,
        threads: BlockingPool,
        follower: Follower,
        now: Callable[[], datetime],
        cluster_now: Callable[[], datetime],
    ) -> None:
        self._settings, self._cluster, self._cluster_id = settings, cluster, cluster_id
        self._threads, self._follower, self._now, self._cluster_now = threads, follower, now, cluster_now
        self._database = database
        self._studies, self._trials = Studies(database, cluster_id), Trials(database)
        self._beginnings = InitialTrials(database, cluster_id)
        self.gone = DeletedStudies(self._studies, self._trials, threads, settings.watch_namespaces)
        self._publisher = Publisher(cluster)
        self._gate = asyncio.Semaphore(CALLS_AT_ONCE)
        self._live: dict[StudyKey, LiveStudy] = {}
        self._keys: dict[int, StudyKey] = {}
        self._reported: dict[StudyKey, float] = {}
        self.full: str | None = None

    def status_interval(self) -> float:
        """After how many seconds a look is worth its while that only brings a status up to date."""
        return self._publisher.interval()

    def reported(self, study_id: int) -> StudyKey | None:
        """A pod of this study has reported. Returns which study that is, None if it is not served here."""
        key = self._keys.get(study_id)
        if key is not None and self.prunes(key):
            self._reported.setdefault(key, time.perf_counter())
        return key

    def prunes(self, key: StudyKey) -> bool:
        """Whether a report to this study calls for a decision."""
        live = self._live.get(key)
        return live is not None and live.study.pruner is not None

    def forget(self, key: StudyKey) -> None:
        """The Study is gone, or served elsewhere: nothing is held in memory of it any more."""
        live = self._live.pop(key, None)
        if live is not None and live.study_id is not None:
            self._keys.pop(live.study_id, None)
            self._trials.forget(live.study_id)
        self._reported.pop(key, None)
        self._follower.forget(key)
        self._publisher.forget(key)

    def look_for_predecessors(self, key: StudyKey) -> None:
        """The next look ends what deleted Studies of this name have left, once more."""
        if (live := self._live.get(key)) is not None:
            live.predecessors_ended = False

    async def reconcile(self, key: StudyKey, noticed: float) -> ReconcileResult:
        """Looks at one study and does what is to be done.

        Args:
            noticed: when the reason to look became known, in seconds of `time.monotonic`.

        Raises:
            ApiError: the API server did not answer as it must; look again.
        """
        manifest = await self._cluster.get_study(*key)
        if manifest is None or "deletionTimestamp" in manifest["metadata"]:
            return await self._farewell(key)
        look = ReconcileResult()
        try:
            study = parse(manifest)
        except Refused as refusal:
            await self._publish(manifest, None, look, Situation(refused(refusal.reason, refusal.message)))
            return look
        live = self._holder(key, study)
        judgement = await self._judge(live, manifest, look)
        try:
            if not live.predecessors_ended:
                await self.gone.end(*key, but=study.uid)
                live.predecessors_ended = True
            await self._serve(key, live, manifest, judgement, noticed, look)
        except (StorageUnavailable, StorageError) as error:
            log.warning("the database cannot be used: %s", error)
            live.drop()
            look.failed = True
            await self._publish(manifest, study, look, Situation(judgement, storage_down(str(error))))
        return look

    async def tell_outage(self, key: StudyKey, words: str) -> None:
        """Says in a Study's status that the database cannot be used. Decides nothing.

        Raises:
            ApiError: the API server did not answer as it must.
        """
        manifest = await self._cluster.get_study(*key)
        if manifest is None:
            return
        try:
            study = parse(manifest)
            ready = _accepted_before(manifest)
            judgement = (
                accepted() if ready else await self._judge(self._holder(key, study), manifest, ReconcileResult())
            )
        except Refused as refusal:
            study, judgement = None, refused(refusal.reason, refusal.message)
        await self._publish(manifest, study, ReconcileResult(), Situation(judgement, storage_down(words)))
        self.forget(key)

    async def _serve(
        self,
        key: StudyKey,
        live: LiveStudy,
        manifest: Manifest,
        judgement: Condition,
        noticed: float,
        look: ReconcileResult,
    ) -> None:
        try:
            observed, waits = await self._observe(key, live, manifest, look, launching=judgement.status is True)
        except Refused as refusal:  # what only the database could tell
            judgement = refused(refusal.reason, refusal.message)
            look.sooner(REFUSED_AGAIN_SECONDS)
            observed, waits = await self._observe(key, live, manifest, look, launching=False)
        todo = plan(observed)
        look.sooner(todo.look_again.total_seconds() if todo.look_again else None)
        actor = Actor(self._cluster, self._threads, live, self._reporting(live.study), self._cluster_now, self._gate)
        active = {job.name for job in observed.active}
        begun = time.monotonic()
        done = await actor.act(todo.actions, noticed if live.active - active else None)
        look.acted = time.monotonic() - begun
        live.active = active | set(done.created)
        if todo.actions:
            rows = await self._threads.run(live.look, list({job.number for job in observed.active}))
            observed = replace(observed, rows=rows, jobs={**observed.jobs, **done.created})
        if (trouble := await self._clear_claims(live, observed)) is not None:
            done.troubles.append(trouble)
        look.troubles, look.failed = done.troubles, bool(done.troubles)
        if done.again:
            look.sooner(0.0)
        end = outcome(observed)
        observed = await self._keep_time(live, observed, end)
        words = None if end or done.troubles else waits
        troubles = tuple(done.troubles)
        storage = storage_ready() if self.full is None else storage_down(self.full)
        situation = Situation(judgement, storage, observed, end, words, troubles, live.warm_started)
        await self._publish(manifest, live.study, look, situation, done.failures)

    async def _keep_time(self, live: LiveStudy, observed: Observed, end: Outcome | None) -> Observed:
        """Time in which the study is suspended or has ended is not taken from its deadline."""
        clock, idle = observed.rows.clock, observed.study.paused or end is not None
        if clock.started_at is None or idle is (clock.paused_at is not None):
            return observed
        rows = observed.rows
        return replace(observed, rows=replace(rows, clock=await self._threads.run(live.keep_time, idle, observed.now)))

    async def _clear_claims(self, live: LiveStudy, observed: Observed) -> str | None:
        """Deletes claims that are no longer to be kept, if a trial or its Job has ended since that was last done."""
        active = {job.number for job in observed.active}
        saving = frozenset(n for n in active if n in observed.rows.open and observed.rows.open[n].state.is_finished())
        seen = observed.study.generation, observed.rows.finished, saving
        if live.cleared == seen:
            return None
        trouble = await dependents.clear_claims(
            self._cluster, observed.study, observed.rows, active, live.best(observed.rows)
        )
        if trouble is None:
            live.cleared = seen
        return trouble

    def _holder(self, key: StudyKey, study: Study) -> LiveStudy:
        live = self._live.get(key)
        if live is None or live.study.uid != study.uid:
            classes = self._settings.sampler_classes
            live = self._live[key] = LiveStudy(
                study, self._database, self._studies, self._trials, self._beginnings, classes
            )
        live.take(study)
        return live

    async def _judge(self, live: LiveStudy, manifest: Manifest, look: ReconcileResult) -> Condition:
        """Whether the Study can be run as it is written. What only the API server can judge, the Job, is sent to it
        once for each generation, as a dry run."""
        study = live.study
        if live.accepted_generation == study.generation:
            return accepted()  # building a sampler anew takes a second for a grid of a million cells
        try:
            # Among the storage threads: a plug-in is imported here, and PyTorch may be.
            await self._threads.run(build_sampler, study, 0, self._settings.sampler_classes)
            build_pruner(study)
            build_judge(study)
            log_lines.build(study)
            initial_trials(study)
            example = job(study, self._reporting(study), 0, 0, example_params(study.space))
        except Refused as refusal:
            return refused(refusal.reason, refusal.message)
        if not _accepted_before(manifest):
            example["metadata"]["name"] = f"{study.name}-dry-run"
            try:
                await self._cluster.create_job(example, dry_run=True)
            except ApiError as error:
                if error.status not in (400, 403, 422):
                    raise
                look.sooner(REFUSED_AGAIN_SECONDS)
                return refused("JobTemplateRefused", f"the API server refuses the Job: {error.message}")
            try:
                await dependents.try_claim(self._cluster, study)
            except ApiError as error:
                if error.status not in (400, 403, 422):
                    raise
                look.sooner(REFUSED_AGAIN_SECONDS)
                return refused("CheckpointsRefused", f"the API server refuses a trial's claim: {error.message}")
        live.accepted_generation = study.generation
        return accepted()

    async def _observe(
        self, key: StudyKey, live: LiveStudy, manifest: Manifest, look: ReconcileResult, launching: bool
    ) -> tuple[Observed, str | None]:
        """Jobs first, rows second: a Job seen finished has had its last word in the rows that are read after it.

        Returns:
            What there is, and why a trial's pod does not run, in the scheduler's or the kubelet's own words.
        """
        study = live.study
        listed = await self._cluster.list_jobs(key.namespace, f"{STUDY_LABEL}={key.name}", study.uid)
        states = (job_state(item, study.gpu_resource_name) for item in listed)
        found = {state.name: state for state in states if state is not None}
        observed = Observed(study, Rows({}, {}), found, self._now(), launching=launching)
        stuck, waits = await self._ask_pods(study, pending.waiting(observed.active), look)
        drained = self._follower.drained(key, found.values())
        reported = self._reported.pop(key, None)
        rows, prospect = await self._threads.run(
            live.observe,
            self._reporting(study),
            list({job.number for job in observed.active}),
            launching=launching,
            end=_end_before(manifest),
        )
        if reported is not None:
            metrics.REPORT_TO_DECISION.observe(time.perf_counter() - reported)
        assert live.study_id is not None
        self._keys[live.study_id] = key
        self._follower.sync(key, study, found.values(), rows.open)
        live.launched.update(name for name, job in found.items() if job.number in rows.open)
        observed = replace(
            observed,
            rows=rows,
            launched=frozenset(live.launched),
            prune=frozenset(live.prune),
            exhausted=prospect.exhausted,
            converged=prospect.converged,
            impossible=prospect.impossible,
            stuck=stuck,
            drained=drained,
        )
        return observed, waits

    async def _ask_pods(
        self, study: Study, waiting: list[JobState], look: ReconcileResult
    ) -> tuple[dict[str, Stuck], str | None]:
        """Which of some Jobs have waited too long for their pods, and why one of them waits."""
        now = self._cluster_now()
        ask, again = pending.ask_again(waiting, now)
        look.sooner(again)
        look.sooner(pending.until_stuck(study, waiting, now))
        if not ask:
            return {}, None
        found = await self._cluster.list_pods(
            study.namespace, f"{STUDY_LABEL}={study.name}", pending=True, limit=PENDING_PODS
        )
        return pending.stuck(study, waiting, found, now), pending.why(waiting, found)

    async def _publish(
        self,
        manifest: Manifest,
        study: Study | None,
        look: ReconcileResult,
        situation: Situation,
        failures: Sequence[tuple[TrialRow, Failure]] = (),
    ) -> None:
        look.sooner(await self._publisher.publish(manifest, study, situation, self._now(), failures))

    async def _farewell(self, key: StudyKey) -> ReconcileResult:
        """The Study is deleted. Nothing waits for this: what it misses, the next sweep does."""
        self.forget(key)
        try:
            await self.gone.end(*key, but=None)
        except (StorageUnavailable, StorageError) as error:
            log.warning("what the deleted Study left is removed by a later sweep: %s", error)
            return ReconcileResult()
        return ReconcileResult(gone=True)

    def _reporting(self, study: Study) -> Reporting:
        settings = self._settings
        return Reporting.of(
            study,
            self._cluster_id,
            settings.study_key_seed,
            settings.reporter_url,
            settings.reporter_ca,
            settings.trial_image,
        )


def _end_before(manifest: Manifest) -> str | None:
    """The reason with which the study has ended, according to the status."""
    conditions = (manifest.get("status") or {}).get("conditions") or ()
    return next(
        (c["reason"] for c in conditions if c["type"] in ("Complete", "Failed") and c["status"] == "True"), None
    )


def _accepted_before(manifest: Manifest) -> bool:
    """Whether the API server has accepted this very generation, according to the status."""
    return any(
        c["type"] == "Accepted"
        and c["status"] == "True"
        and c.get("observedGeneration") == manifest["metadata"]["generation"]
        for c in (manifest.get("status") or {}).get("conditions") or ()
    )

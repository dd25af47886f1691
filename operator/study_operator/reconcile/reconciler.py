"""One reconciliation of one study: observe, plan, act, publish.

Nothing here remembers anything that a decision depends on. A reconciliation that is lost, repeated or cut off at any
point is made good by the next one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from study_operator import metrics
from study_operator.kube.client import Cluster
from study_operator.manifests.job import Reporting
from study_operator.model.actions import Tell
from study_operator.model.intake import Unreadable
from study_operator.model.mark import Standing, continued
from study_operator.model.observed import Observed
from study_operator.model.plan import plan
from study_operator.model.status import (
    Condition,
    Situation,
    refused,
    rows_missing,
    storage_down,
    storage_ready,
)
from study_operator.model.study import Refused, Study, StudyKey
from study_operator.model.study_outcome import Outcome, outcome
from study_operator.model.trial import Failure, TrialRow
from study_operator.podlogs.follower import Follower
from study_operator.pool import BlockingPool
from study_operator.processes.client import Optimizers
from study_operator.processes.errors import OptimizerUnavailable, SamplerFailed
from study_operator.reconcile import dependents
from study_operator.reconcile.acceptance import (
    REFUSED_AGAIN_SECONDS,
    Acceptance,
    accepted_before,
    parsed,
    reserved,
    with_limit,
)
from study_operator.reconcile.actor import CALLS_AT_ONCE, Actor
from study_operator.reconcile.continued_rows import go_on
from study_operator.reconcile.deleted_studies import DeletedStudies
from study_operator.reconcile.intake import Intake
from study_operator.reconcile.live_study import LiveStudy
from study_operator.reconcile.marks import AGAIN_SECONDS, Marks
from study_operator.reconcile.observer import Observer
from study_operator.reconcile.publisher import Publisher
from study_operator.reconcile.result import ReconcileResult
from study_operator.reconcile.study_secret import ensure_secret
from study_operator.reconcile.study_trials import StudyTrials
from study_operator.settings import TRIAL_STORAGE_DIRECTORY, Settings
from study_operator.storage.continuing import Continuing
from study_operator.storage.database import Database, StorageError, StorageUnavailable
from study_operator.storage.initial_trials import InitialTrials
from study_operator.storage.logins import Logins
from study_operator.storage.studies import KnownStudy, Studies
from study_operator.storage.trials import Trials
from study_operator.storage.whereabouts import Whereabouts

Manifest = dict[str, Any]

log = logging.getLogger(__name__)


class Reconciler:
    """Reconciles the studies of one cluster.

    Args:
        cluster_id: the UID of the cluster's kube-system namespace.
        pool: where everything that blocks is done.
        optimizers: where studies compute.
        follower: reads the logs of trials that report by what they print.
        now: the time by the database's clock, aware, UTC: that of the times in rows.
        cluster_now: the time by the API server's clock, aware, UTC: that of the times in Jobs and pods.

    Attributes:
        intake: what there is room for. It is told which Studies there are.
    """

    def __init__(
        self,
        settings: Settings,
        cluster: Cluster,
        cluster_id: str,
        database: Database,
        studies: Studies,
        pool: BlockingPool,
        optimizers: Optimizers,
        follower: Follower,
        now: Callable[[], datetime],
        cluster_now: Callable[[], datetime],
    ) -> None:
        self._settings, self._cluster, self._cluster_id = settings, cluster, cluster_id
        self._pool, self._follower, self._now, self._cluster_now = pool, follower, now, cluster_now
        self._database, self._optimizers = database, optimizers
        self._studies, self._trials = studies, Trials(database)
        self._initial_trials = InitialTrials(database, cluster_id)
        self._logins = Logins(database, settings, cluster_id)
        self._deleted = DeletedStudies(self._studies, self._trials, pool, settings.watch_namespaces)
        self.intake = Intake(settings.limits.studies_per_namespace)
        self._acceptance = Acceptance(cluster, pool, optimizers, self.intake, reserved(settings))
        self._continuing = Continuing(database, cluster_id)
        self._marks = Marks(cluster, pool, Whereabouts(database, cluster_id), settings.installation)
        self._observer = Observer(cluster, pool, follower, now, cluster_now)
        self._publisher = Publisher(cluster)
        self._gate = asyncio.Semaphore(CALLS_AT_ONCE)
        self._live: dict[StudyKey, LiveStudy] = {}
        self._keys: dict[int, StudyKey] = {}
        self._reported: dict[StudyKey, float] = {}
        self._database_full: str | None = None
        self._unread: dict[StudyKey, tuple[str, int]] = {}  # UID and generation of those whose status says so

    def status_interval(self) -> float:
        """Return the shortest time between two reconciliations that only update counts in the status, in seconds."""
        return self._publisher.interval()

    def database_full(self, words: str | None) -> bool:
        """Note that the database has no room for what pods report, in its own words; None when it has room.
        Reconciliations go on, and say so in each Study's status. Return whether this is news."""
        news = (words is None) is not (self._database_full is None)
        self._database_full = words
        return news

    def reported(self, study_id: int) -> StudyKey | None:
        """Note that a pod of this study has reported. Return the study's key, None if it is not served here."""
        key = self._keys.get(study_id)
        if key is not None and self.prunes(key):
            self._reported.setdefault(key, time.perf_counter())
        return key

    def key_of(self, study_id: int) -> StudyKey | None:
        """Return a study's key, None if it is not served here."""
        return self._keys.get(study_id)

    def prunes(self, key: StudyKey) -> bool:
        """Return whether a report to this study calls for a decision."""
        live = self._live.get(key)
        return live is not None and live.study.pruner is not None

    def forget(self, key: StudyKey) -> None:
        """Hold nothing in memory of a Study that is gone, or served by another replica."""
        self._drop(key)
        self._marks.forget(key)

    def _drop(self, key: StudyKey) -> None:
        live = self._live.pop(key, None)
        if live is not None and live.trials.has_rows:
            self._keys.pop(live.trials.study_id, None)
            self._trials.forget(live.trials.study_id)
        if live is not None:
            self._optimizers.forget(live.study)
        self._reported.pop(key, None)
        self._unread.pop(key, None)
        self.intake.forget(key)
        self._follower.forget(key)
        self._publisher.forget(key)

    async def known_studies(self) -> list[KnownStudy]:
        """Return the Studies that the database has rows of, in the namespaces that this operator watches."""
        return await self._deleted.known()

    def look_for_predecessors(self, key: StudyKey) -> None:
        """Let the next reconciliation end what deleted Studies of this name have left, once more."""
        if (live := self._live.get(key)) is not None:
            live.known.predecessors_ended = False

    async def reconcile(self, key: StudyKey, noticed: float, throttled: bool = False) -> ReconcileResult:
        """Bring one study nearer to its end.

        Args:
            noticed: when the reason to reconcile became known, in seconds of `time.monotonic`.
            throttled: whether the study has to wait for others, because it takes more than its share of time.

        Raises:
            ApiError: the API server did not answer as it must; reconcile again.
            Ended: the look was ended between two pieces of its work.
        """
        try:
            manifest = await self._cluster.get_study(*key)
        except Unreadable as trouble:
            return await self._refuse_unread(key, trouble)
        if manifest is None or "deletionTimestamp" in manifest["metadata"]:
            return await self._end_deleted(key)
        self.intake.note(key, manifest["metadata"].get("creationTimestamp", ""), manifest["metadata"]["uid"])
        result = ReconcileResult()
        # Before anything else: a Study that another installation serves gets no status of this one, either.
        try:
            compared, found = await self._marks.compare(manifest)
        except (StorageUnavailable, StorageError) as error:
            return await self._without_storage(key, manifest, error)
        if compared.standing is Standing.ANOTHERS:
            self._drop(key)
            await self._marks.say(manifest, compared.words, self._now())
            return ReconcileResult(again=AGAIN_SECONDS)
        try:
            study = parsed(manifest, self._settings)
        except Refused as refusal:
            await self._publish(manifest, None, result, Situation(refused(refusal.reason, refusal.message)))
            return result
        if found.stored is not None:
            study = replace(study, stored_name=found.stored.name)
        live = self._live_study(key, study)
        if live.incarnation not in ("", found.incarnation):
            log.warning("the database has been restored or exchanged: what is known of the study is read again")
            self._drop(key)
            live = self._live_study(key, study)
        live.incarnation, live.restored_at = found.incarnation, found.restored_at
        try:
            judgement = await self._acceptance.judge(live, manifest)
        except OptimizerUnavailable as error:
            result.sooner(error.again)
            return result
        condition = with_limit(judgement.condition, manifest, self._settings)
        result.sooner(judgement.again)
        if compared.standing is Standing.LOST:
            await self._publish(manifest, study, result, Situation(condition, rows_missing(compared.words)))
            self._drop(key)
            result.sooner(AGAIN_SECONDS)
            return result
        try:
            # Rows, then the mark, then Jobs: a mark says that there are rows, and a Job that there is a mark.
            claims = compared.standing is Standing.CLAIM
            if claims and found.stored is None and (name := continued(manifest)) is not None:
                study = await go_on(self._cluster, self._pool, self._continuing, name, live)
            await self._pool.run(live.trials.ensure, found.place, claims)
            if claims:
                manifest = await self._marks.claim(manifest, found.place)
            if not live.known.predecessors_ended:
                await self._deleted.end(*key, but=study.uid)
                live.known.predecessors_ended = True
            await self._give_login(live)
            await self._serve(key, live, manifest, condition, noticed, result, throttled)
        except (StorageUnavailable, StorageError) as error:
            live.trials.drop()
            return await self._without_storage(key, manifest, error)
        except Refused as refusal:  # what it is to go on with
            await self._publish(manifest, study, result, Situation(refused(refusal.reason, refusal.message)))
            result.sooner(REFUSED_AGAIN_SECONDS)
        return result

    async def _without_storage(
        self, key: StudyKey, manifest: Manifest, error: StorageUnavailable | StorageError
    ) -> ReconcileResult:
        """Say in the status of a Study of ours that the database cannot be used."""
        log.warning("the database cannot be used: %s", error)
        result = ReconcileResult(failed=True)
        if not self._marks.of_another(manifest):
            study, condition = await self._judge(key, manifest)
            await self._publish(manifest, study, result, Situation(condition, storage_down(str(error))))
        return result

    async def tell_outage(self, key: StudyKey, words: str) -> None:
        """Say in a Study's status that the database cannot be used. Decide nothing.

        Raises:
            ApiError: the API server did not answer as it must.
        """
        try:
            manifest = await self._cluster.get_study(*key)
        except Unreadable:
            return  # that its status says, as soon as the database answers
        if manifest is None or self._marks.of_another(manifest):
            return
        study, condition = await self._judge(key, manifest)
        await self._publish(manifest, study, ReconcileResult(), Situation(condition, storage_down(words)))
        self.forget(key)

    async def _give_login(self, live: LiveStudy) -> None:
        """Let the study's pods report by their namespace's login, which only the database knows."""
        url = await self._pool.run(self._logins.url_of, live.study.namespace)
        if url != live.reporting.url:
            live.reporting = replace(live.reporting, url=url)

    async def _judge(self, key: StudyKey, manifest: Manifest) -> tuple[Study | None, Condition]:
        """Return the Study, None if it cannot be read, and its condition Accepted.

        Raises:
            ApiError: the API server did not answer as it must.
        """
        try:
            study = parsed(manifest, self._settings)
        except Refused as refusal:
            return None, refused(refusal.reason, refusal.message)
        if (before := accepted_before(manifest)) is not None:
            return study, before
        try:
            return study, (await self._acceptance.judge(self._live_study(key, study), manifest)).condition
        except OptimizerUnavailable:
            return study, Condition("Accepted", None, "NotJudged", "the sampler has not been built yet")

    async def _serve(
        self,
        key: StudyKey,
        live: LiveStudy,
        manifest: Manifest,
        condition: Condition,
        noticed: float,
        result: ReconcileResult,
        throttled: bool,
    ) -> None:
        reported = self._reported.pop(key, None)
        try:
            observed, waits = await self._observer.observe(
                key, live, manifest, result, launching=condition.status is True
            )
        except Refused as refusal:  # what only the database could tell
            condition = refused(refusal.reason, refusal.message)
            result.sooner(REFUSED_AGAIN_SECONDS)
            observed, waits = await self._observer.observe(key, live, manifest, result, launching=False)
        if reported is not None:
            metrics.REPORT_TO_DECISION.observe(time.perf_counter() - reported)
        self._keys[live.trials.study_id] = key
        todo = plan(observed)
        result.sooner(todo.reconcile_after.total_seconds() if todo.reconcile_after else None)
        actor = Actor(self._cluster, self._pool, live, self._cluster_now, self._gate)
        active = {job.name for job in observed.active}
        begun = time.monotonic()
        done = await actor.act(todo, noticed if live.known.active - active else None)
        result.acted = time.monotonic() - begun
        live.known.active = active | set(done.created)
        if todo.actions:
            rows = await self._pool.run(live.trials.reread, list({job.number for job in observed.active}))
            observed = replace(observed, rows=rows, jobs={**observed.jobs, **done.created})
        # A new password or CA is brought to pods that run, also where no trial is started.
        if observed.active and (trouble := await ensure_secret(self._cluster, live)) is not None:
            done.troubles.append(trouble)
        if (trouble := await self._clear_claims(live, observed, result)) is not None:
            done.troubles.append(trouble)
        result.troubles, result.failed = done.troubles, bool(done.troubles)
        if done.again:
            result.sooner(0.0)
        # The optimizer cannot be asked now. Everything else was done.
        unavailable = done.unavailable or live.trials.unavailable
        if unavailable is not None:
            result.sooner(unavailable.again)
        end = outcome(observed)
        observed = await self._keep_time(live, observed, end)
        if condition.status is not True and not observed.rows.total:
            self._live.pop(key, None)  # of what is refused nothing is held
        words = None if end or done.troubles else waits
        unreachable, again = await live.silent_pods.look(
            self._cluster, live.study, observed.active, self._reported_trials, self._cluster_now()
        )
        result.sooner(again)
        storage = storage_ready() if self._database_full is None else storage_down(self._database_full)
        situation = Situation(
            condition, storage, observed, end, words, tuple(done.troubles), live.trials.warm_started, throttled
        )
        situation = replace(situation, unreachable=unreachable)
        if isinstance(unavailable, SamplerFailed):
            situation = replace(situation, sampler_failed=str(unavailable))
        await self._publish(manifest, live.study, result, situation, done.failures, done.stopped)

    async def _reported_trials(self, trial_ids: list[int]) -> set[int]:
        """Return which of some trials have stored a report."""
        return {report.trial_id for report in await self._pool.run(self._trials.last_reports, trial_ids)}

    async def _keep_time(self, live: LiveStudy, observed: Observed, end: Outcome | None) -> Observed:
        """Take the time in which the study is suspended or has ended out of its deadline."""
        clock, idle = observed.rows.clock, observed.study.paused or end is not None
        if clock.started_at is None or idle is (clock.paused_at is not None):
            return observed
        clock = await self._pool.run(live.trials.keep_time, idle, observed.now)
        return replace(observed, rows=replace(observed.rows, clock=clock))

    async def _clear_claims(self, live: LiveStudy, observed: Observed, result: ReconcileResult) -> str | None:
        """Delete claims that are no longer to be kept, if a trial or its Job has ended since that was last done."""
        active = {job.number for job in observed.active}
        saving = frozenset(n for n in active if n in observed.rows.open and observed.rows.open[n].state.is_finished())
        seen = observed.study.generation, observed.rows.finished, saving
        if live.known.claims_cleared == seen:
            return None
        best = live.trials.best(observed.rows)
        cleared, trouble = await dependents.clear_claims(self._cluster, observed.study, observed.rows, active, best)
        if cleared:
            live.known.claims_cleared = seen
        elif trouble is None:
            result.sooner(0.0)
        return trouble

    def _live_study(self, key: StudyKey, study: Study) -> LiveStudy:
        live = self._live.get(key)
        if live is None or live.study.uid != study.uid:
            live = self._live[key] = self._begin(study)
        live.update(study)
        return live

    def _begin(self, study: Study) -> LiveStudy:
        settings = self._settings
        reporting = Reporting.of(
            study,
            self._cluster_id,
            settings.study_key_seed,
            settings.reporter_url,
            settings.reporter_ca,
            settings.trial_image,
            TRIAL_STORAGE_DIRECTORY,
        )
        trials = StudyTrials(
            study,
            reporting.key_hash,
            self._database,
            self._studies,
            self._trials,
            self._initial_trials,
            self._optimizers,
        )
        return LiveStudy(study, reporting, trials)

    async def _publish(
        self,
        manifest: Manifest,
        study: Study | None,
        result: ReconcileResult,
        situation: Situation,
        failures: Sequence[tuple[TrialRow, Failure]] = (),
        stopped: Sequence[Tell] = (),
    ) -> None:
        result.sooner(await self._publisher.publish(manifest, study, situation, self._now(), failures, stopped))

    async def _refuse_unread(self, key: StudyKey, trouble: Unreadable) -> ReconcileResult:
        """Say in the status of a Study that it is not taken in, once for each generation. Nothing of it is held.

        Trials that it has started before go on, and are looked at when it can be read again.
        """
        found = await self._cluster.identify_study(*key)
        if found is None or found.deleting:
            return await self._end_deleted(key)
        if self._unread.get(key) == (found.uid, found.generation):
            return ReconcileResult()
        self.forget(key)
        log.warning("the Study is not taken in: %s", trouble)
        result = ReconcileResult()
        await self._publish(found.manifest(), None, result, Situation(refused(trouble.reason, trouble.message)))
        if result.again is None:
            self._unread[key] = found.uid, found.generation
        return result

    async def _end_deleted(self, key: StudyKey) -> ReconcileResult:
        """End the rows of a deleted Study. Nothing waits for this: the next sweep does what this misses."""
        self.forget(key)
        self.intake.gone(key)
        try:
            await self._deleted.end(*key, but=None)
        except (StorageUnavailable, StorageError) as error:
            log.warning("what the deleted Study left is removed by a later sweep: %s", error)
            return ReconcileResult()
        return ReconcileResult(gone=True)

"""Does what was planned for one study: tells, creates and deletes, each step such that it may be repeated."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime

from optuna.trial import TrialState

from study_operator import metrics
from study_operator.cluster import ApiError, Cluster, owner_uid
from study_operator.live import LiveStudy
from study_operator.logs import trial_context
from study_operator.model import pods
from study_operator.model.job import TRIAL_ID_ANNOTATION, Reporting, job, secret
from study_operator.model.plan import Action, Ask, EndJob, Launch, Tell
from study_operator.model.study import Study
from study_operator.model.trial import Failure, JobPhase, JobState, TrialRow
from study_operator.storage.database import StorageError, StorageUnavailable
from study_operator.storage.threads import StorageThreads
from study_operator.storage.trials import StaleHistory

# Trials started between two looks at whether their Jobs could be created.
BATCH = 16

log = logging.getLogger(__name__)


@dataclass
class Done:
    """What came of a plan: trials told failed and why, Jobs created, and in sentences for people what went wrong."""

    failures: list[tuple[TrialRow, Failure]] = field(default_factory=list)
    created: dict[int, JobState] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)


class Actor:
    """Acts on one study.

    Args:
        reporting: where the study's pods report to.
        now: the time, aware, UTC.
    """

    def __init__(
        self,
        cluster: Cluster,
        threads: StorageThreads,
        live: LiveStudy,
        reporting: Reporting,
        now: Callable[[], datetime],
    ) -> None:
        self._cluster, self._threads, self._live, self._reporting, self._now = cluster, threads, live, reporting, now
        self._done = Done()

    async def act(self, actions: Iterable[Action], freed_at: float | None) -> Done:
        """Does the actions in their order.

        Args:
            freed_at: when it became known that a slot is free, in seconds of `time.monotonic`; None when none is.

        Raises:
            StorageUnavailable: on the way; what was done stays done.
        """
        for action in actions:
            match action:
                case Tell():
                    await self._tell(action)
                case EndJob():
                    await self._end_job(action.job)
                case Launch():
                    await self._launch([action.row])
                case Ask():
                    await self._start(action.count)
                    if freed_at is not None and self._done.created:
                        metrics.SLOT_FREE_TO_JOB.observe(time.monotonic() - freed_at)
        return self._done

    async def _tell(self, told: Tell) -> None:
        failure = told.failure
        if told.state is TrialState.FAIL and told.job is not None:
            failure = await self._explain(told.job, failure)
        with trial_context(told.row.number):
            if not await self._threads.run(self._live.tell, told, failure):
                log.info("trial %d had ended otherwise before it could be told", told.row.number)
                return
            if failure is None:
                log.info("trial %d ended: %s %s", told.row.number, told.state.name, list(told.values or ()))
            else:
                metrics.FAILURES.labels(reason=failure.reason).inc()
                log.warning("trial %d failed: %s", told.row.number, failure.sentence())
                self._done.failures.append((told.row, failure))

    async def _explain(self, ended: JobState, known: Failure | None) -> Failure:
        """Why a Job failed, or, where that is known, what its program said last."""
        study = self._live.study
        found = await self._cluster.list_pods(study.namespace, study.name, ended.number)
        container = pods.last_container(found)
        if container is None:
            return known or pods.failure(ended, found)
        line = await self._cluster.last_log_line(study.namespace, *container)
        return replace(known, last_log_line=line) if known else pods.failure(ended, found, line)

    async def _end_job(self, ended: JobState) -> None:
        try:
            await self._cluster.delete_job(self._live.study.namespace, ended.name, ended.uid)
        except ApiError as error:
            self._done.troubles.append(f"Job {ended.name} could not be deleted: {error.message}")

    async def _start(self, count: int) -> None:
        """Starts trials, a batch at a time: were Jobs refused, no more rows are stored for them."""
        while count > 0 and not self._done.troubles:
            rows = await self._store(min(count, BATCH))
            await self._launch(rows)
            if len(rows) < min(count, BATCH):
                return
            count -= len(rows)

    async def _store(self, count: int) -> list[TrialRow]:
        """Asks for trials and stores them; fewer than `count` when no more may be started or the sampler fails."""
        rows: list[TrialRow] = []
        while len(rows) < count:
            try:
                row = await self._threads.run(self._live.start)
            except (StorageUnavailable, StorageError):
                raise
            except StaleHistory as error:
                self._done.troubles.append(str(error))
                break
            except Exception as error:  # the sampler's own, which the user must see, not just a log
                log.exception("the sampler failed")
                self._done.troubles.append(f"sampler {self._live.study.sampler.name} failed: {error}")
                break
            if row is None:
                break
            rows.append(row)
        return rows

    async def _launch(self, rows: list[TrialRow]) -> None:
        """Creates the Jobs of stored trials, all at once."""
        study = self._live.study
        manifest = secret(study, self._reporting)
        name = manifest["metadata"]["name"]
        try:
            if rows and self._live.secret != name:
                await self._cluster.create_secret(manifest)
                self._live.secret = name
        except ApiError as error:
            self._done.troubles.append(f"Secret {name} could not be created: {error.message}")
            return
        for row, result in zip(rows, await asyncio.gather(*(self._create(study, row) for row in rows)), strict=True):
            if isinstance(result, JobState):
                self._done.created[row.number] = result
                self._live.launched.add(row.number)
            else:
                self._done.troubles.append(result)

    async def _create(self, study: Study, row: TrialRow) -> JobState | str:
        """Creates one Job. Returns it as it will be listed, or a sentence that says why there is none."""
        manifest = job(study, self._reporting, row.number, row.trial_id, row.params)
        name = manifest["metadata"]["name"]
        try:
            made = await self._cluster.create_job(manifest)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                return f"Job {name} could not be created: {error.message}"
            try:
                made = await self._cluster.get_job(study.namespace, name)
            except ApiError as second:
                return f"Job {name} could not be read: {second.message}"
            if made is None:
                return f"Job {name} was there and has just been deleted"
            trial_id = (made["metadata"].get("annotations") or {}).get(TRIAL_ID_ANNOTATION)
            if owner_uid(made) != study.uid or trial_id != str(row.trial_id):  # never taken for ours
                return f"a Job {name} that is not this trial's exists; delete it, or give the Study another name"
        with trial_context(row.number):
            log.info("trial %d started as Job %s", row.number, name)
        return JobState(name, made["metadata"]["uid"], row.number, row.trial_id, JobPhase.ACTIVE, self._now())

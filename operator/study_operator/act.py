"""Does what was planned for one study: tells, creates and deletes, each step such that it may be repeated."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import groupby
from typing import Any

from study_operator import beside, metrics
from study_operator.cluster import ApiError, Cluster, owner_uid
from study_operator.fence import NotHeld
from study_operator.live import LiveStudy
from study_operator.logs import trial_context
from study_operator.model import pods
from study_operator.model.job import TRIAL_ID_ANNOTATION, Reporting, job, secret
from study_operator.model.memory import StaleHistory
from study_operator.model.plan import Action, Ask, CleanUp, EndJob, Judge, Launch, Requeue, Tell, verdict
from study_operator.model.study import Study
from study_operator.model.trial import Failure, FailureClass, JobPhase, JobState, TrialRow
from study_operator.storage.database import StorageError, StorageUnavailable
from study_operator.storage.threads import StorageThreads

# Trials started between two looks at whether their Jobs could be created, and calls of the API server at once.
BATCH = 16

log = logging.getLogger(__name__)


@dataclass
class Done:
    """What came of a plan: trials that failed and why, Jobs created, in sentences for people what went wrong, and
    whether to look again at once."""

    failures: list[tuple[TrialRow, Failure]] = field(default_factory=list)
    created: dict[str, JobState] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)
    again: bool = False


async def _some_at_once(calls: list[Coroutine[Any, Any, None]]) -> None:
    """Runs all of them, so many at a time that neither the API server nor the one who waits has too much of it."""
    gate = asyncio.Semaphore(BATCH)

    async def one(call: Coroutine[Any, Any, None]) -> None:
        async with gate:
            await call

    await asyncio.gather(*(one(call) for call in calls))


class Actor:
    """Acts on one study.

    Args:
        reporting: where the study's pods report to.
        now: the time by the API server's clock, aware, UTC.
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
        """Does the actions in their order; those to which it makes no difference at once.

        Args:
            freed_at: when it became known that a slot is free, in seconds of `time.monotonic`; None when none is.

        Raises:
            StorageUnavailable: on the way; what was done stays done.
        """
        for kind, same in groupby(actions, type):
            if kind is Launch:
                await self._launch_all([action.row for action in same])
            elif kind in (EndJob, CleanUp):
                await _some_at_once([self._act(action, freed_at) for action in same])
            else:
                for action in same:
                    await self._act(action, freed_at)
        return self._done

    async def _act(self, action: Action, freed_at: float | None) -> None:
        match action:
            case Tell():
                await self._tell(action)
            case Judge():
                await self._judge(action)
            case Requeue():
                await self._requeue(action.row, action.failure)
            case EndJob():
                await self._delete(action.job, waiting=True, kill_after=action.kill_after)
            case CleanUp():
                await self._delete(action.job, waiting=False)
            case Ask():
                await self._start(action.count)
                if freed_at is not None and self._done.created:
                    metrics.SLOT_FREE_TO_JOB.observe(time.monotonic() - freed_at)

    async def _tell(self, told: Tell) -> None:
        failure = told.failure
        if failure is not None and told.job is not None and not failure.last_log_line:
            failure = await self._explain(told.job, failure)
        with trial_context(told.row.number):
            if not await self._threads.run(self._live.tell, told, failure):
                log.info("trial %d had ended otherwise before it could be told", told.row.number)
                return
            if failure is None:
                log.info("trial %d ended: %s %s", told.row.number, told.state.name, list(told.values or ()))
            else:
                self._failed(told.row, failure)

    async def _judge(self, judged: Judge) -> None:
        failure = await self._explain(judged.job)
        ruling = verdict(self._live.study, judged.row, judged.job, failure)
        if isinstance(ruling, Requeue):
            await self._requeue(ruling.row, ruling.failure)
        else:
            await self._tell(replace(ruling, job=None))  # it is explained

    async def _requeue(self, row: TrialRow, failure: Failure | None) -> None:
        with trial_context(row.number):
            if not await self._threads.run(self._live.requeue, row, failure):
                log.info("trial %d had ended before it could be run again", row.number)
                return
            log.info("trial %d will run again", row.number)
            self._done.again = True
            if failure is not None:
                self._failed(row, failure)

    def _failed(self, row: TrialRow, failure: Failure) -> None:
        metrics.FAILURES.labels(failure.kind.lower(), failure.reason).inc()
        if failure.kind is FailureClass.TERMINATED:
            log.info("trial %d was ended: %s", row.number, failure.message)
            return
        if failure.kind is FailureClass.INFEASIBLE:
            log.info("trial %d is infeasible: %s", row.number, failure.sentence())
        else:
            log.warning("trial %d failed: %s", row.number, failure.sentence())
        self._done.failures.append((row, failure))

    async def _explain(self, ended: JobState, known: Failure | None = None) -> Failure:
        """Why a Job failed, or, where that is known, what its program said last."""
        study = self._live.study
        found = await self._cluster.list_pods(study.namespace, study.name, ended.name)
        container = pods.last_container(found)
        line = await self._cluster.last_log_line(study.namespace, *container) if container else ""
        if known is not None:
            return replace(known, last_log_line=line)
        return pods.failure(ended, found, line, study.infeasible_exit_codes)

    async def _delete(self, ended: JobState, waiting: bool, kill_after: int | None = None) -> None:
        namespace = self._live.study.namespace
        try:
            if kill_after is not None:
                # Before the Job: the garbage collector would give them their own time, which a kubelet that has begun
                # to wait does not always shorten. A pod that the Job starts meanwhile goes with it.
                await self._cluster.delete_pods(namespace, self._live.study.name, ended, kill_after)
            await self._cluster.delete_job(namespace, ended.name, ended.uid, waiting)
        except ApiError as error:
            self._done.troubles.append(f"Job {ended.name} could not be deleted: {error.message}")

    async def _start(self, count: int) -> None:
        """Starts trials, a batch at a time, each while the Jobs of the one before are created: were those refused, no
        more rows are stored."""
        creating: asyncio.Future[None] | None = None
        try:
            while count > 0 and not self._done.troubles:
                rows = await self._store(min(count, BATCH))
                if creating is not None:
                    await creating
                creating = asyncio.ensure_future(self._launch(rows))
                if len(rows) < min(count, BATCH):
                    break
                count -= len(rows)
        finally:
            if creating is not None:
                await creating

    async def _launch_all(self, rows: list[TrialRow]) -> None:
        """Creates the Jobs of trials that were stored earlier."""
        for first in range(0, len(rows), BATCH):
            await self._launch(rows[first : first + BATCH])

    async def _store(self, count: int) -> list[TrialRow]:
        """Asks for trials and stores them; fewer than `count` when no more may be started or the sampler fails."""
        rows: list[TrialRow] = []
        while len(rows) < count:
            try:
                row = await self._threads.run(self._live.start)
            except (StorageUnavailable, StorageError, NotHeld):
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
        if rows and not self._live.served_names:
            if (trouble := await beside.ensure_service(self._cluster, study)) is not None:
                self._done.troubles.append(trouble)
                return
            self._live.served_names = True
        for result in await asyncio.gather(*(self._create(study, row) for row in rows)):
            if isinstance(result, JobState):
                self._done.created[result.name] = result
                self._live.launched.add(result.name)
            else:
                self._done.troubles.append(result)

    async def _create(self, study: Study, row: TrialRow) -> JobState | str:
        """Creates one Job. Returns it as it will be listed, or a sentence that says why there is none."""
        assert row.job is not None
        if (trouble := await beside.ensure_claim(self._cluster, study, row.number)) is not None:
            return trouble
        manifest = job(study, self._reporting, row.number, row.trial_id, row.params, row.job)
        name = row.job
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
        uid = made["metadata"]["uid"]
        return JobState(name, uid, row.number, row.trial_id, JobPhase.ACTIVE, self._now(), generation=study.generation)

"""Do what was planned for one study: tell, create and delete, each step such that it may be repeated."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, TypeVar

from study_operator import looks, metrics
from study_operator.fence import NotHeld
from study_operator.kube.api_server import ApiError
from study_operator.kube.client import Cluster
from study_operator.logs import trial_context
from study_operator.manifests.job import job_manifest
from study_operator.model import missing_value, pod_status
from study_operator.model.actions import Ask, CreateJob, FindCause, RemoveFinishedJob, RunAgain, StopJob, Tell
from study_operator.model.batch import StaleHistory
from study_operator.model.job_state import JobPhase, JobState, job_state
from study_operator.model.plan import Plan
from study_operator.model.pod_status import OUT_OF_TIME
from study_operator.model.study import (
    INCARNATION_ANNOTATION,
    JOB_LABEL,
    STARTED_ANNOTATION,
    STUDY_LABEL,
    TRIAL_LABEL,
    Refused,
    Study,
)
from study_operator.model.trial import Failure, FailureClass, TrialRow
from study_operator.model.trial_rules import blame, verdict
from study_operator.pool import BlockingPool
from study_operator.processes.errors import OptimizerUnavailable
from study_operator.reconcile import dependents
from study_operator.reconcile.adoption import Adoption, adoption
from study_operator.reconcile.concurrency import gather_all, gather_through
from study_operator.reconcile.live_study import LiveStudy
from study_operator.reconcile.study_secret import ensure_secret
from study_operator.storage.database import StorageError, StorageUnavailable
from study_operator.texts import shown_lines

# Calls of the API server at once for one study, ends that are told in one transaction, and Jobs that are being created
# at once for all studies. A server that answers in milliseconds has few creations at once; a busy one has time to start
# the pods of Jobs that exist. Only creations share a gate: a study whose pods' logs cannot be read, because their node
# is dead, does not hold up the trials of other studies.
CALLS_AT_ONCE = 64
# Trials that are suggested and stored together, when many slots are free.
STORED_AT_ONCE = 8
# For how long one look goes on starting trials; the next look starts the others. A slow sampler may need minutes for a
# thousand slots, and meanwhile no trial of the study would be told or pruned.
LONGEST_START_SECONDS = 10.0

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass
class Done:
    """What came of a plan.

    Attributes:
        failures: trials that failed or are infeasible, each with the reason.
        created: the Jobs that were created, by name.
        troubles: what went wrong, in sentences for users.
        again: whether to reconcile again at once.
        unavailable: why the sampler could not be asked; None if it could.
    """

    failures: list[tuple[TrialRow, Failure]] = field(default_factory=list)
    created: dict[str, JobState] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)
    again: bool = False
    unavailable: OptimizerUnavailable | None = None


def _in_pieces(actions: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield CALLS_AT_ONCE actions at a time, for one transaction each.

    What was done before the API server fails stays done.
    """
    return (actions[start : start + CALLS_AT_ONCE] for start in range(0, len(actions), CALLS_AT_ONCE))


class Actor:
    """Acts on one study, once.

    Args:
        live: the study in memory.
        now: the time by the API server's clock, aware, UTC.
        gate: lets CALLS_AT_ONCE creations of Jobs through at once, of all studies together.
    """

    def __init__(
        self,
        cluster: Cluster,
        pool: BlockingPool,
        live: LiveStudy,
        now: Callable[[], datetime],
        gate: asyncio.Semaphore,
    ) -> None:
        self._cluster, self._pool, self._live, self._now = cluster, pool, live, now
        self._creations, self._calls, self._done = gate, asyncio.Semaphore(CALLS_AT_ONCE), Done()

    async def act(self, todo: Plan, freed_at: float | None) -> Done:
        """Do what is planned, all actions of one kind at once.

        Args:
            todo: the plan; its fields are in the order of doing.
            freed_at: when it became known that a slot is free, in seconds of `time.monotonic`; None when none is.

        Raises:
            StorageUnavailable: the database does not answer. What was done before stays done.
            StorageError: the database refused a write. What was done before stays done.
            NotHeld: this replica may not write about the study any more.
            ApiError: the API server does not say why Jobs have failed.
        """
        await self._tell_ends(todo.tells)
        await self._find_causes(todo.causes)
        await self._run_again(todo.reruns)
        await self._step(self._stop_jobs, todo.stops)
        await self._step(self._create_jobs, todo.creations)
        await self._step(self._start_trials, todo.ask)
        if freed_at is not None and todo.ask is not None and self._done.created:
            metrics.SLOT_FREE_TO_JOB.observe(time.monotonic() - freed_at)
        await self._step(self._remove_jobs, todo.removals)
        return self._done

    async def _step(self, do: Callable[[T], Awaitable[None]], actions: T) -> None:
        """Do all actions of one kind, and sort what went wrong.

        Calls end in any order. A condition's message that changed with it would be written at each reconciliation.
        """
        troubles = self._done.troubles
        before = len(troubles)
        await do(actions)
        troubles[before:] = sorted(troubles[before:])

    async def _tell_ends(self, tells: Sequence[Tell]) -> None:
        for some in _in_pieces(tells):
            looks.check("tells how trials have ended")
            await self._tell(await gather_through(self._calls, map(self._explained, some)))

    async def _find_causes(self, causes: Sequence[FindCause]) -> None:
        """Find out why Jobs have failed, many at once, then end their trials or run them again."""
        for some in _in_pieces(causes):
            looks.check("finds out why Jobs have failed")
            failures = await self._with_last_values(
                some, await gather_through(self._calls, (self._explain(cause) for cause in some))
            )
            verdicts = [
                verdict(self._live.study, cause.row, cause.job, blame(cause, failure))
                for cause, failure in zip(some, failures, strict=True)
            ]
            await self._tell([ruling for ruling in verdicts if isinstance(ruling, Tell)])
            await self._run_again([ruling for ruling in verdicts if isinstance(ruling, RunAgain)])

    async def _stop_jobs(self, stops: Sequence[StopJob]) -> None:
        for some in _in_pieces(stops):
            looks.check("stops Jobs")
            await gather_through(self._calls, (self._delete(stop.job, True, stop.kill_after) for stop in some))

    async def _create_jobs(self, creations: Sequence[CreateJob]) -> None:
        if creations and await self._prepare():
            for some in _in_pieces(creations):
                looks.check("creates Jobs")
                await gather_through(self._creations, (self._create_job(creation.row) for creation in some))

    async def _remove_jobs(self, removals: Sequence[RemoveFinishedJob]) -> None:
        for some in _in_pieces(removals):
            looks.check("removes finished Jobs")
            await gather_through(self._calls, (self._delete(removal.job, False) for removal in some))

    async def _tell(self, tells: Sequence[Tell]) -> None:
        """Tell ends in one transaction."""
        if not tells:
            return
        done = await self._pool.run(self._live.trials.tell, tells)
        self._live.known.launched.difference_update(told.row.job or "" for told in tells)
        for told, ended in zip(tells, done, strict=True):
            with trial_context(told.row.number):
                if not ended:
                    log.info("trial %d had ended otherwise before it could be told", told.row.number)
                elif told.failure is None:
                    log.info("trial %d ended: %s %s", told.row.number, told.state.name, list(told.values or ()))
                else:
                    self._failed(told.row, told.failure)

    async def _explained(self, told: Tell) -> Tell:
        """Add the end of what the program of a failed trial has logged."""
        failure = told.failure
        if failure is None or told.job is None or failure.last_log_line:
            return told
        found, logged = await self._evidence(told.job)
        failure = replace(self._in_words(failure, found, logged), last_log_line=pod_status.last_line(logged))
        return replace(told, failure=replace(failure, log=shown_lines(logged)))

    async def _run_again(self, reruns: Sequence[RunAgain]) -> None:
        for rerun in reruns:
            looks.check("lets trials run again")
            row = rerun.row
            with trial_context(row.number):
                if not await self._pool.run(self._live.trials.run_again, rerun):
                    log.info("trial %d had ended before it could be run again", row.number)
                    continue
                log.info("trial %d will run again", row.number)
                self._done.again = True
                if rerun.failure is not None:
                    self._failed(row, rerun.failure)

    def _failed(self, row: TrialRow, failure: Failure) -> None:
        metrics.FAILURES.labels(failure.kind.lower(), failure.reason).inc()
        if failure.kind is FailureClass.TERMINATED:
            log.info("trial %d was ended: %s", row.number, failure.message)
            return
        if failure.kind is FailureClass.INFEASIBLE:
            log.info("trial %d is infeasible: %s", row.number, failure.sentence())
        else:
            log.warning("trial %d failed: %s", row.number, failure.sentence())
        self._done.failures.append((row, replace(failure, log="")))  # thousands may fail in one look

    async def _with_last_values(self, causes: Sequence[FindCause], failures: Sequence[Failure]) -> list[Failure]:
        """Return failures that say, of trials that have run out of time, which values they had."""
        late = [c.row.trial_id for c, failure in zip(causes, failures, strict=True) if failure.reason == OUT_OF_TIME]
        had = await self._pool.run(self._live.trials.last_values, late) if late else {}
        study, found = self._live.study, list[Failure]()
        for cause, failure in zip(causes, failures, strict=True):
            if (values := had.get(cause.row.trial_id)) is not None:
                words = missing_value.at_deadline(study, failure.message, cause.row, *values)
                failure = replace(failure, message=words)
            found.append(failure)
        return found

    async def _explain(self, cause: FindCause) -> Failure:
        """Return why a Job has failed, or has left no value, with the end of what its program has logged."""
        found, logged = await self._evidence(cause.job)
        line = pod_status.last_line(logged)
        if cause.otherwise is not None:
            failure = pod_status.without_value(cause.job, found, cause.otherwise, line)
        else:
            failure = pod_status.failure(cause.job, found, line, self._live.study.infeasible_exit_codes)
        return replace(self._in_words(failure, found, logged), log=shown_lines(logged))

    def _in_words(self, failure: Failure, found: Sequence[Mapping[str, Any]], logged: str) -> Failure:
        """Return a failure that says, of a value that is missing, what there is instead."""
        if failure.reason not in missing_value.REASONS:
            return failure
        return replace(failure, message=missing_value.with_output(self._live.study, failure.message, logged, found))

    async def _evidence(self, ended: JobState) -> tuple[Sequence[Mapping[str, Any]], str]:
        """Return the pods of an ended Job that still exist, and the end of what its program has logged."""
        study = self._live.study
        selector = f"{STUDY_LABEL}={study.name},{JOB_LABEL}={ended.name}"
        # Anybody in the namespace may give a pod these labels. Only the Job's own pods say why it has failed.
        found = await self._cluster.list_pods(study.namespace, selector, ended.uid)
        container = pod_status.last_container(found, study.program)
        return found, await self._cluster.log_end(study.namespace, *container) if container else ""

    async def _delete(self, ended: JobState, waiting: bool, kill_after: int | None = None) -> None:
        """Delete a Job.

        Args:
            waiting: whether the Job stays until its pods are gone.
            kill_after: seconds that its pods get to end; None for the time that they say themselves.
        """
        namespace = self._live.study.namespace
        try:
            if kill_after is not None:
                # Pods before the Job. The garbage collector would give the pods their own time, and a kubelet that has
                # begun to wait does not always shorten it. A pod that the Job starts meanwhile is deleted with the Job.
                selector = f"{STUDY_LABEL}={self._live.study.name},{TRIAL_LABEL}={ended.number}"
                await self._cluster.delete_pods(namespace, selector, ended.uid, kill_after)
            await self._cluster.delete_job(namespace, ended.name, ended.uid, waiting)
        except ApiError as error:
            self._done.troubles.append(f"Job {ended.name} could not be deleted: {error.message}")

    async def _start_trials(self, ask: Ask | None) -> None:
        """Start new trials. While the Jobs of some are created, more are stored, until a creation fails.

        The first is stored alone, so that its slot does not wait for the suggestions of others. Then ever more are
        stored in one transaction.
        """
        count, size = ask.count if ask is not None else 0, 1
        creating: list[asyncio.Task[None]] = []
        begun = time.monotonic()
        try:
            while len(creating) < count and not self._done.troubles:
                looks.check("starts trials")
                if time.monotonic() - begun > LONGEST_START_SECONDS:
                    self._done.again = True
                    break
                rows = await self._store(min(size, count - len(creating)))
                if not rows or not await self._prepare():
                    break
                for row in rows:
                    await self._creations.acquire()
                    creating.append(asyncio.create_task(self._create_job(row)))
                    creating[-1].add_done_callback(lambda _: self._creations.release())
                size = min(2 * size, STORED_AT_ONCE)
        finally:
            await gather_all(creating)

    async def _store(self, count: int) -> list[TrialRow]:
        """Ask for trials and store them. Return none when no more may be started or the sampler fails.

        Raises:
            Refused: somebody has deleted the row of a trial.
        """
        try:
            return await self._pool.run(self._live.trials.start, count)
        except (StorageUnavailable, StorageError, NotHeld, looks.Ended, Refused):
            raise
        except StaleHistory as error:
            self._done.troubles.append(str(error))
        except OptimizerUnavailable as error:
            self._done.unavailable = error
        except Exception as error:  # the sampler's own: it must reach the user, not only a log
            log.exception("the sampler failed")
            if count > 1:  # none of them is stored; one by one, those can be for which the sampler does not fail
                return await self._store(1)
            self._done.troubles.append(f"sampler {self._live.study.sampler.name} failed: {error}")
        return []

    async def _prepare(self) -> bool:
        """Create what every trial needs, unless this process has seen it. Return False when that fails."""
        study, known = self._live.study, self._live.known
        if (trouble := await ensure_secret(self._cluster, self._live)) is not None:
            self._done.troubles.append(trouble)
            return False
        if not known.service:
            if (trouble := await dependents.ensure_service(self._cluster, study)) is not None:
                self._done.troubles.append(trouble)
                return False
            known.service = True
        if study.metrics.source == "File" and known.limit_ranges is None:  # only the sidecar has to fit them
            known.limit_ranges = await dependents.limit_ranges(self._cluster, study)
        return True

    async def _create_job(self, row: TrialRow) -> None:
        """Create the Job of a stored trial, and note down what came of it."""
        result = await self._create(self._live.study, row)
        if isinstance(result, JobState):
            self._done.created[result.name] = result
            self._live.known.launched.add(result.name)
        elif result is None:
            self._done.again = True
        else:
            self._done.troubles.append(result)

    async def _create(self, study: Study, row: TrialRow) -> JobState | str | None:
        """Create one Job.

        Returns:
            The Job as a list would have it; or a sentence that says why there is none; or None if a Job of this name
            exists that the next reconciliation has to decide about, because it sees it listed.
        """
        assert row.job is not None
        if (trouble := await dependents.ensure_claim(self._cluster, study, row.number)) is not None:
            return trouble
        name = row.job
        origin = {STARTED_ANNOTATION: row.token, INCARNATION_ANNOTATION: self._live.incarnation}
        ranges = self._live.known.limit_ranges or ()
        manifest = job_manifest(study, self._live.reporting, row.number, row.trial_id, row.params, name, origin, ranges)
        try:
            uid = (await self._cluster.create_job(manifest))["metadata"]["uid"]
        except ApiError as error:
            if error.reason != "AlreadyExists":
                return f"Job {name} could not be created: {error.message}"
            try:
                found = await self._cluster.get_job(study.namespace, name)
            except ApiError as second:
                return f"Job {name} could not be read: {second.message}"
            if found is None:
                return f"Job {name} was there and has just been deleted"
            there = job_state(found, study.is_gpu)
            if there is None or adoption(found, study) not in (Adoption.OURS, Adoption.LEAVING):
                return f"a Job {name} that is not this trial's exists; delete it, or give the Study another name"
            if not there.is_of(row) or there.deleting or there.phase is not JobPhase.ACTIVE:
                # Of a trial that a restore has taken away, or it has ended already: its pod is not this trial's.
                log.info("Job %s is there already, and is not taken for the trial's", name)
                return None
            uid = there.uid
        with trial_context(row.number):
            log.info("trial %d started as Job %s", row.number, name)
        return JobState(
            *(name, uid, row.number, row.trial_id, JobPhase.ACTIVE, self._now()),
            generation=study.generation,
            token=row.token,
            incarnation=self._live.incarnation,
        )

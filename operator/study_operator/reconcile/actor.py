"""Does what was planned for one study: tells, creates and deletes, each step such that it may be repeated."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import groupby
from typing import Any, TypeVar

from study_operator import metrics
from study_operator.fence import NotHeld
from study_operator.kube.client import ApiError, Cluster, owner_uid
from study_operator.logs import trial_context
from study_operator.manifests.job import Reporting, job, secret
from study_operator.model import pods
from study_operator.model.batch import StaleHistory
from study_operator.model.job_state import JobPhase, JobState
from study_operator.model.plan import (
    Action,
    Ask,
    CreateJob,
    FindCause,
    RemoveFinishedJob,
    RunAgain,
    StopJob,
    Tell,
    verdict,
)
from study_operator.model.study import TRIAL_ID_ANNOTATION, Study
from study_operator.model.trial import Failure, FailureClass, TrialRow
from study_operator.pool import BlockingPool
from study_operator.reconcile import dependents
from study_operator.reconcile.live_study import LiveStudy
from study_operator.storage.database import StorageError, StorageUnavailable

# Calls of the API server at once for one study, and Jobs that are being created at once for all of them: a server that
# answers in milliseconds sees few, and one that is busy comes to start the pods of Jobs that there are. Only creations
# share a gate: logs that a dead node does not give out hold up nobody else's trials.
CALLS_AT_ONCE = 64
# Trials that are suggested and stored together, when many slots are free.
STORED_AT_ONCE = 8

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass
class Done:
    """What came of a plan: trials that failed and why, Jobs created, in sentences for people what went wrong, and
    whether to look again at once."""

    failures: list[tuple[TrialRow, Failure]] = field(default_factory=list)
    created: dict[str, JobState] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)
    again: bool = False


async def _all(tasks: Iterable[asyncio.Future[T]]) -> list[T]:
    """Waits for all of them, also when one has failed: nothing goes on when a look has ended."""
    results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results  # type: ignore[return-value]


def _in_pieces(actions: Sequence[Action]) -> Iterator[Any]:
    """AT_ONCE of them at a time, each for one transaction: what was done before the API server fails stays done."""
    return (actions[start : start + CALLS_AT_ONCE] for start in range(0, len(actions), CALLS_AT_ONCE))


async def _some_at_once(calls: Iterable[Coroutine[Any, Any, T]], gate: asyncio.Semaphore | None = None) -> list[T]:
    """Makes the calls as a gate lets them, of their own unless given. Returns what they return, in their order."""
    gate = gate or asyncio.Semaphore(CALLS_AT_ONCE)

    async def one(call: Coroutine[Any, Any, T]) -> T:
        async with gate:
            return await call

    return await _all([asyncio.ensure_future(one(call)) for call in calls])


class Actor:
    """Acts on one study.

    Args:
        reporting: where the study's pods report to.
        now: the time by the API server's clock, aware, UTC.
        gate: of CALLS_AT_ONCE creations of Jobs, for all actors.
    """

    def __init__(
        self,
        cluster: Cluster,
        threads: BlockingPool,
        live: LiveStudy,
        reporting: Reporting,
        now: Callable[[], datetime],
        gate: asyncio.Semaphore,
    ) -> None:
        self._cluster, self._threads, self._live, self._reporting, self._now = cluster, threads, live, reporting, now
        self._gate, self._done = gate, Done()

    async def act(self, actions: Iterable[Action], freed_at: float | None) -> Done:
        """Does the actions in their order; those to which it makes no difference at once.

        Args:
            freed_at: when it became known that a slot is free, in seconds of `time.monotonic`; None when none is.

        Raises:
            StorageUnavailable: on the way; what was done stays done.
        """
        troubles = self._done.troubles
        for _, same in groupby(actions, type):
            before = len(troubles)
            await self._act(list(same), freed_at)
            # In whatever order they came: a condition's message that changes at each look would be written each time.
            troubles[before:] = sorted(troubles[before:])
        return self._done

    async def _act(self, actions: Sequence[Action], freed_at: float | None) -> None:
        """Does some actions of the same kind."""
        match actions[0]:
            case Tell():
                for some in _in_pieces(actions):
                    await self._tell(await _some_at_once(map(self._explained, some)))
            case FindCause():
                for some in _in_pieces(actions):
                    await self._judge(some)
            case RunAgain():
                for action in actions:
                    await self._run_again(action)
            case CreateJob():
                if await self._prepare():
                    await _some_at_once((self._launch(action.row) for action in actions), self._gate)
            case StopJob():
                await _some_at_once(self._delete(end.job, waiting=True, kill_after=end.kill_after) for end in actions)
            case RemoveFinishedJob():
                await _some_at_once(self._delete(action.job, waiting=False) for action in actions)
            case Ask():
                for action in actions:
                    await self._start(action.count)
                if freed_at is not None and self._done.created:
                    metrics.SLOT_FREE_TO_JOB.observe(time.monotonic() - freed_at)

    async def _tell(self, tells: list[Tell]) -> None:
        done = await self._threads.run(self._live.trials.tell, tells)
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
        """With what the program of a failed trial said last."""
        failure = told.failure
        if failure is None or told.job is None or failure.last_log_line:
            return told
        return replace(told, failure=await self._explain(told.job, failure))

    async def _judge(self, judged: Sequence[FindCause]) -> None:
        failures = await _some_at_once(self._explain(action.job) for action in judged)
        study = self._live.study
        rulings = [verdict(study, judge.row, judge.job, why) for judge, why in zip(judged, failures, strict=True)]
        if tells := [ruling for ruling in rulings if isinstance(ruling, Tell)]:
            await self._tell(tells)
        for ruling in rulings:
            if isinstance(ruling, RunAgain):
                await self._run_again(ruling)

    async def _run_again(self, again: RunAgain) -> None:
        row, failure = again.row, again.failure
        with trial_context(row.number):
            if not await self._threads.run(self._live.trials.run_again, again):
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
        """Starts trials: while the Jobs of some are created, more are stored, until one is refused.

        One by one at first, so that a slot does not wait for the suggestions of others; then ever more in one
        transaction.
        """
        creating: list[asyncio.Future] = []
        try:
            size = 1
            while len(creating) < count and not self._done.troubles:
                rows = await self._store(min(size, count - len(creating)))
                if not rows or not await self._prepare():
                    break
                for row in rows:
                    await self._gate.acquire()
                    creating.append(asyncio.ensure_future(self._launch(row)))
                    creating[-1].add_done_callback(lambda _: self._gate.release())
                size = min(2 * size, STORED_AT_ONCE)
        finally:
            await _all(creating)

    async def _store(self, count: int) -> list[TrialRow]:
        """Asks for trials and stores them; none when no more may be started or the sampler fails."""
        try:
            return await self._threads.run(self._live.trials.start, count)
        except (StorageUnavailable, StorageError, NotHeld):
            raise
        except StaleHistory as error:
            self._done.troubles.append(str(error))
        except Exception as error:  # the sampler's own, which the user must see, not just a log
            log.exception("the sampler failed")
            if count > 1:  # none of them is stored: at least those are to be for which it does not fail
                return await self._store(1)
            self._done.troubles.append(f"sampler {self._live.study.sampler.name} failed: {error}")
        return []

    async def _prepare(self) -> bool:
        """Creates what every trial needs, unless this process has seen that it is there. False when that fails."""
        study, manifest = self._live.study, secret(self._live.study, self._reporting)
        name = manifest["metadata"]["name"]
        try:
            if not self._live.known.secret:
                await self._cluster.create_secret(manifest)
                self._live.known.secret = True
        except ApiError as error:
            self._done.troubles.append(f"Secret {name} could not be created: {error.message}")
            return False
        if not self._live.known.service:
            if (trouble := await dependents.ensure_service(self._cluster, study)) is not None:
                self._done.troubles.append(trouble)
                return False
            self._live.known.service = True
        return True

    async def _launch(self, row: TrialRow) -> None:
        """Creates the Job of a stored trial."""
        result = await self._create(self._live.study, row)
        if isinstance(result, JobState):
            self._done.created[result.name] = result
            self._live.known.launched.add(result.name)
        else:
            self._done.troubles.append(result)

    async def _create(self, study: Study, row: TrialRow) -> JobState | str:
        """Creates one Job. Returns it as it will be listed, or a sentence that says why there is none."""
        assert row.job is not None
        if (trouble := await dependents.ensure_claim(self._cluster, study, row.number)) is not None:
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

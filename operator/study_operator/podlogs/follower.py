"""Follows the logs of trials that report by what they print.

Nothing is lost when all of this is dropped. How far each log has been read is in the database, stored in one
transaction with what was read.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from study_operator.backoff import delays
from study_operator.fence import NotHeld
from study_operator.kube.api_server import ApiError
from study_operator.kube.client import Cluster
from study_operator.logs import study_context, trial_context
from study_operator.model.job_state import JobPhase, JobState
from study_operator.model.study import Study, StudyKey
from study_operator.model.trial import TrialRow, TrialState
from study_operator.podlogs.job_log import JobLog
from study_operator.podlogs.stream import PodLogs
from study_operator.podlogs.tail import Overtaken, Tails, TrialEnded
from study_operator.pool import BlockingPool
from study_operator.storage.database import Database, StorageError, StorageUnavailable
from study_operator.storage.printed_output import Output

# Between two attempts to read on: longer each time that nothing new comes, or that an attempt fails.
_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.2, 30.0
# A node that has not given out the log of an ended Job for so long is taken for lost, and the log with it. The patience
# is shorter if the Job has failed.
PATIENCE_SECONDS, FAILED_PATIENCE_SECONDS = 60.0, 10.0
_DRAINS = 16  # logs of one namespace that are drained at once: those on a dead node take half a minute each

log = logging.getLogger(__name__)


@dataclass
class _Work:
    """The reading of one Job's log.

    Attributes:
        uid: the Job's.
        draining: the Job has ended, so that its log is read to the end; otherwise the log is followed.
        pods: how many pods the Job has had, and how many are ready.
        woken: set when `pods` has changed.
        task: reads.
    """

    uid: str
    draining: bool
    pods: tuple[int, int]
    woken: asyncio.Event
    task: asyncio.Task[None]


@dataclass
class _Known:
    """The logs of one study, by names of Jobs.

    Attributes:
        work: the logs that are being read.
        drained: the logs that have been drained: the Job's uid, and why the log is not whole, or "".
    """

    work: dict[str, _Work] = field(default_factory=dict)
    drained: dict[str, tuple[str, str]] = field(default_factory=dict)


class Follower:
    """Reads the logs of every study whose trials report by what they print.

    Args:
        tails: where logs come from, and where their content goes to.
        wake: called with a study when the log of one of its Jobs has been drained. Reports that a trial prints before
            that wake the operator by NOTIFY, as the reports of pods do.
    """

    def __init__(self, tails: Tails, wake: Callable[[StudyKey], None]) -> None:
        self._tails, self._wake = tails, wake
        self._studies: dict[StudyKey, _Known] = {}
        self._few: dict[str, asyncio.Semaphore] = {}  # by namespace

    @classmethod
    def on(
        cls, cluster: Cluster, threads: BlockingPool, database: Database, wake: Callable[[StudyKey], None]
    ) -> Follower:
        """Return a follower of the logs of a cluster's pods.

        Args:
            cluster: whose pods.
            threads: where the database is used.
            database: where reports and results are stored.
            wake: see the class.
        """
        return cls(Tails(cluster, PodLogs(cluster.configuration), threads, Output(database)), wake)

    def drained(self, key: StudyKey, jobs: Iterable[JobState]) -> dict[str, str]:
        """Return the Jobs whose logs have been drained. Ask before the rows are read, which then contain the last
        lines.

        Returns:
            By name of the Job: why the log could not be read to its end, or "".
        """
        drained = self._studies[key].drained if key in self._studies else {}
        return {job.name: drained[job.name][1] for job in jobs if drained.get(job.name, ("",))[0] == job.uid}

    def sync(self, key: StudyKey, study: Study, jobs: Iterable[JobState], rows: Mapping[int, TrialRow]) -> None:
        """Read the logs of the Jobs whose trials are running, and of no others.

        Args:
            key: the study's.
            study: as it is specified now.
            jobs: the study's, as they are now.
            rows: the study's open trials, by number.
        """
        if study.metrics.source != "Stdout":
            return
        known = self._studies.setdefault(key, _Known())
        wanted = {job.name: job for job in jobs if _is_current(job, rows.get(job.number))}
        for name, work in list(known.work.items()):
            if work.task.done() and not work.task.cancelled() and (error := work.task.exception()) is not None:
                log.error("reading the log of Job %s failed; reading it again", name, exc_info=error)
            if name not in wanted or wanted[name].uid != work.uid or work.task.done():
                work.task.cancel()
                del known.work[name]
        for name, (uid, _) in list(known.drained.items()):
            if name not in wanted or wanted[name].uid != uid:
                del known.drained[name]
        for name, job in wanted.items():
            if name not in known.drained:
                self._read(key, known, study, job)

    def forget(self, key: StudyKey) -> None:
        """Stop reading the logs of a study."""
        for work in self._studies.pop(key, _Known()).work.values():
            work.task.cancel()
        self._tails.flows.forget(key)
        if not any(other.namespace == key.namespace for other in self._studies):
            self._few.pop(key.namespace, None)

    async def close(self) -> None:
        """Stop reading all logs, and close all connections."""
        tasks = [work.task for known in self._studies.values() for work in known.work.values()]
        for key in list(self._studies):
            self.forget(key)
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._tails.logs.close()

    def _read(self, key: StudyKey, known: _Known, study: Study, job: JobState) -> None:
        """Begin to follow or drain a Job's log, or wake the task that does."""
        ended, pods, work = job.phase is not JobPhase.ACTIVE, (job.pods, job.ready), known.work.get(job.name)
        if work is not None and work.draining is ended:
            if work.pods != pods:
                work.pods = pods
                work.woken.set()
            return
        if work is None and not ended and not job.ready:
            return  # there is nothing to follow yet
        if work is not None:
            work.task.cancel()  # its stream may not know that its pod has ended
        woken, reading = asyncio.Event(), JobLog(self._tails, study, job)
        doing = self._drain(key, known, job, reading) if ended else self._follow(key, job, reading, woken)
        known.work[job.name] = _Work(job.uid, ended, pods, woken, asyncio.create_task(doing))

    async def _follow(self, key: StudyKey, job: JobState, reading: JobLog, woken: asyncio.Event) -> None:
        """Read a Job's log while the Job runs. End when no pod is left; the next pod that is ready begins anew."""
        pause = _PAUSE_SECONDS
        with study_context(*key), trial_context(job.number):
            while True:
                woken.clear()
                try:
                    new = await reading.follow()
                    if new is None:
                        return
                    pause = _PAUSE_SECONDS if new else pause * 2
                except (TrialEnded, NotHeld):
                    return
                except Overtaken:
                    reading.begin_anew()
                except (ApiError, StorageUnavailable, StorageError) as error:
                    reading.begin_anew()
                    pause = max(pause * 2, 1.0)
                    log.info("the log of Job %s cannot be followed for the moment: %s", job.name, error)
                pause = min(pause, _LONGEST_PAUSE_SECONDS)
                if await _set_within(woken, pause * random.uniform(0.8, 1.2)):
                    pause = _PAUSE_SECONDS

    async def _drain(self, key: StudyKey, known: _Known, job: JobState, reading: JobLog) -> None:
        """Read the log of an ended Job as far as it still can be read, and store the trial's result."""
        pauses, why = delays(_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS), ""
        deadline = time.monotonic() + (PATIENCE_SECONDS if job.phase is JobPhase.COMPLETE else FAILED_PATIENCE_SECONDS)
        few = self._few.setdefault(key.namespace, asyncio.Semaphore(_DRAINS))
        with study_context(*key), trial_context(job.number):
            while True:
                try:
                    async with few:
                        why = await reading.finish()
                    break
                except TrialEnded:
                    break
                except NotHeld:
                    return
                except Overtaken:
                    reading.begin_anew()
                except (ApiError, StorageUnavailable, StorageError) as error:
                    reading.begin_anew()
                    # If even the API server or the database cannot be reached, waiting loses nothing else.
                    if isinstance(error, ApiError) and error.status and time.monotonic() > deadline:
                        why = f"the log could not be read to its end: {error.message}"
                        break
                    log.info("the log of Job %s cannot be read for the moment: %s", job.name, error)
                await asyncio.sleep(next(pauses))
            if why:
                log.warning("Job %s: %s", job.name, why)
            known.drained[job.name] = (job.uid, why)
            self._wake(key)


def _is_current(job: JobState, row: TrialRow | None) -> bool:
    """Return whether the trial of a Job is running, has no result, and runs as this very Job."""
    return (
        row is not None
        and row.state is TrialState.RUNNING
        and row.result is None
        and row.job == job.name
        and job.is_of(row)
    )


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    """Wait for an event. Return whether it was set in time."""
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False

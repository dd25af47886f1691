"""Follows the logs of trials that report by what they print.

Nothing here is the truth: drop it all, and nothing is lost. How far each log has been read is in the database, stored
in one transaction with what was read.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from study_operator.fence import NotHeld
from study_operator.kube.client import ApiError, Cluster
from study_operator.logs import study_context, trial_context
from study_operator.model.job_state import JobPhase, JobState
from study_operator.model.study import Study
from study_operator.model.trial import TrialRow, TrialState
from study_operator.podlogs.job_log import JobLog
from study_operator.podlogs.stream import PodLogs
from study_operator.podlogs.tail import Overtaken, Tails, TrialEnded
from study_operator.pool import BlockingPool
from study_operator.storage.database import Database, StorageError, StorageUnavailable
from study_operator.storage.output import Output

# Seconds between two attempts to read on: longer each time that nothing new comes, or that it fails.
_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.2, 30.0
# A node that has not given out the log of an ended trial for so long is taken for lost, and the log with it; sooner
# when the trial has failed anyhow. Seconds.
PATIENCE_SECONDS, FAILED_PATIENCE_SECONDS = 60.0, 10.0
_DRAINS = 16  # logs that are read to their ends at once

K = TypeVar("K", bound=tuple[str, str])  # namespace and name of a study

log = logging.getLogger(__name__)


@dataclass
class _Work:
    """One Job's log is being read: live, or `draining` after its end. `woken` is set when its pods have changed."""

    uid: str
    draining: bool
    pods: tuple[int, int]
    woken: asyncio.Event
    task: asyncio.Task[None]


@dataclass
class _Known:
    """What is being read of one study, and what has been, by names of Jobs: the Job's uid, and why not all, or ""."""

    work: dict[str, _Work] = field(default_factory=dict)
    drained: dict[str, tuple[str, str]] = field(default_factory=dict)


class Follower(Generic[K]):
    """Reads the logs of every study that reports by lines.

    Args:
        wake: lets a study be looked at, because the log of one of its Jobs has been read to its end. What a trial
            prints before that wakes it by NOTIFY, as the reports of pods do.
    """

    def __init__(self, tails: Tails, wake: Callable[[K], None]) -> None:
        self._tails, self._wake = tails, wake
        self._studies: dict[K, _Known] = {}
        self._few = asyncio.Semaphore(_DRAINS)

    @classmethod
    def on(cls, cluster: Cluster, threads: BlockingPool, database: Database, wake: Callable[[K], None]) -> Follower[K]:
        return cls(Tails(cluster, PodLogs(cluster.configuration), threads, Output(database)), wake)

    def drained(self, key: K, jobs: Iterable[JobState]) -> dict[str, str]:
        """Those of some Jobs that have ended and whose logs have been read, by name, each with why that could not be
        done to the end, or "". Ask before the rows are read: what was printed last is in them then."""
        drained = self._studies[key].drained if key in self._studies else {}
        return {job.name: drained[job.name][1] for job in jobs if drained.get(job.name, ("",))[0] == job.uid}

    def sync(self, key: K, study: Study, jobs: Iterable[JobState], rows: Mapping[int, TrialRow]) -> None:
        """Reads the logs of those Jobs whose trials are running, and of no others."""
        if study.metrics.source != "Stdout":
            return
        known = self._studies.setdefault(key, _Known())
        wanted = {job.name: job for job in jobs if _is_current(job, rows.get(job.number))}
        for name, work in list(known.work.items()):
            if work.task.done() and not work.task.cancelled() and (error := work.task.exception()) is not None:
                log.error("reading the log of Job %s failed; beginning anew", name, exc_info=error)
            if name not in wanted or wanted[name].uid != work.uid or work.task.done():
                work.task.cancel()
                del known.work[name]
        for name, (uid, _) in list(known.drained.items()):
            if name not in wanted or wanted[name].uid != uid:
                del known.drained[name]
        for name, job in wanted.items():
            if name not in known.drained:
                self._see_to(key, known, study, job)

    def forget(self, key: K) -> None:
        """The study is gone, or not served any more."""
        for work in self._studies.pop(key, _Known()).work.values():
            work.task.cancel()

    async def close(self) -> None:
        tasks = [work.task for known in self._studies.values() for work in known.work.values()]
        for key in list(self._studies):
            self.forget(key)
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._tails.logs.close()

    def _see_to(self, key: K, known: _Known, study: Study, job: JobState) -> None:
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
        known.work[job.name] = _Work(job.uid, ended, pods, woken, asyncio.ensure_future(doing))

    async def _follow(self, key: K, job: JobState, reading: JobLog, woken: asyncio.Event) -> None:
        """Reads a Job's log while it runs. Ends when no pod is left; the next one that is ready lets it begin anew."""
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

    async def _drain(self, key: K, known: _Known, job: JobState, reading: JobLog) -> None:
        """Reads the log of a Job that has ended, as far as it still can be read, and stores the trial's result."""
        pause, why = _PAUSE_SECONDS, ""
        deadline = time.monotonic() + (PATIENCE_SECONDS if job.phase is JobPhase.COMPLETE else FAILED_PATIENCE_SECONDS)
        with study_context(*key), trial_context(job.number):
            while True:
                try:
                    async with self._few:
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
                    # Where even the API server or the database cannot be reached, nothing else is lost by waiting.
                    if isinstance(error, ApiError) and error.status and time.monotonic() > deadline:
                        why = f"the log could not be read to its end: {error.message}"
                        break
                    log.info("the log of Job %s cannot be read for the moment: %s", job.name, error)
                await asyncio.sleep(pause * random.uniform(0.8, 1.2))
                pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
            if why:
                log.warning("Job %s: %s", job.name, why)
            known.drained[job.name] = (job.uid, why)
            self._wake(key)


def _is_current(job: JobState, row: TrialRow | None) -> bool:
    """Whether what a Job's pods have printed is still of interest: its trial runs, and as this Job."""
    return (
        row is not None
        and row.state is TrialState.RUNNING
        and row.result is None
        and (row.trial_id, row.job) == (job.trial_id, job.name)
    )


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False

"""Decide what to do next for one study, from what was observed and from nothing else.

`plan` is the whole decision. `rules.RULES` says what to do about each running trial. From these answers follow the Jobs
to stop, the slots to fill and the finished Jobs to remove.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain
from typing import TypeVar

from study_operator.model.actions import (
    Action,
    Answer,
    Ask,
    CreateJob,
    FindCause,
    RemoveFinishedJob,
    RunAgain,
    StopJob,
    Tell,
)
from study_operator.model.job_state import JobPhase, JobState
from study_operator.model.observed import Observed
from study_operator.model.study import Study
from study_operator.model.study_outcome import is_goal, over, too_many_failed
from study_operator.model.trial import Failure, FailureClass, Rows, TrialRow, TrialState
from study_operator.model.trial_rules import CLOCKS_DIFFER, Case, decide

# How long a pruned trial may go on: long enough to see the answer to its next report and to end by itself. A pod that
# is left then has PRUNED_KILL_SECONDS to end after SIGTERM. With the time that it takes to notice, its GPU is free
# within 10 seconds.
PRUNED_GRACE, PRUNED_KILL_SECONDS = timedelta(seconds=4), 3
# The same for a program that has been told to stop, and is ending by itself, at most: as its template asks.
MOST_STOPPING_GRACE = timedelta(seconds=300)
# Finished Jobs that are removed in one reconciliation. To remove a Job costs the control plane as much as to start one.
# So of the Jobs that are not to be kept, the latest ones, as many as may run at once, stay for FINISHED_JOB_LINGER: the
# slots that they have freed are filled first.
MOST_JOBS_REMOVED, FINISHED_JOB_LINGER = 200, timedelta(minutes=5)


@dataclass(frozen=True)
class Plan:
    """What to do for a study, in the order of doing. Ends are stored before anything depends on them.

    Attributes:
        tells: trials that have ended, and how. The sampler must know these ends before it is asked for new trials.
        causes: trials whose Jobs have failed. To look up the causes takes time, so results are stored before.
        reruns: trials that get another attempt.
        stops: Jobs to stop. The ends or next attempts of their trials are stored before.
        creations: Jobs of stored trials. They come before new trials.
        ask: how many new trials to start; None for none.
        removals: finished Jobs to remove. They come last, because free slots should not wait for them.
        reconcile_after: when to reconcile again although nothing happens; None if that is not needed.
    """

    tells: tuple[Tell, ...] = ()
    causes: tuple[FindCause, ...] = ()
    reruns: tuple[RunAgain, ...] = ()
    stops: tuple[StopJob, ...] = ()
    creations: tuple[CreateJob, ...] = ()
    ask: Ask | None = None
    removals: tuple[RemoveFinishedJob, ...] = ()
    reconcile_after: timedelta | None = None

    @property
    def actions(self) -> tuple[Action, ...]:
        """All actions, in the order of doing."""
        asks = () if self.ask is None else (self.ask,)
        return tuple(chain(self.tells, self.causes, self.reruns, self.stops, self.creations, asks, self.removals))


def plan(observed: Observed) -> Plan:
    """Return the actions that bring a study nearer to its end."""
    is_over = over(observed) is not None
    cases = [
        _case(row, row.job, observed, is_over)
        for row in observed.rows.open.values()
        if row.state is TrialState.RUNNING and row.job is not None  # a notebook runs a trial that names no Job
    ]
    answers = [decide(case) for case in cases]
    tells = (*_tell_impossible(observed), *_of_kind(Tell, answers))
    causes, reruns = _of_kind(FindCause, answers), _of_kind(RunAgain, answers)
    stops, grace_ends = _stops(observed, tells, reruns)
    creations, ask = ((), None) if is_over else _fill_slots(observed, cases, answers, tells)
    removals, remove_after = _removals(observed, bool(tells or causes))
    waits = (grace_ends, remove_after, None if is_over else _until_deadline(observed))
    again = min((wait for wait in waits if wait is not None), default=None)
    return Plan(tells, causes, reruns, stops, creations, ask, removals, reconcile_after=again)


def _case(row: TrialRow, name: str, observed: Observed, is_over: bool) -> Case:
    found = observed.jobs.get(name)
    ours = found is not None and found.is_of(row)
    return Case(row, found if ours else None, observed, is_over, taken=found is not None and not ours)


_Kind = TypeVar("_Kind")


def _of_kind(kind: type[_Kind], answers: Iterable[object]) -> tuple[_Kind, ...]:
    return tuple(answer for answer in answers if isinstance(answer, kind))


def _tell_impossible(observed: Observed) -> list[Tell]:
    """Fail waiting trials that cannot be run. Trials beyond maxTrials stay as they are: they are never started."""
    left = max(observed.study.max_trials - observed.rows.total, 0)
    return [
        Tell(row, TrialState.FAIL, failure=Failure("InvalidParameters", f"what was enqueued cannot be run: {why}"))
        for row, why in observed.impossible[:left]
    ]


def _stops(
    observed: Observed, tells: Sequence[Tell], reruns: Sequence[RunAgain]
) -> tuple[tuple[StopJob, ...], timedelta | None]:
    """Return the active Jobs to stop now, and in what time the next one must stop."""
    ending = {rerun.row.job for rerun in reruns}
    for told in tells:
        if told.state is TrialState.FAIL or (told.state is TrialState.PRUNED and _ends_now(told.row, observed.study)):
            ending.add(told.row.job)
    stops: list[StopJob] = []
    waits: list[timedelta] = []
    for job in observed.active:
        left = timedelta(0) if job.name in ending else _time_left(job, observed)
        if job.deleting or left is None:
            continue
        if left > timedelta(0):
            waits.append(left)
        else:
            stops.append(StopJob(job, _kill_after(job, observed)))
    return tuple(stops), min(waits, default=None)


def _fill_slots(
    observed: Observed, cases: Sequence[Case], answers: Sequence[Answer | None], tells: Sequence[Tell]
) -> tuple[tuple[CreateJob, ...], Ask | None]:
    """Fill free slots: with Jobs of trials that are stored, then with new trials."""
    study = observed.study
    if study.paused or not observed.launching:
        return (), None
    # A pod holds its GPU, whatever the trial's row says. An ended Job keeps its slot until its trial has been decided.
    busy = {job.number for job in observed.active}
    busy |= {
        case.row.number
        for case, answer in zip(cases, answers, strict=True)
        if case.job is not None and not isinstance(answer, Tell | RunAgain)
    }
    free = max(study.parallelism - len(busy), 0)
    creations = tuple(create for create in _of_kind(CreateJob, answers) if create.row.number not in busy)[:free]
    enqueued = sum(told.row.state is TrialState.WAITING for told in tells)  # they count as started once they are told
    count = min(free - len(creations), study.max_trials - observed.rows.total - enqueued)
    if count <= 0 or observed.exhausted or _ends_study(study, observed.rows, tells):
        return creations, None
    if observed.strays:  # a new trial could get the id of one of theirs, and with it what their pods still report
        return creations, None
    return creations, Ask(count)


def _ends_study(study: Study, rows: Rows, tells: Sequence[Tell]) -> bool:
    """Return whether the study is over once these ends are stored: too many failures, or the goal is reached."""
    failed = sum(told.state is TrialState.FAIL and not _terminated(told) for told in tells)
    feasible = (told for told in tells if told.state is TrialState.COMPLETE and told.failure is None)
    return too_many_failed(study, rows, failed) or any(is_goal(study, told.values) for told in feasible)


def _terminated(told: Tell) -> bool:
    return told.failure is not None and told.failure.kind is FailureClass.TERMINATED


def _until_deadline(observed: Observed) -> timedelta | None:
    """Return the time until activeDeadlineSeconds have passed; None while that clock does not run."""
    deadline = observed.study.active_deadline
    if deadline is None or observed.study.paused or not observed.rows.total:
        return None
    return timedelta(seconds=max(deadline - observed.rows.active_seconds(observed.now), 0.0))


def _time_left(job: JobState, observed: Observed) -> timedelta | None:
    """Return how long an active Job may still go on; None for as long as it likes."""
    row = observed.rows.open.get(job.number)
    # The trial was deleted, so its result is of no use. Or it runs again, under another Job.
    if row is None or not job.is_of(row) or row.job != job.name:
        return timedelta(0)
    if row.state is TrialState.RUNNING:
        return None
    if job.phase is not JobPhase.ACTIVE:  # the program has ended, and other containers have had their time
        return timedelta(0)
    if row.state is TrialState.COMPLETE:  # the program may still be saving a model
        return None
    if row.state is TrialState.FAIL or _ends_now(row, observed.study):
        return timedelta(0)
    assert row.completed_at is not None
    if row.completed_at > observed.now + CLOCKS_DIFFER:  # Optuna in a notebook stores its local time
        return timedelta(0)
    return row.completed_at + _pruned_grace(row, observed.study) - observed.now


def _pruned_grace(row: TrialRow, study: Study) -> timedelta:
    """Return how long a pruned trial may go on. A program that only prints is told nothing; its sidecar may be."""
    if not row.stopping or study.metrics.source != "Sdk":
        return PRUNED_GRACE
    return max(PRUNED_GRACE, min(study.termination_grace, MOST_STOPPING_GRACE))


def _kill_after(job: JobState, observed: Observed) -> int | None:
    """Return how many seconds the pods of a Job get to end; None for their template's time."""
    row = observed.rows.open.get(job.number)
    given_up = row is not None and row.state is TrialState.PRUNED and not _ends_now(row, observed.study)
    return PRUNED_KILL_SECONDS if given_up else None


def _ends_now(row: TrialRow, study: Study) -> bool:
    """Return whether a user has stopped the trial, or the study with all that runs: the pod is told to end now, and
    gets the time of its template. A trial that was given up has no more to hear from its next report."""
    return study.stop == "Terminate" or row.stop is not None


def _removals(observed: Observed, trials_end: bool) -> tuple[tuple[RemoveFinishedJob, ...], timedelta | None]:
    """Return the finished Jobs to remove now, and in what time to look for more.

    Args:
        trials_end: whether trials end in this reconciliation: their Jobs may be removed soon.
    """
    superfluous = _superfluous(observed)
    removals = [RemoveFinishedJob(job) for job, lingers in superfluous if lingers <= timedelta(0)][:MOST_JOBS_REMOVED]
    if removals or trials_end:
        return tuple(removals), timedelta(seconds=1)
    # Those that linger all go at once. A time to live is to the second.
    first = max if observed.study.ttl_after_finished is None else min
    return (), first((lingers for _, lingers in superfluous), default=None)


def _superfluous(observed: Observed) -> list[tuple[JobState, timedelta]]:
    """Return the finished Jobs beyond the history limits, the oldest first, and how long each of them lingers.

    A Job stays while its trial's end is not stored, because it is the evidence, and while its trial is the best, or
    one of the Pareto front that the status shows. With ttlSecondsAfterFinished no Job whose trial's end is stored stays
    longer than that.
    """
    study, rows, ttl = observed.study, observed.rows, observed.study.ttl_after_finished
    best = {trial.job for trial in (*rows.front, *((rows.best,) if rows.best else ()))}
    limits = {
        JobPhase.COMPLETE: study.successful_jobs_history_limit,
        JobPhase.FAILED: study.failed_jobs_history_limit,
    }
    found: list[tuple[JobState, timedelta]] = []
    for phase, limit in limits.items():
        jobs = [
            job
            for job in observed.jobs.values()
            if job.phase is phase and not job.busy and not job.deleting and not _is_evidence(job, observed)
        ]
        jobs.sort(key=_when_finished, reverse=True)
        more = [job for job in jobs[limit:] if job.name not in best]
        linger = study.parallelism if limit else 0  # a user with a limit of 0 wants them gone
        found += [(job, _when_finished(job)[0] + FINISHED_JOB_LINGER - observed.now) for job in more[:linger]]
        found += [(job, timedelta(0)) for job in more[linger:]]
        if ttl is not None:
            found += [(job, _when_finished(job)[0] + ttl - observed.now) for job in jobs if job not in more]
    if ttl is not None:
        found = [(job, min(lingers, _when_finished(job)[0] + ttl - observed.now)) for job, lingers in found]
    return sorted(found, key=lambda one: _when_finished(one[0]))


def _when_finished(job: JobState) -> tuple[datetime, int]:
    return job.finished_at or job.created_at, job.number


def _is_evidence(job: JobState, observed: Observed) -> bool:
    """Return whether a finished Job tells how a trial has ended whose end is not stored yet."""
    row = observed.rows.open.get(job.number)
    return row is not None and job.is_of(row) and row.state is TrialState.RUNNING and row.job == job.name

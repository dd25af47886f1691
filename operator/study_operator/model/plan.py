"""What to do next for one study, decided from what was observed and from nothing else.

The rules, in the order in which they apply:

1. A running trial whose final values are stored is told. A finished value is never lost, whatever else is true.
2. A running trial that the pruner gave up is told PRUNED; its Job may end by itself for a while, then it is deleted.
3. A running trial whose Job has failed, ended without a value or vanished is told FAIL.
4. A running trial that never had a Job gets it: the operator stopped between the two writes.
5. Free slots are filled while trials are left to start.
6. When nothing runs and nothing is left to start, the study is complete.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from optuna.trial import TrialState

from study_operator.model.study import Study
from study_operator.model.trial import Failure, JobPhase, JobState, Rows, TrialRow

# How long a pruned trial may go on: long enough to see the answer to its next report and to end by itself.
PRUNED_GRACE = timedelta(seconds=5)


@dataclass(frozen=True)
class Observed:
    """One study at one moment. `jobs` were listed before `rows` were read: a Job seen finished has its final values in
    the rows, if there are any.

    `launched` are the trials whose Job this process has created or seen; `prune` those that the pruner gave up;
    `exhausted` says that the sampler has nothing more to suggest; `launching` that new trials may be started.
    """

    study: Study
    rows: Rows
    jobs: Mapping[int, JobState]
    now: datetime
    launched: frozenset[int] = frozenset()
    prune: frozenset[int] = frozenset()
    exhausted: bool = False
    launching: bool = True


@dataclass(frozen=True)
class Tell:
    """Tell the trial's end. With no `failure` although the state is FAIL: find out why its Job failed."""

    row: TrialRow
    state: TrialState
    values: tuple[float, ...] | None = None
    failure: Failure | None = None
    job: JobState | None = None


@dataclass(frozen=True)
class Launch:
    """Create the Job of a trial that is stored."""

    row: TrialRow


@dataclass(frozen=True)
class EndJob:
    """Delete a Job, and with it its pods."""

    job: JobState


@dataclass(frozen=True)
class Ask:
    """Start this many new trials."""

    count: int


Action = Tell | Launch | EndJob | Ask


@dataclass(frozen=True)
class Outcome:
    """How a study has ended."""

    succeeded: bool
    reason: str
    message: str


@dataclass(frozen=True)
class Plan:
    """Actions in the order in which they are to be done, and when to look again although nothing happens."""

    actions: tuple[Action, ...]
    look_again: timedelta | None = None


def plan(observed: Observed) -> Plan:
    """The actions that bring a study nearer to its end."""
    stopping = too_many_failures(observed)
    actions: list[Action] = []
    waits: list[timedelta] = []
    busy: set[int] = set()
    failed = 0
    for number, row in observed.rows.open.items():
        if row.state is not TrialState.RUNNING or row.job is None:  # finished, or run by somebody else
            continue
        action = _running_trial(row, observed.jobs.get(number), observed, stopping)
        if action is not None:
            actions.append(action)
        if isinstance(action, Tell):
            failed += action.state is TrialState.FAIL
        else:
            busy.add(number)
    for number, job in observed.jobs.items():
        if job.phase is not JobPhase.ACTIVE:
            continue
        busy.add(number)  # its pod holds a GPU, whatever the row says
        if job.deleting:
            continue
        wait = _time_left(job, observed, stopping)
        if wait is None:
            continue
        if wait <= timedelta(0):
            actions.append(EndJob(job))
        else:
            waits.append(wait)
    if observed.launching and not stopping and not observed.exhausted and not _fails(observed, failed):
        free = observed.study.parallelism - len(busy)
        left = observed.study.max_trials - observed.rows.total
        if min(free, left) > 0:
            actions.append(Ask(min(free, left)))
    return Plan(tuple(actions), min(waits, default=None))


def _running_trial(row: TrialRow, job: JobState | None, observed: Observed, stopping: bool) -> Tell | Launch | None:
    if row.result is not None:
        return tell_result(row)
    if stopping:
        return Tell(row, TrialState.FAIL, failure=Failure("StudyFailed", "the study ended before the trial did"))
    if job is None:
        if row.number in observed.launched or row.reports:
            message = f"Job {row.job} was deleted before the trial had ended"
            return Tell(row, TrialState.FAIL, failure=Failure("JobMissing", message))
        return Launch(row) if observed.launching else None
    if job.phase is JobPhase.FAILED:
        return Tell(row, TrialState.FAIL, job=job)
    if job.phase is JobPhase.COMPLETE:
        message = "the program ended without a final value: let it call finish(), or `study-trial finish VALUE`"
        return Tell(row, TrialState.FAIL, failure=Failure("MetricMissing", message, exit_code=0), job=job)
    if row.number in observed.prune:
        return Tell(row, TrialState.PRUNED)
    return None


def tell_result(row: TrialRow) -> Tell:
    """The end of a trial whose pod has stored its final values."""
    assert row.result is not None
    if row.result.pruned:
        return Tell(row, TrialState.PRUNED, row.result.values or None)
    if any(math.isnan(value) for value in row.result.values):
        return Tell(row, TrialState.FAIL, failure=Failure("InvalidValue", "the final value is NaN"))
    return Tell(row, TrialState.COMPLETE, row.result.values)


def _time_left(job: JobState, observed: Observed, stopping: bool) -> timedelta | None:
    """How long an active Job may still go on; None for as long as it likes."""
    row = observed.rows.open.get(job.number)
    if row is None or row.trial_id != job.trial_id:  # the row is gone: nobody will ever ask for its result
        return timedelta(0)
    if row.state is TrialState.RUNNING:
        return timedelta(0) if stopping and row.result is None else None
    if row.state is TrialState.COMPLETE:  # it has its value and may still be saving a model
        return None
    assert row.completed_at is not None
    return timedelta(0) if stopping else row.completed_at + PRUNED_GRACE - observed.now


def _fails(observed: Observed, more: int) -> bool:
    return observed.rows.count(TrialState.FAIL) + more > observed.study.max_failed_trials


def too_many_failures(observed: Observed) -> bool:
    """Whether more trials have failed than the study allows."""
    return _fails(observed, 0)


def outcome(observed: Observed) -> Outcome | None:
    """How the study has ended, None while it goes on. It has ended when no trial runs and none is left to start, and no
    pod of it holds a GPU any more."""
    rows, study = observed.rows, observed.study
    if any(row.state is TrialState.RUNNING and row.job for row in rows.open.values()):
        return None
    if any(job.phase is JobPhase.ACTIVE for job in observed.jobs.values()):
        return None
    failed = rows.count(TrialState.FAIL)
    if too_many_failures(observed):
        return Outcome(
            False,
            "MaxFailedTrialsExceeded",
            f"{failed} trials failed, maxFailedTrials is {study.max_failed_trials}; "
            "fix the cause and raise maxFailedTrials to go on",
        )
    if not observed.exhausted and rows.total < study.max_trials:
        return None
    if rows.count(TrialState.COMPLETE) == 0:
        return Outcome(False, "NoTrialSucceeded", f"none of {rows.total} trials completed, {failed} failed")
    if rows.total < study.max_trials:
        return Outcome(True, "SearchSpaceExhausted", f"every point of the search space was tried: {rows.total} trials")
    return Outcome(True, "MaxTrialsReached", f"{rows.finished} of {study.max_trials} trials have ended")

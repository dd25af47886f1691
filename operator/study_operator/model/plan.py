"""What to do next for one study, decided from what was observed and from nothing else.

The rules, in the order in which they apply:

1. A running trial whose final values are stored is told. A finished value is never lost, whatever else is true.
2. When the study is over, by failures, goal, deadline or convergence, its running trials are ended or awaited.
3. A running trial whose Job has failed is judged: the cluster's fault runs again, the program's own fails.
4. A running trial that the pruner gave up is told PRUNED; its Job may end by itself for a while, then it is deleted.
5. A running trial whose Job has ended without a value, or vanished, is told FAIL.
6. A running trial that has no Job yet gets it, when there is a slot: the operator stopped between the two writes, or
   the trial is to run again.
7. Free slots are filled while trials are left to start.
8. When nothing runs and nothing is left to start, the study is complete.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from study_operator.model.job_state import JobPhase, JobState
from study_operator.model.study import Constraint, Study
from study_operator.model.trial import Failure, FailureClass, Rows, TrialRow, TrialState

# How long a pruned trial may go on: long enough to see the answer to its next report and to end by itself. What is left
# then has PRUNED_KILL_SECONDS to end after SIGTERM: together with what it takes to notice, its GPU is free within 10 seconds.
PRUNED_GRACE, PRUNED_KILL_SECONDS = timedelta(seconds=4), 3
# Finished Jobs that are removed at one look. To remove one costs the control plane as much as to start one: of those
# that are not to be kept, the latest, as many as may run at once, stay for LINGER, while slots are being filled.
MOST_JOBS_REMOVED, LINGER = 200, timedelta(minutes=5)


@dataclass(frozen=True)
class Stuck:
    """Why a Job's pod has not started, and whether that counts as a failure of the infrastructure: it does not when the
    pod waits for what the user has corrected since."""

    failure: Failure
    counts: bool = True


@dataclass(frozen=True)
class Observed:
    """One study at one moment. `jobs`, by name, were listed before `rows` were read: a Job seen finished has its final
    values in the rows, if there are any.

    `launched` are the Jobs that this process has created or seen; `prune` the trials that the pruner gave up;
    `exhausted` says that the sampler has nothing more to suggest, `converged` that more trials are not expected to
    help; `launching` that new trials may be started; `stuck` are the Jobs that have waited too long, by name;
    `drained` those whose output has been read, where trials report by it, each with why not all of it could be, or "";
    `impossible` the trials that somebody has enqueued and that cannot be run, with the reason.
    """

    study: Study
    rows: Rows
    jobs: Mapping[str, JobState]
    now: datetime
    launched: frozenset[str] = frozenset()
    prune: frozenset[int] = frozenset()
    exhausted: bool = False
    converged: bool = False
    launching: bool = True
    drained: Mapping[str, str] = field(default_factory=dict)
    impossible: tuple[tuple[TrialRow, str], ...] = ()
    stuck: Mapping[str, Stuck] = field(default_factory=dict)

    @property
    def active(self) -> list[JobState]:
        return [job for job in self.jobs.values() if job.phase is JobPhase.ACTIVE]


@dataclass(frozen=True)
class Tell:
    """Tell the trial's end. `constraints` are by how much each is violated, by name."""

    row: TrialRow
    state: TrialState
    values: tuple[float, ...] | None = None
    failure: Failure | None = None
    job: JobState | None = None
    constraints: Mapping[str, float] = field(default_factory=dict)

    @property
    def by_last_report(self) -> bool:
        """Whether the value reported last becomes the trial's own, as Optuna has it for pruned trials."""
        infeasible = self.failure is not None and self.failure.kind is FailureClass.INFEASIBLE
        return self.state is TrialState.PRUNED and self.values is None and not infeasible


@dataclass(frozen=True)
class FindCause:
    """Find out why a trial's Job has failed, and do what `verdict` says."""

    row: TrialRow
    job: JobState


@dataclass(frozen=True)
class RunAgain:
    """Run the trial again, with the same parameters, under a Job of another name; `failure` is the infrastructure's."""

    row: TrialRow
    failure: Failure | None = None


@dataclass(frozen=True)
class CreateJob:
    """Create the Job of a trial that is stored."""

    row: TrialRow


@dataclass(frozen=True)
class StopJob:
    """Delete a Job, and with it its pods, which have `kill_after` seconds to end, or as long as they say themselves."""

    job: JobState
    kill_after: int | None = None


@dataclass(frozen=True)
class RemoveFinishedJob:
    """Delete a finished Job, of which there are more than are to be kept."""

    job: JobState


@dataclass(frozen=True)
class Ask:
    """Start this many new trials."""

    count: int


Action = Tell | FindCause | RunAgain | CreateJob | StopJob | RemoveFinishedJob | Ask


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
    study, ended = observed.study, over(observed)
    stopping = ended is not None and study.active_trials_policy == "Terminate"
    actions: list[Action] = []
    waits: list[timedelta] = []
    busy = {job.number for job in observed.active}  # a pod holds its GPU, whatever the row says
    waiting: list[TrialRow] = []
    ending: set[str] = set()  # Jobs whose trial ends, or runs again, by what is done now
    # Of those that are beyond maxTrials nobody asked whether they can be run.
    impossible = observed.impossible[: max(study.max_trials - observed.rows.total, 0)]
    failures, reached = len(impossible), False
    for row, why in impossible:
        message = f"what was enqueued cannot be run: {why}"
        actions.append(Tell(row, TrialState.FAIL, failure=Failure("InvalidParameters", message)))
    for number, row in observed.rows.open.items():
        if row.state is not TrialState.RUNNING or row.job is None:  # finished, or run by somebody else
            continue
        job = observed.jobs.get(row.job)
        action = _running_trial(row, job, observed, ended is not None)
        if action is not None:
            actions.append(action)
        if isinstance(action, RunAgain) or (isinstance(action, Tell) and action.state is TrialState.FAIL):
            ending.add(row.job)
        if isinstance(action, Tell):
            failures += action.state is TrialState.FAIL
            reached |= action.state is TrialState.COMPLETE and action.failure is None and _is_goal(study, action.values)
        elif job is not None and not isinstance(action, RunAgain):
            busy.add(number)
        elif action is None and number not in busy:
            waiting.append(row)
    for job in observed.active:
        if job.deleting:
            continue
        wait = timedelta(0) if job.name in ending else _time_left(job, observed)
        if wait is None:
            continue
        if wait <= timedelta(0):
            actions.append(StopJob(job, PRUNED_KILL_SECONDS if _was_pruned(job, observed) else None))
        else:
            waits.append(wait)
    superfluous = _superfluous(observed)
    clean_up = [RemoveFinishedJob(job) for job, lingers in superfluous if lingers <= timedelta(0)][:MOST_JOBS_REMOVED]
    if clean_up or any(isinstance(action, Tell | FindCause) for action in actions):
        waits.append(timedelta(seconds=1))  # to clean up what has ended now
    elif superfluous:
        waits.append(max(lingers for _, lingers in superfluous))
    if observed.launching and not study.paused and not stopping:
        free = max(study.parallelism - len(busy), 0)
        actions += [CreateJob(row) for row in waiting[:free]]
        left = study.max_trials - observed.rows.total - len(impossible)
        more = min(free - len(waiting[:free]), left)
        if more > 0 and ended is None and not (observed.exhausted or reached or _fails(observed, failures)):
            actions.append(Ask(more))
    actions += clean_up  # last: free slots do not wait for it
    if (deadline := study.active_deadline) is not None and ended is None and not study.paused and observed.rows.total:
        waits.append(timedelta(seconds=max(deadline - observed.rows.active_seconds(observed.now), 0.0)))
    return Plan(tuple(actions), min(waits, default=None))


def _running_trial(row: TrialRow, job: JobState | None, observed: Observed, ended: bool) -> Action | None:
    study = observed.study
    if row.result is not None and (not row.result.provisional or (job and job.phase is JobPhase.COMPLETE)):
        return tell_result(row, study.constraints)
    if job is not None and job.phase is not JobPhase.ACTIVE:
        return _ended_job(row, job, observed)
    launched = job is not None or row.job in observed.launched
    if ended and (study.active_trials_policy == "Terminate" or not launched):
        failure = Failure("StudyEnded", "the study ended before the trial did", kind=FailureClass.TERMINATED)
        return Tell(row, TrialState.FAIL, failure=failure)
    if job is None:
        if launched or (row.reports and row.attempt == 0):
            message = f"Job {row.job} was deleted before the trial had ended"
            return Tell(row, TrialState.FAIL, failure=Failure("JobMissing", message))
        return None
    if row.number in observed.prune:
        return Tell(row, TrialState.PRUNED)
    if study.suspend and study.suspend_policy == "Terminate":
        return RunAgain(row)
    if (stuck := observed.stuck.get(job.name)) is not None:
        return verdict(study, row, job, stuck.failure) if stuck.counts else RunAgain(row)
    return None


def _ended_job(row: TrialRow, job: JobState, observed: Observed) -> Action | None:
    if observed.study.metrics.source == "Stdout" and job.name not in observed.drained:
        return None  # its last word may still be unread
    if job.phase is JobPhase.FAILED:
        return FindCause(row, job)
    message = "the program ended without a final value: let it call finish(), or `study-trial finish VALUE`"
    if observed.study.metrics.source != "Sdk":
        names = ", ".join(objective.name for objective in observed.study.objectives)
        message = f"the program ended without a value of {names} where spec.metrics says that it reports"
        if why := observed.drained.get(job.name):
            message = f"no last value of {names} is known: {why}"
    return Tell(row, TrialState.FAIL, failure=Failure("MetricMissing", message, exit_code=0), job=job)


def verdict(study: Study, row: TrialRow, job: JobState, failure: Failure) -> Tell | RunAgain:
    """What follows from the failure of a trial's Job."""
    if failure.kind is FailureClass.INFEASIBLE:
        return Tell(row, TrialState.PRUNED, failure=failure, job=job)
    if failure.kind is FailureClass.INFRASTRUCTURE and row.retries < study.infrastructure_retries:
        return RunAgain(row, failure)
    return Tell(row, TrialState.FAIL, failure=failure, job=job)


def tell_result(row: TrialRow, constraints: Sequence[Constraint]) -> Tell:
    """The end of a trial whose pod has stored its result."""
    result = row.result
    assert result is not None
    if result.infeasible is not None:
        failure = Failure("Infeasible", result.infeasible, kind=FailureClass.INFEASIBLE)
        return Tell(row, TrialState.PRUNED, failure=failure)
    if result.pruned:
        return Tell(row, TrialState.PRUNED, result.values or None)
    if any(math.isnan(value) for value in result.values):
        return Tell(row, TrialState.FAIL, failure=Failure("InvalidValue", "the final value is NaN"))
    if missing := [constraint.name for constraint in constraints if constraint.name not in result.constraints]:
        message = (
            f"no value of {', '.join(missing)} came with the result: let the program report it as spec.metrics says"
        )
        return Tell(row, TrialState.FAIL, failure=Failure("ConstraintMissing", message))
    violations = {c.name: c.violation(result.constraints[c.name]) for c in constraints}
    broken = [c for c in constraints if not violations[c.name] <= 0]
    violated = None
    if broken:
        words = (f"{c.name} is {result.constraints[c.name]:g}, {c.limit}" for c in broken)
        violated = Failure("ConstraintViolated", "; ".join(words), kind=FailureClass.INFEASIBLE)
    return Tell(row, TrialState.COMPLETE, result.values, violated, constraints=violations)


def _time_left(job: JobState, observed: Observed) -> timedelta | None:
    """How long an active Job may still go on; None for as long as it likes."""
    row = observed.rows.open.get(job.number)
    # The row is gone: nobody will ever ask for its result. Or the trial runs again, under another Job.
    if row is None or row.trial_id != job.trial_id or row.job != job.name:
        return timedelta(0)
    if row.state is TrialState.RUNNING:
        return None
    if row.state is TrialState.COMPLETE:  # it has its value and may still be saving a model
        return None
    if row.state is TrialState.FAIL:
        return timedelta(0)
    assert row.completed_at is not None
    return row.completed_at + PRUNED_GRACE - observed.now


def _was_pruned(job: JobState, observed: Observed) -> bool:
    row = observed.rows.open.get(job.number)
    return row is not None and row.state is TrialState.PRUNED


def _superfluous(observed: Observed) -> list[tuple[JobState, timedelta]]:
    """Finished Jobs beyond those that are kept, the oldest first, and for how long each lingers. A Job whose trial has
    not been told is evidence."""
    study, best = observed.study, observed.rows.best
    kept = {
        JobPhase.COMPLETE: study.successful_jobs_history_limit,
        JobPhase.FAILED: study.failed_jobs_history_limit,
    }
    found: list[tuple[JobState, timedelta]] = []
    for phase, most in kept.items():
        jobs = [
            job
            for job in observed.jobs.values()
            if job.phase is phase and not job.deleting and not _is_awaited(job, observed)
        ]
        jobs.sort(key=_when_finished, reverse=True)
        more = [job for job in jobs[most:] if best is None or job.name != best.job]
        stay = study.parallelism if most else 0  # who wants none kept wants them gone
        found += [(job, _when_finished(job)[0] + LINGER - observed.now) for job in more[:stay]]
        found += [(job, timedelta(0)) for job in more[stay:]]
    return sorted(found, key=lambda one: _when_finished(one[0]))


def _when_finished(job: JobState) -> tuple[datetime, int]:
    return job.finished_at or job.created_at, job.number


def _is_awaited(job: JobState, observed: Observed) -> bool:
    row = observed.rows.open.get(job.number)
    return row is not None and row.state is TrialState.RUNNING and row.job == job.name


def _fails(observed: Observed, more: int) -> bool:
    return observed.rows.failed + more > observed.study.max_failed_trials


def _is_goal(study: Study, values: Sequence[float] | None) -> bool:
    objective = study.objectives[0]
    if objective.goal is None or not values:
        return False
    return values[0] >= objective.goal if objective.direction == "MAXIMIZE" else values[0] <= objective.goal


def over(observed: Observed) -> Outcome | None:
    """Why the study is over although trials run or are left to start; None when it goes on."""
    study, rows = observed.study, observed.rows
    if _fails(observed, 0):
        message = f"{rows.failed} trials failed, maxFailedTrials is {study.max_failed_trials}"
        return Outcome(False, "MaxFailedTrialsExceeded", f"{message}; fix the cause and raise maxFailedTrials to go on")
    best = rows.best
    if best is not None and _is_goal(study, best.values):
        message = f"trial {best.number} has {best.values[0]:.6g}, the goal is {study.objectives[0].goal:g}"
        return Outcome(True, "GoalReached", message)
    deadline = study.active_deadline
    if deadline is not None and rows.active_seconds(observed.now) >= deadline:
        message = f"activeDeadlineSeconds of {deadline} have passed after {rows.finished} trials"
        return Outcome(rows.feasible > 0, "DeadlineExceeded", f"{message}; raise it to go on")
    if observed.converged:
        message = f"{study.convergence.evaluator} expects no better value" if study.convergence else ""
        return Outcome(True, "Converged", f"{message} after {rows.finished} trials")
    return None


def outcome(observed: Observed) -> Outcome | None:
    """How the study has ended, None while it goes on. It has ended when no trial runs and none is left to start, and no
    pod of it holds a GPU any more."""
    rows, study = observed.rows, observed.study
    if any(row.state is TrialState.RUNNING and row.job for row in rows.open.values()) or observed.active:
        return None
    if (ended := over(observed)) is not None:
        return ended
    if not observed.exhausted and rows.total < study.max_trials:
        return None
    if rows.feasible == 0:
        infeasible = f", {rows.infeasible} were infeasible" if rows.infeasible else ""
        message = f"none of {rows.total} trials completed, {rows.failed} failed{infeasible}"
        return Outcome(False, "NoTrialSucceeded", message)
    if rows.total < study.max_trials:
        return Outcome(True, "SearchSpaceExhausted", f"every point of the search space was tried: {rows.total} trials")
    return Outcome(True, "MaxTrialsReached", f"{rows.finished} of {study.max_trials} trials have ended")

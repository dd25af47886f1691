"""Decide about one running trial.

`RULES` lists the rules in the order of their precedence. `decide` returns what the first rule that answers says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from study_operator.model import missing_value
from study_operator.model.actions import Answer, CreateJob, FindCause, RunAgain, Tell, Wait
from study_operator.model.job_state import JobPhase, JobState
from study_operator.model.observed import Observed
from study_operator.model.pod_status import job_deleted
from study_operator.model.study import Constraint, Study
from study_operator.model.trial import Failure, FailureClass, TrialRow, TrialState

# By how much the clocks of the cluster and of the database may differ, and how long a pod may take to give up.
CLOCKS_DIFFER = timedelta(seconds=30)
RESTORED = Failure(
    "DatabaseRestored",
    "the database was restored from a backup after the trial had begun, and what the trial stored since may be lost",
    kind=FailureClass.INFRASTRUCTURE,
)


@dataclass(frozen=True)
class Case:
    """One running trial, as the rules see it.

    Attributes:
        row: the trial. It is RUNNING, and the operator runs it.
        job: its Job; None if Kubernetes has no Job of that name.
        observed: its study.
        over: whether the study is over, see the function `over`.
        taken: whether a Job of that name exists that is another trial's, because the database has been restored.
    """

    row: TrialRow
    job: JobState | None
    observed: Observed
    over: bool
    taken: bool = False

    @property
    def ended_job(self) -> JobState | None:
        """The Job, if it has completed or failed."""
        return self.job if self.job is not None and self.job.phase is not JobPhase.ACTIVE else None

    @property
    def launched(self) -> bool:
        """Whether the Job is there, or this process knows that it was."""
        return self.job is not None or self.row.job in self.observed.launched

    @property
    def made_before_restore(self) -> bool:
        """Whether the Job was made before the database was restored, so that what it has stored may be lost."""
        made = self.job.incarnation if self.job is not None else ""
        return bool(made and self.observed.incarnation) and made != self.observed.incarnation


def reports_unread(case: Case) -> Wait | None:
    """Wait until the pruner has been shown all reports of a trial that ends, if there are very many.

    What it notes of them decides about other trials. If the study is over, nothing is decided any more.
    """
    if case.over or case.row.number not in case.observed.behind:
        return None
    return Wait() if case.row.result is not None or case.ended_job is not None else None


def has_result(case: Case) -> Tell | None:
    """Tell the result that the trial has stored. A stored result is never lost, whatever else is true.

    A provisional result counts only if the Job has completed.
    """
    result, job = case.row.result, case.job
    if result is None or (result.provisional and not (job is not None and job.phase is JobPhase.COMPLETE)):
        return None
    told = tell_result(case.row, case.observed.study.constraints)
    # With its Job, so that the failure can say what the program has written instead.
    missing = told.failure is not None and told.failure.reason in missing_value.REASONS
    return replace(told, job=case.ended_job) if missing else told


def output_unread(case: Case) -> Wait | None:
    """Wait until the output of an ended Job has been read, if trials report by what they print.

    Its last lines may hold the result.
    """
    if case.ended_job is None or case.observed.study.metrics.source != "Stdout":
        return None
    return None if case.ended_job.name in case.observed.drained else Wait()


def stopped_by_user(case: Case) -> Tell | None:
    """End a trial that a user has stopped: PRUNED with its last report; FAIL if it has none, or if the user wants that.

    What becomes of its Job meanwhile is nobody's failure, and the trial does not run again.
    """
    wish = case.row.stop
    if wish is None:
        return None
    if wish.state is TrialState.PRUNED and case.row.reports:
        return Tell(case.row, TrialState.PRUNED, wished=True)
    words = f"{wish.by} has stopped the trial"
    if wish.state is TrialState.PRUNED:
        words += " before it had reported a value"
    failure = Failure("StoppedByUser", words, kind=FailureClass.TERMINATED)
    return Tell(case.row, TrialState.FAIL, failure=failure, wished=True)


def job_failed(case: Case) -> FindCause | None:
    """Find out why the Job has failed. The cause decides whether the trial fails or runs again (`verdict`)."""
    job, restored_at = case.ended_job, case.observed.restored_at
    if job is None or job.phase is not JobPhase.FAILED:
        return None
    before = restored_at is not None and job.finished_at is not None and job.finished_at <= restored_at + CLOCKS_DIFFER
    return FindCause(case.row, job, restored=before and case.made_before_restore)


def result_missing(case: Case) -> FindCause | Tell | RunAgain | None:
    """Fail a trial whose program has ended well and left no result: the study cannot learn from it.

    If its pod was deleted, the program may have ended well because it was told to end. If the database has been
    restored since the program began, the restore may have lost the result. In both cases the trial runs again.
    """
    job, study = case.ended_job, case.observed.study
    if job is None:
        return None
    if case.made_before_restore:
        return verdict(study, case.row, job, RESTORED)
    metrics, why = [objective.metric for objective in study.objectives], case.observed.drained.get(job.name, "")
    message = missing_value.message(study, metrics, case.row.last_bad_report, why)
    return FindCause(case.row, job, otherwise=Failure("MetricMissing", message, exit_code=0))


def stopped(case: Case) -> Tell | None:
    """End a trial of a study that its user has stopped: PRUNED with its last report, FAIL if it has none.

    With stop Drain this ends only trials that wait: for a Job, or for a queue manager that has suspended their Job.
    Either way it is nobody's failure.
    """
    stop, waits = case.observed.study.stop, not case.launched or (case.job is not None and case.job.suspended)
    if stop is None or (stop == "Drain" and not waits):
        return None
    if case.row.reports:
        return Tell(case.row, TrialState.PRUNED)
    words = "the study was stopped before the trial had reported a value"
    return Tell(case.row, TrialState.FAIL, failure=Failure("StudyStopped", words, kind=FailureClass.TERMINATED))


def study_over(case: Case) -> Tell | None:
    """End a trial of a study that is over, because its result is not needed any more.

    With activeTrialsPolicy Wait this ends only trials that have no Job yet. What becomes of the trials of a study that
    was stopped, `stopped` decides alone.
    """
    if case.observed.study.stop is not None:
        return None
    if not case.over or (case.observed.study.active_trials_policy != "Terminate" and case.launched):
        return None
    failure = Failure("StudyEnded", "the study ended before the trial did", kind=FailureClass.TERMINATED)
    return Tell(case.row, TrialState.FAIL, failure=failure)


def name_taken(case: Case) -> RunAgain | None:
    """Give a trial another Job's name if a trial that a restore has taken away still has a Job of the first one."""
    return RunAgain(case.row) if case.job is None and case.taken else None


def job_missing(case: Case) -> Tell | RunAgain | None:
    """End a trial whose Job was deleted: a user has ended it, which is no failure.

    The Job was there if this process has seen it, or if the trial has reported in its first attempt. Reports of a later
    attempt prove nothing, because they may be those of the attempt before. If the database has been restored since the
    trial was started, the Job may have ended long ago, and the trial runs again.
    """
    if case.job is not None or not (case.launched or (case.row.reports and case.row.attempt == 0)):
        return None
    started, restored = case.row.started_at, case.observed.restored_at
    if not case.launched and started is not None and restored is not None and started < restored:
        return verdict(case.observed.study, case.row, None, RESTORED)
    return Tell(case.row, TrialState.FAIL, failure=job_deleted(case.row.job or ""))


def job_not_created(case: Case) -> CreateJob | None:
    """Create the Job of a trial that has none yet, as soon as a slot is free.

    The operator stopped between storing the trial and creating its Job, or the trial is to run again.
    """
    return CreateJob(case.row) if case.job is None else None


def given_up(case: Case) -> Tell | None:
    """Tell PRUNED if the pruner has given the trial up. Its Job may end by itself for PRUNED_GRACE."""
    return Tell(case.row, TrialState.PRUNED) if case.row.number in case.observed.prune else None


def suspended(case: Case) -> RunAgain | None:
    """Run the trial again later if the study is suspended with suspendPolicy Terminate: its Job stops now.

    A study that was stopped is not resumed, so its trials would wait in vain.
    """
    study = case.observed.study
    ends = study.suspend and study.suspend_policy == "Terminate" and study.stop is None
    return RunAgain(case.row) if ends else None


def stuck(case: Case) -> Tell | RunAgain | None:
    """Give a trial another Job if its pod has waited too long to start.

    This counts as a failure of the infrastructure, unless an edit of the Study may have removed the cause.
    """
    found = case.observed.stuck.get(case.job.name) if case.job is not None else None
    if case.job is None or found is None:
        return None
    return verdict(case.observed.study, case.row, case.job, found.failure) if found.counts else RunAgain(case.row)


# What to do about a running trial: the first rule that answers wins. If none does, the trial goes on.
RULES: tuple[Callable[[Case], Answer | None], ...] = (
    reports_unread,
    has_result,
    output_unread,
    stopped_by_user,
    job_failed,
    result_missing,
    stopped,
    study_over,
    name_taken,
    job_missing,
    job_not_created,
    given_up,
    suspended,
    stuck,
)


def decide(case: Case) -> Answer | None:
    """Return the answer of the first rule that has one; None if the trial goes on."""
    return next((answer for rule in RULES if (answer := rule(case)) is not None), None)


def blame(cause: FindCause, failure: Failure) -> Failure:
    """Return why a Job has failed, once that is known. A program is not blamed for a database that was restored."""
    if not cause.restored or failure.kind is not FailureClass.PROGRAM:
        return failure
    message = f"{RESTORED.message}; before that it had failed: {failure.sentence()}"
    return replace(RESTORED, message=message, last_log_line=failure.last_log_line)


def verdict(study: Study, row: TrialRow, job: JobState | None, failure: Failure) -> Tell | RunAgain:
    """Return what to do about a trial whose Job has failed, or is gone.

    The trial runs again after a failure of the infrastructure, up to infrastructureRetries times.
    """
    if failure.kind is FailureClass.INFEASIBLE:
        return Tell(row, TrialState.PRUNED, failure=failure, job=job)
    if failure.kind is FailureClass.INFRASTRUCTURE and row.retries < study.infrastructure_retries:
        return RunAgain(row, failure)
    return Tell(row, TrialState.FAIL, failure=failure, job=job)


def tell_result(row: TrialRow, constraints: Sequence[Constraint]) -> Tell:
    """Return the end of a trial that has stored its result.

    Args:
        row: a trial with a result.
        constraints: those of the Study. Their values came with the result.
    """
    result = row.result
    assert result is not None
    if result.infeasible is not None:
        failure = Failure("Infeasible", result.infeasible, kind=FailureClass.INFEASIBLE)
        return Tell(row, TrialState.PRUNED, failure=failure)
    if result.pruned:
        return Tell(row, TrialState.PRUNED, result.values or None)
    if any(math.isnan(value) for value in result.values):
        return Tell(row, TrialState.FAIL, failure=Failure("InvalidValue", "the final value is NaN"))
    if missing := [constraint for constraint in constraints if constraint.name not in result.constraints]:
        message = missing_value.of_constraints(missing, row.last_bad_report)
        return Tell(row, TrialState.FAIL, failure=Failure("ConstraintMissing", message))
    violations = {c.name: c.violation(result.constraints[c.name]) for c in constraints}
    broken = [c for c in constraints if not violations[c.name] <= 0]
    violated = None
    if broken:
        words = (f"{c.name} is {result.constraints[c.name]:g}, {c.limit}" for c in broken)
        violated = Failure("ConstraintViolated", "; ".join(words), kind=FailureClass.INFEASIBLE)
    return Tell(row, TrialState.COMPLETE, result.values, violated, constraints=violations)

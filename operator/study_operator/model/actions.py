"""What can be done for a study: one record for each kind of action."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from study_operator.model.job_state import JobState
from study_operator.model.trial import Failure, FailureClass, TrialRow, TrialState


@dataclass(frozen=True)
class Tell:
    """Tell the end of a trial.

    Attributes:
        row: the trial.
        state: COMPLETE, PRUNED or FAIL.
        values: the final values, one for each objective; None if there are none.
        failure: why the trial failed or is infeasible; None if neither.
        job: the trial's failed or completed Job, whose log may say more about the failure; None if it is not needed.
        constraints: by how much the trial violates each constraint, by name.
        wished: whether it ends because a user has stopped it; `row.stop` says who.
    """

    row: TrialRow
    state: TrialState
    values: tuple[float, ...] | None = None
    failure: Failure | None = None
    job: JobState | None = None
    constraints: Mapping[str, float] = field(default_factory=dict)
    wished: bool = False

    @property
    def by_last_report(self) -> bool:
        """Whether the last reported value becomes the trial's value, as Optuna does for pruned trials."""
        infeasible = self.failure is not None and self.failure.kind is FailureClass.INFEASIBLE
        return self.state is TrialState.PRUNED and self.values is None and not infeasible


@dataclass(frozen=True)
class FindCause:
    """Find out why a trial's Job has failed, or has left no value, then do what `verdict` says.

    Attributes:
        row: the trial.
        job: its Job.
        restored: whether the Job failed before the database was restored, perhaps because it was away or half restored.
        otherwise: of a Job that has completed, what it is if its pod was not deleted; None of a Job that has failed.
    """

    row: TrialRow
    job: JobState
    restored: bool = False
    otherwise: Failure | None = None


@dataclass(frozen=True)
class RunAgain:
    """Run a trial again with the same parameters, as the next attempt. `failure` is the infrastructure's, if any."""

    row: TrialRow
    failure: Failure | None = None


@dataclass(frozen=True)
class StopJob:
    """Delete an active Job and its pods. They get `kill_after` seconds to end; None leaves them their own time."""

    job: JobState
    kill_after: int | None = None


@dataclass(frozen=True)
class CreateJob:
    """Create the Job of a stored trial."""

    row: TrialRow


@dataclass(frozen=True)
class Ask:
    """Start this many new trials."""

    count: int


@dataclass(frozen=True)
class RemoveFinishedJob:
    """Delete a finished Job, because there are more than the Study wants to keep."""

    job: JobState


@dataclass(frozen=True)
class Wait:
    """Do nothing about a trial now."""


Action = Tell | FindCause | RunAgain | StopJob | CreateJob | Ask | RemoveFinishedJob
Answer = Tell | FindCause | RunAgain | CreateJob | Wait

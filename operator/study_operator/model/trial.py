"""What is known of a study's trials: rows of the database and Jobs of the cluster, as plain values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import IntEnum, StrEnum
from typing import Any

from study_operator.texts import one_line

# Attributes of trials in Optuna's tables: the name of the Job that runs the trial, and why it failed.
JOB_ATTR = "study_operator:job"
FAILURE_ATTR = "study_operator:failure"
# The reasons of incidents that the database stores itself when it is told: a trial was ended twice, differently; or a
# notebook has failed a trial.
FOREIGN_REASONS = ("SeveralFinalValues", "ToldElsewhere")


class TrialState(IntEnum):
    """The state of a trial: Optuna's own names and numbers (`optuna.trial.TrialState`)."""

    RUNNING = 0
    COMPLETE = 1
    PRUNED = 2
    FAIL = 3
    WAITING = 4

    def is_finished(self) -> bool:
        """Return whether the trial has ended."""
        return self not in (TrialState.RUNNING, TrialState.WAITING)


@dataclass(frozen=True)
class Result:
    """What a trial's pod has sent in the end.

    Attributes:
        values: the final values, one per objective; empty if the parameters are infeasible.
        pruned: whether the script ended the trial early.
        constraints: the values that the Study's constraints limit, by name.
        infeasible: why the script calls its parameters infeasible; None if it does not.
        provisional: whether this was read from the program's output. It then holds only if the program ends well.
    """

    values: tuple[float, ...]
    pruned: bool = False
    constraints: Mapping[str, float] = field(default_factory=dict)
    infeasible: str | None = None
    provisional: bool = False


@dataclass(frozen=True)
class StopWish:
    """That a user wants a running trial to end now.

    Attributes:
        state: as what it is to be told: PRUNED, with its last report, or FAIL.
        by: the user, as the API server knows them.
        at: when they asked for it, aware, UTC.
    """

    state: TrialState
    by: str
    at: datetime


@dataclass(frozen=True)
class TrialRow:
    """A trial as the database has it.

    Attributes:
        trial_id, number: as the database has them.
        state: Optuna's.
        params: its parameters, if it was read as a trial without a Job, which needs them; else empty.
        job: the name of its Job; another one after each attempt. None for a trial that another program runs, such as a
            notebook: that trial is counted, and otherwise left alone.
        completed_at: when it ended, aware, UTC; None while it has not.
        result: what its pod has sent in the end; None if nothing.
        reports: whether it has reported at least once, if that was asked for, or a user has stopped it, or it was read
            as a trial without a Job; else False.
        retries: how often it has run again because the infrastructure failed.
        started_at: when it was started, aware, UTC, to the microsecond; None if that was not read.
        last_bad_report: the last thing that its program has written and that could not be read as a value; or "".
        stopping: whether its program has been told to stop, because the trial has been pruned, and has not reported
            again since.
        stop: that a user has stopped it; None if nobody has.
    """

    trial_id: int
    number: int
    state: TrialState
    params: dict[str, Any]
    job: str | None
    completed_at: datetime | None = None
    result: Result | None = None
    reports: bool = False
    retries: int = 0
    started_at: datetime | None = None
    last_bad_report: str = ""
    stopping: bool = False
    stop: StopWish | None = None

    @property
    def token(self) -> str:
        """What tells the trial from another one that has had its number and id before a restore; may be empty."""
        return self.started_at.isoformat() if self.started_at else ""

    @property
    def has_final(self) -> bool:
        """Whether a result has come that is not provisional."""
        return self.result is not None and not self.result.provisional

    @property
    def attempt(self) -> int:
        """How often the trial has been run again, for whatever reason. It is part of the Job's name."""
        return attempt_of(self.job or "")


def attempt_of(job: str) -> int:
    """Return the attempt that is part of a Job's name: 2 for digits-7-r2, 0 for digits-7."""
    found = re.search(r"-r([0-9]+)$", job)
    return int(found[1]) if found else 0


@dataclass(frozen=True)
class BestTrial:
    """A COMPLETE trial that is the best, or one of the best.

    Attributes:
        number: the trial's.
        values: its final values, one per objective.
        params: its parameters by name.
        job: the name of its Job; None if another program has run it.
        attributes: its user attributes that were asked for, by name.
    """

    number: int
    values: tuple[float, ...]
    params: dict[str, Any]
    job: str | None
    attributes: Mapping[str, Any] = field(default_factory=dict)


class FailureClass(StrEnum):
    """Whose fault it is that a trial has no value."""

    PROGRAM = "Program"
    INFRASTRUCTURE = "Infrastructure"
    INFEASIBLE = "Infeasible"  # nobody's: the parameters cannot work
    TERMINATED = "Terminated"  # nobody's: the study had reached its end, or a user has stopped the trial


@dataclass(frozen=True)
class Failure:
    """Why a trial failed, or is infeasible.

    Attributes:
        reason: CamelCase.
        message: a sentence; may be empty.
        exit_code: of the container that ended; None if none did.
        last_log_line: the last line that the program logged; may be empty.
        log: the end of what it logged, several lines, for the row of the incident alone; may be empty.
        kind: whose fault it is.
    """

    reason: str
    message: str = ""
    exit_code: int | None = None
    last_log_line: str = ""
    kind: FailureClass = FailureClass.PROGRAM
    log: str = ""

    def __post_init__(self) -> None:
        """Bring what programs and other components have said to one line. Rows of earlier versions may have more."""
        for name in ("reason", "message", "last_log_line"):
            object.__setattr__(self, name, one_line(getattr(self, name)))

    def attribute(self) -> dict[str, Any]:
        """Return what the trial's user attribute has, which everybody sees who sees the trial in Optuna's tools."""
        return {name: value for name, value in asdict(self).items() if name != "log"}

    def detail(self) -> str:
        """Return message and last log line in one text. Either may be missing."""
        last = f"last log line: {self.last_log_line}" if self.last_log_line else ""
        return "; ".join(part for part in (self.message, last) if part)

    def sentence(self) -> str:
        """Return everything in one text."""
        head = self.reason if self.exit_code is None else f"{self.reason}, exit code {self.exit_code}"
        return ": ".join(part for part in (head, self.detail()) if part)


@dataclass(frozen=True)
class Clock:
    """How long a study has been active: from its first trial on, less the time in which it was suspended or had ended.

    Attributes:
        started_at: when its first trial began, aware, UTC; None before.
        paused_at: when it last stopped being active, aware, UTC; None while it is active.
        paused_seconds: how long all earlier pauses took.
    """

    started_at: datetime | None = None
    paused_at: datetime | None = None
    paused_seconds: float = 0.0

    def active_seconds(self, now: datetime) -> float:
        """Return for how many seconds the study has been active by now."""
        if self.started_at is None:
            return 0.0
        return max(((self.paused_at or now) - self.started_at).total_seconds() - self.paused_seconds, 0.0)


@dataclass(frozen=True)
class Rows:
    """A study's trials, in one snapshot.

    Attributes:
        counts: how many trials there are, by state.
        open: by number, every RUNNING trial, and every other one that was asked for because it still has a Job.
        best: the best trial of a study with one objective; None while there is none.
        recent_failures: trial number and reason of the latest failures, the latest first.
        incidents: how many failures and infeasible trials there were, by class. Failures of the infrastructure after
            which the trial ran again are among them.
        broken: how many COMPLETE trials broke a constraint; they are among the infeasible ones.
        front: the beginning of the Pareto front of a study with several objectives.
        front_size: the size of the whole front.
        clock: how long the study has been active.
        bad_reports: how many lines of programs' outputs could not be read.
        last_bad_report: the latest of them.
        changed: whether another program than the operator has written to the study.
    """

    counts: Mapping[TrialState, int]
    open: dict[int, TrialRow]
    best: BestTrial | None = None
    recent_failures: tuple[tuple[int, Failure], ...] = ()
    incidents: Mapping[FailureClass, int] = field(default_factory=dict)
    broken: int = 0
    front: tuple[BestTrial, ...] = ()
    front_size: int = 0
    clock: Clock = Clock()
    bad_reports: int = 0
    last_bad_report: str = ""
    changed: bool = False

    def count(self, *states: TrialState) -> int:
        return sum(self.counts.get(state, 0) for state in states)

    def active_seconds(self, now: datetime) -> float:
        return self.clock.active_seconds(now)

    @property
    def total(self) -> int:
        """Trials that have been started: all but those that wait in the queue of `enqueue_trial`."""
        return sum(self.counts.values()) - self.count(TrialState.WAITING)

    @property
    def finished(self) -> int:
        return self.count(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)

    @property
    def infeasible(self) -> int:
        return self.incidents.get(FailureClass.INFEASIBLE, 0)

    @property
    def terminated(self) -> int:
        """Trials that were ended because the study was over, or because a user has stopped them."""
        return self.incidents.get(FailureClass.TERMINATED, 0)

    @property
    def failed(self) -> int:
        return self.count(TrialState.FAIL) - self.terminated

    @property
    def feasible(self) -> int:
        """Trials that ended with a value and kept every constraint."""
        return self.count(TrialState.COMPLETE) - self.broken

    @property
    def pruned(self) -> int:
        return self.count(TrialState.PRUNED) - (self.infeasible - self.broken)


@dataclass(frozen=True)
class Report:
    """One intermediate value.

    Attributes:
        report_id: grows in the order in which a trial's reports were stored.
        trial_id: the trial's.
        step: the step that was reported; unique within the trial.
        value: the value; may be infinite or NaN.
    """

    report_id: int
    trial_id: int
    step: int
    value: float


def constraint_attrs(violations: Mapping[str, float]) -> dict[str, float]:
    """Return by how much a trial violates each constraint, as system attributes that Optuna's samplers look up."""
    return {f"constraints:{name}": violation for name, violation in violations.items()}

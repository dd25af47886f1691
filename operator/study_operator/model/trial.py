"""What is known of a study's trials: rows of the database and Jobs of the cluster, as plain values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum, StrEnum
from typing import Any

# Attributes of trials in Optuna's tables: the name of the Job that runs the trial, and why it failed.
JOB_ATTR = "study_operator:job"
FAILURE_ATTR = "study_operator:failure"


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
    """Final values as the pod sent them, one per objective; `pruned` when the script ended the trial early.

    `constraints` are the values that the Study's constraints limit, by name. `infeasible` is why the script calls its
    parameters infeasible; there are no values then. A `provisional` result, which somebody else read off the program's
    output, holds only if the program ends well.
    """

    values: tuple[float, ...]
    pruned: bool = False
    constraints: Mapping[str, float] = field(default_factory=dict)
    infeasible: str | None = None
    provisional: bool = False


@dataclass(frozen=True)
class TrialRow:
    """A trial as the database has it.

    `job` is the name of its Job, None for a trial that somebody else (a notebook) runs: such a trial is counted
    and otherwise left alone. One that runs again has a Job of another name. `retries` tells how often it has run again
    because the infrastructure failed. Where it has no Job, `params` are what one is made from, and `reports` tells
    whether it has reported at least once; elsewhere they are empty and False.
    """

    trial_id: int
    number: int
    state: TrialState
    params: dict[str, Any]
    job: str | None
    completed_at: datetime | None = None  # UTC, aware
    result: Result | None = None
    reports: bool = False
    retries: int = 0

    @property
    def has_final(self) -> bool:
        """Whether a result has come that holds by itself."""
        return self.result is not None and not self.result.provisional

    @property
    def attempt(self) -> int:
        """How often the trial has been run again, for whatever reason; it is part of its Job's name."""
        return attempt_of(self.job or "")


def attempt_of(job: str) -> int:
    """The attempt that a Job's name speaks of: 2 for digits-7-r2, 0 for digits-7."""
    found = re.search(r"-r([0-9]+)$", job)
    return int(found[1]) if found else 0


@dataclass(frozen=True)
class BestTrial:
    """The best COMPLETE trial: number, final values and parameters."""

    number: int
    values: tuple[float, ...]
    params: dict[str, Any]
    job: str | None


class FailureClass(StrEnum):
    """Whose fault it is that a trial has no value."""

    PROGRAM = "Program"
    INFRASTRUCTURE = "Infrastructure"
    INFEASIBLE = "Infeasible"  # nobody's: the parameters cannot work
    TERMINATED = "Terminated"  # the study had reached its end


@dataclass(frozen=True)
class Failure:
    """Why a trial failed: a reason in CamelCase, the exit code where a container ended, a sentence, and the
    last line that it logged."""

    reason: str
    message: str = ""
    exit_code: int | None = None
    last_log_line: str = ""
    kind: FailureClass = FailureClass.PROGRAM

    def detail(self) -> str:
        """Message and last log line in one text, either of which may be missing."""
        last = f"last log line: {self.last_log_line}" if self.last_log_line else ""
        return "; ".join(part for part in (self.message, last) if part)

    def sentence(self) -> str:
        head = self.reason if self.exit_code is None else f"{self.reason}, exit code {self.exit_code}"
        return ": ".join(part for part in (head, self.detail()) if part)


@dataclass(frozen=True)
class Clock:
    """How long a study has been active: from its first trial on, less the time in which it was suspended or had ended.

    `paused_at` is when it last stopped being active, None while it is; `paused_seconds` are all earlier pauses.
    """

    started_at: datetime | None = None  # UTC, aware
    paused_at: datetime | None = None
    paused_seconds: float = 0.0

    def active_seconds(self, now: datetime) -> float:
        if self.started_at is None:
            return 0.0
        return max(((self.paused_at or now) - self.started_at).total_seconds() - self.paused_seconds, 0.0)


@dataclass(frozen=True)
class Rows:
    """A study's trials, in one snapshot: how many there are by state, and the open ones whole.

    `open` holds, by number, every RUNNING trial and every other one that was asked for because it still has a Job.
    `incidents` counts what went wrong by class: failures, the cluster's after which a trial ran again among them, and
    trials that are infeasible, of which `broken` are COMPLETE and broke a constraint. `front` is the beginning of the
    Pareto front of a study with several objectives, `front_size` the size of the whole. `changed` tells whether
    somebody else than the operator has written to the study.
    """

    counts: Mapping[TrialState, int]
    open: dict[int, TrialRow]
    best: BestTrial | None = None
    recent_failures: tuple[tuple[int, Failure], ...] = ()  # (trial number, why), the latest first
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
        """Trials that the study ended because it was over."""
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
    """One intermediate value, in the order in which it was stored for its trial."""

    report_id: int
    trial_id: int
    step: int
    value: float


def constraint_attrs(violations: Mapping[str, float]) -> dict[str, float]:
    """By how much a trial violates each constraint, as Optuna's samplers look it up among its system attributes."""
    return {f"constraints:{name}": violation for name, violation in violations.items()}

"""What people read about trials: studies, trials, reports and changes, as plain values.

Texts in them are the tenants': choices of parameters, attributes, log lines. Whoever shows one escapes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, StrEnum
from typing import Any, Final

from study_operator.model.trial import Failure

# What a trial shows of its user attributes: so many, each in so many characters of JSON.
MOST_ATTRIBUTES, MOST_ATTRIBUTE = 64, 1024


class ShownState(StrEnum):
    """The state of a trial, by the names of the Study's status.

    A trial that the status counts as queued is Running here: only its Job tells, and the database knows no Jobs.
    """

    WAITING = "Waiting"
    RUNNING = "Running"
    COMPLETE = "Complete"
    PRUNED = "Pruned"
    FAILED = "Failed"
    INFEASIBLE = "Infeasible"
    TERMINATED = "Terminated"


class Absent(Enum):
    """The type of `ABSENT`."""

    ABSENT = "absent"


# In columns, the place of a parameter or an attribute that a trial does not have. None is a value.
ABSENT: Final = Absent.ABSENT


class Gone(Exception):
    """Changes were asked for since a number that is older than what is kept, or that was never given out.

    Attributes:
        oldest: the oldest number from which changes can be read.
    """

    def __init__(self, oldest: int) -> None:
        super().__init__(f"changes are kept for ten minutes: since {oldest} at the earliest; read the trials again")
        self.oldest = oldest


@dataclass(frozen=True, slots=True)
class Objective:
    """An objective of a study.

    Attributes:
        name: what the Study calls it; empty if that was not stored.
        direction: MINIMIZE or MAXIMIZE.
    """

    name: str
    direction: str


@dataclass(frozen=True, slots=True)
class ReadableStudy:
    """A study as people see it.

    Attributes:
        study_id: Optuna's.
        namespace, name, uid: of the Study object.
        deleted: whether the Study object is gone, and its rows were kept.
        objectives: its objectives, in their order.
    """

    study_id: int
    namespace: str
    name: str
    uid: str
    deleted: bool
    objectives: tuple[Objective, ...] = ()


@dataclass(frozen=True, slots=True)
class ReadableReport:
    """One intermediate value of a trial; it may be infinite or NaN."""

    step: int
    value: float


@dataclass(frozen=True, slots=True)
class ReadableTrial:
    """A trial as people see it.

    Attributes:
        study: the study.
        trial_id: Optuna's.
        number: its number in the study.
        state: its state.
        started_at, ended_at: aware, UTC; None before.
        values: the final values, one per objective; empty if there are none. One may be infinite.
        params: its parameters, in their own types, in the order in which they were suggested.
        constraints: the values that the Study's constraints limit, by name, as the program sent them.
        violations: by how much each constraint is violated, by name; zero or less if it is kept.
        attributes: its user attributes, at most MOST_ATTRIBUTES, of at most MOST_ATTRIBUTE characters each.
        attributes_left_out: how many user attributes it has beyond these bounds.
        last_report: the report with the highest step; None without any.
        attempts: how many Jobs it has had; 0 if another program runs it, such as a notebook.
        job: the name of the last one; None without any.
        failure: the latest failure, also of a trial that runs again; None if there was none.
    """

    study: ReadableStudy
    trial_id: int
    number: int
    state: ShownState
    started_at: datetime | None
    ended_at: datetime | None
    values: tuple[float, ...]
    params: Mapping[str, Any]
    constraints: Mapping[str, float]
    violations: Mapping[str, float]
    attributes: Mapping[str, Any]
    attributes_left_out: int
    last_report: ReadableReport | None
    attempts: int
    job: str | None
    failure: Failure | None


@dataclass(frozen=True, slots=True)
class Where:
    """Which trials are meant. What is None is not looked at.

    Attributes:
        namespace: of the Study.
        study: the Study's name.
        uid: the Study's UID, or its beginning.
        states: the trials' states.
        deleted: False for trials of Studies that exist, True for those of deleted ones.
        number: the trial's.
    """

    namespace: str | None = None
    study: str | None = None
    uid: str | None = None
    states: frozenset[ShownState] | None = None
    deleted: bool = False
    number: int | None = None


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """The place of a trial among all trials: they are read in this order."""

    study_id: int
    number: int


@dataclass(frozen=True, slots=True)
class Page:
    """Some trials.

    Attributes:
        trials: in the order of their keys.
        after: the key to go on with; None if there are no more.
        at: the number of the last change that the trials are certain to show. Later ones may be shown.
    """

    trials: list[ReadableTrial]
    after: Key | None
    at: int


class ChangeKind(StrEnum):
    """What has changed: a trial; that trials were deleted; or whose study it is."""

    TRIAL = "trial"
    TRIALS_DELETED = "trials-deleted"
    STUDY = "study"


@dataclass(frozen=True, slots=True)
class Change:
    """One change in the log.

    Attributes:
        number: grows from change to change, and is the same for every reader.
        kind: what has changed.
        study_id: Optuna's.
        namespace, study, uid, deleted: the study as it was before the change.
        first, last: the numbers of the trials that are concerned; for a study all, and -1 for `last` without any.
        was: the state that a trial had before; None if that has not changed.
        made: whether the trial is new.
    """

    number: int
    kind: ChangeKind
    study_id: int
    namespace: str
    study: str
    uid: str
    deleted: bool
    first: int
    last: int
    was: ShownState | None = None
    made: bool = False


@dataclass(frozen=True, slots=True)
class Changes:
    """Some changes.

    Attributes:
        changes: in the order of their numbers.
        at: the number to go on with.
        more: whether there are more already.
    """

    changes: list[Change]
    at: int
    more: bool


@dataclass(frozen=True, slots=True)
class Columns:
    """Some trials of one study, by columns of the same length.

    Attributes:
        numbers, states, started, ended: as those of `ReadableTrial`.
        values: final values.
        params, attributes: by name; ABSENT where a trial has none of that name.
        constraints: by name; None where a trial has none of that name.
        jobs, attempts: as those of `ReadableTrial`.
        reasons, exit_codes: of the failure; None without one.
        reports: steps and values of each trial, thinned out if it has very many; empty if they were not asked for.
    """

    numbers: list[int]
    states: list[ShownState]
    started: list[datetime | None]
    ended: list[datetime | None]
    values: list[tuple[float, ...]]
    params: dict[str, list[Any]]
    constraints: dict[str, list[float | None]]
    attributes: dict[str, list[Any]]
    jobs: list[str | None]
    attempts: list[int]
    reasons: list[str | None]
    exit_codes: list[int | None]
    reports: list[tuple[list[int], list[float]]]


def columns(trials: list[ReadableTrial], reports: list[tuple[list[int], list[float]]]) -> Columns:
    """Return trials by columns."""
    return Columns(
        numbers=[trial.number for trial in trials],
        states=[trial.state for trial in trials],
        started=[trial.started_at for trial in trials],
        ended=[trial.ended_at for trial in trials],
        values=[trial.values for trial in trials],
        params=_by_name([trial.params for trial in trials], ABSENT),
        constraints=_by_name([trial.constraints for trial in trials], None),
        attributes=_by_name([trial.attributes for trial in trials], ABSENT),
        jobs=[trial.job for trial in trials],
        attempts=[trial.attempts for trial in trials],
        reasons=[trial.failure.reason if trial.failure else None for trial in trials],
        exit_codes=[trial.failure.exit_code if trial.failure else None for trial in trials],
        reports=reports,
    )


def _by_name(rows: list[Mapping[str, Any]], missing: Any) -> dict[str, list[Any]]:
    """Return a column for each name that any row has."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name, missing) for row in rows] for name in names}

"""What is written to a study's trials together, and why it may not be stored. Plain values: they cross the
optimizer's door."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from study_operator.model.trial import Failure, TrialState

# A new trial has an id from here on until it is stored. PostgreSQL's integer cannot hold such an id, it sorts behind
# all others, and it is never reused: samplers remember trials by their ids.
PROVISIONAL = 2**31


class NotStored(Exception):
    """A batch has not been stored, and will not be."""


class StaleHistory(NotStored):
    """Another program has written to this study since it was read. Read what has changed and try again."""


class Full(NotStored):
    """The study has started as many trials as it may."""


@dataclass
class Change:
    """What is to be written to one trial.

    Attributes:
        trial_id: of a new trial a provisional one.
        number: the trial's, as the database counts.
        was: the states in which the trial may be for this to hold; empty for a new one.
        state: the new one, None when it stays.
        times: when a new trial began and ended (naive, UTC, each may be None), if it is a copy of another trial. None:
            the times at which it is stored.
        params: by name, the value in Optuna's internal representation, and its distribution as Optuna's JSON.
        values: the final values, one per objective.
        user_attrs, system_attrs: JSON values by name.
        reports: values by step.
        unless_result: write only if the trial has no result, or a provisional one.
        forget_result: delete the provisional result that the trial's previous Job left.
        failure: to be stored as an incident of the trial's Job.
    """

    trial_id: int
    number: int
    was: frozenset[TrialState] = frozenset()
    state: TrialState | None = None
    times: tuple[datetime | None, datetime | None] | None = None
    params: dict[str, tuple[float, str]] = field(default_factory=dict)
    values: Sequence[float] | None = None
    user_attrs: dict[str, Any] = field(default_factory=dict)
    system_attrs: dict[str, Any] = field(default_factory=dict)
    reports: dict[int, float] = field(default_factory=dict)
    unless_result: bool = False
    forget_result: bool = False
    failure: Failure | None = None

    @property
    def new(self) -> bool:
        """Whether this creates the trial."""
        return self.trial_id >= PROVISIONAL

    @property
    def starts(self) -> bool:
        """Whether this makes one more trial that has been started."""
        return (self.new or TrialState.WAITING in self.was) and self.state not in (None, TrialState.WAITING)


@dataclass
class Batch:
    """What is written together, whole or not at all.

    Attributes:
        trials: changes by trial_id.
        user_attrs, system_attrs: the study's own, JSON values by name.
        most: how many trials may have been started when this is stored; None for any number.
    """

    trials: dict[int, Change] = field(default_factory=dict)
    user_attrs: dict[str, Any] = field(default_factory=dict)
    system_attrs: dict[str, Any] = field(default_factory=dict)
    most: int | None = None

    def __bool__(self) -> bool:
        return bool(self.trials or self.user_attrs or self.system_attrs)


@dataclass(frozen=True)
class Stored:
    """When a batch was stored (naive, UTC), and the ids of its new trials, in their order."""

    at: datetime
    ids: Sequence[int] = ()

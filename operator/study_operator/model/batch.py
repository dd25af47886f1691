"""What is written to a study's trials together, and why it may not be stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from study_operator.model.trial import Failure, TrialState

# A new trial has an id from here on until it is stored: none that PostgreSQL's integer can hold, behind all others, and
# never that of another one, for samplers remember trials by their ids.
PROVISIONAL = 2**31


class NotStored(Exception):
    """A batch has not been stored, and will not be. Memory is as it was before."""


class StaleHistory(NotStored):
    """Somebody else has written to this study since it was read; read what has changed and try again."""


class Full(NotStored):
    """As many trials as there may be have been started."""


@dataclass
class Change:
    """What is to be written to one trial.

    Attributes:
        trial_id: of a new trial a provisional one.
        number: the trial's, as the database counts.
        was: the states in which the trial may be for this to hold; empty for a new one.
        state: the new one, None when it stays.
        template: a new trial has these times instead of the time at which it is stored.
        params: the value in Optuna's internal representation, and its distribution, by name.
        unless_result: only if no result of the trial has come that holds by itself.
        forget_result: what somebody has read off the output of a trial's last Job counts no more.
        failure: is noted down as an incident of the trial's Job.
    """

    trial_id: int
    number: int
    was: frozenset[TrialState] = frozenset()
    state: TrialState | None = None
    template: FrozenTrial | None = None
    params: dict[str, tuple[float, BaseDistribution]] = field(default_factory=dict)
    values: Sequence[float] | None = None
    user_attrs: dict[str, Any] = field(default_factory=dict)
    system_attrs: dict[str, Any] = field(default_factory=dict)
    reports: dict[int, float] = field(default_factory=dict)
    unless_result: bool = False
    forget_result: bool = False
    failure: Failure | None = None

    @property
    def new(self) -> bool:
        return self.trial_id >= PROVISIONAL

    @property
    def starts(self) -> bool:
        """Whether it makes one more trial that has been started."""
        return (self.new or TrialState.WAITING in self.was) and self.state not in (None, TrialState.WAITING)


@dataclass
class Batch:
    """What is written together: changes by trial_id, the study's attributes, and how many trials may have been started
    when it is stored, None for any number. Once it is stored, `ids` are those of new trials by their provisional ones.
    """

    trials: dict[int, Change] = field(default_factory=dict)
    user_attrs: dict[str, Any] = field(default_factory=dict)
    system_attrs: dict[str, Any] = field(default_factory=dict)
    most: int | None = None
    ids: dict[int, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.trials or self.user_attrs or self.system_attrs)


@dataclass(frozen=True)
class Stored:
    """When a batch was stored (naive, UTC), and the ids of its new trials, in their order."""

    at: datetime
    ids: Sequence[int] = ()

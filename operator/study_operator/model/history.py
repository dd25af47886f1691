"""A study as its rows tell it, and what the optimizer concludes from it. Plain values: they cross the optimizer's
door."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from study_operator.model.batch import Batch
from study_operator.model.trial import TrialRow, TrialState


@dataclass(frozen=True, slots=True)
class StoredTrial:
    """A trial, whole.

    Attributes:
        trial_id, number: as the database has them.
        started_at, completed_at: naive, as Optuna keeps times; None before they happen.
        values: the final ones, one per objective; None without.
        names: the parameters' names, in the order in which they were suggested.
        params: their values in Optuna's internal representation, in the order of `names`.
        distributions: their distributions as Optuna's JSON, in the order of `names`.
        user_attrs: the operator's own alone, JSON values by name.
        system_attrs: JSON values by name.
        reports: values by step.
    """

    trial_id: int
    number: int
    state: TrialState
    started_at: datetime | None
    completed_at: datetime | None
    values: Sequence[float] | None
    names: Sequence[str]
    params: Sequence[float]
    distributions: Sequence[str]
    user_attrs: Mapping[str, Any]
    system_attrs: Mapping[str, Any]
    reports: Mapping[int, float]


@dataclass(frozen=True)
class StoredStudy:
    """What a study has besides its trials.

    Attributes:
        name: in Optuna.
        directions: MINIMIZE or MAXIMIZE, one per objective.
        system_attrs: JSON values by name.
        user_attrs: the operator's own alone, JSON values by name.
    """

    name: str
    directions: Sequence[str]
    system_attrs: Mapping[str, Any]
    user_attrs: Mapping[str, Any]


@dataclass(frozen=True)
class History:
    """A study with all its trials, in order of number."""

    study_id: int
    study: StoredStudy
    trials: Sequence[StoredTrial]


@dataclass(frozen=True)
class Changes:
    """What other programs have changed in a study since it was last read.

    Attributes:
        study: the study's attributes, if those have changed.
        trials: the trials that are new or changed, in order of number.
    """

    study: StoredStudy | None
    trials: Sequence[StoredTrial]


@dataclass(frozen=True)
class Outlook:
    """What the optimizer expects of more trials.

    Attributes:
        exhausted: every point of a finite search space has been suggested.
        converged: more trials are not expected to help.
        impossible: waiting trials whose parameters the Study does not allow, each with the reason.
    """

    exhausted: bool = False
    converged: bool = False
    impossible: tuple[tuple[TrialRow, str], ...] = ()


@dataclass(frozen=True)
class Verdicts:
    """What the pruner says to reports.

    Attributes:
        prune: trial_ids of the trials that it gives up.
        notes: what it has noted about the other trials, to be stored; None when there is nothing.
    """

    prune: frozenset[int]
    notes: Batch | None = None

"""Decide which finished trials of earlier studies a new study may begin with, and say why it may not use others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from study_operator.model.history import StoredTrial
from study_operator.model.search_space import possible
from study_operator.model.study import Study
from study_operator.model.trial import TrialState, constraint_attrs

# Trials taken from all studies together: a sampler reads all of them for each suggestion.
MOST_TRIALS = 10_000


@dataclass(frozen=True)
class WarmStarted:
    """What came of one earlier study.

    Attributes:
        study: its name in Optuna.
        taken: how many of its finished trials were taken.
        left: how many were left.
        message: why they were left.
    """

    study: str
    taken: int
    left: int
    message: str


@dataclass(frozen=True, slots=True)
class EarlierTrial:
    """A finished trial of an earlier study.

    Attributes:
        trial_id, number: as the database has them.
        state: COMPLETE or PRUNED.
        started_at, completed_at: naive, as Optuna keeps times.
        values: the final ones, one per objective; None without.
        params: by name.
        reports: values by step; of a COMPLETE trial they are not read.
    """

    trial_id: int
    number: int
    state: TrialState
    started_at: datetime | None
    completed_at: datetime | None
    values: Sequence[float] | None
    params: Mapping[str, Any]
    reports: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """An earlier study, as far as it is read.

    Attributes:
        directions: MINIMIZE or MAXIMIZE, one per objective.
        metric_names: its objectives' names, None when it was made before they were kept.
        ended: how many of its trials have ended, by state.
        trials: those that are COMPLETE or PRUNED, in order of number; of more than `MOST_TRIALS` the latest.
        constraint_values: what trials reported for constraints, by trial_id and name.
    """

    name: str
    directions: Sequence[str]
    metric_names: Sequence[str] | None
    ended: Mapping[TrialState, int]
    trials: Sequence[EarlierTrial]
    constraint_values: Mapping[int, Mapping[str, float]] = field(default_factory=dict)


def take(study: Study, source: Source, most: int = MOST_TRIALS) -> tuple[list[StoredTrial], WarmStarted]:
    """Take the source's trials that could be this study's; the latest ones if there are more than `most`.

    Returns:
        Those trials, in order of number, with the constraints of this study and no other attributes; and what came of
        the source.
    """
    ended = sum(source.ended.values())
    if reason := _other_objectives(study, source):
        return [], WarmStarted(source.name, 0, ended, reason)
    reasons: Counter[str] = Counter()
    fitting = []
    for trial in source.trials:
        if reason := _misfit(study, trial, source.constraint_values.get(trial.trial_id, {})):
            reasons[reason] += 1
        else:
            fitting.append(trial)
    taken = fitting[max(len(fitting) - most, 0) :]
    unread = source.ended.get(TrialState.COMPLETE, 0) + source.ended.get(TrialState.PRUNED, 0) - len(source.trials)
    reasons[f"older than the latest {MOST_TRIALS}"] += len(fitting) - len(taken) + max(unread, 0)
    reasons["failed"] += source.ended.get(TrialState.FAIL, 0)
    message = "; ".join(f"{count} {reason}" for reason, count in reasons.most_common() if count)
    if not ended:
        message = "it had no finished trials yet"
    own = [_own(study, trial, source.constraint_values.get(trial.trial_id, {})) for trial in taken]
    return own, WarmStarted(source.name, len(taken), ended - len(taken), message)


def _other_objectives(study: Study, source: Source) -> str:
    """Return why no value of the source says anything about this study's objectives; empty if they do."""
    names = [objective.name for objective in study.objectives]
    if list(source.directions) == study.directions and list(source.metric_names or names) == names:
        return ""
    ours, theirs = _shown(names, study.directions), _shown(source.metric_names, source.directions)
    return f"its trials have other values: {theirs}; this Study has {ours}"


def _shown(names: Sequence[str] | None, directions: Sequence[str]) -> str:
    if names is None:
        return ", ".join(f"one to {direction.lower()}" for direction in directions)
    return ", ".join(f"{name} to {direction.lower()}" for name, direction in zip(names, directions, strict=False))


def _misfit(study: Study, trial: EarlierTrial, constraints: Mapping[str, float]) -> str:
    """Return why a trial could not be one of this study, in words that follow a number; empty if it could."""
    if trial.state is TrialState.PRUNED:
        if len(study.objectives) > 1:
            return "stopped early"
        if not trial.reports:
            return "stopped early without a report"
    elif trial.values is None or len(trial.values) != len(study.objectives):
        return "without a value for each objective"
    for name, value in trial.params.items():
        if name not in study.distributions:
            return f"with a parameter {name}, which this Study does not have"
        if not possible(study.distributions[name], value):
            return f"whose {name} is not possible here"
    active: dict[str, Any] = {}
    for name in study.distributions:
        if study.space.active(name, active):
            if name not in trial.params:
                return f"without {name}"
            active[name] = trial.params[name]
        elif name in trial.params:
            return f"with {name} where this Study does not have it"
    for constraint in study.constraints:
        if constraint.name not in constraints:
            return f"without a value of the constraint {constraint.name}"
    return ""


def _own(study: Study, trial: EarlierTrial, constraints: Mapping[str, float]) -> StoredTrial:
    """Return the trial with this study's distributions, and its constraints judged by this study's limits."""
    params = study.space.choose(lambda name, _: trial.params[name])
    distributions = {name: study.distributions[name] for name in params}
    return StoredTrial(
        trial_id=trial.trial_id,
        number=trial.number,
        state=trial.state,
        started_at=trial.started_at,
        completed_at=trial.completed_at,
        values=trial.values,
        names=tuple(params),
        params=[distributions[name].to_internal(value) for name, value in params.items()],
        distributions=[distribution.to_json() for distribution in distributions.values()],
        user_attrs={},
        system_attrs=constraint_attrs({c.name: c.violation(constraints[c.name]) for c in study.constraints}),
        reports=trial.reports,
    )

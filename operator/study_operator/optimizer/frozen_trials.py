"""Stored trials as Optuna's own, and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.trial import FrozenTrial, TrialState

from study_operator.model.history import StoredTrial


def frozen(trials: Iterable[StoredTrial], known: Distributions | None = None) -> list[FrozenTrial]:
    """Return trials as Optuna's. Trials with the same parameters share one dictionary of their distributions.

    Args:
        known: the distributions of trials that have come before these, if they are to share them too.
    """
    distributions = Distributions() if known is None else known
    return [_frozen(trial, distributions) for trial in trials]


class Distributions:
    """Distributions by the parameters' names and texts: parsing is slow, and a study has few distinct ones."""

    def __init__(self) -> None:
        self._parsed: dict[str, BaseDistribution] = {}
        self._known: dict[tuple[tuple[str, ...], tuple[str, ...]], dict[str, BaseDistribution]] = {}

    def of(self, names: Sequence[str], texts: Sequence[str]) -> dict[str, BaseDistribution]:
        key = tuple(names), tuple(texts)
        if key not in self._known:
            self._known[key] = {name: self._parse(text) for name, text in zip(names, texts, strict=True)}
        return self._known[key]

    def _parse(self, text: str) -> BaseDistribution:
        if text not in self._parsed:
            self._parsed[text] = json_to_distribution(text)
        return self._parsed[text]


def _frozen(trial: StoredTrial, known: Distributions) -> FrozenTrial:
    distributions = known.of(trial.names, trial.distributions)
    return FrozenTrial(
        number=trial.number,
        state=TrialState(trial.state.value),
        value=None,
        values=None if trial.values is None else list(trial.values),
        datetime_start=trial.started_at,
        datetime_complete=trial.completed_at,
        params={
            name: distribution.to_external_repr(value)
            for (name, distribution), value in zip(distributions.items(), trial.params, strict=True)
        },
        distributions=distributions,
        user_attrs=dict(trial.user_attrs),
        system_attrs=dict(trial.system_attrs),
        intermediate_values=dict(trial.reports),
        trial_id=trial.trial_id,
    )

"""Optuna's TPE, without reading every earlier trial anew for each suggestion.

Most of the time of a suggestion at thousands of trials goes into turning the same trials, whose parameters never
change, into the same numbers again, one by one. Here that is done once for each trial. What is suggested stays the
same, to the last bit: the tests compare it with Optuna's own class. Written for the one Optuna version that
pyproject.toml allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.samplers._tpe.sampler import (
    _get_infeasible_trial_score,
    _split_infeasible_trials,
    _split_pruned_trials,
    default_gamma,
)
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

_RUNNING, _COMPLETE, _PRUNED, _INFEASIBLE = range(4)


class _Seen:
    """What is known of the trials that were seen, each at a place of its own, in the order in which they were."""

    def __init__(self) -> None:
        self._places: dict[int, int] = {}  # by trial_id
        self._kinds = np.zeros(0, dtype=np.int8)
        self._values = np.zeros(0)
        self._columns: dict[tuple[str, BaseDistribution], np.ndarray] = {}

    def places(self, trials: Sequence[FrozenTrial]) -> np.ndarray:
        """The place of each trial, shape (trials,)."""
        find = self._places.get
        places = np.fromiter((find(trial._trial_id, -1) for trial in trials), np.int64, len(trials))
        fresh = np.flatnonzero(places < 0)
        if len(fresh):
            size = len(self._places)
            places[fresh] = np.arange(size, size + len(fresh))
            self._places |= {trials[i]._trial_id: place for place, i in enumerate(fresh, size)}
            self._kinds = np.append(self._kinds, np.full(len(fresh), _RUNNING))
            self._values = np.append(self._values, np.full(len(fresh), np.nan))
        return places

    def judge(self, trials: Sequence[FrozenTrial], places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What kind of trial each is, and the value of each feasible COMPLETE one, both of shape (trials,)."""
        for i in np.flatnonzero(self._kinds[places] == _RUNNING):
            if (trial := trials[i]).state is not TrialState.RUNNING:
                self._kinds[places[i]], self._values[places[i]] = _judged(trial)
        return self._kinds[places], self._values[places]

    def column(
        self, name: str, distribution: BaseDistribution, trials: Sequence[FrozenTrial], places: np.ndarray
    ) -> np.ndarray:
        """One parameter as numbers, shape (trials,); NaN where a trial has it not, or not yet."""
        key = (name, distribution)
        column = self._columns.get(key, np.full(0, np.nan))
        if len(column) < len(self._places):
            column = self._columns[key] = np.append(column, np.full(len(self._places), np.nan))
        found = column[places]
        for i in np.flatnonzero(np.isnan(found)):
            if name in (params := trials[i].params):
                found[i] = column[places[i]] = distribution.to_internal_repr(params[name])
        return found


class TPE(TPESampler):
    """As TPESampler, faster. For studies whose finished trials stay as they are, and one study each."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._seen = _Seen()

    def _get_internal_repr(
        self, trials: list[FrozenTrial], search_space: dict[str, BaseDistribution], study: Study
    ) -> dict[str, np.ndarray]:
        found = self._observations(study, search_space, trials, self._seen.places(trials))
        return dict(zip(search_space, found[:, _whole(found)], strict=True))

    def _observations(
        self,
        study: Study,
        search_space: dict[str, BaseDistribution],
        trials: Sequence[FrozenTrial],
        places: np.ndarray,
    ) -> np.ndarray:
        """The parameters of all trials as numbers, shape (parameters, trials). A trial that has not all of them has
        NaN among them, which no parameter's value is."""
        columns = [self._seen.column(name, kind, trials, places) for name, kind in search_space.items()]
        found = np.array(columns).reshape(len(search_space), len(trials))
        for i in np.flatnonzero(~_whole(found)):
            if trials[i].state is TrialState.RUNNING:  # what was suggested with others may not be asked for yet
                params = self._get_params(trials[i], study)
                if search_space.keys() <= params.keys():
                    found[:, i] = [kind.to_internal_repr(params[name]) for name, kind in search_space.items()]
        return found

    def _sample(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        if len(study.directions) > 1:
            return super()._sample(study, trial, search_space)
        states = [TrialState.COMPLETE, TrialState.PRUNED, *([TrialState.RUNNING] if self._constant_liar else [])]
        trials = study._get_trials(deepcopy=False, states=states, use_cache=not self._constant_liar)
        if self._constant_liar:
            trials = _without(trials, trial)
        if self._gamma is None:
            self._gamma = default_gamma
        places = self._seen.places(trials)
        found = self._observations(study, search_space, trials, places)
        below, whole = self._below(study, trials, places), _whole(found)
        likely, unlikely = (
            self._parzen_estimator_cls(
                dict(zip(search_space, found[:, chosen & whole], strict=True)),
                search_space,
                self._parzen_estimator_parameters,
            )
            for chosen in (below, ~below)
        )
        candidates = likely.sample(self._rng.rng, self._n_ei_candidates)
        chosen = self._compare(candidates, self._compute_acquisition_func(candidates, likely, unlikely))
        return {name: kind.to_external_repr(chosen[name]) for name, kind in search_space.items()}

    def _below(self, study: Study, trials: Sequence[FrozenTrial], places: np.ndarray) -> np.ndarray:
        """Whether each trial counts among the best, shape (trials,): COMPLETE ones first, then those pruned, by how far
        they came, then those that break a constraint, by how much."""
        kinds, values = self._seen.judge(trials, places)
        assert self._gamma is not None
        wanted = self._gamma(int(np.count_nonzero(kinds != _RUNNING)))
        below = np.zeros(len(trials), dtype=bool)
        complete = np.flatnonzero(kinds == _COMPLETE)
        order = values[complete] if study.direction is StudyDirection.MINIMIZE else -values[complete]
        below[complete[np.argsort(order, kind="stable")[:wanted]]] = True  # of equals, the earlier ones
        others: list[FrozenTrial] = []
        if (left := wanted - len(complete)) > 0:
            others += _split_pruned_trials([trials[i] for i in np.flatnonzero(kinds == _PRUNED)], study, left)[0]
        if (left := wanted - len(complete) - len(others)) > 0:
            others += _split_infeasible_trials([trials[i] for i in np.flatnonzero(kinds == _INFEASIBLE)], left)[0]
        if others:
            chosen = {one._trial_id for one in others}
            below |= np.fromiter((one._trial_id in chosen for one in trials), bool, len(trials))
        return below


def _whole(found: np.ndarray) -> np.ndarray:
    return ~np.isnan(found).any(axis=0)


def _without(trials: list[FrozenTrial], trial: FrozenTrial) -> list[FrozenTrial]:
    """Of trials in order of number all but one, which is one of the last."""
    for i in range(len(trials) - 1, -1, -1):
        if trials[i].number == trial.number:
            return trials[:i] + trials[i + 1 :]
    return trials


def _judged(trial: FrozenTrial) -> tuple[int, float]:
    if _get_infeasible_trial_score(trial) > 0:
        return _INFEASIBLE, np.nan
    if trial.state is TrialState.PRUNED:
        return _PRUNED, np.nan
    return _COMPLETE, trial.values[0]

"""hyperopt's Tree-structured Parzen Estimator as a sampler of Optuna, as an example of a plug-in.

The algorithm is Bergstra et al., "Algorithms for Hyper-Parameter Optimization" (NeurIPS 2011), as the package hyperopt
has it. hyperopt keeps no state here: each suggestion is made from the study's trials, so that a restart loses nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from hyperopt import JOB_STATE_DONE, STATUS_OK, Domain, hp, tpe
from hyperopt.base import STATUS_RUNNING, Trials, trials_from_docs
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState


class HyperoptSampler(BaseSampler):
    """Asks hyperopt for the parameters that every finished trial has had; others (with `when`) are drawn at random.

    Args:
        n_startup_trials: trials that are drawn at random before the first that is learnt from.
        n_ei_candidates: points that are compared for each suggestion.
        gamma: share of trials, of the square root of their number, that count as good ones.
        seed: makes suggestions repeatable.
    """

    def __init__(
        self, n_startup_trials: int = 10, n_ei_candidates: int = 24, gamma: float = 0.25, seed: int | None = None
    ) -> None:
        if n_startup_trials < 1 or n_ei_candidates < 1 or not 0 < gamma <= 1:
            raise ValueError("n_startup_trials and n_ei_candidates must be at least 1, gamma above 0 and at most 1")
        self._options = {"n_startup_jobs": n_startup_trials, "n_EI_candidates": n_ei_candidates, "gamma": gamma}
        self._seeds = np.random.default_rng(seed)
        self._random = RandomSampler(seed)
        self._search_space = IntersectionSearchSpace()

    def reseed_rng(self) -> None:
        self._seeds = np.random.default_rng()
        self._random.reseed_rng()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        space = self._search_space.calculate(study)
        return {name: distribution for name, distribution in space.items() if not distribution.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if len(study.directions) > 1:
            raise ValueError("hyperopt optimises one objective; choose another sampler, or keep one objective")
        if not search_space:
            return {}
        domain = Domain(None, {name: _expression(name, of) for name, of in search_space.items()})
        seed = int(self._seeds.integers(2**31))
        docs = tpe.suggest(
            [trial.number], domain, _history(study, trial, search_space), seed, verbose=False, **self._options
        )
        drawn = docs[0]["misc"]["vals"]
        return {name: _from_hyperopt(of, drawn[name][0]) for name, of in search_space.items()}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._random.sample_independent(study, trial, param_name, param_distribution)


def _expression(name: str, of: BaseDistribution) -> Any:
    """A distribution as hyperopt writes it. What has a step or is categorical is a number of steps or choices."""
    if isinstance(of, CategoricalDistribution):
        return hp.randint(name, len(of.choices))
    assert isinstance(of, FloatDistribution | IntDistribution)
    if of.log:
        margin = 0.5 if isinstance(of, IntDistribution) else 0.0  # so that the ends are as likely as their neighbours
        return hp.loguniform(name, math.log(of.low - margin), math.log(of.high + margin))
    if of.step is None:
        return hp.uniform(name, of.low, of.high)
    return hp.quniform(name, -0.5, _steps(of) + 0.5, 1)


def _steps(of: FloatDistribution | IntDistribution) -> int:
    return round((of.high - of.low) / of.step)


def _from_hyperopt(of: BaseDistribution, drawn: float) -> Any:
    """The value of a parameter, within its bounds whatever rounding does."""
    if isinstance(of, CategoricalDistribution):
        return of.choices[int(drawn)]
    assert isinstance(of, FloatDistribution | IntDistribution)
    if of.step is None or of.log:
        value = min(max(drawn, of.low), of.high)
        return round(value) if isinstance(of, IntDistribution) else float(value)
    return min(of.low + min(max(round(drawn), 0), _steps(of)) * of.step, of.high)


def _to_hyperopt(of: BaseDistribution, value: Any) -> float:
    """The inverse of `_from_hyperopt`."""
    if isinstance(of, CategoricalDistribution):
        return int(of.to_internal_repr(value))
    assert isinstance(of, FloatDistribution | IntDistribution)
    return float(value) if of.step is None or of.log else float(round((value - of.low) / of.step))


def _history(study: Study, trial: FrozenTrial, search_space: Mapping[str, BaseDistribution]) -> Trials:
    """The study's trials in hyperopt's form. One that runs has no loss, which hyperopt takes for the worst there is:
    so it does not suggest the same again before the first result."""
    sign = -1.0 if study.direction is StudyDirection.MAXIMIZE else 1.0
    docs = []
    for other in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.RUNNING)):
        if other.number == trial.number or not search_space.keys() <= other.params.keys():
            continue
        result = {"status": STATUS_RUNNING}
        if other.state is TrialState.COMPLETE:
            result = {"status": STATUS_OK, "loss": sign * other.value}
        docs.append(
            _doc(other.number, result, {n: [_to_hyperopt(d, other.params[n])] for n, d in search_space.items()})
        )
    return trials_from_docs(docs, validate=False)


def _doc(number: int, result: Mapping[str, Any], values: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    return {
        "tid": number,
        "state": JOB_STATE_DONE,
        "result": result,
        "spec": None,
        "misc": {"tid": number, "cmd": None, "idxs": {name: [number] for name in values}, "vals": dict(values)},
        "exp_key": None,
        "owner": None,
        "version": 0,
        "book_time": None,
        "refresh_time": None,
    }

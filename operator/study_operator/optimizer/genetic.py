"""Optuna's genetic samplers, which also pass on parameters that only some trials have.

Optuna crosses the parameters that every trial has, and draws all others at random, generation after generation. Here
a conditional parameter comes from a parent that has it, one of the elite as any other's, and mutates as often.
"""

from __future__ import annotations

from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial

from study_operator.model.search_space import Space


class _PassesOn(optuna.samplers.BaseGASampler):
    """What both samplers have in common; `_space` and `_mutation` are set by them."""

    _space: Space
    _mutation: float | None

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if param_name in self._space.conditions:
            parents = self.get_parent_population(study, self.get_trial_generation(study, trial))
            values = [parent.params[param_name] for parent in parents if param_name in parent.params]
            mutation = 1 / len(self._space.distributions) if self._mutation is None else self._mutation
            if values and self._rng.rng.rand() >= mutation:
                return values[self._rng.rng.randint(len(values))]
        return super().sample_independent(study, trial, param_name, param_distribution)


# Their names are part of what they note in the database: a notebook goes on with Optuna's own.


class NSGAIISampler(_PassesOn, optuna.samplers.NSGAIISampler):
    def __init__(self, space: Space, mutation_prob: float | None = None, **options: Any) -> None:
        super().__init__(mutation_prob=mutation_prob, **options)
        self._space, self._mutation = space, mutation_prob


class NSGAIIISampler(_PassesOn, optuna.samplers.NSGAIIISampler):
    def __init__(self, space: Space, mutation_prob: float | None = None, **options: Any) -> None:
        super().__init__(mutation_prob=mutation_prob, **options)
        self._space, self._mutation = space, mutation_prob

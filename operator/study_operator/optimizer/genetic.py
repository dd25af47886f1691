"""Optuna's genetic samplers, in which conditional parameters are inherited too.

Optuna crosses the parameters that every trial has, and draws all others at random in every generation. Here a
conditional parameter is inherited from a random member of the parent population that has it, with the same mutation
probability as other parameters.
"""

from __future__ import annotations

from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import RandomSampler
from optuna.samplers._lazy_random_state import LazyRandomState
from optuna.study import Study
from optuna.trial import FrozenTrial

from study_operator.model.search_space import Space


class _InheritsConditional(optuna.samplers.BaseGASampler):
    """Inherit conditional parameters. A subclass is also one of Optuna's genetic samplers, and sets the attributes.

    Attributes:
        _space: the search space.
        _mutation: the probability that a parameter is drawn at random, None for one in the number of parameters.
        _rng: the random numbers of Optuna's class.
        _random_sampler: what Optuna's class draws parameters from that are not inherited.
    """

    _space: Space
    _mutation: float | None
    _rng: LazyRandomState
    _random_sampler: RandomSampler

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return a parent's value of a conditional parameter. Draw the value at random if no parent has one."""
        if param_name in self._space.conditions:
            parents = self.get_parent_population(study, self.get_trial_generation(study, trial))
            values = [parent.params[param_name] for parent in parents if param_name in parent.params]
            mutation = 1 / len(self._space.distributions) if self._mutation is None else self._mutation
            if values and self._rng.rng.rand() >= mutation:
                return values[self._rng.rng.randint(len(values))]
        return self._random_sampler.sample_independent(study, trial, param_name, param_distribution)


# Both classes keep the names of Optuna's, because Optuna stores each trial's generation under the class's name. So a
# notebook can continue the study with Optuna's own class.


class NSGAIISampler(_InheritsConditional, optuna.samplers.NSGAIISampler):
    """Optuna's NSGA-II with inherited conditional parameters.

    Args:
        space: the search space.
        mutation_prob: as Optuna's.
        options: the other arguments of Optuna's class.
    """

    def __init__(self, space: Space, mutation_prob: float | None = None, **options: Any) -> None:
        super().__init__(mutation_prob=mutation_prob, **options)
        self._space, self._mutation = space, mutation_prob


class NSGAIIISampler(_InheritsConditional, optuna.samplers.NSGAIIISampler):
    """Optuna's NSGA-III with inherited conditional parameters.

    Args:
        space: the search space.
        mutation_prob: as Optuna's.
        options: the other arguments of Optuna's class.
    """

    def __init__(self, space: Space, mutation_prob: float | None = None, **options: Any) -> None:
        super().__init__(mutation_prob=mutation_prob, **options)
        self._space, self._mutation = space, mutation_prob

"""The Study's distributions as Optuna's."""

from __future__ import annotations

from optuna import distributions as optunas

from study_operator.model.distributions import Categorical, Distribution, Float
from study_operator.model.search_space import Space


def optuna_distributions(space: Space) -> dict[str, optunas.BaseDistribution]:
    """Return Optuna's distribution of each parameter, by name, in the order of the space."""
    return {name: optuna_distribution(known) for name, known in space.distributions.items()}


def optuna_distribution(known: Distribution) -> optunas.BaseDistribution:
    """Return a distribution as Optuna's."""
    if isinstance(known, Categorical):
        return optunas.CategoricalDistribution(known.choices)
    kind = optunas.FloatDistribution if isinstance(known, Float) else optunas.IntDistribution
    return kind(known.low, known.high, log=known.log, step=known.step)  # type: ignore[arg-type]

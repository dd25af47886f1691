"""Parameters that people wish for: initialTrials of the Study, and what a notebook enqueues."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from study_operator.model.search_space import Space, as_text
from study_operator.model.study import Refused, Study

# Where Optuna keeps what `study.enqueue_trial` was given.
WISH_ATTR = "fixed_params"


def initial_trials(study: Study) -> list[dict[str, Any]]:
    """spec.initialTrials as Optuna's `enqueue_trial` would store them: each value in its parameter's own type.

    Raises:
        Refused: naming the first trial that cannot be run as it is written, and what to write instead.
    """
    space, wishes = study.space, []
    for place, params in enumerate(study.initial_trials):
        try:
            space.check(params)
            _check_active(space, params)
        except ValueError as error:
            raise Refused("InvalidInitialTrials", f"spec.initialTrials[{place}]: {error}") from None
        wishes.append({name: _typed(space.distributions[name], value) for name, value in params.items()})
    return wishes


def _check_active(space: Space, params: Mapping[str, Any]) -> None:
    """Refuses a value that the trial might not have: one whose parent is left to the sampler."""
    known = {name: d.choices[0] for name, d in space.distributions.items() if _fixed(d)} | dict(params)
    for name in params:
        child = name
        while (condition := space.conditions.get(child)) is not None:
            if condition.parent not in known:
                value = condition.values[0]
                shown = f'"{value}"' if isinstance(value, str) else as_text(value)
                raise ValueError(
                    f"{name} is given, but whether a trial has it depends on {condition.parent}, which is not: add "
                    f"{condition.parent}, for example as {shown}, or remove {name}"
                )
            if known[condition.parent] not in condition.values:
                raise ValueError(
                    f"{name} is given, but a trial has no {child} when {condition.parent} is "
                    f"{as_text(known[condition.parent])}: remove {name}, or change {condition.parent}"
                )
            child = condition.parent


def _fixed(distribution: BaseDistribution) -> bool:
    return isinstance(distribution, CategoricalDistribution) and distribution.single()


def _typed(distribution: BaseDistribution, value: Any) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return value
    return float(value) if isinstance(distribution, FloatDistribution) else int(value)

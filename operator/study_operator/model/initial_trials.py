"""Check the parameters of initial trials (spec.initialTrials), and bring them into the form that Optuna stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from study_operator.model.distributions import Categorical, Distribution, Float
from study_operator.model.search_space import Space, as_text
from study_operator.model.study import Refused, Study

# The system attribute in which Optuna keeps the parameters that were given to `study.enqueue_trial`.
WISH_ATTR = "fixed_params"


def initial_trials(study: Study) -> list[dict[str, Any]]:
    """Return spec.initialTrials as Optuna's `enqueue_trial` would store them: each value in its parameter's own type.

    Raises:
        Refused: a trial cannot be run as it is written. The message names the first one, and what to write instead.
    """
    space, found = study.space, []
    for place, params in enumerate(study.initial_trials):
        try:
            space.check(params)
            _check_active(space, params)
        except ValueError as error:
            raise Refused("InvalidInitialTrials", f"spec.initialTrials[{place}]: {error}") from None
        found.append({name: _typed(space.distributions[name], value) for name, value in params.items()})
    return found


def _check_active(space: Space, params: Mapping[str, Any]) -> None:
    """Refuse a value that the trial might not have, because the sampler chooses the parent's value.

    Raises:
        ValueError: names the parameter, and what to write instead.
    """
    known = {name: only for name, d in space.distributions.items() for only in _only_choice(d)} | dict(params)
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


def _only_choice(distribution: Distribution) -> Sequence[Any]:
    """Return the choice of a parameter that has only one; nothing for other parameters."""
    return distribution.choices if isinstance(distribution, Categorical) and distribution.single else ()


def _typed(distribution: Distribution, value: Any) -> Any:
    if isinstance(distribution, Categorical):
        return value
    return float(value) if isinstance(distribution, Float) else int(value)

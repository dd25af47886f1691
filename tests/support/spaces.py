"""Search spaces that Hypothesis makes up: small, finite, conditions upon conditions. And Optuna's trials of them."""

from __future__ import annotations

from typing import Any

import optuna
from hypothesis import strategies as st

from study_operator.model.search_space import Space
from study_operator.optimizer.distributions import optuna_distributions

_CHOICES = st.lists(st.sampled_from(["a", "b", 2, 0.5, True, None]), min_size=1, max_size=3, unique=True)


@st.composite
def parameter_lists(draw, most: int = 5) -> list[dict[str, Any]]:
    """spec.parameters of a finite search space of at most some thousand cells."""
    found: list[dict[str, Any]] = []
    values: dict[str, list[Any]] = {}  # by parent that a condition may name
    for number in range(draw(st.integers(1, most))):
        name = f"p{number}"
        parameter: dict[str, Any] = {"name": name}
        if values and draw(st.booleans()):
            parent = draw(st.sampled_from(sorted(values)))
            some = st.lists(st.sampled_from(values[parent]), min_size=1, max_size=2, unique=True)
            parameter["when"] = {"parameter": parent, "in": draw(some)}
        kind = draw(st.sampled_from(["categorical", "int", "float"]))
        if kind == "categorical":
            values[name] = draw(_CHOICES)
            parameter[kind] = {"choices": values[name]}
        elif kind == "int":
            low, size = draw(st.integers(-2, 2)), draw(st.integers(1, 3))
            values[name] = list(range(low, low + size))
            parameter[kind] = {"low": low, "high": low + size - 1}
        else:
            parameter[kind] = {"low": 0, "high": draw(st.sampled_from([0.1, 0.2, 0.3])), "step": 0.1}
        found.append(parameter)
    return found


def suggest_all(space: Space, trial: optuna.Trial) -> dict[str, Any]:
    """The parameters of a trial of Optuna's own, asked for one by one."""
    known = optuna_distributions(space)
    return space.choose(lambda name, _: trial._suggest(name, known[name]))

"""Turn spec.parameters into a search space: a distribution for each parameter, and when each parameter is active."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from study_operator.model.distributions import Categorical, Distribution, Float, Int

_MOST_CHARACTERS = 128


@dataclass(frozen=True)
class When:
    """When a conditional parameter is active: its `parent` is active and has one of these `values`."""

    parent: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Space:
    """What a study may try. The parameters are a forest: each has one parent at most, which comes before it.

    Attributes:
        distributions: the distribution of each parameter, in the order of the spec.
        conditions: when each conditional parameter is active.
    """

    distributions: Mapping[str, Distribution]
    conditions: Mapping[str, When]

    @property
    def conditional(self) -> bool:
        """Whether a parameter depends on another one."""
        return bool(self.conditions)

    def active(self, name: str, params: Mapping[str, Any]) -> bool:
        """Return whether a trial has this parameter, if it has these values of the parameters before it."""
        condition = self.conditions.get(name)
        return condition is None or (condition.parent in params and params[condition.parent] in condition.values)

    def always(self, name: str) -> bool:
        """Return whether every trial has this parameter: it has no condition, or one that always holds."""
        condition = self.conditions.get(name)
        if condition is None:
            return True
        parent = self.distributions[condition.parent]
        if isinstance(parent, Categorical):
            holds = all(choice in condition.values for choice in parent.choices)
        else:
            holds = isinstance(parent, Int) and (parent.high - parent.low) // parent.step < len(set(condition.values))
        return holds and self.always(condition.parent)

    def choose(self, suggest: Callable[[str, Distribution], Any]) -> dict[str, Any]:
        """Return the parameters of one trial: a value from `suggest` for each active parameter, in order."""
        params: dict[str, Any] = {}
        for name, distribution in self.distributions.items():
            if self.active(name, params):
                params[name] = suggest(name, distribution)
        return params

    def roots(self) -> list[str]:
        """Return the parameters that every trial has."""
        return [name for name in self.distributions if name not in self.conditions]

    def children(self, parent: str) -> list[str]:
        """Return the parameters that depend on this one directly."""
        return [name for name, condition in self.conditions.items() if condition.parent == parent]

    def deciding(self, name: str) -> list[Any]:
        """Return the values of a parameter with which its children are active, in order."""
        found: list[Any] = []
        for child in self.children(name):
            found.extend(value for value in self.conditions[child].values if value not in found)
        return found

    def check(self, params: Mapping[str, Any]) -> None:
        """Check the parameters of an initial or waiting trial. Parameters that are left out are free.

        Raises:
            ValueError: a parameter does not exist, has an impossible value, or is not active with its parent's value.
        """
        for name, value in params.items():
            if name not in self.distributions:
                yaml = "; without quotes, YAML reads y, n and on as true or false" if name in ("true", "false") else ""
                raise ValueError(f"there is no parameter {name!r}; there are {', '.join(self.distributions)}{yaml}")
            distribution = self.distributions[name]
            if not possible(distribution, value):
                raise ValueError(f"{name} is {shown(value)}; it must be {describe(distribution)}")
            condition = self.conditions.get(name)
            if condition and condition.parent in params and params[condition.parent] not in condition.values:
                raise ValueError(
                    f"{name} is given, but a trial has it only when {condition.parent} is {one_of(condition.values)}: "
                    f"remove it, or change {condition.parent}"
                )


def search_space(parameters: Sequence[Mapping[str, Any]]) -> Space:
    """Return the search space of spec.parameters.

    Raises:
        ValueError: the range, the choices or the `when` of a parameter are impossible. The message names it.
    """
    space: dict[str, Distribution] = {}
    conditions: dict[str, When] = {}
    for parameter in parameters:
        name = parameter["name"]
        try:
            if "when" in parameter:
                conditions[name] = _condition(parameter["when"], space)
            space[name] = _distribution(parameter)
        except (ValueError, OverflowError) as error:
            raise ValueError(f"parameter {name!r}: {error}") from None
    return Space(space, conditions)


def _distribution(parameter: Mapping[str, Any]) -> Distribution:
    if "float" in parameter:
        bounds = parameter["float"]
        low, high = float(bounds["low"]), float(bounds["high"])
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError("low and high must be finite numbers")
        step = None if bounds.get("step") is None else float(bounds["step"])
        if step is not None and not math.isfinite(step):  # Optuna takes it where low and high are equal
            raise ValueError("step must be a finite number")
        return Float(low, high, log=bounds.get("log", False), step=step)
    if "int" in parameter:
        bounds = parameter["int"]
        return Int(bounds["low"], bounds["high"], log=bounds.get("log", False), step=bounds.get("step") or 1)
    choices = tuple(parameter["categorical"]["choices"])
    _check_choices(choices)
    return Categorical(choices)


def _check_choices(choices: Sequence[Any]) -> None:
    for place, choice in enumerate(choices):
        if isinstance(choice, str):
            if len(choice) > _MOST_CHARACTERS:
                raise ValueError(
                    f"the choice {shown(choice[:20])}... has {len(choice)} characters; "
                    f"write at most {_MOST_CHARACTERS}, such as a name that your script looks up"
                )
            if any(unicodedata.category(character) in ("Cc", "Cs") for character in choice):
                raise ValueError(f"the choice {choice!r} has control characters; remove them")
        elif isinstance(choice, float) and not math.isfinite(choice):
            raise ValueError(f"the choice {shown(choice)} is not a finite number; write text or null in its place")
        elif choice is not None and not isinstance(choice, bool | int | float):
            raise ValueError(
                f"the choice {shown(choice)} is neither text nor a number, true, false or null; "
                "write a name that your script looks up"
            )
        if choice in choices[:place]:
            other = choices[choices.index(choice)]
            yaml = ""
            if isinstance(choice, bool) or isinstance(other, bool):
                yaml = "; without quotes, YAML reads y, yes and on as true, and n, no and off as false"
            raise ValueError(
                f"the choices {shown(other)} and {shown(choice)} are the same to Optuna; "
                f"remove one of them, or write them as text, in quotes{yaml}"
            )


def _condition(when: Mapping[str, Any], before: Mapping[str, Distribution]) -> When:
    parent, values = when["parameter"], tuple(when["in"])
    distribution = before.get(parent)
    if distribution is None:
        raise ValueError(f"when names {parent!r}, which is no parameter that is listed before it")
    if isinstance(distribution, Float):
        raise ValueError(f"when names {parent!r}, a float, whose values are never met exactly; name another one")
    for value in values:
        if not possible(distribution, value):
            raise ValueError(f"when names the value {shown(value)} of {parent}, which is {describe(distribution)}")
    return When(parent, values)


def possible(distribution: Distribution, value: Any) -> bool:
    """Return whether a parameter can have this value. True is not 1 here, although it is in Python and Optuna."""
    if isinstance(distribution, Categorical):
        return any(choice == value and _is_bool(choice) is _is_bool(value) for choice in distribution.choices)
    if _is_bool(value) or not isinstance(value, int | float) or not math.isfinite(value):
        return False
    return distribution.contains(float(value))


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def describe(distribution: Distribution) -> str:
    """Return the values that a parameter can have, in words for a message."""
    if isinstance(distribution, Categorical):
        return one_of(distribution.choices)
    kind = "a whole number" if isinstance(distribution, Int) else "a number"
    step = distribution.step
    steps = "" if step is None or (step == 1 and kind == "a whole number") else f" in steps of {as_text(step)}"
    return f"{kind} from {as_text(distribution.low)} to {as_text(distribution.high)}{steps}"


def one_of(values: Sequence[Any], most: int = 10) -> str:
    """Return values as a list for a sentence: "adam" or "sgd"."""
    words = [shown(value) for value in values[:most]] + (["..."] if len(values) > most else [])
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def shown(value: Any) -> str:
    """Return a value as users write it in the Study, shortened."""
    text = f'"{value}"' if isinstance(value, str) else as_text(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def example_params(space: Space) -> dict[str, Any]:
    """Return the parameters of an example trial, with as many active parameters as possible.

    A parameter has its lowest value or first choice, unless another value makes more parameters active.
    """
    best: dict[str, dict[str, Any]] = {}  # by parameter: the most parameters that it and those below it can make active
    for name in reversed(list(space.distributions)):
        candidates = []
        for value in _candidates(name, space):
            below = [child for child in space.children(name) if value in space.conditions[child].values]
            candidates.append({name: value} | {k: v for child in below for k, v in best[child].items()})
        best[name] = max(candidates, key=len)  # the first of several
    found = {key: value for root in space.roots() for key, value in best[root].items()}
    return {name: found[name] for name in space.distributions if name in found}


def longest_params(space: Space) -> dict[str, Any]:
    """Return a value of each parameter, of choices the longest one: no trial has a larger environment."""
    return {
        name: max(found.choices, key=lambda choice: len(as_text(choice).encode()))
        if isinstance(found, Categorical)
        else found.high
        for name, found in space.distributions.items()
    }


def _candidates(name: str, space: Space) -> Iterable[Any]:
    distribution = space.distributions[name]
    if isinstance(distribution, Categorical):
        return distribution.choices
    return [distribution.low, *space.deciding(name)]


def as_text(value: Any) -> str:
    """Return a parameter's value as pods and users read it: the shortest text that reads back as the same value."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "null" if value is None else str(value)

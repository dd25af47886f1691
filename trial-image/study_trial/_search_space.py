"""Search spaces: what a suggest call asks for, compared with what the study has, or given a value locally."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from study_trial._errors import InactiveParameterError, SearchSpaceError, UnknownParameterError
from study_trial._output import say


@dataclass(frozen=True)
class Range:
    """The values of a float or int parameter. `step` is None for a float without a grid."""

    kind: str
    low: float
    high: float
    step: float | None = None
    log: bool = False

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise SearchSpaceError(f"low={self.low} is greater than high={self.high}")
        if self.log and self.low <= 0:
            raise SearchSpaceError(f"a log range needs low > 0, not {self.low}")
        if self.step is not None and self.step <= 0:
            raise SearchSpaceError(f"step must be greater than 0, not {self.step}")
        if self.log and self.step not in (None, 1):
            raise SearchSpaceError("a range cannot have both log and step")

    def __str__(self) -> str:
        step = "" if self.step is None or (self.kind == "int" and self.step == 1) else f", step {self.step}"
        return f"{self.kind} from {self.low} to {self.high}{step}{', log' if self.log else ''}"

    def same_as(self, other: Range | Choices) -> bool:
        """Equal up to the rounding of a float that was written in two places."""
        return (
            isinstance(other, Range)
            and (self.kind, self.log, self.step is None) == (other.kind, other.log, other.step is None)
            and math.isclose(self.low, other.low, rel_tol=1e-9)
            and math.isclose(self.high, other.high, rel_tol=1e-9)
            and math.isclose(self.step or 0, other.step or 0, rel_tol=1e-9)
        )

    def default(self) -> float:
        """The middle of the range: the geometric one of a log range, moved to the grid where there is one."""
        middle = (self.low + self.high) / 2
        if self.log:
            middle = math.sqrt(self.low) * math.sqrt(self.high)
        if self.step is not None:
            middle = self.low + round((middle - self.low) / self.step) * self.step
        return self.cast(middle)

    def cast(self, value: Any) -> float:
        """The value in the parameter's own type.

        Raises:
            SearchSpaceError: not a number of this kind, or out of range.
        """
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise SearchSpaceError(f"{value!r} is not a number") from None
        if self.kind == "int" and not number.is_integer():
            raise SearchSpaceError(f"{value!r} is not a whole number")
        # The edges of a float range may be a rounding away, as 1e-5 computed as 0.1 ** 5 is.
        slack = 1e-9 * max(abs(self.low), abs(self.high))
        if not self.low - slack <= number <= self.high + slack:
            raise SearchSpaceError(f"{value!r} is out of range: {self}")
        return int(number) if self.kind == "int" else number


@dataclass(frozen=True)
class Choices:
    """The values of a categorical parameter."""

    choices: tuple[Any, ...]

    def __post_init__(self) -> None:
        if not self.choices:
            raise SearchSpaceError("choices is empty")

    def __str__(self) -> str:
        return f"one of {', '.join(map(repr, self.choices))}"

    def same_as(self, other: Range | Choices) -> bool:
        """The same choices in any order. A Study may have them as texts: "32" there is 32 in the script."""
        if not isinstance(other, Choices) or len(self.choices) != len(other.choices):
            return False
        theirs, ours = list(other.choices), list(self.choices)
        for means in (_equal, _spells):  # where the Study has both "32" and 32, each is itself
            left = []
            for value in theirs:
                found = next((i for i, choice in enumerate(ours) if means(value, choice)), None)
                if found is None:
                    left.append(value)
                else:
                    del ours[found]
            theirs = left
        return not theirs

    def default(self) -> Any:
        """The first choice."""
        return self.choices[0]

    def cast(self, value: Any) -> Any:
        """The choice that `value` is or spells, in the script's own type.

        Raises:
            SearchSpaceError: there is no such choice.
        """
        for means in (_equal, _spells):
            for choice in self.choices:
                if means(value, choice):
                    return choice
        raise SearchSpaceError(f"{value!r} is not {self}")


def _equal(value: Any, choice: Any) -> bool:
    """Whether they are the same in type too; 1 is 1.0, but neither is True."""
    return isinstance(value, bool) == isinstance(choice, bool) and value == choice


def _spells(value: Any, choice: Any) -> bool:
    """Whether a value as a Study or a command line has it (often a text) means this choice of the script."""
    if isinstance(value, str) == isinstance(choice, str):
        return _equal(value, choice)
    text, other = (value, choice) if isinstance(value, str) else (choice, value)
    if text in (str(other), json.dumps(other, default=str)):
        return True
    if isinstance(other, bool) or not isinstance(other, int | float):
        return False
    try:
        return float(text) == other
    except ValueError:
        return False


class Params(dict[str, Any]):
    """The parameters of a trial by name. For a name that is not there the error lists those that are, or says why the
    study has it and this trial has not."""

    def __init__(
        self, values: Mapping[str, Any] | Iterable[tuple[str, Any]] = (), inactive: Mapping[str, str] | None = None
    ) -> None:
        """`inactive` says of conditional parameters why they are not active."""
        super().__init__(values)
        self._inactive = dict(inactive or {})

    def __missing__(self, name: str) -> Any:
        if name in self._inactive:
            raise InactiveParameterError(f"parameter {name!r} is not active in this trial: {self._inactive[name]}")
        known = ", ".join(self) or "none at all"
        raise UnknownParameterError(f"there is no parameter {name!r}; there is {known}")


class Space(Protocol):
    """Where the value of a parameter comes from."""

    params: Params

    def value(self, name: str, asked: Range | Choices) -> Any:
        """The parameter's value.

        Raises:
            UnknownParameterError: there is no such parameter, or it is not active in this trial.
            SearchSpaceError: the space has something else under this name than is asked for.
        """


class StudySpace:
    """The parameters that the operator chose, beside the study's search space."""

    def __init__(self, params: Mapping[str, Any], parameters: Sequence[Mapping[str, Any]]) -> None:
        """`parameters` is `spec.parameters` of the Study."""
        inactive = {p["name"]: _why_inactive(p["when"], params) for p in parameters if p.get("when")}
        self.params = Params(params, {name: why for name, why in inactive.items() if name not in params})
        self._space = {parameter["name"]: _of_study(parameter) for parameter in parameters}

    def value(self, name: str, asked: Range | Choices) -> Any:
        value = self.params[name]
        theirs = self._space[name]
        if not asked.same_as(theirs):
            raise SearchSpaceError(
                f"parameter {name!r}: the script asks for {asked}, but the study has {theirs}; make the "
                "suggest call and the Study's spec.parameters agree (another range needs a new Study)"
            )
        # From here on trial.params has the script's own type, as it has with Optuna.
        self.params[name] = value = asked.cast(value)
        return value


class LocalSpace:
    """Outside a cluster: given values, and for the others the middle of the range or the first choice."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.params = Params(given)
        self._asked: dict[str, Range | Choices] = {}

    def value(self, name: str, asked: Range | Choices) -> Any:
        before = self._asked.get(name)
        if before and not asked.same_as(before):
            raise SearchSpaceError(f"parameter {name!r} is asked for as {asked}, and before that as {before}")
        given = name in self.params
        try:
            value = asked.cast(self.params[name]) if given else asked.default()
        except SearchSpaceError as error:
            raise SearchSpaceError(f"parameter {name!r}: the value given, {error}") from None
        if not before:
            origin = "given" if given else "default"
            say(f"local run: {name} = {value!r} ({origin}; {asked})")
        self._asked[name] = asked
        self.params[name] = value
        return value


def _why_inactive(when: Mapping[str, Any], params: Mapping[str, Any]) -> str:
    """`when` is that of an entry of `spec.parameters`."""
    parent, wanted = when["parameter"], " or ".join(map(repr, when["in"]))
    now = f"is {params[parent]!r}" if parent in params else "is not active either"
    return f"it is so when {parent} is {wanted}, and {parent} {now} here"


def _of_study(parameter: Mapping[str, Any]) -> Range | Choices:
    """One entry of `spec.parameters`."""
    if "categorical" in parameter:
        return Choices(tuple(parameter["categorical"]["choices"]))
    kind = "float" if "float" in parameter else "int"
    number = int if kind == "int" else float
    bounds = parameter[kind]
    step = bounds.get("step", 1 if kind == "int" else None)
    return Range(
        kind=kind,
        low=number(bounds["low"]),
        high=number(bounds["high"]),
        step=None if step is None else number(step),
        log=bool(bounds.get("log", False)),
    )

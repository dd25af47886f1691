"""Search spaces: find the value for a suggest call.

In a pod the call is compared with the study's search space, and the value is the one that the operator chose. Outside a
cluster the value is a given one or a default.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from study_trial._errors import InactiveParameterError, SearchSpaceError, UnknownParameterError
from study_trial._output import say


@dataclass(frozen=True)
class Range:
    """The values of a float or int parameter.

    Attributes:
        kind: "float" or "int".
        low: the least value.
        high: the greatest value.
        step: distance between two values; None for a float without a grid.
        log: whether the values are spread evenly over the logarithm.

    Raises:
        SearchSpaceError: there is no such range, for example because low is greater than high.
    """

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
        """Return whether the ranges are equal, up to the rounding of a float that was written in two places."""
        return (
            isinstance(other, Range)
            and (self.kind, self.log, self.step is None) == (other.kind, other.log, other.step is None)
            and math.isclose(self.low, other.low, rel_tol=1e-9)
            and math.isclose(self.high, other.high, rel_tol=1e-9)
            and math.isclose(self.step or 0, other.step or 0, rel_tol=1e-9)
        )

    def default(self) -> float:
        """Return the middle of the range: the geometric one of a log range, moved to the grid if there is one."""
        middle = (self.low + self.high) / 2
        if self.log:
            middle = math.sqrt(self.low) * math.sqrt(self.high)
        if self.step is not None:
            middle = self.low + round((middle - self.low) / self.step) * self.step
        return self.cast(middle)

    def cast(self, value: Any) -> float:
        """Return the value in the parameter's own type.

        Raises:
            SearchSpaceError: the value is not a number of this kind, or is out of range.
        """
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise SearchSpaceError(f"{value!r} is not a number") from None
        if self.kind == "int" and not number.is_integer():
            raise SearchSpaceError(f"{value!r} is not a whole number")
        # A float may miss the edge of its range by rounding: 0.1 ** 5 is not quite 1e-5.
        slack = 1e-9 * max(abs(self.low), abs(self.high))
        if not self.low - slack <= number <= self.high + slack:
            raise SearchSpaceError(f"{value!r} is out of range: {self}")
        return int(number) if self.kind == "int" else number


@dataclass(frozen=True)
class Choices:
    """The values of a categorical parameter.

    Raises:
        SearchSpaceError: there are no choices.
    """

    choices: tuple[Any, ...]

    def __post_init__(self) -> None:
        if not self.choices:
            raise SearchSpaceError("choices is empty")

    def __str__(self) -> str:
        return f"one of {', '.join(map(repr, self.choices))}"

    def same_as(self, other: Range | Choices) -> bool:
        """Return whether both have the same choices, in any order.

        A Study may have a choice as text: "32" there is 32 in the script.
        """
        if not isinstance(other, Choices) or len(self.choices) != len(other.choices):
            return False
        theirs, ours = list(other.choices), list(self.choices)
        for means in (_equal, _spells):  # exact matches first: a Study may have both "32" and 32
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
        """Return the first choice."""
        return self.choices[0]

    def cast(self, value: Any) -> Any:
        """Return the choice that `value` is or spells, in the script's own type.

        Raises:
            SearchSpaceError: there is no such choice.
        """
        for means in (_equal, _spells):
            for choice in self.choices:
                if means(value, choice):
                    return choice
        raise SearchSpaceError(f"{value!r} is not {self}")


def _equal(value: Any, choice: Any) -> bool:
    """Return whether they are equal and both or neither are bool: 1 is 1.0, but neither is True. A list is a tuple."""
    if isinstance(value, list | tuple) and isinstance(choice, list | tuple):
        return len(value) == len(choice) and all(map(_equal, value, choice))
    return isinstance(value, bool) == isinstance(choice, bool) and value == choice


def _spells(value: Any, choice: Any) -> bool:
    """Return whether a value, often a text from a Study or a command line, means this choice of the script."""
    if isinstance(value, str) == isinstance(choice, str):
        return _equal(value, choice)
    text, other = (value, choice) if isinstance(value, str) else (choice, value)
    if text in (str(other), json.dumps(other, default=str)):
        return True
    if isinstance(other, list | tuple | dict):
        return _equal(_read(text), other)
    if isinstance(other, bool) or not isinstance(other, int | float):
        return False
    try:
        return float(text) == other
    except ValueError:
        return False


def _read(text: str) -> Any:
    """Return the list, tuple or dict that a text is in JSON or in Python; None if it is none. "[32,64]" is (32, 64)."""
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        return found if isinstance(found, list | tuple | dict) else None
    return None


class Params(dict[str, Any]):
    """The parameters of a trial by name.

    For an unknown name the error lists the known ones. For a parameter that is not active it says why.
    """

    def __init__(
        self, values: Mapping[str, Any] | Iterable[tuple[str, Any]] = (), inactive: Mapping[str, str] | None = None
    ) -> None:
        """Take the active parameters.

        Args:
            values: by name.
            inactive: for each conditional parameter that is not active, why.
        """
        super().__init__(values)
        self._inactive = dict(inactive or {})

    def __missing__(self, name: str) -> Any:
        if name in self._inactive:
            raise InactiveParameterError(f"parameter {name!r} is not active in this trial: {self._inactive[name]}")
        known = ", ".join(self) or "none at all"
        raise UnknownParameterError(f"there is no parameter {name!r}; there is {known}")


class Space(Protocol):
    """Where the value of a parameter comes from.

    Attributes:
        params: the values by name.
        asked: what suggest calls have asked for so far, by name.
    """

    params: Params
    asked: dict[str, Range | Choices]

    def value(self, name: str, asked: Range | Choices) -> Any:
        """Return the parameter's value.

        Raises:
            UnknownParameterError: there is no such parameter, or it is not active in this trial.
            SearchSpaceError: the parameter's range or choices differ from what is asked for.
        """


class StudySpace:
    """The parameters that the operator chose, and the study's search space."""

    def __init__(self, params: Mapping[str, Any], parameters: Sequence[Mapping[str, Any]]) -> None:
        """Read the search space.

        Args:
            params: the parameters that are active in this trial, by name.
            parameters: the Study's `spec.parameters`.
        """
        inactive = {p["name"]: _why_inactive(p["when"], params) for p in parameters if p.get("when")}
        self.params = Params(params, {name: why for name, why in inactive.items() if name not in params})
        self.asked: dict[str, Range | Choices] = {}
        self._space = {parameter["name"]: _of_study(parameter) for parameter in parameters}

    def value(self, name: str, asked: Range | Choices) -> Any:
        """Return the value that the operator chose. See `Space.value`."""
        value = self.params[name]
        theirs = self._space[name]
        if not asked.same_as(theirs):
            raise SearchSpaceError(
                f"parameter {name!r}: the script asks for {asked}, but the study has {theirs}; make the "
                "suggest call and the Study's spec.parameters agree (another range needs a new Study)"
            )
        # From here on trial.params has the script's own type, as with Optuna.
        self.params[name] = value = asked.cast(value)
        self.asked[name] = asked
        return value


class LocalSpace:
    """The parameters of a local run: given values, else the middle of the range or the first choice."""

    def __init__(self, given: Mapping[str, Any], variables: Mapping[str, str] | None = None) -> None:
        """Take what is given.

        Args:
            given: values by name.
            variables: texts of PARAM_<name>, by the name as the variable has it. `given` goes before.
        """
        self._variables = dict(variables or {})
        self.params = Params({name: _plain_value(text) for name, text in self._variables.items()} | dict(given))
        self.asked: dict[str, Range | Choices] = {}
        self._given = frozenset(given)

    def value(self, name: str, asked: Range | Choices) -> Any:
        """Return the given value or the default, and print it the first time. See `Space.value`."""
        before = self.asked.get(name)
        if before and not asked.same_as(before):
            raise SearchSpaceError(f"parameter {name!r} is asked for as {asked}, and before that as {before}")
        variable = name.replace(".", "_").replace("-", "_")
        if before or name in self._given:
            origin, given = "given", self.params[name]
        elif variable in self._variables:  # as text, for a choice may be one that looks like a number
            origin, given = f"PARAM_{variable}", self._variables[variable]
        else:
            origin, given = "default", None
        try:
            value = asked.default() if origin == "default" else asked.cast(given)
        except SearchSpaceError as error:
            what = origin if origin.startswith("PARAM_") else "the value given"
            raise SearchSpaceError(f"parameter {name!r}: {what}, {error}") from None
        if not before:
            say(f"local run: {name} = {value!r} ({origin}; {asked})")
        self.asked[name] = asked
        if variable != name and variable not in self._given:
            self.params.pop(variable, None)  # it was this parameter all the time
        self.params[name] = value
        return value


def _plain_value(text: str) -> Any:
    """Return the value of a PARAM_<name>: a number, a bool or None if it spells one, else the text."""
    try:
        return text if text[:1] in ("[", "{", '"') else json.loads(text)
    except ValueError:
        return text


def _why_inactive(when: Mapping[str, Any], params: Mapping[str, Any]) -> str:
    """Return why a parameter with this `when` (of the Study's `spec.parameters`) is not active."""
    parent, wanted = when["parameter"], " or ".join(map(repr, when["in"]))
    now = f"is {params[parent]!r}" if parent in params else "is not active either"
    return f"it is so when {parent} is {wanted}, and {parent} {now} here"


def _of_study(parameter: Mapping[str, Any]) -> Range | Choices:
    """Return the range or choices of an entry of the Study's `spec.parameters`."""
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

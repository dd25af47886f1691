"""Finds what a script could be tuned by, in its text: argparse options, or `suggest_*` calls of an Optuna objective.

The script is never run. What is computed when it runs cannot be seen here, and is named.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from study_client.errors import ClientError


@dataclass(frozen=True)
class Parameter:
    """Something to tune.

    Attributes:
        name: its name in the Study.
        kind: float, int or categorical.
        option: the option of the command line, such as --lr; "" for a suggest call.
        low, high, log, step: the range as the script has it; None if it has none.
        choices: as the script has them.
        default: the value without tuning; None if there is none.
        flag: whether the option has no value (store_true).
    """

    name: str
    kind: str
    option: str = ""
    low: float | None = None
    high: float | None = None
    log: bool = False
    step: float | None = None
    choices: tuple[Any, ...] = ()
    default: Any = None
    flag: bool = False


@dataclass
class Found:
    """What a script has.

    Attributes:
        parameters: in their order.
        fixed: options with texts, paths and the like, which are not tuned.
        unclear: what cannot be read without running the script, in words with the line.
        suggests: whether the parameters come from suggest calls: the script needs no arguments.
        directions: of `optuna.create_study`; empty if the script has none.
        library: whether the script uses study_trial.
    """

    parameters: list[Parameter] = field(default_factory=list)
    fixed: list[str] = field(default_factory=list)
    unclear: list[str] = field(default_factory=list)
    suggests: bool = False
    directions: list[str] = field(default_factory=list)
    library: bool = False


def found_in(source: str, name: str) -> Found:
    """Return what a script has.

    Args:
        source: its text.
        name: its name, for messages.

    Raises:
        ClientError: it is no Python, or has nothing to tune.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise ClientError(f"{name}{line} is no Python program: {error}") from None
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    calls.sort(key=lambda call: (call.lineno, call.col_offset))
    found = Found(library=any(_imports_library(node) for node in ast.walk(tree)))
    found.directions = [direction for call in calls for direction in _directions(call)]
    for call in calls:
        _take_suggestion(call, found)
    if found.parameters or found.unclear:
        found.suggests = True
    else:
        for call in calls:
            _take_option(call, found)
    found.parameters = list({one.name: one for one in reversed(found.parameters)}.values())[::-1]
    if not found.parameters:
        why = "; ".join(found.unclear) or "it has neither argparse options of numbers or choices, nor suggest_* calls"
        raise ClientError(f"{name} has nothing to tune that can be read without running it: {why}")
    return found


def _imports_library(node: ast.AST) -> bool:
    if isinstance(node, ast.Import):
        return any(one.name.split(".")[0] == "study_trial" for one in node.names)
    return isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "study_trial"


def _directions(call: ast.Call) -> Iterator[str]:
    if _method(call) == "create_study":
        for keyword in call.keywords:
            value = _literal(keyword.value)
            if keyword.arg == "direction" and isinstance(value, str):
                yield value.lower()
            elif keyword.arg == "directions" and isinstance(value, list | tuple):
                yield from (str(one).lower() for one in value)


def _take_suggestion(call: ast.Call, found: Found) -> None:
    method = _method(call)
    kinds = {"suggest_float": "float", "suggest_int": "int", "suggest_categorical": "categorical"}
    kinds |= {"suggest_uniform": "float", "suggest_loguniform": "float", "suggest_discrete_uniform": "float"}
    if method not in kinds:
        return
    names: tuple[str, ...] = ("name", "choices") if kinds[method] == "categorical" else ("name", "low", "high")
    names += ("q",) if method == "suggest_discrete_uniform" else ()
    given = dict(zip(names, map(_literal, call.args), strict=False))
    given |= {keyword.arg: _literal(keyword.value) for keyword in call.keywords if keyword.arg}
    where = f"line {call.lineno}: {ast.unparse(call)[:80]}"
    if not isinstance(given.get("name"), str):
        found.unclear.append(f"{where}: its name is computed")
        return
    name = given["name"]
    if kinds[method] == "categorical":
        choices = given.get("choices")
        if not isinstance(choices, list | tuple) or not choices or not all(map(_is_choice, choices)):
            found.unclear.append(f"{where}: its choices are computed, or are no text, number, true, false or null")
            return
        found.parameters.append(Parameter(name, "categorical", choices=tuple(choices)))
        return
    low, high = given.get("low"), given.get("high")
    if not (_is_number(low) and _is_number(high)):
        found.unclear.append(f"{where}: its range is computed")
        return
    step = given.get("q", given.get("step"))
    log = given.get("log") is True or method == "suggest_loguniform"
    found.parameters.append(
        Parameter(name, kinds[method], low=low, high=high, log=log, step=step if _is_number(step) else None)
    )


def _take_option(call: ast.Call, found: Found) -> None:
    if _method(call) != "add_argument":
        return
    options = [value for one in call.args if isinstance(value := _literal(one), str) and value.startswith("-")]
    option = next((one for one in options if one.startswith("--")), options[0] if options else "")
    if not option:
        return
    given = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
    default, action = _literal(given.get("default")), _literal(given.get("action"))
    name = option.lstrip("-").replace("-", "_")
    kind = given["type"].id if "type" in given and isinstance(given["type"], ast.Name) else ""
    choices = _literal(given.get("choices"))
    if action in ("store_true", "store_false"):
        # The operator makes the option from the parameter's name, so that it is the option without its dashes.
        name = option.lstrip("-")
        found.parameters.append(Parameter(name, "categorical", option, choices=(False, True), flag=True))
    elif isinstance(choices, list | tuple) and choices and all(map(_is_choice, choices)):
        found.parameters.append(Parameter(name, "categorical", option, choices=tuple(choices), default=default))
    elif kind in ("float", "int") or _is_number(default):
        kind = kind or ("int" if isinstance(default, int) else "float")
        found.parameters.append(Parameter(name, kind, option, default=default if _is_number(default) else None))
    elif action is None or action == "store":
        found.fixed.append(option)


def _method(call: ast.Call) -> str:
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    return call.func.id if isinstance(call.func, ast.Name) else ""


class _Computed:
    """What is computed when the script runs."""


def _literal(node: ast.expr | None) -> Any:
    """Return the value of a literal; `_Computed` for what is computed; None without one."""
    if node is None:
        return None
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return _Computed


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_choice(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool)

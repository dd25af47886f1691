"""Checks options of samplers, pruners and evaluators against the signature of their class, before one is built."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import re
import sys
import types
from collections.abc import Collection, Mapping
from typing import Any, Literal, Union, get_args, get_origin

_VALUES = (bool, int, float, str)
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|true|false")
_JSON_TYPES = (*_VALUES, type(None))


def valid_options(cls: type, reserved: Collection[str] = ()) -> dict[str, Any]:
    """Return the options that a Study may give for a class: the arguments of its constructor that JSON can express.

    Args:
        cls: the class of a sampler, a pruner or an evaluator.
        reserved: arguments that are no options, because the operator itself sets them.

    Returns:
        The type of each argument by name.
    """
    found = {}
    for name, parameter in _parameters(cls).items():
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY) and name not in reserved:
            hint = _resolve(parameter.annotation, cls)
            if any(member in _VALUES or get_origin(member) is Literal for member in _members(hint)):
                found[name] = hint
    return found


@functools.cache
def _parameters(cls: type) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a class's constructor.

    They are cached, because reading them takes longer than everything else that is done for a Study before its first
    trial.
    """
    return inspect.signature(cls).parameters


def _resolve(annotation: Any, cls: type[object]) -> Any:
    """Return the type that an annotation names, None when it cannot be found.

    Optuna imports some types only for type checkers. Those are callables, arrays and other samplers, which JSON cannot
    express.
    """
    if not isinstance(annotation, str):
        return annotation
    try:
        # The text is part of Optuna's source, or of an allowed plug-in's.
        return eval(annotation, vars(sys.modules[cls.__init__.__module__]))
    except Exception:  # NameError, or any error of an operator or subscript in the annotation
        return None


def check_options(
    kind: str, cls: type, options: Mapping[str, Any], reserved: Collection[str] = (), also: Collection[str] = ()
) -> None:
    """Check the names and types of options, and that no required option is missing.

    Args:
        kind: what messages call the class, such as "sampler TPE".
        cls: the class that the options are for.
        options: the options by name, as the Study gives them.
        reserved: arguments that are no options, because the operator itself sets them.
        also: options that the caller checks itself.

    Raises:
        ValueError: when an option is unknown, has the wrong type, or is missing. The message names the option, and
            the options that there are or the values that it may have.
    """
    valid = valid_options(cls, (*reserved, *also))
    for name, value in options.items():
        if name in also:
            continue
        if name in ("seed", "random_state") and "seed" in reserved:
            raise ValueError(f"{kind} has no option {name!r}: write seed beside name and options")
        if name not in valid:
            words = ", ".join(sorted((*valid, *also))) or "none"
            raise ValueError(f"{kind} has no option {name!r}; its options are {words}")
        if not _fits(value, valid[name]):
            quotes = ": remove the quotes" if isinstance(value, str) and _NUMBER.fullmatch(value) else ""
            raise ValueError(f"option {name!r} of {kind} is {value!r}; it must be {_describe(valid[name])}{quotes}")
    for name, hint in valid.items():
        if name not in options and _parameters(cls)[name].default is inspect.Parameter.empty:
            raise ValueError(f"{kind} needs the option {name!r}, {_describe(hint)}")


def check_nested(kind: str, option: str, value: Any, fields: Collection[str]) -> None:
    """Check that an option is an object such as `{name: TPE, options: {...}}`.

    Args:
        kind: what messages call the class that the option is for, such as "sampler PartialFixed".
        option: the option's name.
        value: the option's value, as the Study gives it.
        fields: the fields that the object may have beside `name`.

    Raises:
        ValueError: when it is no such object. The message says what to write.
    """
    example = "{" + ", ".join(["name: ...", *(f"{field}: ..." for field in fields)]) + "}"
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise ValueError(f"option {option!r} of {kind} is {value!r}; it must be {example}, of which name is required")
    for field in value:
        if field != "name" and field not in fields:
            raise ValueError(f"option {option!r} of {kind} has the field {field!r}; it must be {example}")
    if not isinstance(value.get("options", {}), Mapping):
        raise ValueError(f"the options in {option!r} of {kind} are {value['options']!r}; write names and values")


def _members(hint: Any) -> tuple[Any, ...]:
    """Return the types of a union, or the only type."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _fits(value: Any, hint: Any) -> bool:
    """Return whether a value out of JSON has a type. A bool is no number, though Python says so."""
    for member in _members(hint):
        if get_origin(member) is Literal:
            if value in get_args(member):
                return True
        elif member is float:
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                return True
        elif member is int:
            if isinstance(value, int) and not isinstance(value, bool):
                return True
        elif member in _JSON_TYPES and isinstance(value, member):
            return True
    return False


def _describe(hint: Any) -> str:
    """Return what a value of a type is, for a sentence: "a number or null"."""
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    words: list[str] = []
    for member in _members(hint):
        if get_origin(member) is Literal:
            words.extend(repr(choice) for choice in get_args(member))
        elif member in names:
            words.append(names[member])
    return " or ".join(words)


def torch_missing(what: str) -> str | None:
    """Return why `what` cannot be used without PyTorch, as a sentence; None when PyTorch is installed."""
    if importlib.util.find_spec("torch") is not None:
        return None
    return (
        f"{what} needs PyTorch, which this operator's image does not have: ask whoever runs the operator to install "
        "its chart with operator.image.variant: gp"
    )

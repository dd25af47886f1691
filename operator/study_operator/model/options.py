"""Options of samplers and pruners, checked against the Optuna class's own signature before it is ever built."""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Collection, Mapping
from typing import Any, Literal, Union, get_args, get_origin

_VALUES = (bool, int, float, str)
_JSON_TYPES = (*_VALUES, type(None))


def valid_options(cls: type, reserved: Collection[str] = ()) -> dict[str, Any]:
    """The options that a Study may give for an Optuna class: those of its arguments that JSON can express, less
    those that the operator itself sets.

    Returns:
        The type of each argument by name.
    """
    found = {}
    for name, parameter in inspect.signature(cls).parameters.items():
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY) and name not in reserved:
            hint = _resolve(parameter.annotation, cls)
            if any(member in _VALUES or get_origin(member) is Literal for member in _members(hint)):
                found[name] = hint
    return found


def _resolve(annotation: Any, cls: type) -> Any:
    """The type that an annotation names. Optuna imports some types for type checkers alone: callables, arrays and
    other samplers, none of which JSON can express; such an annotation is None here."""
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, vars(sys.modules[cls.__init__.__module__]))  # Optuna's own source
    except NameError:
        return None


def check_options(kind: str, cls: type, options: Mapping[str, Any], reserved: Collection[str] = ()) -> None:
    """Checks names and types of options.

    Args:
        kind: how to call it in a message, such as "sampler TPE".

    Raises:
        ValueError: naming the option, what it may be, or which options there are.
    """
    valid = valid_options(cls, reserved)
    for name, value in options.items():
        if name not in valid:
            raise ValueError(f"{kind} has no option {name!r}; its options are {', '.join(sorted(valid)) or 'none'}")
        if not _fits(value, valid[name]):
            raise ValueError(f"option {name!r} of {kind} is {value!r}; it must be {_describe(valid[name])}")


def _members(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _fits(value: Any, hint: Any) -> bool:
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
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    words = []
    for member in _members(hint):
        if get_origin(member) is Literal:
            words.extend(repr(choice) for choice in get_args(member))
        elif member in names:
            words.append(names[member])
    return " or ".join(words)

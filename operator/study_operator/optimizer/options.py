"""Options of samplers and pruners, checked against the Optuna class's own signature before it is ever built."""

from __future__ import annotations

import functools
import importlib.util
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
    for name, parameter in _parameters(cls).items():
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY) and name not in reserved:
            hint = _resolve(parameter.annotation, cls)
            if any(member in _VALUES or get_origin(member) is Literal for member in _members(hint)):
                found[name] = hint
    return found


@functools.cache
def _parameters(cls: type) -> Mapping[str, inspect.Parameter]:
    """Of its constructor. To read them takes longer than all else that is done for a Study before its first trial."""
    return inspect.signature(cls).parameters


def _resolve(annotation: Any, cls: type) -> Any:
    """The type that an annotation names. Optuna imports some types for type checkers alone: callables, arrays and
    other samplers, none of which JSON can express; such an annotation is None here."""
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, vars(sys.modules[cls.__init__.__module__]))  # Optuna's source, or an allowed plug-in's
    except Exception:  # NameError, or what operators and subscripts do to names that are not there as they are meant
        return None


def check_options(
    kind: str, cls: type, options: Mapping[str, Any], reserved: Collection[str] = (), also: Collection[str] = ()
) -> None:
    """Checks names and types of options, and that none is missing.

    Args:
        kind: how to call it in a message, such as "sampler TPE".
        also: options that the caller checks.

    Raises:
        ValueError: naming the option, what it may be, or which options there are.
    """
    valid = valid_options(cls, (*reserved, *also))
    for name, value in options.items():
        if name in also:
            continue
        if name not in valid:
            words = ", ".join(sorted((*valid, *also))) or "none"
            raise ValueError(f"{kind} has no option {name!r}; its options are {words}")
        if not _fits(value, valid[name]):
            raise ValueError(f"option {name!r} of {kind} is {value!r}; it must be {_describe(valid[name])}")
    for name, hint in valid.items():
        if name not in options and _parameters(cls)[name].default is inspect.Parameter.empty:
            raise ValueError(f"{kind} needs the option {name!r}, {_describe(hint)}")


def check_nested(kind: str, option: str, value: Any, fields: Collection[str]) -> None:
    """Checks that an option is an object such as `{name: TPE, options: {...}}`.

    Args:
        fields: what it may have beside `name`.

    Raises:
        ValueError: saying what to write.
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


def torch_missing(what: str) -> str | None:
    """A sentence on what needs PyTorch when it is not installed, None when it is."""
    if importlib.util.find_spec("torch") is not None:
        return None
    return (
        f"{what} needs PyTorch, which this operator's image does not have: ask whoever runs the operator to install "
        "its chart with operator.image.variant: gp"
    )

"""Samplers that are not Optuna's own: classes that the platform engineer has allowed and installed in the image.

A plug-in runs inside the operator, with the operator's rights. So the operator imports a module, or reads an attribute
of one, only if the whole text that a user wrote equals an entry of the list. Names are compared, never interpreted.
"""

from __future__ import annotations

import importlib
import inspect
import logging
from collections.abc import Collection, Mapping
from typing import Any

from optuna.samplers import BaseSampler

from study_operator.model.study import Refused, Study
from study_operator.optimizer.option_checks import check_options, valid_options

_RESERVED = ("seed",)

log = logging.getLogger(__name__)


def build(study: Study, seed: int | None, allowed: Collection[str]) -> BaseSampler:
    """Build the sampler of a Study that names a class.

    Args:
        study: the Study.
        seed: the seed for the class, None for a class without one.
        allowed: the classes that may be used, each as package.module:Class.

    Raises:
        Refused: when the class is not in the list, cannot be loaded, is no sampler, takes no seed, or does not take
            the options.
    """
    name = study.sampler.cls
    if name is None or name not in allowed:
        raise Refused(
            "SamplerNotAllowed",
            f"spec.sampler.class: {name!r} is not a class that may be used here; "
            + (f"write one of {', '.join(sorted(allowed))}, or give" if allowed else "there is none, so give")
            + " the name of one of Optuna's samplers (the chart's value samplerClasses allows others)",
        )
    cls = _load(name)
    try:
        arguments = _arguments(name, cls, study.sampler.options, seed)
    except ValueError as error:
        raise Refused("InvalidSamplerOptions", f"spec.sampler: {error}") from None
    except Exception as error:  # reading the signature has failed
        raise _unusable(name, error) from None
    try:
        return cls(**arguments)
    except Exception as error:
        raise Refused(
            "InvalidSamplerOptions", f"spec.sampler: {name} does not take these options: {_words(error)}"
        ) from None


def _load(name: str) -> type[BaseSampler]:
    """Import an allowed class.

    Raises:
        Refused: when it cannot be imported, or is no sampler.
    """
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # importing a module may raise anything
        raise _unusable(name, error) from None
    if not (isinstance(found, type) and issubclass(found, BaseSampler)):
        raise Refused(
            "SamplerNotInstalled",
            f"spec.sampler.class: {name} is not a subclass of optuna.samplers.BaseSampler; choose another one, or tell "
            "those who run the operator",
        )
    return found


def _unusable(name: str, error: BaseException) -> Refused:
    """Log why a class cannot be used, and return the refusal for the user."""
    log.warning("sampler class %s cannot be used", name, exc_info=error)
    return Refused(
        "SamplerNotInstalled",
        f"spec.sampler.class: {name} may be used, but this operator's image cannot load it ({_words(error)}); tell "
        "those who run the operator, or choose another sampler",
    )


def _arguments(name: str, cls: type, options: Mapping[str, Any], seed: int | None) -> dict[str, Any]:
    """Return the options and the seed as keyword arguments.

    Options are checked like those of Optuna's samplers. An argument without an annotation takes any value, and
    `**kwargs` takes any name and value.

    Raises:
        ValueError: when the class takes no seed and there is one, or when an option is unknown, has the wrong type, or
            is missing.
    """
    parameters = inspect.signature(cls).parameters
    named = {key: p for key, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    any_name = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    takes_seed = "seed" in named or any_name
    if seed is not None and not takes_seed:
        raise ValueError(f"{name} takes no seed; remove spec.sampler.seed")
    typed = valid_options(cls, _RESERVED)
    free = {key for key, p in named.items() if p.annotation is p.empty and key not in _RESERVED}
    for key in options:
        if key in _RESERVED or not (key in typed or key in free or (any_name and key not in named)):
            known = ", ".join(sorted({*typed, *free})) or "none"
            raise ValueError(f"{name} has no option {key!r}; its options are {known}")
    check_options(name, cls, {key: value for key, value in options.items() if key in typed}, _RESERVED)
    return {**options, "seed": seed} if takes_seed and seed is not None else dict(options)


def _words(error: BaseException) -> str:
    """Return an error as a short sentence: its class, and the first line of its message."""
    said = str(error).strip().partition("\n")[0][:300]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__

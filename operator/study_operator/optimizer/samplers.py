"""Builds samplers by name: Optuna's own classes, with the options that a Study may give."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import (
    BaseSampler,
    BruteForceSampler,
    CmaEsSampler,
    GPSampler,
    GridSampler,
    NSGAIIISampler,
    NSGAIISampler,
    PartialFixedSampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)

from study_operator.model.distributions import Categorical
from study_operator.model.samplers import is_finite
from study_operator.model.study import Algorithm, Refused, Study
from study_operator.optimizer import genetic, plugins
from study_operator.optimizer.exhaustive import BruteForce, Grid
from study_operator.optimizer.option_checks import check_nested, check_options, torch_missing
from study_operator.optimizer.randomness import derive
from study_operator.optimizer.tpe import TPE


@dataclass(frozen=True)
class _Kind:
    """What the operator knows about a sampler.

    Attributes:
        cls: Optuna's class, whose options a Study may give.
        conditions: whether it can handle conditional parameters.
        many_objectives: whether it can handle several objectives.
        numbers: how many float and int parameters it needs.
        of_space: builds the operator's own subclass, given the search space; None for Optuna's class.
        torch: whether it needs PyTorch.
    """

    cls: type[BaseSampler]
    conditions: bool = True
    many_objectives: bool = True
    numbers: int = 0
    of_space: Callable[..., BaseSampler] | None = None
    torch: bool = False


_KINDS = {
    "TPE": _Kind(TPESampler, of_space=lambda space, **options: TPE(**options)),
    "Random": _Kind(RandomSampler),
    "Grid": _Kind(GridSampler, of_space=Grid),
    "BruteForce": _Kind(BruteForceSampler, of_space=BruteForce),
    "QMC": _Kind(QMCSampler, conditions=False),
    "CmaES": _Kind(CmaEsSampler, conditions=False, many_objectives=False, numbers=2),
    "GP": _Kind(GPSampler, conditions=False, torch=True),
    "NSGAII": _Kind(NSGAIISampler, of_space=genetic.NSGAIISampler),
    "NSGAIII": _Kind(NSGAIIISampler, of_space=genetic.NSGAIIISampler),
    "PartialFixed": _Kind(PartialFixedSampler),
}
NAMES = tuple(_KINDS)
_RESERVED = ("seed", "search_space", "study")
_BASE, _FIXED = "base_sampler", "fixed_params"


def build_sampler(study: Study, started: int, allowed: Collection[str] = ()) -> BaseSampler:
    """Build the study's sampler.

    Args:
        study: the Study.
        started: how many trials there are. A plug-in that starts again with the same seed would repeat its first
            suggestions. So its seed is derived from the spec's seed and this number. The random states of Optuna's
            samplers are set before each suggestion (`randomness`).
        allowed: the classes that a Study may name in spec.sampler.class, each as package.module:Class.

    Raises:
        Refused: when there is no such sampler, its class is not allowed or not installed, an option is unknown or has
            an impossible value, or the sampler cannot handle the search space or several objectives. The message names
            what can be used.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        # Of Optuna's options, for who writes Python; model/mistakes.py tells the user which ones have no effect.
        warnings.simplefilter("ignore", FutureWarning)
        if study.sampler.cls is not None:
            seed = study.sampler.seed
            again = seed if seed is None or started == 0 else derive(f"{seed}/{started}")
            return plugins.build(study, again, allowed)
        return _build(study, study.sampler, "spec.sampler")


def _build(study: Study, sampler: Algorithm, where: str, fixed: Collection[str] = ()) -> BaseSampler:
    """Build one of Optuna's samplers.

    Args:
        study: the Study.
        sampler: the name, the options and the seed, from spec.sampler or from an option of another sampler.
        where: the place of the sampler in the Study, for messages.
        fixed: parameters that another sampler fixes.
    """
    name, options = sampler.name, sampler.options
    kind = _KINDS.get(name)
    if kind is None:
        raise Refused("UnknownSampler", f"there is no sampler {name!r}; write one of {', '.join(_KINDS)}")
    _check_able(study, name, kind, where, fixed)
    try:
        if kind.cls is PartialFixedSampler:
            return _partial_fixed(study, sampler, where)
        check_options(f"sampler {name}", kind.cls, options, _RESERVED)
        if kind.torch and (missing := torch_missing(f"the sampler {name}")):
            raise Refused("SamplerNotInstalled", f"{where}: {missing}, or choose another sampler")
        arguments: dict[str, Any] = {**_defaults(study, kind.cls, options), **options}
        if "seed" in inspect.signature(kind.cls).parameters:
            arguments["seed"] = derive(study.uid) if sampler.seed is None else sampler.seed
        return kind.of_space(study.space, **arguments) if kind.of_space else kind.cls(**arguments)
    except (ValueError, TypeError) as error:
        raise Refused("InvalidSamplerOptions", f"{where}: {error}") from None


def _defaults(study: Study, cls: type[BaseSampler], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that the operator sets where the Study does not.

    For TPE these are `multivariate` and `constant_liar`, as Optuna 5 sets them by itself. They are repeated here
    because the quality of parallel studies depends on them. For conditional parameters `group` is set too, because
    without it they are sampled one by one.
    """
    if cls is not TPESampler:
        return {}
    multivariate = options.get("multivariate", len(study.objectives) == 1)
    group = {"group": True} if study.space.conditional and multivariate else {}
    return {"multivariate": multivariate, "constant_liar": True, **group}


def _check_able(study: Study, name: str, kind: _Kind, where: str, fixed: Collection[str]) -> None:
    """Check that a sampler can handle the search space, without the fixed parameters, and the objectives.

    Raises:
        Refused: when it cannot.
    """
    if study.space.conditional and not kind.conditions:
        able = _words(other for other, known in _KINDS.items() if known.conditions and other != "PartialFixed")
        raise Refused(
            "UnsuitableSampler", f"{where}: {name} cannot handle parameters with when; choose {able}, or remove when"
        )
    if len(study.objectives) > 1 and not kind.many_objectives:
        able = _words(other for other, known in _KINDS.items() if known.many_objectives and other != "PartialFixed")
        raise Refused(
            "UnsuitableSampler",
            f"{where}: {name} works with exactly one objective; choose {able}, or keep one objective",
        )
    free = [known for parameter, known in study.distributions.items() if parameter not in fixed]
    if sum(not isinstance(distribution, Categorical) for distribution in free) < kind.numbers:
        raise Refused(
            "UnsuitableSampler",
            f"{where}: {name} needs at least two float or int parameters, and is random without them; choose TPE",
        )


def _partial_fixed(study: Study, sampler: Algorithm, where: str) -> BaseSampler:
    """Build a sampler that fixes some parameters and leaves the others to another sampler.

    Raises:
        ValueError: when an option is unknown, missing or impossible, or the other sampler cannot be used here.
        Refused: when the other sampler cannot be built.
    """
    kind, options = "sampler PartialFixed", sampler.options
    check_options(kind, PartialFixedSampler, options, _RESERVED, also=(_BASE, _FIXED))
    fixed, base = options.get(_FIXED), options.get(_BASE, {"name": "TPE"})
    if not isinstance(fixed, Mapping) or not fixed:
        raise ValueError(f"{kind} needs the option {_FIXED!r}: parameters and their values, such as {{layers: 3}}")
    try:
        study.space.check(fixed)
    except ValueError as error:
        raise ValueError(f"{_FIXED}: {error}") from None
    check_nested(kind, _BASE, base, ("options", "seed"))
    inner, seed = _KINDS.get(base["name"]), base.get("seed", sampler.seed)
    if inner is not None and (is_finite(base["name"]) or inner.cls is PartialFixedSampler):
        able = _words(
            name for name, known in _KINDS.items() if not is_finite(name) and known.cls is not PartialFixedSampler
        )
        raise ValueError(
            f"the {_BASE} of PartialFixed cannot be {base['name']}; choose {able}. "
            "In a finite search space fix a parameter by giving it one choice"
        )
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32):
        raise ValueError(f"the seed in {_BASE!r} is {seed!r}; it must be a whole number from 0 to {2**32 - 1}")
    algorithm = Algorithm(base["name"], base.get("options", {}), seed)
    return PartialFixedSampler(dict(fixed), _build(study, algorithm, f"{where}.options.{_BASE}", fixed))


def _words(names: Iterable[str]) -> str:
    """Return names as a list for a sentence: "A, B or C"."""
    *most, last = names
    return f"{', '.join(most)} or {last}"

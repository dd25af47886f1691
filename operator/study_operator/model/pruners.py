"""Pruners by name: Optuna's own classes, with the options that a Study may give."""

from __future__ import annotations

import warnings

from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, SuccessiveHalvingPruner

from study_operator.model.options import check_options
from study_operator.model.study import Refused, Study

_CLASSES: dict[str, type[BasePruner]] = {
    "Median": MedianPruner,
    "SuccessiveHalving": SuccessiveHalvingPruner,
    "Hyperband": HyperbandPruner,
}


def build_pruner(study: Study) -> BasePruner | None:
    """The study's pruner, None when it has none.

    Raises:
        Refused: when the name or an option is not one that can be used; the message names those that can.
    """
    if study.pruner is None:
        return None
    name, options = study.pruner.name, study.pruner.options
    cls = _CLASSES.get(name)
    if cls is None:
        raise Refused("UnknownPruner", f"there is no pruner {name!r}; write one of {', '.join(_CLASSES)}")
    try:
        check_options(f"pruner {name}", cls, options)
        if cls is HyperbandPruner:
            _check_hyperband(**options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return cls(**options)
    except (ValueError, TypeError) as error:
        raise Refused("InvalidPrunerOptions", f"spec.pruner: {error}") from None


def _check_hyperband(
    min_resource: int = 1, max_resource: int | str = "auto", reduction_factor: int = 3, bootstrap_count: int = 0
) -> None:
    """Optuna builds Hyperband's races, and objects to them, only when a trial has reported: too late to say so."""
    SuccessiveHalvingPruner(min_resource, reduction_factor, bootstrap_count=bootstrap_count)
    if isinstance(max_resource, int) and max_resource < min_resource:
        raise ValueError(f"max_resource is {max_resource}; it must be at least min_resource, which is {min_resource}")

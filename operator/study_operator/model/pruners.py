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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return cls(**options)
    except (ValueError, TypeError) as error:
        raise Refused("InvalidPrunerOptions", f"spec.pruner: {error}") from None

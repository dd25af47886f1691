"""Builds pruners by name: Optuna's own classes, with the options that a Study may give."""

from __future__ import annotations

import warnings
from collections.abc import Container, Mapping
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    PatientPruner,
    PercentilePruner,
    SuccessiveHalvingPruner,
    ThresholdPruner,
    WilcoxonPruner,
)
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from study_operator.model.study import Refused, Study
from study_operator.optimizer.option_checks import check_nested, check_options

_CLASSES: dict[str, type[BasePruner]] = {
    "Median": MedianPruner,
    "Percentile": PercentilePruner,
    "SuccessiveHalving": SuccessiveHalvingPruner,
    "Hyperband": HyperbandPruner,
    "Threshold": ThresholdPruner,
    "Patient": PatientPruner,
    "Wilcoxon": WilcoxonPruner,
}
_WRAPPED = "wrapped_pruner"


def build_pruner(study: Study) -> BasePruner | None:
    """Build the study's pruner, None when the Study has none.

    Raises:
        Refused: when there is no such pruner, or an option is unknown or has an impossible value. The message names
            what can be used.
    """
    if study.pruner is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return _build(study.pruner.name, study.pruner.options, "spec.pruner")


def _build(name: str, options: Mapping[str, Any], where: str) -> BasePruner:
    """Build a pruner. `where` is the place of the options in the Study, for messages."""
    cls = _CLASSES.get(name)
    if cls is None:
        raise Refused("UnknownPruner", f"there is no pruner {name!r}; write one of {', '.join(_CLASSES)}")
    try:
        arguments = dict(options)
        check_options(f"pruner {name}", cls, options, also=(_WRAPPED,) if cls is PatientPruner else ())
        if cls is PatientPruner:
            # Optuna requires this argument. None: judge a trial by its own values alone.
            wrapped = arguments[_WRAPPED] = arguments.get(_WRAPPED)
            if wrapped is not None:
                check_nested(f"pruner {name}", _WRAPPED, wrapped, ("options",))
                inner = f"{where}.options.{_WRAPPED}"
                arguments[_WRAPPED] = _build(wrapped["name"], wrapped.get("options", {}), inner)
        if cls is HyperbandPruner:
            _check_hyperband(**options)
        return cls(**arguments)
    except (ValueError, TypeError) as error:
        raise Refused("InvalidPrunerOptions", f"{where}: {error}") from None


def _check_hyperband(
    min_resource: int = 1, max_resource: int | str = "auto", reduction_factor: int = 3, bootstrap_count: int = 0
) -> None:
    """Check Hyperband's options, which Optuna checks too late: when the first trial has reported.

    Raises:
        ValueError: when an option has an impossible value, or the options contradict each other.
    """
    SuccessiveHalvingPruner(min_resource, reduction_factor, bootstrap_count=bootstrap_count)
    if isinstance(max_resource, int) and max_resource < min_resource:
        raise ValueError(f"max_resource is {max_resource}; it must be at least min_resource, which is {min_resource}")


class OwnTrials(optuna.Study):
    """Show a pruner a study without its first trials, which came from other studies (warmStart).

    A pruner compares trials of one study only.

    Args:
        study: the whole study.
        first: the number of the first trial to show.
    """

    def __init__(self, study: optuna.Study, first: int) -> None:
        super().__init__(study.study_name, study._storage, study.sampler, study.pruner)
        self._first = first

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        return [trial for trial in super()._get_trials(deepcopy, states, use_cache) if trial.number >= self._first]

    @property
    def best_trial(self) -> FrozenTrial:
        """Return the best feasible COMPLETE trial.

        Raises:
            ValueError: when there is none, as Optuna's property does.
        """
        feasible = [
            trial
            for trial in self._get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            if all(value <= 0 for value in trial.constraints.values())
        ]
        sign = -1 if self.direction is StudyDirection.MAXIMIZE else 1
        return min(feasible, key=lambda trial: sign * trial.values[0])

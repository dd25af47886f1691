"""When more trials are not expected to help: Optuna's terminator, with the options that a Study may give."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

from optuna.exceptions import ExperimentalWarning
from optuna.study import StudyDirection
from optuna.terminator import (
    BaseErrorEvaluator,
    BaseImprovementEvaluator,
    BestValueStagnationEvaluator,
    EMMREvaluator,
    MedianErrorEvaluator,
    RegretBoundEvaluator,
    StaticErrorEvaluator,
)
from optuna.trial import FrozenTrial, TrialState

from study_operator.model.study import Refused, Study
from study_operator.optimizer.options import check_options, torch_missing

_EVALUATORS: dict[str, type[BaseImprovementEvaluator]] = {
    "BestValueStagnation": BestValueStagnationEvaluator,
    "RegretBound": RegretBoundEvaluator,
    "EMMR": EMMREvaluator,
}
_RESERVED = ("seed",)


@dataclass(frozen=True)
class Judge:
    """What `optuna.terminator.Terminator` decides, less its copies of the whole history: a study has converged when the
    room for improvement is smaller than the error that is to be expected anyway."""

    improvement: BaseImprovementEvaluator
    error: BaseErrorEvaluator
    min_trials: int
    infinite: bool  # a Gaussian process cannot be fitted to infinite values

    def __call__(self, trials: Iterable[FrozenTrial], direction: StudyDirection) -> bool:
        """Whether these trials have converged. Infeasible ones say nothing: the best of them is not worth having."""
        feasible = [
            trial
            for trial in trials
            if trial.state is TrialState.COMPLETE
            and all(value <= 0 for value in trial.constraints.values())
            and (self.infinite or math.isfinite(trial.values[0]))
        ]
        if len(feasible) < self.min_trials:
            return False
        return self.improvement.evaluate(feasible, direction) < self.error.evaluate(feasible, direction)


def build_judge(study: Study) -> Judge | None:
    """What says whether the study has converged, None when nothing asks.

    Raises:
        Refused: when the evaluator or an option is not one that can be used; the message names those that can.
    """
    convergence = study.convergence
    if convergence is None:
        return None
    name, options = convergence.evaluator, convergence.options
    cls = _EVALUATORS.get(name)
    if cls is None:
        raise Refused("UnknownEvaluator", f"there is no evaluator {name!r}; write one of {', '.join(_EVALUATORS)}")
    missing = torch_missing(f"the evaluator {name}") if cls is not BestValueStagnationEvaluator else None
    try:
        check_options(f"evaluator {name}", cls, options, _RESERVED)
        if missing:
            raise Refused("SamplerNotInstalled", f"spec.convergence: {missing}, or use BestValueStagnation")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            improvement = cls(**options)
            error = _error(improvement, convergence.error)
            return Judge(improvement, error, convergence.min_trials, infinite=cls is BestValueStagnationEvaluator)
    except (ValueError, TypeError) as refusal:
        raise Refused("InvalidConvergenceOptions", f"spec.convergence: {refusal}") from None


def _error(improvement: BaseImprovementEvaluator, error: float | None) -> BaseErrorEvaluator:
    if isinstance(improvement, EMMREvaluator):
        return MedianErrorEvaluator(improvement)  # as the authors of EMMR do it, see Optuna's documentation of both
    # The stagnation evaluator tells how many trials are left: none of them when it is below 0.
    return StaticErrorEvaluator(0.0 if error is None else error)

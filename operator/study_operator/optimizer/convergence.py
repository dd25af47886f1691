"""Tests whether a study has converged: Optuna's terminator, with the evaluators and options that a Study may name."""

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
from study_operator.optimizer.option_checks import check_options, torch_missing

_EVALUATORS: dict[str, type[BaseImprovementEvaluator]] = {
    "BestValueStagnation": BestValueStagnationEvaluator,
    "RegretBound": RegretBoundEvaluator,
    "EMMR": EMMREvaluator,
}
_RESERVED = ("seed",)


@dataclass(frozen=True)
class ConvergenceTest:
    """Test whether a study has converged: more trials are not expected to help.

    The decision is that of `optuna.terminator.Terminator`, without its copies of the whole history: the room for
    improvement is smaller than the error to be expected anyway.

    Attributes:
        improvement: estimates how much further trials can improve the best value.
        error: estimates the error of the best value.
        min_trials: how many feasible COMPLETE trials there must be at least.
        infinite: whether infinite values count. A Gaussian process cannot be fitted to them.
    """

    improvement: BaseImprovementEvaluator
    error: BaseErrorEvaluator
    min_trials: int
    infinite: bool

    def __call__(self, trials: Iterable[FrozenTrial], direction: StudyDirection) -> bool:
        """Return whether these trials have converged.

        Infeasible trials do not count, because the user has no use for the best of them.

        Args:
            trials: the study's trials, in any state.
            direction: the direction of the only objective.
        """
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


def build_convergence_test(study: Study) -> ConvergenceTest | None:
    """Build the study's convergence test, None when spec.convergence is missing.

    Raises:
        Refused: when there is no such evaluator, when it needs PyTorch and that is not installed, or when an option is
            unknown or has an impossible value. The message names what can be used.
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
            infinite = cls is BestValueStagnationEvaluator
            return ConvergenceTest(improvement, error, convergence.min_trials, infinite)
    except (ValueError, TypeError) as refusal:
        raise Refused("InvalidConvergenceOptions", f"spec.convergence: {refusal}") from None


def _error(improvement: BaseImprovementEvaluator, error: float | None) -> BaseErrorEvaluator:
    """Return the error evaluator that belongs to an improvement evaluator; `error` is the Study's own number."""
    if isinstance(improvement, EMMREvaluator):
        # As the authors of EMMR combine them; see Optuna's documentation of both.
        return MedianErrorEvaluator(improvement)
    # The stagnation evaluator returns how many more trials without improvement are allowed, below 0 when it is over.
    return StaticErrorEvaluator(0.0 if error is None else error)

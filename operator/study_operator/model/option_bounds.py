"""Bounds of the options of samplers, pruners and evaluators.

`spec.sampler.options` and its like are open on purpose: they are Optuna's own. Optuna takes any number, and some of
them say how much is computed or held in memory for each suggestion. Whether an option exists, and has the right type,
is checked where the class is known (optimizer/option_checks.py). Here nothing of Optuna is needed, so that a Study
beyond a bound is refused before anything is built from it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from study_operator.model.study import Refused, Study

# What a whole number may be that has no bound of its own: the highest step, and what fits everywhere.
_MOST = 2**31 - 1
_TRIALS = 1_000_000  # as many as a study may have
_POPULATION = 10_000
# Each is a point that every trial is compared with.
_REFERENCE_POINTS = 100_000
# What Optuna takes and then fails by, in the middle of a study; of options that have an upper bound below, 0.
_LEAST = {"n_ei_candidates": 1, "popsize": 2, "inc_popsize": 1, "dividing_parameter": 1, "reduction_factor": 2}
_ABOVE_ZERO = ("sigma0", "prior_weight")
# What Optuna takes and leaves out.
_WITHOUT_EFFECT = {"CmaES": ("restart_strategy", "inc_popsize")}
_BOUNDS: dict[str, dict[str, dict[str, int]]] = {
    "sampler": {
        "TPE": {"n_startup_trials": _TRIALS, "n_ei_candidates": 10_000},
        "CmaES": {"n_startup_trials": _TRIALS, "popsize": _POPULATION, "inc_popsize": 10},
        "GP": {"n_startup_trials": _TRIALS},
        "NSGAII": {"population_size": _POPULATION},
        "NSGAIII": {"population_size": _POPULATION, "dividing_parameter": _REFERENCE_POINTS},
    },
    "pruner": {
        "Median": {"n_startup_trials": _TRIALS, "n_min_trials": _TRIALS},
        "Percentile": {"n_startup_trials": _TRIALS, "n_min_trials": _TRIALS},
        # The steps of the rungs are powers of these.
        "SuccessiveHalving": {
            "reduction_factor": 1_000_000,
            "min_early_stopping_rate": 100,
            "bootstrap_count": _TRIALS,
        },
        "Hyperband": {"reduction_factor": 1_000_000, "bootstrap_count": _TRIALS},
    },
    "evaluator": {
        "BestValueStagnation": {"max_stagnation_trials": _TRIALS},
        "RegretBound": {"min_n_trials": _TRIALS},
        "EMMR": {"min_n_trials": _TRIALS},
    },
}


class _Options(NamedTuple):
    """The options of one sampler, pruner or evaluator: why a Study is refused by them, where they are, and of what."""

    reason: str
    where: str
    kind: str
    name: str
    options: Mapping[str, Any]


def check(study: Study) -> None:
    """Check the options of a Study against their upper bounds. Classes of plug-ins have none here.

    Raises:
        Refused: an option is beyond its bound. The message names both.
    """
    for of in _all(study):
        for option, value in of.options.items():
            most = _BOUNDS[of.kind].get(of.name, {}).get(option, _MOST)
            if isinstance(value, int) and not isinstance(value, bool) and abs(value) > most:
                raise _refused(of, option, f"it may be at most {most:,}")
        if of.name == "NSGAIII":
            _check_reference_points(of.reason, of.where, of.options.get("dividing_parameter"), len(study.objectives))


def check_least(study: Study) -> None:
    """Check the options of a Study against their lower bounds, where Optuna does not do it.

    Raises:
        Refused: an option is below its bound. The message names both.
    """
    for of in _all(study):
        for option, value in of.options.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            least = _LEAST.get(option, 0) if option in _BOUNDS[of.kind].get(of.name, {}) else None
            if least is not None and value < least:
                raise _refused(of, option, f"it must be at least {least}")
            if option in _ABOVE_ZERO and value <= 0:
                raise _refused(of, option, "it must be greater than 0")


def without_effect(study: Study) -> Iterator[str]:
    """Yield a sentence for each option that Optuna no longer looks at."""
    for of in _all(study):
        for option in _WITHOUT_EFFECT.get(of.name, ()):
            if of.options.get(option) is not None:
                yield (
                    f"{of.where}: option {option!r} of {of.kind} {of.name} has no effect, because Optuna no longer "
                    "restarts it: leave it out"
                )


def _all(study: Study) -> Iterator[_Options]:
    """Yield the options of a Study's sampler, pruner and evaluator, and of those that are options of another."""
    if study.sampler.cls is None:
        reason, where = "InvalidSamplerOptions", "spec.sampler"
        yield _Options(reason, where, "sampler", study.sampler.name, study.sampler.options)
        base = _nested(study.sampler.options.get("base_sampler"))
        yield _Options(reason, f"{where}.options.base_sampler", "sampler", *base)
    if study.pruner is not None:
        where, name, options = "spec.pruner", study.pruner.name, study.pruner.options
        while name:  # one Patient may wrap another
            yield _Options("InvalidPrunerOptions", where, "pruner", name, options)
            name, options = _nested(options.get("wrapped_pruner"))
            where += ".options.wrapped_pruner"
    if study.convergence is not None:
        given = study.convergence
        yield _Options("InvalidConvergenceOptions", "spec.convergence", "evaluator", given.evaluator, given.options)


def _refused(of: _Options, option: str, words: str) -> Refused:
    return Refused(of.reason, f"{of.where}: option {option!r} of {of.kind} {of.name} is {of.options[option]}; {words}")


def _nested(value: Any) -> tuple[str, Mapping[str, Any]]:
    """Return name and options of a sampler or pruner that is an option of another; "" if this is none."""
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        return "", {}
    options = value.get("options")
    return value["name"], options if isinstance(options, Mapping) else {}


def _check_reference_points(reason: str, where: str, dividing: Any, objectives: int) -> None:
    if not isinstance(dividing, int) or isinstance(dividing, bool) or dividing < 1:
        return
    points = math.comb(dividing + objectives - 1, objectives - 1)
    if points > _REFERENCE_POINTS:
        raise Refused(
            reason,
            f"{where}: option 'dividing_parameter' of sampler NSGAIII is {dividing}, which makes {points:,} reference "
            f"points of {objectives} objectives; there may be at most {_REFERENCE_POINTS:,}",
        )

"""Upper bounds of the options of samplers, pruners and evaluators.

`spec.sampler.options` and its like are open on purpose: they are Optuna's own. Optuna takes any number, and some of
them say how much is computed or held in memory for each suggestion. Whether an option exists, and has the right type,
is checked where the class is known (optimizer/option_checks.py). Here nothing of Optuna is needed, so that a Study
beyond a bound is refused before anything is built from it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from study_operator.model.study import Refused, Study

# What a whole number may be that has no bound of its own: the highest step, and what fits everywhere.
_MOST = 2**31 - 1
_TRIALS = 1_000_000  # as many as a study may have
_POPULATION = 10_000
# Each is a point that every trial is compared with.
_REFERENCE_POINTS = 100_000
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


def check(study: Study) -> None:
    """Check the options of a Study against their bounds. Classes of plug-ins have none here.

    Raises:
        Refused: an option is beyond its bound. The message names both.
    """
    many = len(study.objectives)
    if study.sampler.cls is None:
        where = "spec.sampler"
        _check("InvalidSamplerOptions", where, "sampler", study.sampler.name, study.sampler.options, many)
        name, options = _nested(study.sampler.options.get("base_sampler"))
        _check("InvalidSamplerOptions", f"{where}.options.base_sampler", "sampler", name, options, many)
    if study.pruner is not None:
        where, name, options = "spec.pruner", study.pruner.name, study.pruner.options
        while name:  # one Patient may wrap another
            _check("InvalidPrunerOptions", where, "pruner", name, options, many)
            name, options = _nested(options.get("wrapped_pruner"))
            where += ".options.wrapped_pruner"
    if study.convergence is not None:
        convergence = study.convergence
        _check(
            "InvalidConvergenceOptions",
            "spec.convergence",
            "evaluator",
            convergence.evaluator,
            convergence.options,
            many,
        )


def _nested(value: Any) -> tuple[str, Mapping[str, Any]]:
    """Return name and options of a sampler or pruner that is an option of another; "" if this is none."""
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        return "", {}
    options = value.get("options")
    return value["name"], options if isinstance(options, Mapping) else {}


def _check(reason: str, where: str, kind: str, name: str, options: Mapping[str, Any], objectives: int) -> None:
    bounds = _BOUNDS[kind].get(name, {})
    for option, value in options.items():
        most = bounds.get(option, _MOST)
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) > most:
            raise Refused(reason, f"{where}: option {option!r} of {kind} {name} is {value}; it may be at most {most:,}")
    if name == "NSGAIII":
        _check_reference_points(reason, where, options.get("dividing_parameter"), objectives)


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

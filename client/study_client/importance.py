"""`importance`: how much the value of a trial follows each parameter, by rank correlation, in plain Python.

It is Spearman's for numbers. For choices it is the share of the ranks' variance that lies between the choices. Both say
how far one parameter by itself orders the trials. They know nothing of what parameters do together: for that, Optuna's
fANOVA in a notebook.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from study_client.errors import ClientError
from study_client.kubectl import Kubectl
from study_client.output import print_table
from study_client.studies import StudyView
from study_client.trial_tables import parameter_names
from study_client.trials import Trial, Trials, to_float

_LEAST = 5  # trials, below which a rank says nothing


class Importance(NamedTuple):
    """How much the value follows a parameter.

    Attributes:
        name: the parameter.
        share: between 0 and 1: the part of the ranks' variance that goes with it.
        rises: whether higher values of the parameter go with higher values of the objective; None for choices.
        trials: of how many trials this is.
    """

    name: str
    share: float
    rises: bool | None
    trials: int


def importance(kubectl: Kubectl, name: str) -> int:
    """Print the parameters, the one that the first objective follows most first."""
    study = StudyView(kubectl.study(name))
    found = ranked(Trials(kubectl).of(name))
    if not found:
        raise ClientError(f"{name} has too few complete trials: {_LEAST} with different values are needed")
    words = {True: "rises with it", False: "falls with it", None: "differs between choices"}
    rows = [[one.name, f"{one.share:.2f}", words[one.rises], str(one.trials)] for one in found]
    print_table(["PARAMETER", "SHARE", study.objectives[0].upper(), "TRIALS"], rows)
    print(
        "\nrank correlation of each parameter by itself (0 to 1, squared). What parameters do together it does not "
        "see: for that, optuna.importance in a notebook"
    )
    return 0


def ranked(trials: Sequence[Trial]) -> list[Importance]:
    """Return the importance of each parameter that can be judged, the greatest first."""
    complete = [one for one in trials if one.state == "Complete" and not math.isnan(one.value)]
    found = [one for name in parameter_names(complete) if (one := _of(name, complete)) is not None]
    return sorted(found, key=lambda one: (-one.share, one.name))


def _of(name: str, trials: Sequence[Trial]) -> Importance | None:
    having = [one for one in trials if name in one.params]
    values = ranks([one.value for one in having])
    if len(having) < _LEAST or len(set(values)) < 2:
        return None
    given = [one.params[name] for one in having]
    if all(isinstance(one, int | float) and not isinstance(one, bool) for one in given):
        found = correlation(ranks([to_float(one) for one in given]), values)
        return None if found is None else Importance(name, found * found, found > 0, len(having))
    return Importance(name, between(given, values), None, len(having))


def ranks(values: Sequence[float]) -> list[float]:
    """Return the rank of each value, from 1. Equal values share the mean of their ranks."""
    order = sorted(range(len(values)), key=values.__getitem__)
    found, start = [0.0] * len(values), 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and values[order[end + 1]] == values[order[start]]:
            end += 1
        for place in order[start : end + 1]:
            found[place] = (start + end) / 2 + 1
        start = end + 1
    return found


def correlation(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Return Pearson's correlation; None if one of the two does not vary."""
    mean_one, mean_other = math.fsum(one) / len(one), math.fsum(other) / len(other)
    first, second = [value - mean_one for value in one], [value - mean_other for value in other]
    size = math.sqrt(math.fsum(value * value for value in first) * math.fsum(value * value for value in second))
    return math.fsum(a * b for a, b in zip(first, second, strict=True)) / size if size else None


def between(choices: Sequence[Any], values: Sequence[float]) -> float:
    """Return the share of the variance of values that lies between choices, not within them (eta squared)."""
    groups: dict[str, list[float]] = {}
    for choice, value in zip(choices, values, strict=True):
        groups.setdefault(repr(choice), []).append(value)
    mean = math.fsum(values) / len(values)
    whole = math.fsum((value - mean) ** 2 for value in values)
    explained = math.fsum(len(group) * (math.fsum(group) / len(group) - mean) ** 2 for group in groups.values())
    return explained / whole if whole else 0.0

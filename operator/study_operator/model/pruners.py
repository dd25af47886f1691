"""What is known of pruners by their names, without Optuna."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from study_operator.model.study import Study

_COMPARING = ("Median", "Percentile", "Wilcoxon")


def compares(study: Study) -> bool:
    """Return whether the study's pruner compares a report with those of the other trials.

    The others do not read them. Successive halving and Hyperband note each trial's value when it reaches a rung, and
    compare these. Threshold, and Patient without another pruner, use the trial's own values only.
    """
    return study.pruner is not None and _compares(study.pruner.name, study.pruner.options)


def _compares(name: str, options: Mapping[str, Any]) -> bool:
    wrapped = options.get("wrapped_pruner") if name == "Patient" else None
    if isinstance(wrapped, Mapping):
        return _compares(wrapped["name"], wrapped.get("options") or {})
    return name in _COMPARING

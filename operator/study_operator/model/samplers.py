"""Samplers by name: Optuna's own classes, with the options that a Study may give."""

from __future__ import annotations

import hashlib
import inspect
import warnings
from dataclasses import dataclass, field
from typing import Any

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, CmaEsSampler, GridSampler, QMCSampler, RandomSampler, TPESampler

from study_operator.model.options import check_options
from study_operator.model.search_space import grid
from study_operator.model.study import Refused, Study


@dataclass(frozen=True)
class _Kind:
    cls: type[BaseSampler]
    defaults: dict[str, Any] = field(default_factory=dict)
    # True where the seed names one sequence whose position Optuna stores: it must stay the same after a restart.
    one_sequence: bool = False


class _Grid(GridSampler):
    """Optuna's, less what ends `optimize` after the last cell: it fails for trials made by `enqueue_trial`."""

    def after_trial(self, *_: Any) -> None:
        pass


_KINDS = {
    # Both are Optuna 5's defaults for one objective, set here because the quality of parallel studies rests on them.
    "TPE": _Kind(TPESampler, {"multivariate": True, "constant_liar": True}),
    "Random": _Kind(RandomSampler),
    "Grid": _Kind(_Grid, one_sequence=True),
    "QMC": _Kind(QMCSampler, one_sequence=True),
    "CmaES": _Kind(CmaEsSampler),
}
_RESERVED = ("seed", "search_space", "study")


def build_sampler(study: Study, started: int) -> BaseSampler:
    """The study's sampler.

    Args:
        started: how many trials there are. A sampler that begins anew with the same seed would repeat its first
            suggestions, so that after a restart the seed is derived from the spec's and this number.

    Raises:
        Refused: when the name or an option is not one that can be used; the message names those that can.
    """
    name, options = study.sampler.name, study.sampler.options
    kind = _KINDS.get(name)
    if kind is None:
        raise Refused("UnknownSampler", f"there is no sampler {name!r}; write one of {', '.join(_KINDS)}")
    arguments: dict[str, Any] = {**kind.defaults, **options}
    try:
        check_options(f"sampler {name}", kind.cls, options, _RESERVED)
        if kind.cls is _Grid:
            arguments["search_space"] = grid(study.distributions)
        if "seed" in inspect.signature(kind.cls).parameters:
            arguments["seed"] = _seed(study, kind, started)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return kind.cls(**arguments)
    except (ValueError, TypeError) as error:
        raise Refused("InvalidSamplerOptions", f"spec.sampler: {error}") from None


def _seed(study: Study, kind: _Kind, started: int) -> int | None:
    seed = study.sampler.seed
    if kind.one_sequence:
        return _derive(study.uid) if seed is None else seed
    return seed if seed is None or started == 0 else _derive(f"{seed}/{started}")


def _derive(text: str) -> int:
    """A seed of 32 bits, what NumPy's generators take."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")

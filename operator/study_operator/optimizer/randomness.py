"""Random numbers that follow from the study's seed and the trial's number.

A sampler's random state would be lost with its process. So it is set anew before each suggestion: the same history,
seed and number give the same suggestion, whether the sampler has lived all the time or was built a moment ago.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import numpy as np
from optuna.samplers import BaseSampler
from optuna.samplers._lazy_random_state import LazyRandomState

from study_operator.model.study import Study


class Randomness:
    """The random states of a sampler and of everything in it.

    Args:
        study: its seed is used; a study without one has its UID.
        sampler: is searched for states once. A plug-in's own generators of other kinds stay as they are.
    """

    def __init__(self, study: Study, sampler: BaseSampler) -> None:
        base = study.sampler.options.get("base_sampler")  # of PartialFixed: it may have a seed of its own
        inner = base.get("seed") if isinstance(base, Mapping) else None
        seed = study.sampler.seed if inner is None else inner
        self._seed = study.uid if seed is None else str(seed)
        self._states = list(_states(sampler, set()))

    def set(self, number: int) -> None:
        """Set all states for the suggestion of a trial."""
        for place, state in enumerate(self._states):
            state.seed(derive(f"{self._seed}/{number}/{place}"))


def derive(text: str) -> int:
    """Return a seed of 32 bits, which NumPy's generators take, that depends on the text only."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def _states(value: object, seen: set[int]) -> Iterator[np.random.RandomState]:
    """Yield the states in an object and in Optuna's objects in it, each once, always in the same order."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, LazyRandomState):
        yield from _states(value.rng, seen)
    elif isinstance(value, np.random.RandomState):
        yield value
    elif isinstance(value, BaseSampler) or type(value).__module__.startswith("optuna.samplers."):
        for inner in getattr(value, "__dict__", {}).values():
            yield from _states(inner, seen)

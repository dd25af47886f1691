"""What is known of samplers by their names alone, without Optuna."""

from __future__ import annotations

_FINITE = frozenset({"Grid", "BruteForce"})


def is_finite(name: str) -> bool:
    """Return whether a sampler of this name exhausts a finite search space. False for an unknown name."""
    return name in _FINITE

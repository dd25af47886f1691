"""The Pareto front: the trials of a study with several objectives that no other trial beats."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import le


def front(points: Iterable[tuple[int, Sequence[float]]], directions: Sequence[str]) -> list[int]:
    """Return the Pareto front, as Optuna's `Study.best_trials` has it.

    A trial beats another one when it is at least as good in every objective and better in one. Equal trials do not beat
    each other. Trials are sorted by their values, so no trial is beaten by a later one, and each is compared only with
    those that are on the front already. For n trials that takes O(n log n), and n times the size of the front.

    Args:
        points: number and values of each feasible COMPLETE trial. No value is NaN.
        directions: MINIMIZE or MAXIMIZE, one per objective.

    Returns:
        The numbers of the trials on the front, the best in the first objective first. Equal trials are in the order of
        their numbers.
    """
    signs = [-1.0 if direction == "MAXIMIZE" else 1.0 for direction in directions]
    losses = sorted(
        (tuple(sign * value for sign, value in zip(signs, values, strict=True)), number) for number, values in points
    )
    found: list[tuple[tuple[float, ...], int]] = []
    for loss, number in losses:
        if not any(other != loss and all(map(le, other, loss)) for other, _ in found):
            found.append((loss, number))
    return [number for _, number in found]

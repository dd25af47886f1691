"""The Pareto front: the trials of a study with several objectives that no other trial beats."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import le

Point = tuple[float, ...]

_FEW = 1_000  # pairs of points that are compared one by one: to divide them further takes longer


def pareto_front(points: Iterable[tuple[int, Sequence[float]]], directions: Sequence[str]) -> list[int]:
    """Return the Pareto front, as Optuna's `Study.best_trials` has it.

    A trial beats another one when it is at least as good in every objective and better in one. Equal trials do not beat
    each other.

    The trials are divided again and again (Kung, Luccio and Preparata, 1975). So n trials take little more than
    n log(n) steps, also where all of them are on the front: to compare each with each would stop the operator for
    half a minute at 10,000 trials, and trials choose their values.

    Args:
        points: number and values of each feasible COMPLETE trial. No value is NaN.
        directions: MINIMIZE or MAXIMIZE, one per objective.

    Returns:
        The numbers of the trials on the front, the best in the first objective first. Equal trials are in the order of
        their numbers.
    """
    signs = [-1.0 if direction == "MAXIMIZE" else 1.0 for direction in directions]
    numbers: dict[Point, list[int]] = {}  # by the losses, of which less is better
    for number, values in points:
        numbers.setdefault(tuple(sign * value for sign, value in zip(signs, values, strict=True)), []).append(number)
    return [number for loss in sorted(_front(sorted(numbers))) for number in sorted(numbers[loss])]


def _front(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other one beats. They are distinct and sorted, so a later one never beats an earlier
    one, and an earlier one is never worse in the first objective."""
    if len(points) < 2:
        return list(points)
    middle = len(points) // 2
    better = _front(points[:middle])
    return better + _unbeaten(better, _front(points[middle:]), 1)


def _unbeaten(better: Sequence[Point], worse: Sequence[Point], first: int) -> list[Point]:
    """Return those of `worse` that no point of `better` beats.

    Args:
        better: each is better than each of `worse` if it is not worse in the objectives from `first` on.
        worse: the points to choose from.
        first: the first objective that has to be compared.
    """
    if not better or not worse:
        return list(worse)
    objectives = len(worse[0])
    if first >= objectives - 1:
        best = min(point[first:] for point in better)
        return [point for point in worse if not best <= point[first:]]
    if first == objectives - 2:
        return _unbeaten_in_two(better, worse, first)
    if len(better) * len(worse) <= _FEW:
        return [point for point in worse if not any(all(map(le, other[first:], point[first:])) for other in better)]
    in_order = sorted(point[first] for points in (better, worse) for point in points)
    lowest, middle, highest = in_order[0], in_order[len(in_order) // 2], in_order[-1]
    if lowest == highest:
        return _unbeaten(better, worse, first + 1)
    limit = middle if middle > lowest else next(value for value in in_order if value > lowest)
    better_low, better_high = _divided(better, first, limit)
    worse_low, worse_high = _divided(worse, first, limit)
    kept = _unbeaten(better_low, worse_low, first)
    return kept + _unbeaten(better_low, _unbeaten(better_high, worse_high, first), first + 1)


def _divided(points: Iterable[Point], objective: int, limit: float) -> tuple[list[Point], list[Point]]:
    """Return the points below the limit in an objective, and the others."""
    low: list[Point] = []
    high: list[Point] = []
    for point in points:
        (low if point[objective] < limit else high).append(point)
    return low, high


def _unbeaten_in_two(better: Sequence[Point], worse: Sequence[Point], first: int) -> list[Point]:
    """Do what `_unbeaten` does where two objectives are left: go through both in order of the one, and remember the
    best in the other."""
    waiting = sorted((point[first:] for point in better), reverse=True)
    best: float | None = None
    kept = []
    for point in sorted(worse, key=lambda point: point[first]):
        while waiting and waiting[-1][0] <= point[first]:
            value = waiting.pop()[1]
            best = value if best is None else min(best, value)
        if best is None or best > point[first + 1]:
            kept.append(point)
    return kept

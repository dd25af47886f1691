"""`curve`: the values that trials have reported, as a picture of text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from study_client.errors import ClientError
from study_client.kubectl import Kubectl
from study_client.studies import StudyView
from study_client.texts import number_text
from study_client.trial_tables import choose
from study_client.trials import Trials

_WIDTH, _HEIGHT = 64, 16
_MARKS = "ox+*#@%&$~"
_UNLESS_NAMED = 5  # trials that are drawn, the best ones

Points = Sequence[tuple[int, float]]


def curve(kubectl: Kubectl, name: str, numbers: Sequence[int]) -> int:
    """Print the learning curves of trials: of those that are named, or of the best."""
    source = Trials(kubectl)
    study = StudyView(kubectl.study(name))
    if study.several:
        raise ClientError(f"{name} has several objectives, so its trials report nothing before their end")
    if len(numbers) > len(_MARKS):
        raise ClientError(f"curve draws up to {len(_MARKS)} trials, and {len(numbers)} are named")
    if numbers:
        trials = [source.one(name, number) for number in numbers]
    else:
        trials = choose(source.of(name), study, _UNLESS_NAMED, None)
    print("\n".join(drawn({trial.number: source.reports(trial) for trial in trials})))
    return 0


def drawn(curves: Mapping[int, Points]) -> list[str]:
    """Return curves as lines of text, with a legend. A point of several trials has the mark of the first one."""
    finite = {
        number: [(step, value) for step, value in points if math.isfinite(value)] for number, points in curves.items()
    }
    every = [point for points in finite.values() for point in points]
    if not every:
        return ["no value has been reported"]
    first, last = min(step for step, _ in every), max(step for step, _ in every)
    low, high = min(value for _, value in every), max(value for _, value in every)
    field = [[" "] * _WIDTH for _ in range(_HEIGHT)]
    for mark, points in reversed(list(zip(_MARKS, finite.values(), strict=False))):
        for step, value in points:
            column = _place(step, first, last, _WIDTH)
            row = _HEIGHT - 1 - _place(value, low, high, _HEIGHT)
            field[row][column] = mark
    labels = {0: number_text(high), _HEIGHT - 1: number_text(low)}
    width = max(map(len, labels.values()))
    lines = [f"{labels.get(row, ''):>{width}} |{''.join(cells).rstrip()}" for row, cells in enumerate(field)]
    lines.append(f"{'':>{width}} +{'-' * _WIDTH}")
    lines.append(f"{'':>{width}}  {f'step {first}':<{_WIDTH - 12}}{last:>12}")
    for mark, (number, points) in zip(_MARKS, finite.items(), strict=False):
        words = f"{len(points)} reports, last {number_text(points[-1][1])}" if points else "has reported nothing"
        lines.append(f"{'':>{width}}  {mark} trial {number}: {words}")
    return lines


def _place(value: float, low: float, high: float, size: int) -> int:
    if high <= low:
        return size // 2
    # Halved first: the difference of two large floats would be infinite.
    share = (value / 2 - low / 2) / (high / 2 - low / 2)
    return min(int(share * (size - 1) + 0.5), size - 1)

"""Choose which of a trial's reports a pruner is shown, when there are very many.

Optuna's pruners go over all values of a trial at each report. So the time for a trial grows with the square of its
reports. From MOST_STEPS reports on, every second one is passed over, then three of four, and so on. The choice depends
only on the order in which the reports were stored. So it is the same after a restart, and however the reports were
read.
"""

from __future__ import annotations

from collections.abc import Mapping

# The reports of one trial that a pruner sees at once. Optuna needs some 0.3 ms for a decision about so many. Programs
# report once an epoch, and few have thousands of epochs.
MOST_STEPS = 2000


def stride(count: int) -> int:
    """Return which of so many reports are kept: the first one, and from there on every so-many-th.

    The same computation in SQL is in storage/history.py.
    """
    return 1 << ((max(count, 1) - 1) // MOST_STEPS).bit_length()


class Thinned:
    """The reports of one trial, as many as are kept.

    Args:
        values: the reports that there are already, by step, in the order in which they were stored.

    Attributes:
        values: what is kept, by step. It is changed in place, or replaced.
        highest: the report with the highest step of all reports; None without a report.
    """

    def __init__(self, values: Mapping[int, float] | None = None) -> None:
        self.values: dict[int, float] = {}
        self.highest: tuple[int, float] | None = None
        self._count, self._stride = 0, 1
        for step, value in (values or {}).items():
            self.add(step, value)

    def add(self, step: int, value: float) -> bool:
        """Take note of the next report. Return whether it is kept."""
        if self.highest is None or step >= self.highest[0]:
            self.highest = step, value
        kept = self._count % self._stride == 0
        self._count += 1
        if kept:
            self.values[step] = value
            if len(self.values) > MOST_STEPS:
                self._stride *= 2
                self.values = dict(list(self.values.items())[::2])
        return kept

    def whole(self) -> dict[int, float]:
        """Return what others see of the trial when it has ended: what is kept, and the highest step.

        Optuna takes the value of the highest step as that of a pruned trial, and the step as the length of a trial.
        """
        return self.values if self.highest is None else {**self.values, self.highest[0]: self.highest[1]}

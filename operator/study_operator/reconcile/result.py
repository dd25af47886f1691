"""What came of one reconciliation: also when the next one is due."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class ReconcileResult:
    """What came of one reconciliation.

    Attributes:
        again: in how many seconds to reconcile again though nothing happens; None: when something happens.
        failed: whether to reconcile again soon because something went wrong.
        gone: whether the Study is gone, and its rows have been ended.
        troubles: what went wrong, in sentences for people.
        acted: for how many seconds this has acted; the rest of the time it has read.
    """

    again: float | None = None
    failed: bool = False
    gone: bool = False
    troubles: list[str] = field(default_factory=list)
    acted: float = 0.0

    def sooner(self, seconds: float | None) -> None:
        """Reconcile again in `seconds` at the latest."""
        if seconds is not None:
            self.again = seconds if self.again is None else min(self.again, seconds)

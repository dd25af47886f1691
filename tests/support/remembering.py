"""A channel for tests of `Trial`, in place of the database."""

from __future__ import annotations

from study_trial._channels import Final


class RememberingChannel:
    """Stores calls as tuples. The operator prunes when `pruned` is set, or after so many reports."""

    def __init__(self, prune_after: float = float("inf")) -> None:
        self.calls: list[tuple] = []
        self.pruned = False
        self._prune_after = prune_after

    @property
    def steps(self) -> list[int]:
        """The steps that were reported."""
        return [call[1] for call in self.calls if call[0] == "report"]

    def report(self, step: int, value: float) -> None:
        self.calls.append(("report", step, value))
        self.pruned = self.pruned or len(self.steps) >= self._prune_after

    def should_stop(self) -> bool:
        return self.pruned

    def set_user_attr(self, name: str, text: str) -> None:
        self.calls.append(("attr", name, text))

    def finish(self, final: Final) -> bool:
        self.calls.append(("finish", final.values, final.pruned))
        self.final = final
        return self.pruned

    def waiting(self) -> list[str]:
        return []

    def flush(self, seconds: float) -> None:
        self.calls.append(("flush", seconds))

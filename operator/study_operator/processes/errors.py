"""Why an optimizer cannot be asked, or has not answered."""

from __future__ import annotations


class OptimizerUnavailable(Exception):
    """The optimizer cannot be asked now, and what was in its memory may be gone: drop it. Rows are as they were.

    Attributes:
        again: in how many seconds to come again.
    """

    def __init__(self, words: str, again: float) -> None:
        super().__init__(words)
        self.again = again


class OptimizerBusy(OptimizerUnavailable):
    """There is no place now; the optimizer is as it was, unless a batch is open."""


class OptimizerLost(OptimizerUnavailable):
    """The process has ended, or has let go of this study."""


class SamplerFailed(OptimizerUnavailable):
    """The study's sampler has ended its own process, and rests. The text is for the user."""


class OptimizerError(Exception):
    """The sampler, the pruner or the convergence test has raised an exception. The text is its message."""

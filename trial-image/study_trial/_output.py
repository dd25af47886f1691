"""Lines in the pod's log."""

from __future__ import annotations

import sys


def say(message: str) -> None:
    """Print one line to stderr, without buffering, so that the last line before the process ends is not lost."""
    print(f"study-trial: {message}", file=sys.stderr, flush=True)

"""Lines for the person who reads the pod's log."""

from __future__ import annotations

import sys


def say(message: str) -> None:
    """Prints one line to stderr, at once: a pod's log must not end before its last words."""
    print(f"study-trial: {message}", file=sys.stderr, flush=True)

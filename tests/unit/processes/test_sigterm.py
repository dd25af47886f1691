"""SIGTERM before a command serves, in a real process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
FINALIZED = """
import os, signal

class Finalized:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)

Finalized()
"""


def test_sigterm_in_a_finalizer_ends_the_process(tmp_path):
    """Python loses an exception there, and imports, which take most of a start, have finalizers."""
    (tmp_path / "finalized.py").write_text(FINALIZED)
    env = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{tmp_path}:{ROOT / 'operator'}:{ROOT / 'trial-image'}",
        "OPTIMIZER_SOCKET": str(tmp_path / "optimizer.sock"),
        "SAMPLER_CLASSES": "finalized:Sampler",
    }
    done = subprocess.run(
        [sys.executable, "-m", "study_operator", "optimize"], env=env, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (143, "")

"""Starts `study-operator optimize` beside a manager that has no container for it: on a developer's machine."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

# All that the process gets of its parent's environment: no login, no seed, no kubeconfig.
_KEPT = {"PATH", "PYTHONPATH", "HOME", "TMPDIR", "LANG", "LD_LIBRARY_PATH", "LOG_FORMAT", "LOG_LEVEL"}
_KEPT |= {"SAMPLER_CLASSES", "OPTIMIZER_MEMORY_MIB"}


@contextmanager
def optimizer_process(env: Mapping[str, str] | None = None) -> Iterator[str]:
    """Run `study-operator optimize`. It ends with this, and with this process, however that ends.

    Args:
        env: the variables of which it gets some; those of this process by default.

    Yields:
        The path of its socket. It need not answer yet.
    """
    given = os.environ if env is None else env
    with tempfile.TemporaryDirectory(prefix="study-operator-") as directory:
        path = str(Path(directory) / "optimizer.sock")
        process = subprocess.Popen(
            [sys.executable, "-m", "study_operator", "optimize", "--until-eof"],
            stdin=subprocess.PIPE,
            env={name: given[name] for name in _KEPT & given.keys()} | {"OPTIMIZER_SOCKET": path},
        )
        try:
            yield path
        finally:
            process.kill()
            process.communicate()

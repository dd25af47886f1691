"""The tests' limit of memory, in a control group and without."""

from __future__ import annotations

import signal
import subprocess
import sys

import memory_limit
import pytest
from memory_limit import MemoryLimit


@pytest.mark.parametrize("grouped", [True, False])
def test_the_limit_of_memory_holds(grouped, monkeypatch):
    if not grouped:
        monkeypatch.setattr(memory_limit, "_group", lambda _: None)
    limit = MemoryLimit(64 * 2**20)
    try:
        command = [sys.executable, "-c", "input(); print(len(bytearray(600 * 2**20)))"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            limit.hold(process.pid)
            _, error = process.communicate(b"\n")
        assert process.returncode == -signal.SIGKILL if limit.kills else b"MemoryError" in error
    finally:
        limit.remove()

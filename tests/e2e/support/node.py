"""What the tests do to the machine under the cluster: its daemons, and the network and clocks of its pods."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from e2e import processes_of

ROOT = Path(__file__).resolve().parents[3]


def local_cluster(*arguments: str) -> str:
    """Standard output of a command of the tool, which must succeed."""
    command = [sys.executable, str(ROOT / "hack/local-cluster"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def kill_daemon(name: str) -> None:
    """SIGKILL for a component of the cluster; `local_cluster("up")` starts it again."""
    directory = Path(os.environ["KUBECONFIG"]).parent
    pid = json.loads((directory / "run" / f"{name}.json").read_text())["pid"]
    assert name in Path(f"/proc/{pid}/cmdline").read_text()
    os.kill(pid, signal.SIGKILL)
    while _runs(pid):
        time.sleep(0.05)


@contextmanager
def dropped(pod_uid: str, *rules: str) -> Iterator[None]:
    """Drops packets in a pod's network. A rule is as iptables has it: `OUTPUT -p tcp --dport 5432`."""
    # Held open, because the process may be one of those that compute suggestions and end at any time.
    with Path(f"/proc/{processes_of(pod_uid)[0]}/ns/net").open() as network:
        enter = ["nsenter", f"--net=/proc/{os.getpid()}/fd/{network.fileno()}", "iptables", "--wait"]
        done: list[list[str]] = []
        try:
            for rule in rules:
                words = [*rule.split(), "-j", "DROP"]
                subprocess.run([*enter, "--append", *words], check=True)
                done.append(words)
            yield
        finally:
            for words in done:
                subprocess.run([*enter, "--delete", *words], check=True)


def wrong_clock(seconds: float) -> dict[str, str]:
    """An environment in which a program's clock is so much ahead. The monotonic one goes on as it is, like that of a
    machine whose time is set."""
    return {
        "LD_PRELOAD": str(next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))),
        "FAKETIME": f"{seconds:+.0f}",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False

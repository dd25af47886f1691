"""`kubectl study`, run as kubectl runs it: kubectl finds the plug-in on PATH, and the plug-in finds kubectl there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from kubectl_cli import Kubectl

_CLIENT = Path(__file__).resolve().parents[3] / "client"
_PROGRAMS = {"kubectl-study": "main", "kubectl_complete-study": "complete"}


class StudyCommand:
    """The plug-in in one namespace.

    Args:
        kubectl: which API server and namespace.
        folder: where PATH begins.
    """

    def __init__(self, kubectl: Kubectl, folder: Path) -> None:
        self.kubectl = kubectl
        (folder / "kubectl").symlink_to(kubectl.binary)
        for name, function in _PROGRAMS.items():
            (folder / name).write_text(
                f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(_CLIENT)!r})\n"
                f"from study_client.__main__ import {function}\n{function}()\n"
            )
            (folder / name).chmod(0o755)
        self.environment = os.environ | {
            "PATH": f"{folder}:{os.environ['PATH']}",
            "KUBECONFIG": kubectl.kubeconfig,
            "KUBECACHEDIR": str(kubectl.cache),
        }

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Runs `kubectl study ARGS`; the caller judges its exit status."""
        command = ["kubectl", "study", *args, "-n", self.kubectl.namespace]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=90)

    def start(self, *args: str) -> subprocess.Popen[str]:
        """Starts `kubectl study ARGS`."""
        command = ["kubectl", "study", *args, "-n", self.kubectl.namespace]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=self.environment, stdout=pipe, stderr=pipe, text=True)

    def ok(self, *args: str) -> str:
        """Standard output of a command that must succeed."""
        done = self.run(*args)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    def refused(self, *args: str) -> str:
        """Standard error of a command that must fail: one line, and no traceback."""
        done = self.run(*args)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        return line

    def study(self, name: str) -> dict[str, Any]:
        """The Study as the API server has it."""
        return json.loads(self.kubectl.ok("get", "study", name, "-o", "json"))

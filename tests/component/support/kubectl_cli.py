"""kubectl, run as a user would, for tests about what a user sees."""

import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

from chart import program


class Kubectl:
    """kubectl against one API server, in one namespace."""

    def __init__(self, kubeconfig: str, cache: Path, namespace: str = "default") -> None:
        self.kubeconfig, self.cache, self.namespace = kubeconfig, cache, namespace
        self.binary = program("kubectl")

    def run(self, *args: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Runs `kubectl ARGS`; the caller judges its exit status."""
        options = ["--kubeconfig", self.kubeconfig, "--cache-dir", str(self.cache), "-n", self.namespace]
        return subprocess.run([self.binary, *options, *args], input=stdin, capture_output=True, text=True, timeout=60)

    def ok(self, *args: str, stdin: str | None = None) -> str:
        """Standard output of a command that must succeed."""
        done = self.run(*args, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def refused(self, *args: str, stdin: str | None = None) -> str:
        """Standard error of a command that must fail."""
        done = self.run(*args, stdin=stdin)
        assert done.returncode != 0, done.stdout
        return done.stderr

    def in_new_namespace(self) -> Iterator["Kubectl"]:
        """kubectl in a namespace of its own, which is given up afterwards, with its Studies."""
        namespace = f"test-{uuid.uuid4().hex[:8]}"
        self.ok("create", "namespace", namespace)
        own = Kubectl(self.kubeconfig, self.cache, namespace)
        yield own
        own.ok("delete", "studies", "--all")
        self.ok("delete", "namespace", namespace, "--wait=false")

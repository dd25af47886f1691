"""kubectl as transport: every login, proxy and context that kubectl knows works, without a line of code here."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from typing import Any

from study_client.errors import ClientError, ConflictError, NotFoundError, NotServedError
from study_client.texts import one_line, shorten

STUDIES = "studies.study-operator.io"
TRIALS = "studytrials.results.study-operator.io"
RESULTS = "/apis/results.study-operator.io/v1alpha1"
STUDY_LABEL, TRIAL_LABEL = "study-operator.io/study", "study-operator.io/trial"
# Longer than a slow login with a browser takes. A command that hangs must end some day.
_SECONDS = 300.0

_NO_TRIALS = (
    "this cluster does not serve trials (results.study-operator.io/v1alpha1), so only the Study itself can be read: "
    "`kubectl study status` and `best`. Whoever runs the operator sets trialsApi.enabled in its chart; "
    "`kubectl study doctor` says more"
)
_NO_STUDIES = "this cluster has no Studies (study-operator.io/v1alpha1): study-operator is not installed in it"


class Kubectl:
    """Runs kubectl with the options that the user gave.

    Args:
        options: kubectl's own, such as `--context=x`, without those of the namespace.
        namespace: the namespace that the user named; None for that of the context.
        everywhere: whether the user asked for all namespaces.
    """

    def __init__(self, options: Sequence[str] = (), namespace: str | None = None, everywhere: bool = False) -> None:
        self.options, self.namespace, self.everywhere = list(options), namespace, everywhere

    def command(self, *args: str) -> list[str]:
        """Return the command line of a kubectl command in the namespace that is meant.

        Raises:
            ClientError: there is no kubectl.
        """
        found = shutil.which("kubectl")
        if found is None:
            raise ClientError("there is no kubectl on PATH, and kubectl study speaks to the cluster by it: install it")
        where = [f"--namespace={self.namespace}"] if self.namespace else []
        return [found, *args, *self.options, *where]

    def run(self, *args: str, stdin: str | None = None) -> str:
        """Return what a kubectl command prints.

        Raises:
            ClientError: it fails. The message has kubectl's own words, and NotFoundError, NotServedError and
                ConflictError are its subclasses.
        """
        try:
            done = subprocess.run(
                self.command(*args), input=stdin, capture_output=True, text=True, errors="replace", timeout=_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise ClientError(f"kubectl {args[0]} has not answered for {_SECONDS:g} seconds") from None
        if done.returncode != 0:
            raise failure(done.stderr)
        return done.stdout

    def passed_on(self, *args: str) -> int:
        """Run a kubectl command whose output is the user's to see, and return its exit code."""
        return subprocess.run(self.command(*args)).returncode

    def read(self, *args: str) -> Any:
        """Return the JSON that a kubectl command prints. Raises as `run`."""
        text = self.run(*args)
        try:
            return json.loads(text)
        except ValueError:
            raise ClientError(f"kubectl {args[0]} answered with what is no JSON: {shorten(text, 200)!r}") from None

    def raw(self, path: str) -> Any:
        """Return the JSON at a path of the API server. Raises as `run`."""
        return self.read("get", "--raw", path)

    def study(self, name: str) -> dict[str, Any]:
        """Return a Study.

        Raises:
            NotFoundError: there is none of this name.
            ClientError: as `run`.
        """
        try:
            found: dict[str, Any] = self.read("get", f"{STUDIES}/{name}", "-o", "json")
        except NotFoundError:
            where = f"namespace {self.namespace}" if self.namespace else "the namespace of your context"
            raise NotFoundError(
                f"there is no Study {one_line(name)} in {where}: `kubectl study list` shows those that there are, "
                "-A in all namespaces"
            ) from None
        return found

    def studies(self, selector: str | None = None) -> list[dict[str, Any]]:
        """Return the Studies of the namespace, or of all. Raises as `run`."""
        args = ["-A"] if self.everywhere else []
        args += ["-l", selector] if selector else []
        found: list[dict[str, Any]] = self.read("get", STUDIES, "-o", "json", *args)["items"]
        return found

    def patch(self, name: str, change: dict[str, Any]) -> dict[str, Any]:
        """Change a Study by a merge patch, and return it as it is then. Raises as `run`."""
        patch = json.dumps(change)
        found: dict[str, Any] = self.read("patch", f"{STUDIES}/{name}", "--type=merge", "-p", patch, "-o", "json")
        return found

    def create(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """Create an object and return it. Raises as `run`."""
        found: dict[str, Any] = json.loads(self.run("create", "-f", "-", "-o", "json", stdin=json.dumps(manifest)))
        return found


def failure(said: str) -> ClientError:
    """Return the error that kubectl's own words on standard error are about."""
    lines = [one_line(line) for line in said.splitlines() if line.strip()]
    # The last line is the error; before it are warnings and notes of discovery.
    words = next((line for line in lines if line.lower().startswith("error")), lines[-1] if lines else "")
    words = words or "kubectl failed and did not say why"
    missing = "doesn't have a resource type" in words or "could not find the requested resource" in words
    if missing or "no matches for kind" in words:
        return NotServedError(_NO_TRIALS if "studytrial" in words else _NO_STUDIES if "stud" in words else words)
    if "(NotFound)" in words:
        return NotFoundError(words)
    if "(Conflict)" in words or "(AlreadyExists)" in words:
        return ConflictError(words)
    if "(Forbidden)" in words:
        return ClientError(f"{words}; `kubectl study doctor` says which RoleBinding is missing")
    return ClientError(words)

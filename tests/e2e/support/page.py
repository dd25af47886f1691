"""Commands and SQL of a page of docs/, run word for word but for the names of the installation."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

# Of backup.md: the kubelet brings a changed Secret within seconds, not within two minutes.
LOOK_NOW = """\
kubectl annotate pods --all-namespaces -l study-operator.io/study --overwrite \\
  study-operator.io/rotated="$(date +%s)"
"""
_DOCS = Path(__file__).resolve().parents[3] / "docs"


class Page:
    """A page whose commands are run.

    Args:
        name: its file in docs/.
        system: the name and the namespace of the installation, which the page calls `study-operator`.
        directory: where its commands run.
        functions: of the shell, for programs that this machine does not have. They stand on no page.
    """

    def __init__(self, name: str, system: str, directory: Path, functions: str = "") -> None:
        self._text = (_DOCS / name).read_text()
        self._words = " ".join(self._text.replace("\\\n", " ").split())
        self._system, self._directory, self._functions = system, directory, functions

    def run(self, command: str, dots: str = "...") -> str:
        """Return the output of a command of the page, which must succeed. Lines may be broken elsewhere.

        Args:
            command: as the page has it.
            dots: what to write where the page has `...`.
        """
        self.defines(command)
        return self.shell(re.sub(r"study-operator(?!\.io)", self._system, command).replace("...", dots))

    def shell(self, here: str) -> str:
        """Return the output of a command that stands on no page, and must succeed."""
        script = f"set -euo pipefail\n{self._functions}\n{here}"
        done = subprocess.run(["bash", "-c", script], cwd=self._directory, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{here}\n{done.stdout}{done.stderr}"
        return done.stdout

    def defines(self, text: str) -> str:
        """Return a text, which the page must have."""
        assert " ".join(text.replace("\\\n", " ").split()) in self._words, f"this is not on the page: {text}"
        return text

    def let(self, function: str) -> None:
        """Use a shell function of the page in further commands."""
        self._functions += "\n" + re.sub(r"study-operator(?!\.io)", self._system, self.defines(function))

    def sql(self, begins: str) -> str:
        """Return the page's one block of SQL that begins like this."""
        (found,) = [block for block in re.findall(r"```sql\n(.*?)```", self._text, re.S) if block.startswith(begins)]
        return str(found)

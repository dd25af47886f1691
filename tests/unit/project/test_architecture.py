"""The rules of the house that a program can check."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SOURCES = ("operator", "trial-image", "hack", "tests", "examples", "benchmarks")
MODULES = [str(path.relative_to(ROOT)) for folder in SOURCES for path in sorted((ROOT / folder).rglob("*.py"))]


def test_the_import_contracts_of_pyproject_are_kept():
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    paths = os.pathsep.join(str(ROOT / folder) for folder in ("operator", "trial-image"))
    environment = {**os.environ, "PYTHONPATH": paths}  # also where the package is not installed
    done = subprocess.run(
        [*command, "--no-cache"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize("path", MODULES)
def test_every_module_says_what_it_is_for(path):
    text = (ROOT / path).read_text()
    assert not text.strip() or ast.get_docstring(ast.parse(text)), f"{path} has no docstring"

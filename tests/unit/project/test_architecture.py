"""The rules of the house that a program can check."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SOURCES = ("operator", "trial-image", "client", "hack", "tests", "examples", "benchmarks")
MODULES = [str(path.relative_to(ROOT)) for folder in SOURCES for path in sorted((ROOT / folder).rglob("*.py"))]


def test_the_import_contracts_of_pyproject_are_kept():
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    paths = os.pathsep.join(str(ROOT / folder) for folder in ("operator", "trial-image", "client"))
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


@pytest.mark.parametrize(
    "package",
    sorted(
        path.parent
        for folder in ("operator/study_operator", "client/study_client")
        for path in (ROOT / folder).rglob("__init__.py")
    ),
    ids=lambda p: p.name,
)
def test_each_package_says_what_its_modules_are(package):
    """Somebody who has never been here finds the file to open by `ls` and these lines."""
    said = ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or ""
    for name in sorted(path.name for path in package.iterdir() if path.suffix in (".py", ".sql")):
        if not name.startswith("__"):
            assert f"`{name.removesuffix('.py')}`" in said, f"{package.name} does not say what {name} is for"

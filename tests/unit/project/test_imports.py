"""What a process that serves Studies imports, in an interpreter of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import study_operator

# What an optimizer process alone imports. The package is a door that this test shuts: its modules are never read.
SHUT, SERVED = "study_operator.optimizer", "study_operator.processes.answering"

PROGRAM = f"""
import importlib, pkgutil, sys, types

class Door(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {{}})

if {SHUT!r}:
    sys.modules[{SHUT!r}] = Door({SHUT!r})

import study_operator

for found in pkgutil.walk_packages(study_operator.__path__, "study_operator."):
    if not ({SHUT!r} and (found.name + ".").startswith(({SHUT!r} + ".", {SERVED!r}))):
        importlib.import_module(found.name)
heavy = ("cmaes", "numpy", "optuna", "scipy", "sqlalchemy", "torch")
print(*sorted(name for name in heavy if name in sys.modules))
"""


def test_serving_studies_needs_neither_optuna_nor_numpy():
    # walk_packages imports each package, so a module that `run` imports late counts as well.
    path = {"PYTHONPATH": str(Path(study_operator.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=os.environ | path, capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.returncode) == ("", 0), done.stderr

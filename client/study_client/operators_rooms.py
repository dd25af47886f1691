"""Finds the operator's code that works without a cluster: its checks, samplers and pruners.

It is what `study-operator` has, if that is installed; else the copy in this distribution's wheel. Both need what the
extra `local` brings.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from study_client.errors import ClientError

_COPY = Path(__file__).parent / "rooms"


def find() -> None:
    """See to it that `study_operator` can be imported.

    Raises:
        ClientError: it cannot, and how to install it.
    """
    if importlib.util.find_spec("study_operator") is None and (_COPY / "study_operator").is_dir():
        sys.path.append(str(_COPY))
    module("study_operator.model.study")


def module(name: str) -> Any:
    """Import a module that needs the extra `local`.

    Raises:
        ClientError: it is not there, and how to install it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ClientError(
            f"this needs the operator's own code, and {error.name or name} is not installed: "
            "pip install 'study-client[local]'"
        ) from None


def run_local(file: str, trials: int, parallel: int, instead: Sequence[str]) -> int:
    """Run a Study's first trials on this machine, and return an exit code: see `study_client.local`.

    Raises:
        ClientError: the operator's code is not installed, or the Study cannot be run here.
    """
    find()
    for name in ("optuna", "yaml", "study_trial"):
        module(name)
    code: int = module("study_client.local").run_local(file, trials, parallel, instead)
    return code


def validate(files: Sequence[str]) -> int:
    """Check Studies as `study-operator validate` does, and return its exit code.

    Raises:
        ClientError: its code is not installed.
    """
    find()
    code: int = module("study_operator.validate.command").validate(files)
    return code

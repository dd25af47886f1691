"""What the images contain, and which licences may be in them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

_SCRIPT = Path(__file__).resolve().parents[3] / "hack/dependencies.py"
_SPEC = importlib.util.spec_from_file_location("dependencies", _SCRIPT)
dependencies = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(dependencies)


@pytest.mark.parametrize(
    "declared", ["MIT", "Apache-2.0 AND MIT", "GPL-3.0-only OR MIT", "Apache Software License; BSD License"]
)
def test_a_licence_that_is_allowed(declared):
    assert dependencies.allowed(declared)


@pytest.mark.parametrize("declared", ["unknown", "GPL-3.0-only", "MIT AND GPL-3.0-only", "MIT; AGPL-3.0-or-later"])
def test_a_licence_that_is_not(declared):
    assert not dependencies.allowed(declared)


def test_the_images_have_what_the_operator_needs_and_no_tools():
    shipped = dependencies.shipped({name.lower() for name in dependencies.pinned()})
    assert {"psycopg2-binary", "kopf", "sqlalchemy"} <= shipped  # the last one because Optuna needs it
    assert not {"pytest", "ruff", "pip-audit"} & shipped

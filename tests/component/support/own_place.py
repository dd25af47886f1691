"""Services that nobody else uses: for what would break others' lists, logins or server."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg2
from database import TestDatabase
from world import install_crd

_ROOT = Path(__file__).resolve().parents[3]


@contextmanager
def services(folder: Path) -> Iterator[dict[str, str]]:
    """`hack/local-cluster test-services` in a folder of their own; they end with the context."""
    local_cluster = [sys.executable, str(_ROOT / "hack/local-cluster"), "test-services"]
    place = ["--dir", str(folder)]
    try:
        done = subprocess.run([*local_cluster, "up", *place], stdout=subprocess.PIPE, text=True, check=True)
        yield json.loads(done.stdout.strip().splitlines()[-1])
    finally:
        subprocess.run([*local_cluster, "down", *place], stdout=sys.stderr, check=True)


async def database(services: dict[str, str]) -> TestDatabase:
    """Let the API server know Studies, and make an empty database for the operator."""
    await install_crd(services["kubeconfig"])
    made = TestDatabase(services["database_url"], "studies")
    with closing(psycopg2.connect(made.server)) as opened:
        opened.autocommit = True
        opened.cursor().execute("CREATE DATABASE studies")
    return made

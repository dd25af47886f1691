"""The operator as a process of its own, as the image starts it."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

from database import REPORTER_PASSWORD, SEED, TestDatabase
from optimizer_server import shared_socket
from ports import free_port
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).resolve().parents[3]


class Process:
    """`study-operator run`, or another command, as a process, as the image starts it."""

    def __init__(self, database: TestDatabase, log: Path, command: str = "run", **environment: str) -> None:
        self.port = free_port()
        self._log = log
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT / "operator"),
            "DATABASE_URL": database.url,
            "REPORTER_PASSWORD": REPORTER_PASSWORD,
            "REPORTER_LOGINS": "shared",
            "STUDY_KEY_SEED": SEED,
            "HTTP_PORT": str(self.port),
            **environment,
        }
        if "OPTIMIZER_SOCKET" not in environment:
            environment["OPTIMIZER_SOCKET"] = shared_socket()
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "study_operator", command], env=environment, stderr=file
            )

    def log(self) -> str:
        return self._log.read_text()

    def get(self, path: str) -> tuple[int, str]:
        """Status and text of a probe; 0 while nobody answers."""
        return get(self.port, path)

    def metrics(self) -> dict[tuple[str, str], float]:
        """Samples by name and labels, such as ("study_operator_trials", "state=failed")."""
        families = text_string_to_metric_families(self.get("/metrics")[1])
        samples = [sample for family in families for sample in family.samples]
        return {(s.name, ",".join(f"{k}={v}" for k, v in sorted(s.labels.items()))): s.value for s in samples}


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""

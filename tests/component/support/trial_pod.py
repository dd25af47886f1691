"""A trial's pod, as far as it runs `study_trial`: its environment, and what it has stored."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import optuna
from database import KEY, TestDatabase
from optuna.trial import FrozenTrial, TrialState

from study_trial._channels import PodChannel
from study_trial._connection import Connection
from study_trial._delivery import Delivery
from study_trial._search_space import StudySpace
from study_trial._trial import Trial

PARAMETERS = [
    {"name": "lr", "float": {"low": 0.001, "high": 0.1, "log": True}},
    {"name": "batch", "categorical": {"choices": ["16", "32"]}},
]
CONSTRAINTS = ["latency_ms", "memory"]
PARAMS = {"lr": 0.01, "batch": "32"}


@dataclass(frozen=True)
class Pod:
    """A running trial of a study of its own, as a pod and as stock Optuna see it."""

    database: TestDatabase
    study_name: str
    trial_id: int
    objectives: tuple[str, ...] = ("accuracy",)

    @classmethod
    def create(cls, database: TestDatabase, *objectives: str) -> Pod:
        name, objectives = f"team/{uuid.uuid4()}", objectives or ("accuracy",)
        return cls(database, name, database.running_trial(KEY, name, len(objectives)), objectives)

    @property
    def env(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("STUDY_")}
        return clean | {
            "STUDY_NAME": "digits",
            "STUDY_NAMESPACE": "team-a",
            "STUDY_TRIAL_NUMBER": "0",
            "STUDY_TRIAL_ID": str(self.trial_id),
            "STUDY_TRIAL_JOB": "job-0",
            "STUDY_PARAMS": json.dumps(PARAMS),
            "STUDY_SEARCH_SPACE": json.dumps(PARAMETERS),
            "STUDY_STORAGE_URL": self.database.reporter_url,
            "STUDY_STORAGE_KEY": KEY,
            "STUDY_OBJECTIVES": json.dumps(self.objectives),
            "STUDY_CONSTRAINTS": json.dumps(CONSTRAINTS),
            "STUDY_DIRECTIONS": json.dumps(["maximize"] * len(self.objectives)),
            "STUDY_OPTUNA_NAME": self.study_name,
        }

    def trial(self, report: float = 5.0, key: str = KEY) -> Trial:
        """A new process's `study_trial.current()`; `report` is its STUDY_REPORT_TIMEOUT."""
        delivery = Delivery(Connection(self.database.reporter_url, key), report, 30.0)
        return Trial(0, StudySpace(PARAMS, PARAMETERS), PodChannel(delivery, self.trial_id, 0, "job-0"))

    def command(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Runs study-trial."""
        command = [sys.executable, "-m", "study_trial", *arguments]
        return subprocess.run(command, env=self.env | env, capture_output=True, text=True, timeout=180)

    def stored(self) -> FrozenTrial:
        with self._study() as study:
            return study.get_trials()[0]

    def end(self, state: TrialState) -> None:
        """What the operator does when it prunes or fails a trial."""
        with self._study() as study:
            study.tell(0, state=state)

    def extras(self) -> tuple:
        """The constraints' values, why it is infeasible, and whether the result is provisional."""
        (row,) = self.database.query(
            "SELECT constraint_values, infeasible, provisional FROM study_operator.results WHERE trial_id = %s",
            self.trial_id,
        )
        return row

    def result(self) -> tuple[list[float], bool] | None:
        """The final values and whether the script pruned itself, as the operator reads them."""
        rows = self.database.query("SELECT vals, pruned FROM study_operator.results WHERE trial_id = %s", self.trial_id)
        return rows[0] if rows else None

    @contextmanager
    def _study(self) -> Iterator[optuna.Study]:
        storage = optuna.storages.RDBStorage(self.database.url.replace("postgresql:", "postgresql+psycopg2:"))
        yield optuna.load_study(study_name=self.study_name, storage=storage)
        storage.engine.dispose()


def write_script(directory: Path, body: str) -> str:
    path = directory / "train.py"
    path.write_text("import study_trial\n" + textwrap.dedent(body))
    return f"{path}:objective"

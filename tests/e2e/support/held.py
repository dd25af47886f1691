"""Trials that run until their test lets them end, so that something can happen to them meanwhile."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

from e2e import KEEP_JOBS, Cluster, eventually

# Reports four times a second, and stores how often it did. SIGUSR1 lets it end. What runs again does not wait for that.
_SCRIPT = """
import os, signal, time
import study_trial

told = []
signal.signal(signal.SIGUSR1, lambda *_: told.append(True))

def objective(trial):
    x, step = trial.suggest_float("x", 0, 1), 0
    waits = trial.number < {held} and not os.environ["STUDY_TRIAL_JOB"].endswith("-r1")
    while step < 4 or (waits and not told):
        step += 1
        trial.report(x * step, step)
        time.sleep(0.25)
    trial.set_user_attr("steps", step)
    return x

study_trial.run(objective)
"""


class HeldStudy:
    """A Study whose first trials are held.

    Args:
        cluster: where it is created.
        trials: spec.maxTrials.
        parallelism: spec.parallelism.
        held: trials with a lower number wait for `release`.
    """

    def __init__(self, cluster: Cluster, trials: int, parallelism: int, held: int) -> None:
        self.cluster, self.name = cluster, "held"
        spec = {"maxTrials": trials, "parallelism": parallelism, **KEEP_JOBS}
        cluster.apply(self.name, _SCRIPT.format(held=held), **spec)

    def status(self) -> dict[str, Any]:
        return self.cluster.status(self.name)

    def wait_for_reports(self, *numbers: int, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Until each of these trials has stored two further reports. `meanwhile` is called again and again."""
        before = self._reports()

        def reported() -> bool:
            meanwhile()
            now = self._reports()
            return all(now.get(number, 0) >= before.get(number, 0) + 2 for number in numbers)

        eventually(reported, f"{numbers} report", 200)

    def release(self, *numbers: int) -> None:
        """Let the running trials of these numbers end; all unless given."""
        if numbers:  # a trial may report before the kubelet has said that its pod runs
            eventually(lambda: set(numbers) <= self._running(), f"{numbers} run")
        for pod in self.cluster.get("pods", labels=f"study-operator.io/study={self.name}")["items"]:
            meta, phase = pod["metadata"], pod["status"]["phase"]
            job = meta["labels"]["batch.kubernetes.io/job-name"]
            if phase != "Running" or (numbers and job not in {f"{self.name}-{number}" for number in numbers}):
                continue
            command = ["kubectl", "-n", self.cluster.namespace, "exec", meta["name"], "--", "sh", "-c", "kill -USR1 1"]
            done = subprocess.run(command, capture_output=True, text=True)
            assert not numbers or done.returncode == 0, done.stderr

    def _running(self) -> set[int]:
        """The numbers of trials whose pods run."""
        pods = self.cluster.get("pods", labels=f"study-operator.io/study={self.name}")["items"]
        labels = [pod["metadata"]["labels"] for pod in pods if pod["status"]["phase"] == "Running"]
        return {int(of["study-operator.io/trial"]) for of in labels}

    def end(self, *numbers: int) -> None:
        """Let running trials end, and wait until the operator has stored their results."""
        self.release(*numbers)
        done = {(number, "COMPLETE") for number in numbers}
        eventually(lambda: done <= set(self.cluster.rows(self.name)), f"{numbers} end")

    def finish(self, seconds: int = 180) -> dict[str, Any]:
        """Let all trials end, as they come, until the Study is complete. Return its status."""

        def complete() -> bool:
            self.release()
            return self.cluster.condition(self.name, "Complete").get("status") == "True"

        eventually(complete, "the study is complete", seconds)
        return self.status()

    def jobs(self) -> dict[str, str]:
        """UIDs of the study's Jobs, by name."""
        found = self.cluster.get("jobs", labels=f"study-operator.io/study={self.name}")["items"]
        return {job["metadata"]["name"]: job["metadata"]["uid"] for job in found}

    def log(self, number: int) -> str:
        """What the first Job of a trial has printed."""
        return self.cluster.kubectl("logs", f"job/{self.name}-{number}")

    def _reports(self) -> dict[int, int]:
        text = self.cluster.sql(
            "SELECT t.number, count(*) FROM trials t JOIN trial_intermediate_values USING (trial_id)"
            f" JOIN studies s USING (study_id) WHERE s.study_name = '{self.status().get('studyName')}' GROUP BY 1"
        )
        return {int(number): int(count) for number, count in (line.split("|") for line in text.splitlines())}

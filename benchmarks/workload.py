"""What the load consists of: studies, their trials, and the same trials as bare Jobs."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from load import NAMESPACE

from study_operator.manifests.job import Reporting, job_manifest
from study_operator.model.study import Study

# How long kwok lets a pod run: hack/local-cluster/kwok-stages.yaml.
LENGTH, SPREAD = "load.study-operator.io/length", "load.study-operator.io/spread"
REPORTS = 5  # of each trial, beside its final value


@dataclass(frozen=True)
class Scenario:
    """So many studies with so many trials each, so many of them at once, that take `length` to `length + spread`
    milliseconds."""

    title: str
    studies: int
    trials: int
    parallelism: int
    length: int
    spread: int = 0
    sampler: str = "TPE"
    default_limits: bool = False
    katib: str = ""

    @property
    def total(self) -> int:
        return self.studies * self.trials

    @property
    def slots(self) -> int:
        return self.studies * min(self.parallelism, self.trials)

    def deadline(self) -> float:
        """In how many seconds even a slow machine must have run it."""
        rounds = -(-self.trials // self.parallelism)
        return (
            300 + 3 * rounds * (self.length + self.spread) / 1000 + self.total * (0.4 if self.default_limits else 0.2)
        )


SCENARIOS = {
    "smoke": Scenario("the harness itself", 2, 5, 2, 3_000),
    "a": Scenario(
        "120 studies x 30 parallel, 3,600 trials at once", 120, 30, 30, 30_000, 30_000, katib="160 pods at most (#1328)"
    ),
    "b1": Scenario("one study, 200 parallel, 600 trials of 30 s", 1, 600, 200, 30_000, katib="193 s, 45% busy"),
    "b2": Scenario(
        "one study, 1,000 parallel, 2,000 trials",
        1,
        2000,
        1000,
        30_000,
        30_000,
        katib="at most 175 running, unfinished after 500 s",
    ),
    "c": Scenario("one study, 1,000 parallel, 10,000 trials, Random", 1, 10_000, 1000, 30_000, 30_000, "Random"),
    "d": Scenario("1,000 studies of 1 trial at once", 1000, 1, 1, 30_000, 30_000),
    "e": Scenario(
        "one study, 200 parallel, 600 trials of 30 s; Kubernetes' default limits",
        1,
        600,
        200,
        30_000,
        default_limits=True,
    ),
    "c-tpe": Scenario("one study, 1,000 parallel, 10,000 trials, TPE", 1, 10_000, 1000, 30_000, 30_000),
}


def length_of(length: int, spread: int, number: int) -> int:
    """Milliseconds that the trial of this number runs, as kwok-stages.yaml has it."""
    return length + number * 7919 % (spread + 1)


def value_of(params: Mapping[str, Any]) -> float:
    """What a trial with these parameters reports in the end."""
    near = (params["x"] - 0.3) ** 2 + (params["y"] + 0.1) ** 2
    return near + abs(params["rate"] - 0.01) + 0.01 * params["layers"] + (0.1 if params["kind"] == "a" else 0.0)


def study_manifest(scenario: Scenario, name: str) -> dict[str, Any]:
    """One of a scenario's studies."""
    annotations = {LENGTH: str(scenario.length), SPREAD: str(scenario.spread)}
    container = {"name": "trial", "image": "nothing-is-run", "command": ["python", "train.py"]}
    template = {"metadata": {"annotations": annotations}, "spec": {"containers": [container], "restartPolicy": "Never"}}
    return {
        "apiVersion": "study-operator.io/v1alpha1",
        "kind": "Study",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "objectives": [{"name": "loss", "direction": "Minimize"}],
            "parameters": [
                {"name": "x", "float": {"low": -1, "high": 1}},
                {"name": "y", "float": {"low": -1, "high": 1}},
                {"name": "rate", "float": {"low": 1e-5, "high": 1, "log": True}},
                {"name": "layers", "int": {"low": 1, "high": 8}},
                {"name": "kind", "categorical": {"choices": ["a", "b", "c"]}},
            ],
            "sampler": {"name": scenario.sampler},
            "maxTrials": scenario.trials,
            "parallelism": scenario.parallelism,
            "gpusPerTrial": 1,
            "jobTemplate": {"spec": {"template": template}},
        },
    }


def bare_job(study: Study, reporting: Reporting, number: int) -> dict[str, Any]:
    """The Job of a trial as the operator would create it, but nobody's: its Study does not exist."""
    some = random.Random(number)
    params = {
        "x": some.uniform(-1, 1),
        "y": some.uniform(-1, 1),
        "rate": 10 ** some.uniform(-5, 0),
        "layers": some.randint(1, 8),
        "kind": some.choice("abc"),
    }
    made = job_manifest(study, reporting, number, number, params)
    del made["metadata"]["ownerReferences"]
    return made

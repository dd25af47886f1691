"""The Study as the operator understands it: parsed from the object that the API server has validated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution

from study_operator.model.search_space import distributions

GROUP, VERSION, PLURAL, KIND = "study-operator.io", "v1alpha1", "studies", "Study"
STUDY_LABEL = f"{GROUP}/study"
TRIAL_LABEL = f"{GROUP}/trial"


class Refused(Exception):
    """The Study cannot be run as it is written.

    Args:
        reason: of the Accepted condition, CamelCase.
        message: what is wrong, where, and what to write instead.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True)
class Algorithm:
    """A sampler or pruner by name, with Optuna's own argument names as options."""

    name: str
    options: Mapping[str, Any]
    seed: int | None = None


@dataclass(frozen=True)
class Study:
    """One Study object: identity, what to tune, and how."""

    namespace: str
    name: str
    uid: str
    generation: int
    objective: str
    direction: str  # MINIMIZE or MAXIMIZE, as in Optuna
    parameters: tuple[Mapping[str, Any], ...]  # as in the spec
    distributions: Mapping[str, BaseDistribution]
    sampler: Algorithm
    pruner: Algorithm | None
    max_trials: int
    parallelism: int
    max_failed_trials: int
    gpus_per_trial: int
    gpu_resource_name: str
    deletion_policy: str
    job_template: Mapping[str, Any]

    @property
    def optuna_name(self) -> str:
        """The study's name in Optuna: the start of the UID keeps a re-created Study apart from its predecessor."""
        return f"{self.namespace}/{self.name}-{self.uid[:8]}"

    def job_name(self, number: int) -> str:
        return f"{self.name}-{number}"


def parse(manifest: Mapping[str, Any]) -> Study:
    """Reads a Study object; its schema has been checked by the API server and has filled in the defaults.

    Raises:
        Refused: when the search space is impossible in a way that the schema cannot express.
    """
    meta, spec = manifest["metadata"], manifest["spec"]
    sampler, pruner = spec["sampler"], spec.get("pruner")
    objective = spec["objectives"][0]
    try:
        space = distributions(spec["parameters"])
    except ValueError as error:
        raise Refused("InvalidSearchSpace", str(error)) from None
    return Study(
        namespace=meta["namespace"],
        name=meta["name"],
        uid=meta["uid"],
        generation=meta["generation"],
        objective=objective["name"],
        direction=objective["direction"].upper(),
        parameters=tuple(spec["parameters"]),
        distributions=space,
        sampler=Algorithm(sampler["name"], sampler.get("options") or {}, sampler.get("seed")),
        pruner=Algorithm(pruner["name"], pruner.get("options") or {}) if pruner else None,
        max_trials=spec["maxTrials"],
        parallelism=spec["parallelism"],
        max_failed_trials=spec["maxFailedTrials"],
        gpus_per_trial=spec["gpusPerTrial"],
        gpu_resource_name=spec["gpuResourceName"],
        deletion_policy=spec["deletionPolicy"],
        job_template=spec["jobTemplate"],
    )

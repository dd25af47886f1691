"""The Study as the operator understands it: parsed from the object that the API server has validated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from optuna.distributions import BaseDistribution

from study_operator.model.search_space import Space, search_space

GROUP, VERSION, PLURAL, KIND = "study-operator.io", "v1alpha1", "studies", "Study"
STUDY_LABEL = f"{GROUP}/study"
TRIAL_LABEL = f"{GROUP}/trial"
TRIAL_ID_ANNOTATION = f"{GROUP}/trial-id"
GENERATION_ANNOTATION = f"{GROUP}/generation"
JOB_LABEL = "batch.kubernetes.io/job-name"  # Kubernetes' own, on pods


class StudyKey(NamedTuple):
    """Namespace and name of a Study: what Kubernetes' Go libraries call a NamespacedName."""

    namespace: str
    name: str


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
class Objective:
    """A value to optimise; `direction` is MINIMIZE or MAXIMIZE, as in Optuna."""

    name: str
    direction: str
    goal: float | None = None


@dataclass(frozen=True)
class Constraint:
    """A limit that feasible trials keep; exactly one of `max` and `min` is given."""

    name: str
    max: float | None = None
    min: float | None = None

    def violation(self, value: float) -> float:
        """By how much the value breaks the limit; 0 or less when it keeps it, as Optuna has constraints."""
        return value - self.max if self.max is not None else (self.min or 0.0) - value

    @property
    def limit(self) -> str:
        return f"max is {self.max:g}" if self.max is not None else f"min is {self.min:g}"


@dataclass(frozen=True)
class Algorithm:
    """A sampler or pruner by name, or a sampler by class, with Optuna's own argument names as options."""

    name: str
    options: Mapping[str, Any]
    seed: int | None = None
    cls: str | None = None  # package.module:Class; then `name` says the same


@dataclass(frozen=True)
class Convergence:
    """When more trials are not expected to help: an improvement evaluator of Optuna's terminator."""

    evaluator: str
    options: Mapping[str, Any]
    min_trials: int
    error: float | None


@dataclass(frozen=True)
class Metrics:
    """Where a trial's values come from: Sdk, Stdout or File. `format` is JsonLines or TensorBoard."""

    source: str
    step_name: str
    format: str
    pattern: str | None = None
    path: str | None = None


@dataclass(frozen=True)
class Checkpoints:
    """A directory for each trial: a claim of its own, made from a template, or a directory of an existing claim."""

    mount_path: str
    keep: str  # All, Best or None
    claim_name: str | None = None
    claim_template: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Study:
    """One Study object: identity, what to tune, and how. Fields are those of the spec; times are in seconds."""

    namespace: str
    name: str
    uid: str
    generation: int
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]
    parameters: tuple[Mapping[str, Any], ...]  # as in the spec
    space: Space
    sampler: Algorithm
    pruner: Algorithm | None
    convergence: Convergence | None
    initial_trials: tuple[Mapping[str, Any], ...]
    warm_start: tuple[str, ...]  # names in Optuna
    max_trials: int
    parallelism: int
    max_failed_trials: int
    active_deadline: int | None
    active_trials_policy: str  # Terminate or Wait
    suspend: bool
    suspend_policy: str  # Drain or Terminate
    infrastructure_retries: int
    pending_deadline: int | None
    infeasible_exit_codes: frozenset[int]
    metrics: Metrics
    checkpoints: Checkpoints | None
    successful_jobs_history_limit: int
    failed_jobs_history_limit: int
    gpus_per_trial: int
    gpu_resource_name: str
    deletion_policy: str
    job_template: Mapping[str, Any]

    @property
    def paused(self) -> bool:
        """Whether no trial may be started now because the user says so."""
        return self.suspend or self.parallelism == 0

    @property
    def directions(self) -> list[str]:
        """One per objective, as Optuna has them."""
        return [objective.direction for objective in self.objectives]

    @property
    def distributions(self) -> Mapping[str, BaseDistribution]:
        """Optuna's distribution of each parameter, active or not."""
        return self.space.distributions

    @property
    def optuna_name(self) -> str:
        """The study's name in Optuna: the start of the UID keeps a re-created Study apart from its predecessor."""
        return f"{self.namespace}/{self.name}-{self.uid[:8]}"

    def job_name(self, number: int, attempt: int = 0) -> str:
        """The name of a trial's Job; `attempt` counts the Jobs that the trial has had before."""
        return f"{self.name}-{number}-r{attempt}" if attempt else f"{self.name}-{number}"


def owner(study: Study) -> dict[str, Any]:
    """The owner reference that makes the garbage collector remove what belongs to a deleted Study."""
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": KIND,
        "name": study.name,
        "uid": study.uid,
        "controller": True,
    }


def parse(manifest: Mapping[str, Any]) -> Study:
    """Reads a Study object; its schema has been checked by the API server and has filled in the defaults.

    Raises:
        Refused: when the search space is impossible in a way that the schema cannot express.
    """
    meta, spec = manifest["metadata"], manifest["spec"]
    sampler, pruner = spec["sampler"], spec.get("pruner")
    convergence, checkpoints, metrics = spec.get("convergence"), spec.get("checkpoints"), spec["metrics"]
    try:
        space = search_space(spec["parameters"])
    except ValueError as error:
        raise Refused("InvalidSearchSpace", str(error)) from None
    return Study(
        namespace=meta["namespace"],
        name=meta["name"],
        uid=meta["uid"],
        generation=meta["generation"],
        objectives=tuple(
            Objective(o["name"], o["direction"].upper(), None if o.get("goal") is None else float(o["goal"]))
            for o in spec["objectives"]
        ),
        constraints=tuple(Constraint(c["name"], c.get("max"), c.get("min")) for c in spec.get("constraints") or ()),
        parameters=tuple(spec["parameters"]),
        space=space,
        sampler=Algorithm(
            sampler.get("name") or sampler["class"],
            sampler.get("options") or {},
            sampler.get("seed"),
            sampler.get("class"),
        ),
        pruner=Algorithm(pruner["name"], pruner.get("options") or {}) if pruner else None,
        convergence=_convergence(convergence) if convergence is not None else None,
        initial_trials=tuple(spec.get("initialTrials") or ()),
        warm_start=tuple((spec.get("warmStart") or {}).get("studies") or ()),
        max_trials=spec["maxTrials"],
        parallelism=spec["parallelism"],
        max_failed_trials=spec["maxFailedTrials"],
        active_deadline=spec.get("activeDeadlineSeconds"),
        active_trials_policy=spec["activeTrialsPolicy"],
        suspend=spec["suspend"],
        suspend_policy=spec["suspendPolicy"],
        infrastructure_retries=spec["infrastructureRetries"],
        pending_deadline=spec.get("pendingDeadlineSeconds"),
        infeasible_exit_codes=frozenset(spec.get("infeasibleExitCodes") or ()),
        metrics=Metrics(
            metrics["from"],
            metrics["stepName"],
            metrics["format"],
            metrics.get("pattern"),
            metrics.get("path"),
        ),
        checkpoints=_checkpoints(checkpoints) if checkpoints is not None else None,
        successful_jobs_history_limit=spec["successfulJobsHistoryLimit"],
        failed_jobs_history_limit=spec["failedJobsHistoryLimit"],
        gpus_per_trial=spec["gpusPerTrial"],
        gpu_resource_name=spec["gpuResourceName"],
        deletion_policy=spec["deletionPolicy"],
        job_template=spec["jobTemplate"],
    )


def _convergence(spec: Mapping[str, Any]) -> Convergence:
    return Convergence(spec["evaluator"], spec.get("options") or {}, spec["minTrials"], spec.get("error"))


def _checkpoints(spec: Mapping[str, Any]) -> Checkpoints:
    return Checkpoints(spec["mountPath"], spec["keep"], spec.get("claimName"), spec.get("claimTemplate"))

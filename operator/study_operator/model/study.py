"""Read a Study into the form that the operator works with. The API server has checked the object before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple

from study_operator.model import gpus
from study_operator.model.distributions import Distribution
from study_operator.model.search_space import Space, search_space

GROUP, VERSION, PLURAL, KIND = "study-operator.io", "v1alpha1", "studies", "Study"
STUDY_LABEL = f"{GROUP}/study"
TRIAL_LABEL = f"{GROUP}/trial"
TRIAL_ID_ANNOTATION = f"{GROUP}/trial-id"
GENERATION_ANNOTATION = f"{GROUP}/generation"
# When the trial was started, as its row has it, and which incarnation of the database that was: a restored database
# gives a trial's number and id again, but neither of these.
STARTED_ANNOTATION = f"{GROUP}/trial-started"
INCARNATION_ANNOTATION = f"{GROUP}/incarnation"
SIDECAR = "study-metrics"  # the name of the container that reads metrics from a file
# On pods: the name of the container that runs the program. A webhook may put others in front of it.
PROGRAM_ANNOTATION = f"{GROUP}/program"
# When the Job controller was last asked to try again to create the Job's pod. Nothing reads it.
TRIED_ANNOTATION = f"{GROUP}/tried"
JOB_LABEL = "batch.kubernetes.io/job-name"  # set by Kubernetes on pods


class StudyKey(NamedTuple):
    """Namespace and name of a Study: what Kubernetes' Go libraries call a NamespacedName."""

    namespace: str
    name: str


class Refused(Exception):
    """The Study cannot be run as it is written.

    Args:
        reason: the reason of the Accepted condition, in CamelCase.
        message: what is wrong, where, and what to write instead.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True)
class Objective:
    """A value to optimise. A trial with the goal ends the study.

    Attributes:
        name: its name in the status, in messages and in Optuna.
        direction: MINIMIZE or MAXIMIZE, as in Optuna.
        goal: the value with which the study is complete; None if there is none.
        called: what the program calls it; None if that is `name`.
        final: which of the values that the program writes is the final one: Last, Min or Max.
    """

    name: str
    direction: str
    goal: float | None = None
    called: str | None = None
    final: str = "Last"

    @property
    def metric(self) -> str:
        """What the program calls it."""
        return self.called or self.name


@dataclass(frozen=True)
class Constraint:
    """A limit that feasible trials keep. Exactly one of `max` and `min` is given.

    Attributes:
        called: what the program calls the value; None if that is `name`.
    """

    name: str
    max: float | None = None
    min: float | None = None
    called: str | None = None

    @property
    def metric(self) -> str:
        """What the program calls the value."""
        return self.called or self.name

    def violation(self, value: float) -> float:
        """Return by how much the value breaks the limit. As in Optuna, 0 or less means that it keeps the limit."""
        return value - self.max if self.max is not None else (self.min or 0.0) - value

    @property
    def limit(self) -> str:
        """The limit in words, for messages."""
        return f"max is {self.max:g}" if self.max is not None else f"min is {self.min:g}"


@dataclass(frozen=True)
class Algorithm:
    """A sampler or a pruner.

    Attributes:
        name: its name in the CRD; for a plug-in the same as `cls`.
        options: arguments of the sampler or pruner, under Optuna's own names.
        seed: the sampler's seed.
        cls: the sampler class of a plug-in, as package.module:Class; None for a sampler by name.
    """

    name: str
    options: Mapping[str, Any]
    seed: int | None = None
    cls: str | None = None


@dataclass(frozen=True)
class Convergence:
    """When a study has converged: more trials are not expected to help.

    Attributes:
        evaluator: the name of an improvement evaluator of Optuna's terminator.
        options: the evaluator's arguments.
        min_trials: how many trials must have completed before.
        error: the improvement below which the study has converged; None means 0. EMMR does not use it.
    """

    evaluator: str
    options: Mapping[str, Any]
    min_trials: int
    error: float | None


@dataclass(frozen=True)
class Metrics:
    """Where a trial's values come from.

    Attributes:
        source: Sdk, Stdout or File.
        step_name: the name under which the program writes the step.
        format: of the file: JsonLines, Text or TensorBoard.
        pattern: a regular expression that finds values in lines of text; None for `name=value` and `name: value`.
        path: where the program writes the file, for File.
        additional: what the program calls further values, which become user attributes of the trial.
    """

    source: str
    step_name: str
    format: str
    pattern: str | None = None
    path: str | None = None
    additional: tuple[str, ...] = ()

    @property
    def of_lines(self) -> bool:
        """Whether values are read off lines of text: printed ones, or those of a file."""
        return self.source == "Stdout" or (self.source == "File" and self.format == "Text")


@dataclass(frozen=True)
class Checkpoints:
    """A directory for each trial, in a claim of its own or in the user's claim.

    Attributes:
        mount_path: where every container of the trial finds the directory.
        keep: the trials whose directories are kept when they have ended: All, Best or None.
        claim_name: the user's claim, in which each trial has a directory; None if each trial has its own claim.
        claim_template: each trial's own claim is made from it; None if there is `claim_name`.
    """

    mount_path: str
    keep: str
    claim_name: str | None = None
    claim_template: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Study:
    """One Study object: identity, what to tune, and how.

    The fields are those of the spec under the CRD's names, where `kubectl explain study.spec` describes them. Times are
    in seconds.

    Attributes:
        parameters: spec.parameters as they are written.
        space: spec.parameters as a search space.
        warm_start: names of earlier studies, as Optuna knows them.
        active_trials_policy: Terminate or Wait.
        suspend_policy: Drain or Terminate.
        stop: Drain or Terminate, by which the user has ended the study; None while it may go on.
        stored_name: the study's name in Optuna, as the database has it; None if that was not asked.
        gpu_names: what the names of resources that count as GPUs have in them.
    """

    namespace: str
    name: str
    uid: str
    generation: int
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]
    parameters: tuple[Mapping[str, Any], ...]
    space: Space
    sampler: Algorithm
    pruner: Algorithm | None
    convergence: Convergence | None
    initial_trials: tuple[Mapping[str, Any], ...]
    warm_start: tuple[str, ...]
    max_trials: int
    parallelism: int
    max_failed_trials: int
    active_deadline: int | None
    active_trials_policy: str
    suspend: bool
    suspend_policy: str
    stop: str | None
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
    stored_name: str | None = None
    gpu_names: tuple[str, ...] = gpus.NAMES

    def is_gpu(self, resource: str) -> bool:
        """Return whether a resource counts as GPUs for this study."""
        return resource == self.gpu_resource_name or gpus.is_gpu(resource, self.gpu_names)

    @property
    def paused(self) -> bool:
        """Whether the user wants no trial to be started now."""
        return self.suspend or self.parallelism == 0

    @property
    def directions(self) -> list[str]:
        """The direction of each objective: MINIMIZE or MAXIMIZE, as in Optuna."""
        return [objective.direction for objective in self.objectives]

    @property
    def distributions(self) -> Mapping[str, Distribution]:
        """The distribution of each parameter, also of conditional ones."""
        return self.space.distributions

    @property
    def program(self) -> str:
        """The name of the container that runs the program: the template's first one."""
        return str(self.job_template["spec"]["template"]["spec"]["containers"][0].get("name") or "trial")

    @property
    def ttl_after_finished(self) -> timedelta | None:
        """How long the Job of a trial whose end is stored may stay at most; None for as long as others are kept."""
        seconds = self.job_template["spec"].get("ttlSecondsAfterFinished")
        return timedelta(seconds=seconds) if isinstance(seconds, int) else None

    @property
    def termination_grace(self) -> timedelta:
        """The template's terminationGracePeriodSeconds; none if it leaves them to Kubernetes."""
        seconds = self.job_template["spec"]["template"]["spec"].get("terminationGracePeriodSeconds")
        return timedelta(seconds=min(seconds, 2**31) if isinstance(seconds, int) else 0)  # it may be 2**63 - 1

    @property
    def trial_deadline(self) -> int | None:
        """For how many seconds the Job of a trial may be active; None without a limit."""
        seconds = self.job_template["spec"].get("activeDeadlineSeconds")
        return seconds if isinstance(seconds, int) else None

    @property
    def optuna_name(self) -> str:
        """The study's name in Optuna. The UID's start keeps a Study apart from deleted ones of the same name.

        A Study that goes on with the rows of another one has the name of that one.
        """
        return self.stored_name or f"{self.namespace}/{self.name}-{self.uid[:8]}"

    def job_name(self, number: int, attempt: int = 0) -> str:
        """Return the name of a trial's Job. `attempt` is the number of Jobs that the trial has had before."""
        return f"{self.name}-{number}-r{attempt}" if attempt else f"{self.name}-{number}"


def owner_reference(study: Study) -> dict[str, Any]:
    """Return the owner reference with which Kubernetes removes an object when its Study is deleted."""
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": KIND,
        "name": study.name,
        "uid": study.uid,
        "controller": True,
    }


def parse(manifest: Mapping[str, Any]) -> Study:
    """Read a Study object. The API server has checked it against its schema and has filled in the defaults.

    Raises:
        Refused: the search space is impossible in a way that the schema cannot express.
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
        objectives=tuple(map(_objective, spec["objectives"])),
        constraints=tuple(
            Constraint(c["name"], c.get("max"), c.get("min"), c.get("metric")) for c in spec.get("constraints") or ()
        ),
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
        stop=spec.get("stop"),
        infrastructure_retries=spec["infrastructureRetries"],
        pending_deadline=spec.get("pendingDeadlineSeconds"),
        infeasible_exit_codes=frozenset(spec.get("infeasibleExitCodes") or ()),
        metrics=Metrics(
            metrics["from"],
            metrics["stepName"],
            metrics["format"],
            metrics.get("pattern"),
            metrics.get("path"),
            tuple(metrics.get("additional") or ()),
        ),
        checkpoints=_checkpoints(checkpoints) if checkpoints is not None else None,
        successful_jobs_history_limit=spec["successfulJobsHistoryLimit"],
        failed_jobs_history_limit=spec["failedJobsHistoryLimit"],
        gpus_per_trial=spec["gpusPerTrial"],
        gpu_resource_name=spec["gpuResourceName"],
        deletion_policy=spec["deletionPolicy"],
        job_template=spec["jobTemplate"],
    )


def _objective(spec: Mapping[str, Any]) -> Objective:
    direction, goal, final = spec["direction"].upper(), spec.get("goal"), spec.get("finalValue") or "Last"
    if final == "Best":
        final = "Max" if direction == "MAXIMIZE" else "Min"
    return Objective(spec["name"], direction, None if goal is None else float(goal), spec.get("metric"), final)


def _convergence(spec: Mapping[str, Any]) -> Convergence:
    return Convergence(spec["evaluator"], spec.get("options") or {}, spec["minTrials"], spec.get("error"))


def _checkpoints(spec: Mapping[str, Any]) -> Checkpoints:
    return Checkpoints(spec["mountPath"], spec["keep"], spec.get("claimName"), spec.get("claimTemplate"))

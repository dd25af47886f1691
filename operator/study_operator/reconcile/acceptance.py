"""Whether a Study can be run as it is written: what the operator can say itself, and what only the API server can."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any, NamedTuple

from study_operator.kube.api_server import ApiError
from study_operator.kube.client import Cluster
from study_operator.manifests.contradictions import check_contradictions
from study_operator.manifests.job import check_environment, check_variables, job_manifest
from study_operator.manifests.metrics_directory import check_directory
from study_operator.model import log_lines, option_bounds
from study_operator.model.initial_trials import initial_trials
from study_operator.model.mistakes import mistakes
from study_operator.model.namespaces import Reserved
from study_operator.model.search_space import example_params, longest_params
from study_operator.model.status import Condition, accepted, refused
from study_operator.model.study import Refused, Study, StudyKey, parse
from study_operator.pool import BlockingPool
from study_operator.processes.client import Optimizers
from study_operator.processes.errors import OptimizerUnavailable, SamplerFailed
from study_operator.reconcile import dependents
from study_operator.reconcile.intake import Intake
from study_operator.reconcile.live_study import LiveStudy
from study_operator.settings import Settings

# A Job that the API server refused is shown to it again after this time, because quotas and policies change.
REFUSED_AGAIN_SECONDS = 60.0
_REFUSALS = (400, 403, 422)  # HTTP statuses that say something about the object that was sent

log = logging.getLogger(__name__)


class Judgement(NamedTuple):
    """The condition Accepted, and in how many seconds to judge again; None: when the Study changes."""

    condition: Condition
    again: float | None = None


class Acceptance:
    """Judges Studies, each generation once.

    Args:
        optimizers: where samplers are built.
        intake: says what there is room for.
        reserved: the namespaces in which Studies are refused.
    """

    def __init__(
        self, cluster: Cluster, pool: BlockingPool, optimizers: Optimizers, intake: Intake, reserved: Reserved
    ) -> None:
        self._cluster, self._pool, self._optimizers = cluster, pool, optimizers
        self._intake, self._reserved = intake, reserved

    async def judge(self, live: LiveStudy, manifest: dict[str, Any]) -> Judgement:
        """Judge a Study. Only the API server can judge the Job template: it is sent there once for each generation, as
        a dry run.

        Args:
            manifest: the Study as it was read; its status tells what was accepted before.

        Raises:
            ApiError: the API server did not answer as it must.
            OptimizerUnavailable: the Study has not been accepted before, and its sampler cannot be built now.
        """
        study = live.study
        if live.known.accepted_generation == study.generation:
            # Building a sampler anew takes a second for a grid of a million cells.
            return Judgement(live.known.accepted)
        before = accepted_before(manifest)
        try:
            self._intake.admit(study, before is not None)
        except Refused as refusal:  # there may be room for it in a minute
            return Judgement(refused(refusal.reason, refusal.message), REFUSED_AGAIN_SECONDS)
        try:
            self._reserved.check(StudyKey(study.namespace, study.name))
            option_bounds.check(study)
            check_environment(study, live.reporting, longest_params(study.space))
            if "startTime" not in (manifest.get("status") or {}):  # what has begun goes on: its path is fixed
                check_directory(study)
            await self._pool.run(self._optimizers.check, study)
            log_lines.build(study)
            initial_trials(study)
            # A Study that an earlier version has accepted goes on, and its condition keeps its words.
            if before is None:
                check_contradictions(study)
            condition = before or accepted([*mistakes(study), *check_variables(study, live.reporting)])
            example = job_manifest(study, live.reporting, 0, 0, example_params(study.space))
        except Refused as refusal:
            return Judgement(refused(refusal.reason, refusal.message))
        except SamplerFailed as error:
            return Judgement(refused("SamplerFailed", str(error)), error.again)
        except OptimizerUnavailable:
            if before is None:
                raise
            return Judgement(before)
        if before is None:
            example["metadata"]["name"] = f"{study.name}-dry-run"
            try:
                await self._cluster.create_job(example, dry_run=True)
            except ApiError as error:
                if error.reason != "AlreadyExists":  # somebody's Job has that name; what was sent is as it must be
                    return _refused_by(error, "JobTemplateRefused", "the Job")
            try:
                await dependents.try_claim(self._cluster, study)
            except ApiError as error:
                return _refused_by(error, "CheckpointsRefused", "a trial's claim")
        live.known.accepted_generation, live.known.accepted = study.generation, condition
        return Judgement(condition)


def _refused_by(error: ApiError, reason: str, what: str) -> Judgement:
    """Return what the API server's refusal means for the Study.

    Raises:
        ApiError: the error, if it says nothing about the object.
    """
    if error.status not in _REFUSALS:
        raise error
    return Judgement(refused(reason, f"the API server refuses {what}: {error.message}"), REFUSED_AGAIN_SECONDS)


def accepted_before(manifest: dict[str, Any]) -> Condition | None:
    """Return the condition with which this very generation was accepted, as the status has it; None if it was not."""
    for found in (manifest.get("status") or {}).get("conditions") or ():
        if (found["type"], found["status"]) == ("Accepted", "True"):
            if found.get("observedGeneration") != manifest["metadata"]["generation"]:
                return None
            return Condition("Accepted", True, found["reason"], found["message"])
    return None


def reserved(settings: Settings) -> Reserved:
    """Return the namespaces in which Studies are refused. One that the operator is told to watch is wanted."""
    own, name = settings.service or (None, "")
    test = StudyKey(own, f"{name}-test") if own else None  # helm/study-operator/templates/tests has the other end
    return Reserved(own, test, {*settings.allowed_namespaces, *settings.watch_namespaces})


def parsed(manifest: dict[str, Any], settings: Settings) -> Study:
    """Read a Study. This installation says how many trials it may start at most, and what counts as a GPU.

    Raises:
        Refused: it cannot be run as it is written; or it cannot be read, which the schema should have prevented.
    """
    try:
        study = parse(manifest)
    except Refused:
        raise
    except Exception as error:
        log.exception("the Study cannot be read")
        words = f"the operator cannot read the Study: {type(error).__name__}: {error}"
        raise Refused("Unreadable", words) from None
    most = min(study.max_trials, settings.limits.trials_per_study)
    return replace(study, max_trials=most, gpu_names=settings.gpu_names or study.gpu_names)


def with_limit(condition: Condition, manifest: dict[str, Any], settings: Settings) -> Condition:
    """Say in the condition Accepted that the study may have fewer trials than it asks for."""
    asked, most = manifest["spec"]["maxTrials"], settings.limits.trials_per_study
    if condition.status is not True or asked <= most:
        return condition
    words = f"the Study can be run; of maxTrials {asked}, this installation starts {most} (limits.trialsPerStudy)"
    return replace(condition, message=words)

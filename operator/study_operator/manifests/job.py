"""A trial's Job: the Study's own template, plus what makes it a trial."""

from __future__ import annotations

import copy
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from study_operator.manifests.checkpoints import mount_checkpoints
from study_operator.manifests.gpus import request_gpus
from study_operator.manifests.sidecar import add_sidecar
from study_operator.manifests.template import check
from study_operator.manifests.volumes import containers, share
from study_operator.model.search_space import as_text
from study_operator.model.study import (
    GENERATION_ANNOTATION,
    GROUP,
    STUDY_LABEL,
    TRIAL_ID_ANNOTATION,
    TRIAL_LABEL,
    Study,
    owner,
)

CA_VOLUME = "study-storage-ca"
CA_DIRECTORY = f"/var/run/secrets/{GROUP}"


@dataclass(frozen=True)
class Reporting:
    """Where a study's pods report to. `key` is the study's own; `url` holds the reporter's password. `image` is the
    trial image, of the sidecar that reports for a program; None where the installation has none.

    The Secret's name says what is in it, so that it is created and never has to be read or changed.
    """

    url: str
    key: str
    ca: str | None = None
    image: str | None = None

    @classmethod
    def of(
        cls, study: Study, cluster_id: str, seed: str, url: str, ca: str | None, image: str | None = None
    ) -> Reporting:
        """The key is derived from the installation's seed, so that it is known again after a restart."""
        message = f"{cluster_id}/{study.uid}".encode()
        return cls(url, hmac.new(seed.encode(), message, hashlib.sha256).hexdigest(), ca, image)

    @property
    def key_hash(self) -> bytes:
        return hashlib.sha256(self.key.encode()).digest()

    def secret_name(self, study: Study) -> str:
        content = "\n".join((study.uid, self.url, self.key, self.ca or ""))
        return f"{study.name}-storage-{hashlib.sha256(content.encode()).hexdigest()[:8]}"


def secret(study: Study, reporting: Reporting) -> dict[str, Any]:
    """The Secret that the study's pods take their address and key from."""
    content = {"url": reporting.url, "key": reporting.key}
    if reporting.ca:
        content["ca.crt"] = reporting.ca
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": reporting.secret_name(study),
            "namespace": study.namespace,
            "labels": {STUDY_LABEL: study.name},
            "ownerReferences": [owner(study)],
        },
        "type": "Opaque",
        "immutable": True,
        "stringData": content,
    }


def job(
    study: Study,
    reporting: Reporting,
    number: int,
    trial_id: int,
    params: Mapping[str, Any],
    name: str | None = None,
) -> dict[str, Any]:
    """The Job of one trial.

    Args:
        params: the parameters that are active in this trial, by name.
        name: of the Job; that of the trial's first attempt unless given.

    Raises:
        Refused: when the template contradicts what a trial is.
    """
    check(study)
    template = copy.deepcopy(dict(study.job_template))
    spec = template["spec"]
    labels = {STUDY_LABEL: study.name, TRIAL_LABEL: str(number)}
    given = template.get("metadata") or {}
    pod_template = spec["template"]
    pod_meta = pod_template.get("metadata") or {}
    pod_template["metadata"] = {**pod_meta, "labels": {**(pod_meta.get("labels") or {}), **labels}}
    pod = pod_template["spec"]
    if pod["restartPolicy"] == "Never":  # the API allows a podFailurePolicy with no other
        spec.setdefault("podFailurePolicy", _failure_policy(study))
    mount_checkpoints(study, number, pod)
    add_sidecar(study, pod, reporting.image)
    if reporting.ca:
        volume = {
            "secret": {"secretName": reporting.secret_name(study), "items": [{"key": "ca.crt", "path": "ca.crt"}]}
        }
        share(pod, volume, {"name": CA_VOLUME, "mountPath": CA_DIRECTORY, "readOnly": True}, "the operator")
    name = name or study.job_name(number)
    environment = _environment(study, reporting, number, trial_id, params, name)
    for container in containers(pod):
        # First, so that the user's own variables and arguments can refer to them: $(PARAM_lr).
        container["env"] = environment + list(container.get("env") or ())
    request_gpus(study, pod)
    annotations = {TRIAL_ID_ANNOTATION: str(trial_id), GENERATION_ANNOTATION: str(study.generation)}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "namespace": study.namespace,
            "labels": {**(given.get("labels") or {}), **labels},
            "annotations": {**(given.get("annotations") or {}), **annotations},
            "ownerReferences": [owner(study)],
        },
        "spec": spec,
    }


def _environment(
    study: Study, reporting: Reporting, number: int, trial_id: int, params: Mapping[str, Any], job_name: str
) -> list[dict[str, Any]]:
    plain = {
        "STUDY_NAME": study.name,
        "STUDY_NAMESPACE": study.namespace,
        "STUDY_TRIAL_NUMBER": str(number),
        "STUDY_TRIAL_ID": str(trial_id),
        "STUDY_TRIAL_JOB": job_name,
        "STUDY_PARAMS": json.dumps(dict(params)),
        "STUDY_SEARCH_SPACE": json.dumps(list(study.parameters)),
        "STUDY_OBJECTIVES": json.dumps([objective.name for objective in study.objectives]),
        "STUDY_CONSTRAINTS": json.dumps([constraint.name for constraint in study.constraints]),
        "STUDY_DIRECTIONS": json.dumps([direction.lower() for direction in study.directions]),
        "STUDY_OPTUNA_NAME": study.optuna_name,
        **({"STUDY_CHECKPOINT_DIR": study.checkpoints.mount_path} if study.checkpoints else {}),
        **{f"PARAM_{variable_name(name)}": as_text(value) for name, value in params.items()},
    }
    secret_name = reporting.secret_name(study)
    return [
        # Kubernetes expands $(...) in a value; doubled, a dollar sign is only that.
        *({"name": name, "value": value.replace("$", "$$")} for name, value in plain.items()),
        *(
            {"name": f"STUDY_STORAGE_{key.upper()}", "valueFrom": {"secretKeyRef": {"name": secret_name, "key": key}}}
            for key in ("url", "key")
        ),
    ]


def variable_name(parameter: str) -> str:
    """A parameter's name as part of an environment variable's: '.' and '-' become '_'."""
    return parameter.replace(".", "_").replace("-", "_")


def _failure_policy(study: Study) -> dict[str, Any]:
    """What fails a Job at once, whatever its backoffLimit.

    Disruptions (eviction, pre-emption, a lost node) are not the program's fault: the operator runs the trial again
    under another Job. Kubernetes' own way, Ignore, would count them nowhere, know no limit and wait ten seconds before
    the next pod. And parameters that cannot work do so no better a second time.
    """
    disrupted = {"type": "DisruptionTarget", "status": "True"}
    rules: list[dict[str, Any]] = [{"action": "FailJob", "onPodConditions": [disrupted]}]
    if study.infeasible_exit_codes:
        codes = {"operator": "In", "values": sorted(study.infeasible_exit_codes)}
        rules.append({"action": "FailJob", "onExitCodes": codes})
    return {"rules": rules}

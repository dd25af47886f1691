"""A trial's Job: the Study's own template, plus what makes it a trial."""

from __future__ import annotations

import copy
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from study_operator.model.search_space import as_text
from study_operator.model.study import GROUP, KIND, STUDY_LABEL, TRIAL_LABEL, VERSION, Refused, Study

TRIAL_ID_ANNOTATION = f"{GROUP}/trial-id"
CA_VOLUME = "study-storage-ca"
CA_DIRECTORY = f"/var/run/secrets/{GROUP}"
# Disruptions (eviction, preemption, a lost node) are not the program's fault: the pod runs again, same parameters.
_FAILURE_POLICY = {"rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]}


@dataclass(frozen=True)
class Reporting:
    """Where a study's pods report to. `key` is the study's own; `url` holds the reporter's password.

    The Secret's name says what is in it, so that it is created and never has to be read or changed.
    """

    url: str
    key: str
    ca: str | None = None

    @classmethod
    def of(cls, study: Study, cluster_id: str, seed: str, url: str, ca: str | None) -> Reporting:
        """The key is derived from the installation's seed, so that it is known again after a restart."""
        message = f"{cluster_id}/{study.uid}".encode()
        return cls(url, hmac.new(seed.encode(), message, hashlib.sha256).hexdigest(), ca)

    @property
    def key_hash(self) -> bytes:
        return hashlib.sha256(self.key.encode()).digest()

    def secret_name(self, study: Study) -> str:
        content = "\n".join((study.uid, self.url, self.key, self.ca or ""))
        return f"{study.name}-storage-{hashlib.sha256(content.encode()).hexdigest()[:8]}"


def owner(study: Study) -> dict[str, Any]:
    """The owner reference that makes the garbage collector remove what belongs to a deleted Study."""
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": KIND,
        "name": study.name,
        "uid": study.uid,
        "controller": True,
    }


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


def job(study: Study, reporting: Reporting, number: int, trial_id: int, params: Mapping[str, Any]) -> dict[str, Any]:
    """The Job of one trial.

    Args:
        params: the parameters that are active in this trial, by name.

    Raises:
        Refused: when the template contradicts what a trial is.
    """
    template = copy.deepcopy(dict(study.job_template))
    spec = template["spec"]
    _check(spec)
    labels = {STUDY_LABEL: study.name, TRIAL_LABEL: str(number)}
    given = template.get("metadata") or {}
    spec.setdefault("backoffLimit", 0)
    pod_template = spec["template"]
    pod_meta = pod_template.get("metadata") or {}
    pod_template["metadata"] = {**pod_meta, "labels": {**(pod_meta.get("labels") or {}), **labels}}
    pod = pod_template["spec"]
    pod.setdefault("restartPolicy", "Never")
    if pod["restartPolicy"] == "Never":  # the API allows a podFailurePolicy with no other
        spec.setdefault("podFailurePolicy", copy.deepcopy(_FAILURE_POLICY))
    environment = _environment(study, reporting, number, trial_id, params)
    for container in (*(pod.get("initContainers") or ()), *pod["containers"]):
        # First, so that the user's own variables and arguments can refer to them: $(PARAM_lr).
        container["env"] = environment + list(container.get("env") or ())
        if reporting.ca:
            mount = {"name": CA_VOLUME, "mountPath": CA_DIRECTORY, "readOnly": True}
            container["volumeMounts"] = [*(container.get("volumeMounts") or ()), mount]
    if reporting.ca:
        items = [{"key": "ca.crt", "path": "ca.crt"}]
        volume = {"name": CA_VOLUME, "secret": {"secretName": reporting.secret_name(study), "items": items}}
        pod["volumes"] = [*(pod.get("volumes") or ()), volume]
    _request_gpus(study, pod)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": study.job_name(number),
            "namespace": study.namespace,
            "labels": {**(given.get("labels") or {}), **labels},
            "annotations": {**(given.get("annotations") or {}), TRIAL_ID_ANNOTATION: str(trial_id)},
            "ownerReferences": [owner(study)],
        },
        "spec": spec,
    }


# What is read or added to below. The schema of the resource leaves it open; all else the API server judges.
_CONTAINER = {"env": [{}], "volumeMounts": [{}], "resources": {"limits": {}, "requests": {}}}
_POD = {"containers": [_CONTAINER], "initContainers": [_CONTAINER], "volumes": [{}]}
_SHAPE = {"template": {"metadata": {"labels": {}}, "spec": _POD}}


def _check_shape(value: Any, shape: Any, where: str) -> None:
    if not isinstance(value, type(shape)):
        must_be = "a list" if isinstance(shape, list) else "an object, names with values,"
        raise Refused("JobTemplateInvalid", f"{where} must be {must_be} and is {value!r}: see kubectl explain job.spec")
    if isinstance(shape, list):
        for i, item in enumerate(value):
            _check_shape(item, shape[0], f"{where}[{i}]")
    else:
        for name, inner in shape.items():
            if value.get(name) is not None:
                _check_shape(value[name], inner, f"{where}.{name}")


def _check(spec: Mapping[str, Any]) -> None:
    where = "spec.jobTemplate.spec"
    _check_shape(spec, _SHAPE, where)
    containers = ((spec.get("template") or {}).get("spec") or {}).get("containers")
    if not containers:
        raise Refused("JobTemplateInvalid", f"{where}.template.spec.containers is empty: name the image to run")
    for name in ("completions", "parallelism"):
        if spec.get(name, 1) != 1:
            raise Refused(
                "JobTemplateInvalid",
                f"{where}.{name} is {spec[name]}: a trial is one pod; leave it out (spec.parallelism of the Study says "
                "how many trials run at once)",
            )
    for name in ("suspend", "manualSelector", "selector"):
        if spec.get(name):
            raise Refused("JobTemplateInvalid", f"{where}.{name} cannot be used for trials: leave it out")
    pod = spec["template"]["spec"]
    for container in (*(pod.get("initContainers") or ()), *containers):
        for variable in container.get("env") or ():
            name = str(variable.get("name"))
            if name.startswith(("STUDY_STORAGE_", "STUDY_TRIAL_", "PARAM_")) or name in (
                "STUDY_NAME",
                "STUDY_NAMESPACE",
                "STUDY_PARAMS",
                "STUDY_SEARCH_SPACE",
            ):
                raise Refused(
                    "JobTemplateInvalid",
                    f"container {container.get('name')!r} of {where} sets {name}, which the operator sets itself for "
                    "each trial: rename the variable",
                )


def _environment(
    study: Study, reporting: Reporting, number: int, trial_id: int, params: Mapping[str, Any]
) -> list[dict[str, Any]]:
    plain = {
        "STUDY_NAME": study.name,
        "STUDY_NAMESPACE": study.namespace,
        "STUDY_TRIAL_NUMBER": str(number),
        "STUDY_TRIAL_ID": str(trial_id),
        "STUDY_PARAMS": json.dumps(dict(params)),
        "STUDY_SEARCH_SPACE": json.dumps(list(study.parameters)),
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


def _request_gpus(study: Study, pod: dict[str, Any]) -> None:
    """Gives the first container its GPUs, unless the template asks for an extended resource itself."""
    if study.gpus_per_trial == 0:
        return
    for container in (*(pod.get("initContainers") or ()), *pod["containers"]):
        resources = container.get("resources") or {}
        # Every resource with a domain in its name is an extended one: nvidia.com/gpu, amd.com/gpu, a MIG slice.
        if any("/" in name for kind in ("limits", "requests") for name in resources.get(kind) or {}):
            return
    first = pod["containers"][0]
    resources = first["resources"] = dict(first.get("resources") or {})
    resources["limits"] = {**(resources.get("limits") or {}), study.gpu_resource_name: str(study.gpus_per_trial)}

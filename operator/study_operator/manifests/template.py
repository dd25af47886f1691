"""Check a Study's Job template: it must be a Job, and must not contradict what a trial is."""

from __future__ import annotations

from typing import Any

from study_operator.manifests.quotes import check_quotes
from study_operator.manifests.volumes import containers
from study_operator.model.study import Refused, Study

WHERE = "spec.jobTemplate.spec"
# Kubernetes uses a Job's name as a label, and in the host name of each pod of an Indexed Job.
_LONGEST_NAME = 63
_RESERVED_PREFIXES = ("STUDY_STORAGE_", "STUDY_TRIAL_", "PARAM_")
_RESERVED = (
    "STUDY_NAME",
    "STUDY_NAMESPACE",
    "STUDY_PARAMS",
    "STUDY_SEARCH_SPACE",
    "STUDY_OBJECTIVES",
    "STUDY_CONSTRAINTS",
    "STUDY_DIRECTIONS",
    "STUDY_OPTUNA_NAME",
    "STUDY_CHECKPOINT_DIR",
)
# The parts that the operator reads or extends and that the Study's schema leaves open. The API server checks the rest.
_CONTAINER = {"env": [{}], "volumeMounts": [{}], "resources": {"limits": {}, "requests": {}}}
_POD = {"containers": [_CONTAINER], "initContainers": [_CONTAINER], "volumes": [{}], "securityContext": {}}
_SHAPE = {"template": {"metadata": {"labels": {}}, "spec": _POD}}


def check_template(study: Study) -> None:
    """Check the Study's Job template.

    Raises:
        Refused: the message says what is wrong, where, and what to write instead.
    """
    spec = study.job_template["spec"]
    _check_shape(spec, _SHAPE, WHERE)
    check_quotes(study)
    pods = spec.get("completions") or 1
    _check_names(study, pods if spec.get("completionMode") == "Indexed" else None)
    for name in ("manualSelector", "selector"):
        if spec.get(name):
            raise _invalid(f"{WHERE}.{name} cannot be used for trials: leave it out")
    ttl = spec.get("ttlSecondsAfterFinished")
    if ttl is not None and (type(ttl) is not int or not 0 <= ttl < 2**31):
        raise _invalid(f"{WHERE}.ttlSecondsAfterFinished is {ttl!r}: write a whole number of seconds, such as 600")
    pod = spec["template"]["spec"]
    subdomain = pod.get("subdomain")
    if subdomain is not None and not isinstance(subdomain, str):
        raise _invalid(
            f"{WHERE}.template.spec.subdomain is {subdomain!r}: write the name of a Service, such as workers"
        )
    for container in containers(pod):
        for variable in container.get("env") or ():
            name = str(variable.get("name"))
            if name.startswith(_RESERVED_PREFIXES) or name in _RESERVED:
                raise _invalid(
                    f"container {container.get('name')!r} of {WHERE} sets {name}, which the operator sets itself for "
                    "each trial: rename the variable"
                )
    _check_claim(study, pods)


def _check_shape(value: Any, shape: Any, where: str) -> None:
    if not isinstance(value, type(shape)):
        must_be = "a list" if isinstance(shape, list) else "an object, names with values,"
        raise _invalid(f"{where} must be {must_be} and is {value!r}: see kubectl explain job.spec")
    if isinstance(shape, list):
        for i, item in enumerate(value):
            _check_shape(item, shape[0], f"{where}[{i}]")
    else:
        for name, inner in shape.items():
            if value.get(name) is not None:
                _check_shape(value[name], inner, f"{where}.{name}")


def _check_names(study: Study, pods: int | None) -> None:
    """Check that the names of all Jobs fit, and the host names of their pods.

    Args:
        pods: how many pods an Indexed Job has; None if the Job is not Indexed.
    """
    longest = study.job_name(study.max_trials - 1, study.infrastructure_retries)
    if pods is not None:
        longest += f"-{pods - 1}"
    if len(longest) > _LONGEST_NAME:
        what = "Jobs" if pods is None else "pods"
        raise Refused(
            "NameTooLong",
            f"{what} would have names such as {longest}, of {len(longest)} characters, and Kubernetes allows "
            f"{_LONGEST_NAME}: give the Study a name of at most "
            f"{len(study.name) - (len(longest) - _LONGEST_NAME)} characters",
        )


def _check_claim(study: Study, pods: int) -> None:
    template = study.checkpoints.claim_template if study.checkpoints else None
    if template is None:
        return
    modes = template["spec"].get("accessModes")
    if pods > 1 and isinstance(modes, list) and modes == ["ReadWriteOncePod"]:
        raise Refused(
            "CheckpointsInvalid",
            f"spec.checkpoints.claimTemplate has the access mode ReadWriteOncePod, and each trial has {pods} pods: "
            "write ReadWriteMany, or ReadWriteOnce where they all run on one node",
        )


def _invalid(message: str) -> Refused:
    return Refused("JobTemplateInvalid", message)

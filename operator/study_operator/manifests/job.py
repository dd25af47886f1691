"""Build a trial's Job from the Study's template, and the Secret that tells its pods where to report."""

from __future__ import annotations

import copy
import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from study_operator.manifests.checkpoints import mount_checkpoints
from study_operator.manifests.gpus import request_gpus
from study_operator.manifests.quantities import check_quantities
from study_operator.manifests.references import check_references
from study_operator.manifests.sidecar import add_sidecar
from study_operator.manifests.start_size import LONGEST_TEXT, check_start
from study_operator.manifests.template import check_template
from study_operator.manifests.variables import leave_out_inactive, parameter_variables
from study_operator.manifests.volumes import containers, mount_in_all
from study_operator.model.study import (
    GENERATION_ANNOTATION,
    PROGRAM_ANNOTATION,
    STUDY_LABEL,
    TRIAL_ID_ANNOTATION,
    TRIAL_LABEL,
    Refused,
    Study,
    owner_reference,
)

STORAGE_VOLUME = "study-storage"
_DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"
# Of the environment of all containers of a pod together, in bytes: etcd takes objects of a megabyte and a half.
LONGEST_ENVIRONMENT = 1_000_000


@dataclass(frozen=True)
class Reporting:
    """Where a study's pods report to.

    The study's Secret has url, key and CA. It is written anew when one of them changes, also while trials run: pods
    have it as files, which the kubelet keeps up to date, and read them at each connection.

    Attributes:
        url: libpq's connection URI, with the reporter's password.
        key: the study's own key, with which its pods prove their messages.
        ca: certificates of the database's CA, as PEM; None if there are none.
        image: the trial image, for the sidecar that reports for a program; None if the installation has none.
        directory: where pods find the Secret's files: url, key, and ca.crt, which `url` names. Empty: nowhere, and they
            have address and key in the environment alone.
    """

    url: str
    key: str
    ca: str | None = None
    image: str | None = None
    directory: str = ""

    @classmethod
    def of(
        cls,
        study: Study,
        cluster_id: str,
        seed: str,
        url: str,
        ca: str | None,
        image: str | None = None,
        directory: str = "",
    ) -> Reporting:
        """Return where the pods of a Study report to.

        The key is derived from the installation's seed, so the operator knows it again after a restart.

        Args:
            study: the Study. Its UID is part of the key.
            cluster_id: the UID of the cluster's kube-system namespace.
            seed: the installation's secret text.
            url: see `url`.
            ca: see `ca`.
            image: see `image`.
            directory: see `directory`.
        """
        message = f"{cluster_id}/{study.uid}".encode()
        return cls(url, hmac.new(seed.encode(), message, hashlib.sha256).hexdigest(), ca, image, directory)

    @property
    def key_hash(self) -> bytes:
        """The SHA-256 of the key: all that the database knows of it."""
        return hashlib.sha256(self.key.encode()).digest()

    @property
    def digest(self) -> str:
        """A text that changes with what the Secret has in it, and tells nothing of it."""
        content = "\n".join((self.url, self.key, self.ca or ""))
        return hashlib.sha256(content.encode()).hexdigest()


def secret_name(study: Study) -> str:
    """Return the name of a study's Secret. A Study that is created again under its name has another one."""
    return f"{study.name}-storage-{hashlib.sha256(study.uid.encode()).hexdigest()[:8]}"


def secret(study: Study, reporting: Reporting) -> dict[str, Any]:
    """Return the Secret from which the study's pods take their address and key."""
    content = {"url": reporting.url, "key": reporting.key}
    if reporting.ca:
        content["ca.crt"] = reporting.ca
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": secret_name(study),
            "namespace": study.namespace,
            "labels": {STUDY_LABEL: study.name},
            "ownerReferences": [owner_reference(study)],
        },
        "type": "Opaque",
        "stringData": content,
    }


def job_manifest(
    study: Study,
    reporting: Reporting,
    number: int,
    trial_id: int,
    params: Mapping[str, Any],
    name: str | None = None,
    origin: Mapping[str, str] | None = None,
    ranges: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Return the Job of one trial.

    Args:
        study: the Study, with the Job template.
        reporting: where the Job's pods report to.
        number: the trial's number.
        trial_id: the trial's id in the database.
        params: the parameters that are active in this trial, by name.
        name: the Job's name; None for the name of the trial's first attempt.
        origin: annotations that tell the trial's row from others that have had its number and id.
        ranges: the items of the namespace's LimitRanges, as far as they are known.

    Raises:
        Refused: the template contradicts what a trial is.
    """
    check_template(study)
    template = copy.deepcopy(dict(study.job_template))
    spec = template["spec"]
    labels = {STUDY_LABEL: study.name, TRIAL_LABEL: str(number)}
    given = template.get("metadata") or {}
    pod_template = spec["template"]
    pod_meta = pod_template.get("metadata") or {}
    # kubectl logs shows the program's container, unless the template names another one for it.
    shown, theirs = {_DEFAULT_CONTAINER: study.program}, pod_meta.get("annotations") or {}
    # As Kubernetes does with a Job that has no labels; this one always has some.
    job_labels = given.get("labels") or pod_meta.get("labels") or {}
    pod_template["metadata"] = {
        **pod_meta,
        "labels": {**(pod_meta.get("labels") or {}), **labels},
        "annotations": {**shown, **theirs, PROGRAM_ANNOTATION: study.program},
    }
    # Kubernetes would remove the Job before its end is known and its log is read. The operator removes it after that.
    spec.pop("ttlSecondsAfterFinished", None)
    pod = pod_template["spec"]
    if pod["restartPolicy"] == "Never":  # the API allows a podFailurePolicy with no other
        spec.setdefault("podFailurePolicy", _failure_policy(study))
    mount_checkpoints(study, number, pod)
    add_sidecar(study, pod, reporting.image, ranges)
    if reporting.directory:
        volume = {"secret": {"secretName": secret_name(study)}}
        # Without a subPath: the kubelet brings a change of the Secret into the files of pods that run.
        mount = {"name": STORAGE_VOLUME, "mountPath": reporting.directory, "readOnly": True}
        mount_in_all(pod, volume, mount, "the operator")
    name = name or study.job_name(number)
    environment = _environment(study, reporting, number, trial_id, params, name)
    variables = parameter_variables(study, params)
    for container in containers(pod):
        leave_out_inactive(study, container, variables)
        # The operator's variables come first, so that the user's own can refer to them: $(PARAM_lr).
        container["env"] = environment + list(container.get("env") or ())
    request_gpus(study, pod)
    annotations = {TRIAL_ID_ANNOTATION: str(trial_id), GENERATION_ANNOTATION: str(study.generation)}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "namespace": study.namespace,
            "labels": {**job_labels, **labels},
            "annotations": {**(given.get("annotations") or {}), **annotations, **(origin or {})},
            "ownerReferences": [owner_reference(study)],
        },
        "spec": spec,
    }


def check_environment(study: Study, reporting: Reporting, params: Mapping[str, Any]) -> None:
    """Check that the environment, which every container of a trial has, is not too large, before a Job is built of it.

    Args:
        study: the Study.
        reporting: where the Job's pods report to.
        params: those of a trial whose values are as long as they can be.

    Raises:
        Refused: it is too large.
    """
    check_template(study)
    environment = _environment(study, reporting, 0, 0, params, study.job_name(0))
    sources = {"STUDY_SEARCH_SPACE": "spec.parameters: use fewer or shorter choices"}
    of_template = list(containers(study.job_template["spec"]["template"]["spec"]))
    for container in of_template:
        check_start({**container, "env": [*environment, *(container.get("env") or ())]}, sources)
    length = sum(len(f"{variable['name']}{variable.get('value') or ''}".encode()) for variable in environment)
    count = len(of_template) + 1  # a sidecar may be added
    if length * count > LONGEST_ENVIRONMENT:
        raise Refused(
            "JobTemplateInvalid",
            f"each of {count} containers would have {length:,} bytes of environment, most of them spec.parameters "
            f"in STUDY_SEARCH_SPACE; all together may have {LONGEST_ENVIRONMENT:,}: use fewer containers, or fewer or "
            "shorter choices",
        )


def check_variables(study: Study, reporting: Reporting) -> list[str]:
    """Check that the Job template refers to variables that trials have, and the amounts in it.

    Returns:
        What is likely a mistake, and may be none: sentences for the user.

    Raises:
        Refused: a trial's program would get a reference as it stands; or the API server would refuse an amount.
    """
    check_template(study)
    check_quantities(study)
    every = dict.fromkeys(study.distributions)
    return check_references(study, [variable["name"] for variable in _environment(study, reporting, 0, 0, every, "")])


def _environment(
    study: Study, reporting: Reporting, number: int, trial_id: int, params: Mapping[str, Any], job_name: str
) -> list[dict[str, Any]]:
    called = {one.name: one.called for one in study.objectives if one.called is not None}
    called |= {one.name: one.called for one in study.constraints if one.called is not None}
    plain = {
        "STUDY_NAME": study.name,
        "STUDY_NAMESPACE": study.namespace,
        "STUDY_TRIAL_NUMBER": str(number),
        "STUDY_TRIAL_ID": str(trial_id),
        "STUDY_TRIAL_JOB": job_name,
        "STUDY_PARAMS": _as_json(dict(params)),
        "STUDY_SEARCH_SPACE": _as_json(list(study.parameters)),
        "STUDY_OBJECTIVES": json.dumps([objective.name for objective in study.objectives]),
        "STUDY_CONSTRAINTS": json.dumps([constraint.name for constraint in study.constraints]),
        **({"STUDY_METRICS": json.dumps(called)} if called else {}),
        "STUDY_DIRECTIONS": json.dumps([direction.lower() for direction in study.directions]),
        "STUDY_OPTUNA_NAME": study.optuna_name,
        **({"STUDY_STORAGE_DIRECTORY": reporting.directory} if reporting.directory else {}),
        **({"STUDY_CHECKPOINT_DIR": study.checkpoints.mount_path} if study.checkpoints else {}),
        **parameter_variables(study, params),
    }
    from_secret = secret_name(study)
    return [
        # Kubernetes expands $(...) in a value. A doubled dollar sign stands for itself.
        *({"name": name, "value": value.replace("$", "$$")} for name, value in plain.items()),
        *(
            {"name": f"STUDY_STORAGE_{key.upper()}", "valueFrom": {"secretKeyRef": {"name": from_secret, "key": key}}}
            for key in ("url", "key")
        ),
    ]


def _as_json(value: Any) -> str:
    """Return JSON that fits into a variable, if it can.

    ASCII is read right in every locale. But there a Chinese letter, for example, takes six bytes, and three in UTF-8.
    """
    text = json.dumps(value)
    if len(text) < LONGEST_TEXT - 100:  # the variable's name, and what the dollar signs take
        return text
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _failure_policy(study: Study) -> dict[str, Any]:
    """Return the podFailurePolicy, which fails a Job at once whatever its backoffLimit.

    Disruptions (eviction, preemption, a lost node) are not the program's fault: the operator runs the trial again under
    another Job. Kubernetes' own action Ignore would not count them, has no limit, and waits ten seconds before the next
    pod. The other rule is for infeasible parameters, which work no better at a second try.
    """
    disrupted = {"type": "DisruptionTarget", "status": "True"}
    rules: list[dict[str, Any]] = [{"action": "FailJob", "onPodConditions": [disrupted]}]
    if study.infeasible_exit_codes:
        codes = {"operator": "In", "values": sorted(study.infeasible_exit_codes)}
        rules.append({"action": "FailJob", "onExitCodes": codes})
    return {"rules": rules}

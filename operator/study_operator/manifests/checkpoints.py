"""Directories of trials that survive their pods, and whose they are to be removed."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

from study_operator.manifests.volumes import share
from study_operator.model.study import STUDY_LABEL, TRIAL_LABEL, Study, owner
from study_operator.model.trial import Rows

VOLUME = "study-checkpoints"
# A group that every process of the pod is in besides its own: the volume of a new claim mostly belongs to root, and
# programs should not run as root. It is the group of the trial image.
_FS_GROUP = 65532


def claim(study: Study, number: int) -> dict[str, Any] | None:
    """The claim that is made for a trial; None when the Study wants none."""
    if study.checkpoints is None or study.checkpoints.claim_template is None:
        return None
    template = copy.deepcopy(dict(study.checkpoints.claim_template))
    given = template.get("metadata") or {}
    labels = {STUDY_LABEL: study.name, TRIAL_LABEL: str(number)}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": study.job_name(number),
            "namespace": study.namespace,
            "labels": {**(given.get("labels") or {}), **labels},
            "annotations": dict(given.get("annotations") or {}),
            "ownerReferences": [owner(study)],
        },
        "spec": template["spec"],
    }


def mount_checkpoints(study: Study, number: int, pod: dict[str, Any]) -> None:
    """Gives every container of a trial's pod its directory.

    Raises:
        Refused: when the template has something else there.
    """
    if study.checkpoints is None:
        return
    mount = {"name": VOLUME, "mountPath": study.checkpoints.mount_path}
    name = study.checkpoints.claim_name
    if name is None:
        name = study.job_name(number)
        _make_writable(pod)
    else:  # its permissions are its owner's affair: a group of ours would be given to all that is in it
        mount["subPath"] = f"{study.name}-{study.uid[:8]}/{number}"
    share(pod, {"persistentVolumeClaim": {"claimName": name}}, mount, "spec.checkpoints")


def _make_writable(pod: dict[str, Any]) -> None:
    security = dict(pod.get("securityContext") or {})
    if "fsGroup" not in security:  # null is a choice too: the cluster's, where it gives each namespace a group
        security["fsGroup"] = _FS_GROUP
        # Not each file of a checkpoint of gigabytes, each time that its trial starts again.
        security.setdefault("fsGroupChangePolicy", "OnRootMismatch")
    pod["securityContext"] = security


def claims_to_delete(
    study: Study, claims: Collection[int], rows: Rows, active: Collection[int], best: Collection[int]
) -> list[int]:
    """Numbers of the trials whose claims are no longer to be kept.

    Args:
        claims: numbers of the trials that have a claim made for them.
        rows: a trial that is not open in them has ended; so they must be read after the latest claim was made.
        active: numbers of the trials that have an active Job: one that has its value may still be saving a model.
        best: numbers of the trials that are best now: one, or the Pareto front.
    """
    keep = study.checkpoints.keep if study.checkpoints else "All"
    if keep == "All":
        return []
    open_ = {number for number, row in rows.open.items() if not row.state.is_finished()}
    kept = {*open_, *active, *(best if keep == "Best" else ())}
    return sorted(set(claims) - kept)

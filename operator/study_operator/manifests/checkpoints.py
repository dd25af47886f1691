"""Give each trial a directory that survives its pods, and choose the directories to remove."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

from study_operator.manifests.volumes import TRIAL_IMAGE_ID, mount_in_all
from study_operator.model.study import STUDY_LABEL, TRIAL_LABEL, Study, owner_reference
from study_operator.model.trial import Rows

VOLUME = "study-checkpoints"


def claim(study: Study, number: int) -> dict[str, Any] | None:
    """Return the claim for a trial's checkpoints; None when the Study wants none."""
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
            "ownerReferences": [owner_reference(study)],
        },
        "spec": template["spec"],
    }


def mount_checkpoints(study: Study, number: int, pod: dict[str, Any]) -> None:
    """Mount the trial's directory in every container of its pod.

    Raises:
        Refused: the template mounts something else there.
    """
    if study.checkpoints is None:
        return
    mount = {"name": VOLUME, "mountPath": study.checkpoints.mount_path}
    name = study.checkpoints.claim_name
    if name is None:
        name = study.job_name(number)
        _make_writable(pod)
    else:  # the user's claim keeps its permissions: fsGroup would change the group of every file in it
        mount["subPath"] = f"{study.name}-{study.uid[:8]}/{number}"
    mount_in_all(pod, {"persistentVolumeClaim": {"claimName": name}}, mount, "spec.checkpoints")


def _make_writable(pod: dict[str, Any]) -> None:
    """Let the pod's processes write to a new claim, although they should not run as root.

    A new volume mostly belongs to root. With fsGroup it belongs to a group that every process of the pod is in.
    """
    security = dict(pod.get("securityContext") or {})
    if "fsGroup" not in security:  # null is a choice too: some clusters give each namespace a group of its own
        security["fsGroup"] = TRIAL_IMAGE_ID
        # Otherwise the kubelet would change each file of a large checkpoint whenever the trial runs again.
        security.setdefault("fsGroupChangePolicy", "OnRootMismatch")
    pod["securityContext"] = security


def claims_to_delete(
    study: Study, claims: Collection[int], rows: Rows, active: Collection[int], best: Collection[int]
) -> list[int]:
    """Return the numbers of the trials whose claims are no longer to be kept.

    Args:
        claims: numbers of the trials that have a claim of their own.
        rows: read after the latest claim was created, because a trial that is not open in them counts as ended.
        active: numbers of the trials that have an active Job. A trial that has its value may still be saving a model.
        best: numbers of the trials that are best now: one, or the Pareto front.
    """
    keep = study.checkpoints.keep if study.checkpoints else "All"
    if keep == "All":
        return []
    open_ = {number for number, row in rows.open.items() if not row.state.is_finished()}
    kept = {*open_, *active, *(best if keep == "Best" else ())}
    return sorted(set(claims) - kept)

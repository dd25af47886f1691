"""The names by which the pods of a trial find each other."""

from __future__ import annotations

from typing import Any

from study_operator.model.study import STUDY_LABEL, Study, owner


def headless_service(study: Study) -> dict[str, Any] | None:
    """The Service that gives the pods of the Study's trials names, `<job>-<index>.<subdomain>`; None when the pod
    template names no subdomain. One is enough for all trials: the Job's name is in the pod's."""
    subdomain = study.job_template["spec"]["template"]["spec"].get("subdomain")
    if not subdomain:
        return None
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": subdomain,
            "namespace": study.namespace,
            "labels": {STUDY_LABEL: study.name},
            "ownerReferences": [owner(study)],
        },
        # Pods look for each other while they start, before any of them is ready.
        "spec": {"clusterIP": "None", "selector": {STUDY_LABEL: study.name}, "publishNotReadyAddresses": True},
    }

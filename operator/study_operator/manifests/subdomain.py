"""Name the pods of a trial, so that they find each other."""

from __future__ import annotations

from typing import Any

from study_operator.model.study import STUDY_LABEL, Study, owner_reference


def headless_service(study: Study) -> dict[str, Any] | None:
    """Return the Service that gives pods names such as `<job>-<index>.<subdomain>`; None without a subdomain.

    One Service is enough for all trials, because a pod's name contains the Job's.
    """
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
            "ownerReferences": [owner_reference(study)],
        },
        # Pods look for each other while they start, before any of them is ready.
        "spec": {"clusterIP": "None", "selector": {STUDY_LABEL: study.name}, "publishNotReadyAddresses": True},
    }

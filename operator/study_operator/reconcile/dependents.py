"""Create what trials need beside their Jobs, and remove the claims of trials that have ended.

These are the claims for checkpoints and the Service that names pods. Both are created before the Jobs that use them.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from study_operator import looks
from study_operator.kube.api_server import ApiError
from study_operator.kube.client import Cluster
from study_operator.manifests.checkpoints import claim, claims_to_delete
from study_operator.manifests.subdomain import headless_service
from study_operator.model.study import KIND, STUDY_LABEL, TRIAL_LABEL, Study
from study_operator.model.trial import Rows
from study_operator.reconcile.adoption import Adoption, adoption

log = logging.getLogger(__name__)

CLEARED_AT_ONCE = 100  # claims that are deleted in one look, one after the other: they take a second


async def try_claim(cluster: Cluster, study: Study) -> None:
    """Show the API server the claim of a trial, without creating it.

    Raises:
        ApiError: the API server refuses the claim, or cannot be reached.
    """
    manifest = claim(study, 0)
    if manifest is not None:
        manifest["metadata"]["name"] = f"{study.name}-dry-run"
        await cluster.try_claim(manifest)


async def limit_ranges(cluster: Cluster, study: Study) -> Sequence[Mapping[str, Any]]:
    """Return the items of the LimitRanges of a study's namespace; none if they cannot be read, as without any."""
    try:
        return await cluster.limit_ranges(study.namespace)
    except ApiError as error:
        log.warning("LimitRanges cannot be read, and the metrics' sidecar may not fit them: %s", error)
        return ()


async def ensure_service(cluster: Cluster, study: Study) -> str | None:
    """Create the Service that the pods' subdomain needs, if there is none.

    A Service of this name that exists is used as it is, also one that the user has made. Only another Study's Service
    is of no use, because it names the pods of that Study alone.

    Returns:
        None if the Service is there, or none is needed; otherwise a sentence that says why not.
    """
    manifest = headless_service(study)
    if manifest is None:
        return None
    name = manifest["metadata"]["name"]
    try:
        found = await cluster.create_service(manifest)
    except ApiError as error:
        return f"Service {name} could not be created: {error.message}"
    if found is None or adoption(found, study) is not Adoption.ANOTHER_STUDYS:
        return None
    other = next(reference["name"] for reference in found["metadata"]["ownerReferences"] if reference["kind"] == KIND)
    return f"Service {name} is that of Study {other}, or of an earlier one: give subdomain another name"


async def ensure_claim(cluster: Cluster, study: Study, number: int) -> str | None:
    """Create the claim of a trial, if it needs one and has none.

    Returns:
        None if the claim is there, or none is needed; otherwise a sentence that says why not.
    """
    manifest = claim(study, number)
    if manifest is None:
        return None
    name = manifest["metadata"]["name"]
    try:
        if await cluster.create_claim(manifest):
            return None
        ours = await list_claims(cluster, study)
    except ApiError as error:
        return f"PersistentVolumeClaim {name} could not be created: {error.message}"
    if name in {own for own, _ in ours.values()}:
        return None
    return (
        f"a PersistentVolumeClaim {name} that is not this trial's exists, or is being deleted; if it stays, delete it, "
        "or give the Study another name"
    )


async def list_claims(cluster: Cluster, study: Study) -> dict[int, tuple[str, str]]:
    """Return name and UID of the claims of a Study's trials, by trial number, without those that are being deleted.

    A claim of another name is none of ours, whatever its labels and owner are: it would be deleted with the trial.

    Raises:
        ApiError: the API server refuses the call or cannot be reached.
    """
    found = await cluster.list_claims(study.namespace, f"{STUDY_LABEL}={study.name},{TRIAL_LABEL}", study.uid)
    return {
        int(number): (item["metadata"]["name"], item["metadata"]["uid"])
        for item in found
        if adoption(item, study) is Adoption.OURS
        and (number := item["metadata"]["labels"][TRIAL_LABEL]).isdecimal()
        and item["metadata"]["name"] == study.job_name(int(number))
    }


async def clear_claims(
    cluster: Cluster, study: Study, rows: Rows, active: Collection[int], best: Collection[int]
) -> tuple[bool, str | None]:
    """Delete the claims of trials that have ended, unless spec.checkpoints.keep says to keep them.

    This makes one call if there are none, and no call if the Study keeps all. It deletes CLEARED_AT_ONCE claims at
    most.

    Args:
        rows: read after this operator has created the latest claim.
        active: numbers of the trials that have an active Job.
        best: numbers of the trials that are best now: one, or the Pareto front.

    Returns:
        Whether all are deleted that are not to be kept, and None or a sentence that says what could not be deleted.
    """
    checkpoints = study.checkpoints
    if checkpoints is None or checkpoints.claim_template is None or checkpoints.keep == "All":
        return True, None
    try:
        claims = await list_claims(cluster, study)
        numbers = list(claims_to_delete(study, claims, rows, active, best))
        for number in numbers[:CLEARED_AT_ONCE]:
            looks.check("deletes claims")
            await cluster.delete_claim(study.namespace, *claims[number])
    except ApiError as error:
        return False, f"claims of trials that have ended could not be deleted: {error.message}"
    return len(numbers) <= CLEARED_AT_ONCE, None

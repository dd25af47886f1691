"""What trials need beside their Jobs, created before those and removed when it is no longer to be kept."""

from __future__ import annotations

from collections.abc import Collection

from study_operator.kube.client import ApiError, Cluster, owner_uid
from study_operator.manifests.checkpoints import claim, claims_to_delete
from study_operator.manifests.subdomain import headless_service
from study_operator.model.study import KIND, Study
from study_operator.model.trial import Rows


async def try_claim(cluster: Cluster, study: Study) -> None:
    """Shows the API server the claim of a trial, without creating it.

    Raises:
        ApiError: what it says to it.
    """
    manifest = claim(study, 0)
    if manifest is not None:
        manifest["metadata"]["name"] = f"{study.name}-dry-run"
        await cluster.try_claim(manifest)


async def ensure_service(cluster: Cluster, study: Study) -> str | None:
    """Creates the Service that the pods' subdomain needs, if there is none. One of that name is left alone, whoever
    made it, and does it, unless it is another Study's: that one names the pods of its own Study only.

    Returns:
        None when it is there, or none is needed; otherwise a sentence that says why not.
    """
    manifest = headless_service(study)
    if manifest is None:
        return None
    name = manifest["metadata"]["name"]
    try:
        found = await cluster.create_service(manifest)
    except ApiError as error:
        return f"Service {name} could not be created: {error.message}"
    if found is None or owner_uid(found) == study.uid:
        return None
    references = found["metadata"].get("ownerReferences") or ()
    other = next((reference["name"] for reference in references if reference["kind"] == KIND), None)
    if other is None:
        return None
    return f"Service {name} is that of Study {other}, or of an earlier one: give subdomain another name"


async def ensure_claim(cluster: Cluster, study: Study, number: int) -> str | None:
    """Creates the claim of a trial, if it needs one and has none.

    Returns:
        None when it is there, or none is needed; otherwise a sentence that says why not.
    """
    manifest = claim(study, number)
    if manifest is None:
        return None
    name = manifest["metadata"]["name"]
    try:
        ours = await cluster.create_claim(manifest)
    except ApiError as error:
        return f"PersistentVolumeClaim {name} could not be created: {error.message}"
    if ours:
        return None
    return (
        f"a PersistentVolumeClaim {name} that is not this trial's exists, or is being deleted; if it stays, delete it, "
        "or give the Study another name"
    )


async def clear_claims(
    cluster: Cluster, study: Study, rows: Rows, active: Collection[int], best: Collection[int]
) -> str | None:
    """Deletes the claims of trials that have ended and whose checkpoints are not to be kept. Costs one call when there
    are none, and nothing when all are kept.

    Args:
        rows: read since this operator has last created a claim.
        active: numbers of the trials that have an active Job.
        best: numbers of the trials that are best now: one, or the Pareto front.

    Returns:
        None, or a sentence that says what could not be deleted.
    """
    checkpoints = study.checkpoints
    if checkpoints is None or checkpoints.claim_template is None or checkpoints.keep == "All":
        return None
    try:
        claims = await cluster.list_claims(study.namespace, study.name, study.uid)
        for number in claims_to_delete(study, claims, rows, active, best):
            await cluster.delete_claim(study.namespace, *claims[number])
    except ApiError as error:
        return f"claims of trials that have ended could not be deleted: {error.message}"
    return None

"""Keep a study's Secret as it should be: address, login, key and CA, also for pods that run."""

from __future__ import annotations

from study_operator.kube.api_server import ApiError
from study_operator.kube.client import Cluster
from study_operator.manifests.job import secret
from study_operator.reconcile.live_study import LiveStudy


async def ensure_secret(cluster: Cluster, live: LiveStudy) -> str | None:
    """Create or update the study's Secret, unless this process has written just this content.

    Nothing is read: a Secret that exists is written over.

    Returns:
        None if the Secret is as it should be; otherwise a sentence that says why not.
    """
    digest = live.reporting.digest
    if live.known.secret == digest:
        return None
    manifest = secret(live.study, live.reporting)
    try:
        await cluster.write_secret(manifest)
    except ApiError as error:
        return f"Secret {manifest['metadata']['name']} could not be written: {error.message}"
    live.known.secret = digest
    return None

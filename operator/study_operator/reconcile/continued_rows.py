"""Let a new Study go on with the rows of an earlier one, as its annotation asks."""

from __future__ import annotations

import logging
from dataclasses import replace

from study_operator.kube.client import Cluster
from study_operator.model.study import Refused, Study
from study_operator.pool import BlockingPool
from study_operator.reconcile.live_study import LiveStudy
from study_operator.storage.continuing import Continuing

log = logging.getLogger(__name__)


async def go_on(cluster: Cluster, pool: BlockingPool, continuing: Continuing, name: str, live: LiveStudy) -> Study:
    """Let a new Study go on with the rows of an earlier one.

    Raises:
        Refused: there are no such rows, they are of another kind of study, or their own Study still exists.
        ApiError: the API server does not say whether that exists.
        StorageUnavailable: the database does not answer.
        StorageError: the database refuses it.
    """
    study = live.study
    earlier = await pool.run(continuing.find, name, study.namespace)
    if earlier is None:
        raise Refused("ContinueRefused", f"there is no stored study {name!r} of namespace {study.namespace}")
    if earlier.directions != study.directions:
        raise Refused("ContinueRefused", f"study {name!r} has other objectives than this Study")
    owner = await cluster.identify_study(study.namespace, earlier.name)
    if owner is not None and owner.uid == earlier.uid:
        raise Refused("ContinueRefused", f"study {name!r} is that of Study {earlier.name}, which still exists")
    if not await pool.run(continuing.bind, study, earlier, live.reporting.key_hash):
        raise Refused("ContinueRefused", f"study {name!r} has just been taken by another Study")
    log.info("goes on with the rows of study %s", name)
    study = replace(study, stored_name=name)
    live.update(study)
    return study

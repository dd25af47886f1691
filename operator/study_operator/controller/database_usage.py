"""Shows as metrics how much of the database server is in use."""

from __future__ import annotations

import asyncio
import logging

from study_operator import metrics
from study_operator.pool import BlockingPool
from study_operator.storage.database import Database, StorageError, StorageUnavailable
from study_operator.storage.usage import usage

_INTERVAL_SECONDS = 30.0

log = logging.getLogger(__name__)


async def measure_database(database: Database, threads: BlockingPool) -> None:
    """Ask the database from time to time, until cancelled."""
    while True:
        try:
            found = await threads.run(usage, database)
        except StorageUnavailable:
            pass  # readiness says so
        except StorageError as error:
            log.warning("the database does not say how much of it is in use: %s", error)
        else:
            metrics.DATABASE_CONNECTIONS.labels("operator").set(found.own)
            metrics.DATABASE_CONNECTIONS.labels("others").set(found.others)
            metrics.DATABASE_CONNECTIONS_MOST.set(found.most)
            metrics.DATABASE_SIZE.set(found.size)
        await asyncio.sleep(_INTERVAL_SECONDS)

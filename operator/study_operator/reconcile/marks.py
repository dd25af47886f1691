"""Compare Studies' marks with the database, and write them: no two operators, and no wrong database, for one Study."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from study_operator import metrics
from study_operator.kube.client import Cluster
from study_operator.model import mark
from study_operator.model.mark import Comparison, Place, Standing
from study_operator.model.study import STUDY_LABEL, StudyKey
from study_operator.pool import BlockingPool
from study_operator.reconcile.event_recorder import EventRecorder
from study_operator.storage.database import StorageUnavailable
from study_operator.storage.whereabouts import Found, Whereabouts

# How soon a Study that is left alone is looked at again: a mark that is changed does not change the generation.
AGAIN_SECONDS = 15.0
_SAY_AGAIN_SECONDS = 600.0

log = logging.getLogger(__name__)


class Marks:
    """The marks of one cluster's Studies, as one installation compares and writes them.

    Args:
        cluster: where the Studies are.
        pool: where the database is asked.
        whereabouts: says which database that is.
        installation: this one's name.
    """

    def __init__(self, cluster: Cluster, pool: BlockingPool, whereabouts: Whereabouts, installation: str) -> None:
        self._cluster, self._pool, self._whereabouts = cluster, pool, whereabouts
        self._installation = installation
        self._events = EventRecorder(cluster)
        self._here: Place | None = None
        self._said: dict[StudyKey, tuple[str, float]] = {}

    def of_another(self, manifest: Mapping[str, Any]) -> bool:
        """Return whether another installation serves a Study, as far as that is certain without the database."""
        return mark.of_another(manifest, self._installation, self._here)

    def forget(self, key: StudyKey) -> None:
        """Drop what is known of a Study that is gone or served elsewhere."""
        self._said.pop(key, None)
        self._count(key, None)

    async def compare(self, manifest: Mapping[str, Any]) -> tuple[Comparison, Found]:
        """Compare a Study's mark with the database. Write nothing.

        Returns:
            What came of it, and what the database has said.

        Raises:
            StorageUnavailable: the database does not answer.
            StorageError: the database refuses the query.
            ApiError: the API server does not say whether the Study has Jobs.
        """
        meta = manifest["metadata"]
        there = await self._pool.run(self._whereabouts.find, meta["uid"])
        self._here, stored = there.place, there.stored
        had_trials = bool((manifest.get("status") or {}).get("startTime"))
        if stored is None and not had_trials and mark.read(manifest) is None:
            selector = f"{STUDY_LABEL}={meta['name']}"
            had_trials = bool(await self._cluster.list_jobs(meta["namespace"], selector, meta["uid"]))
        found = mark.compare(manifest, self._installation, there.place, stored, had_trials)
        key = StudyKey(meta["namespace"], meta["name"])
        self._count(key, found.standing)
        if not found.words:
            self._said.pop(key, None)
        return found, there

    async def claim(self, manifest: dict[str, Any], here: Place) -> dict[str, Any]:
        """Mark a Study whose rows have just been found or made. Return the Study as it is then.

        Only the Study as it was read is marked: of two installations that claim it at once, one is refused.

        Args:
            manifest: the Study as it was read.
            here: where the rows were found or made.

        Raises:
            ApiError: the Study has changed since it was read (409), or the API server does not answer as it must.
            StorageUnavailable: the database does not answer, or is another one than a moment ago.
            StorageError: the database refuses the query.
        """
        found = await self._pool.run(self._whereabouts.find, manifest["metadata"]["uid"])
        if found.stored is None or found.place != here:
            raise StorageUnavailable("it is another database than a moment ago")
        annotations = mark.claim(manifest, self._installation, here, found.stored)
        if annotations is None:
            return manifest
        log.info("marked: its rows are study %d of database %s", found.stored.study_id, here)
        return await self._cluster.annotate_study(manifest, annotations)

    async def say(self, manifest: Mapping[str, Any], words: str, now: datetime) -> None:
        """Say in the log and by an Event why a Study is left alone, once in ten minutes."""
        key = StudyKey(manifest["metadata"]["namespace"], manifest["metadata"]["name"])
        before, at = self._said.get(key, ("", float("-inf")))
        if words == before and time.monotonic() < at + _SAY_AGAIN_SECONDS:
            return
        self._said[key] = words, time.monotonic()
        log.warning("left alone: %s", words)
        await self._events.record(manifest, "ServedElsewhere", words, now, warning=True)

    def _count(self, key: StudyKey, standing: Standing | None) -> None:
        for one in (Standing.ANOTHERS, Standing.LOST):
            if one is standing:
                metrics.NOT_SERVED.labels(*key, one.name.lower()).set(1)
                continue
            with contextlib.suppress(KeyError):
                metrics.NOT_SERVED.remove(*key, one.name.lower())

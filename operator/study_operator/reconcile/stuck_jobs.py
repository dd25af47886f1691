"""Finds out what Kubernetes says of Jobs that get no pod and of pods that do not start, and has Jobs tried again."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from study_operator.kube.api_server import ApiError
from study_operator.kube.client import Cluster
from study_operator.model.cluster_events import Told, last_told
from study_operator.model.job_state import JobState
from study_operator.model.pending_pods import without_pod
from study_operator.model.study import TRIED_ANNOTATION
from study_operator.reconcile.concurrency import gather_all

# Events are listed for so many objects in one look, and again for the same object after this time. Mostly all wait for
# the same reason.
_ASKED_AT_ONCE, _ASK_AGAIN = 8, timedelta(seconds=8)
# After a pod of the study has ended, waiting Jobs are tried for so long, and so often. The quota controller takes some
# seconds to count the pod out.
ROOM_FOR, TRY_AGAIN_SECONDS = timedelta(seconds=15), 2.0
# Without such an end: others may have made room.
_TRY_ANYWAY = timedelta(seconds=20)
_TRIED_AT_ONCE = 16

log = logging.getLogger(__name__)


@dataclass
class StuckJobs:
    """What one process knows of the stuck Jobs of one study. It may be dropped at any time.

    Attributes:
        pods_until: when a Job of the study was last seen to have pods, by the API server's clock; None for never.
    """

    pods_until: datetime | None = None
    _told: dict[str, tuple[datetime, Told | None]] = field(default_factory=dict)
    _with_pods: set[str] = field(default_factory=set)
    _room: int = 0
    _room_until: datetime | None = None
    _tried_at: datetime | None = None

    async def ask(self, cluster: Cluster, namespace: str, uids: Sequence[str], now: datetime) -> Mapping[str, Told]:
        """Return what Events say of some Jobs and pods, by UID.

        Args:
            cluster: where the Events are.
            namespace: the Study's.
            uids: of what is stuck and does not say itself why.
            now: the time of the API server's clock, aware, UTC.
        """
        self._told = {uid: told for uid, told in self._told.items() if uid in set(uids)}
        due = [uid for uid in uids if uid not in self._told or now - self._told[uid][0] >= _ASK_AGAIN]
        asked = due[:_ASKED_AT_ONCE]
        for uid, told in zip(asked, await gather_all(self._ask(cluster, namespace, uid) for uid in asked), strict=True):
            self._told[uid] = (now, told)
        return {uid: told for uid, (_, told) in self._told.items() if told is not None}

    async def _ask(self, cluster: Cluster, namespace: str, uid: str) -> Told | None:
        try:
            return last_told(await cluster.events_of(namespace, uid))
        except ApiError as error:  # they only explain
            log.info("Events cannot be listed: %s", error)
            return None

    def to_try(self, active: Sequence[JobState], now: datetime) -> tuple[Sequence[JobState], float | None]:
        """Return the Jobs whose pods should be tried again now, and in how many seconds to look again.

        The Job controller tries ever more seldom, in the end every ten minutes, whatever happens in between. So with a
        quota below `parallelism` a free place would stay empty.

        Args:
            active: the study's active Jobs.
            now: as `ask`.
        """
        with_pods = {job.name for job in active if job.pods}
        freed = len(self._with_pods - with_pods)
        if with_pods or freed:
            self.pods_until = now
        if freed:
            self._room, self._room_until = freed, now + ROOM_FOR
        self._with_pods = with_pods
        waiting = sorted(without_pod(active), key=lambda job: job.number)
        if not waiting:
            self._room_until = self._tried_at = None
            return (), None
        if self._room_until is not None and now < self._room_until:
            self._tried_at = now
            return waiting[: min(self._room, _TRIED_AT_ONCE)], TRY_AGAIN_SECONDS
        if self._tried_at is None or now - self._tried_at < _TRY_ANYWAY:
            self._tried_at = self._tried_at or now
            return (), None  # a stuck Job is looked at often enough
        self._tried_at = now
        return waiting[:1], None

    async def try_again(self, cluster: Cluster, namespace: str, jobs: Sequence[JobState], now: datetime) -> None:
        """Let the Job controller try at once to create the pods of some Jobs: it does so when a Job changes."""
        for job in jobs:
            try:
                await cluster.annotate_job(namespace, job.name, job.uid, {TRIED_ANNOTATION: now.isoformat()})
            except ApiError as error:  # the controller tries again by itself, later
                log.info("Job %s cannot be tried again: %s", job.name, error)

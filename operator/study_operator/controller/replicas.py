"""Keeps the locks of the studies that this process serves.

One task keeps the connection that holds the locks; other tasks wake it when they need it. A study is served from the
moment its lock is taken. Service ends when the study has been handed over, which waits for a running reconciliation, or
at once when the connection is lost.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from study_operator import metrics
from study_operator.backoff import delays
from study_operator.fence import HEARTBEAT_SECONDS, LEASE_SECONDS, Hold
from study_operator.model import placement
from study_operator.model.study import StudyKey
from study_operator.pool import BlockingPool
from study_operator.storage.database import Database, StorageError, StorageUnavailable
from study_operator.storage.locks import Locks
from study_operator.storage.studies import Studies

# The shortest time between two heartbeats that notifications of other sessions lead to: any login may send those.
_SHORTEST_HEARTBEAT_SECONDS = 0.1
# Between two attempts to join: the first and the longest delay.
_FIRST_DELAY_SECONDS, _LONGEST_DELAY_SECONDS = 0.5, 4.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Serving:
    """What `Replicas` calls when it begins or ends to serve a study.

    Attributes:
        gained: called when this replica begins to serve a study.
        lost: called when this replica does not serve a study any more, so that what it holds in memory of it is
            worthless. May be called again.
        busy: whether the study is being reconciled.
    """

    gained: Callable[[StudyKey], None]
    lost: Callable[[StudyKey], None]
    busy: Callable[[StudyKey], bool]


@dataclass(frozen=True)
class _Takeover:
    """The database knows of a hold.

    Attributes:
        hold: the hold.
        disputed: the earlier holder had not released the study, and may still believe that it holds it.
        views: how often the members had been read when the database was told.
    """

    hold: Hold
    disputed: bool
    views: int


class Replicas:
    """This replica among the others. Belongs to one event loop.

    Args:
        database: where the locks are.
        threads: where `studies` is asked; the locks have a thread of their own.
        studies: keeps the number of each study's latest hold.
        cluster_id: the UID of the cluster's kube-system namespace.
        namespaces: those that this replica watches; empty for all. Replicas that watch the same ones share the studies.
        serving: learns which studies are served.

    Attributes:
        joined: set while the replica is a member.
        alone: whether the replica was the only member when it last was one; None if it never was.
        trouble: why it is not a member, in words.
    """

    def __init__(
        self,
        database: Database,
        threads: BlockingPool,
        studies: Studies,
        cluster_id: str,
        namespaces: Sequence[str],
        serving: Serving,
    ) -> None:
        self._database, self._threads, self._studies, self._serving = database, threads, studies, serving
        self._cluster_id, self._group = cluster_id, placement.group_key(cluster_id, namespaces)
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="locks")
        self._locks: Locks | None = None
        self._members: dict[int, float] = {}  # with the seconds for which each had been silent
        self._views = 0  # how often the members have been read
        self._known: dict[StudyKey, int] = {}  # with the number of the latest notice
        self._notices = itertools.count()
        self._holds: dict[StudyKey, Hold] = {}
        self._unlock: set[StudyKey] = set()
        self._takeovers: dict[StudyKey, _Takeover] = {}
        self._letting_go: dict[StudyKey, asyncio.Task[None]] = {}
        self._own: set[int] = set()  # numbers of all holds that this process has had
        self._safe_at = float("-inf")
        self._leaving = False
        # This process has seen no other replica since it began, and it has never lost its session. So the replica that
        # served the studies before has died.
        self._first = True
        self._lost_at = time.monotonic()
        self.alone: bool | None = None
        self.joined = asyncio.Event()
        self.trouble = "the database has not been reached yet"
        metrics.STUDIES_SERVED.set_function(lambda: len(self._holds))
        metrics.REPLICAS.set_function(lambda: len(self._members))

    # Questions

    def hold(self, key: StudyKey) -> Hold | None:
        """Return the hold by which this process may reconcile a study now; None if it may not."""
        hold = self._holds.get(key)
        return hold if hold is not None and not hold.leaving and hold.valid() else None

    def serves(self, key: StudyKey) -> bool:
        """Return whether this replica needs the study's events: it holds the study, even if it is handing it over."""
        return key in self._holds

    def served(self) -> list[StudyKey]:
        """Return the studies for which `serves` is true."""
        return list(self._holds)

    def known(self) -> dict[StudyKey, int]:
        """Return the studies that exist as far as this replica knows, each with its latest notice; for `forget`."""
        return dict(self._known)

    def leads(self) -> bool:
        """Return whether this replica does what one replica does for all of them."""
        return self._locks is not None and self._locks.member == min(self._members, default=0)

    def without_locks(self) -> float | None:
        """Return for how many seconds this replica has not been a member; None while it is one."""
        return time.monotonic() - self._lost_at if self._locks is None else None

    # News

    def notice(self, key: StudyKey) -> None:
        """Note that a study exists, or that it may have left something, so that one of the replicas has to serve it."""
        new = key not in self._known
        self._known[key] = next(self._notices)
        if new and self._locks is not None and placement.owner(self._members, key) == self._locks.member:
            self._locks.wake()

    def forget(self, seen: Mapping[StudyKey, int]) -> None:
        """Drop studies that no longer exist.

        A study stays if it was noticed again since `seen`, or if this replica still serves it.

        Args:
            seen: from an earlier result of `known`.
        """
        for key, notice in seen.items():
            if self._known.get(key) == notice and key not in self._holds:
                del self._known[key]

    def gone(self, key: StudyKey) -> None:
        """Drop a study for which nothing is left to do. Its lock is released after the running reconciliation."""
        self._known.pop(key, None)
        if (hold := self._holds.get(key)) is not None:
            hold.leaving = True

    def reconciled(self, key: StudyKey) -> None:
        """Go on with a handover that has waited for the end of a reconciliation."""
        hold = self._holds.get(key)
        if hold is None:
            self._serving.lost(key)  # the reconciliation has brought it back into memory
        elif hold.leaving:
            self._let_go(key, hold)

    async def take_over(self, key: StudyKey, hold: Hold) -> float:
        """Tell the database about a hold, once, so that it refuses writes of earlier holders.

        Returns:
            For how many seconds an earlier holder may still believe that it holds the study. Until then, nothing may be
            done. 0 if the earlier holder has released the study, or certainly knows that it has lost it.

        Raises:
            NotHeld: there is a later hold already.
            StorageUnavailable: the database does not answer.
            StorageError: the database refuses the statement.
        """
        takeover = self._takeovers.get(key)
        if takeover is None or takeover.hold is not hold:
            views = self._views
            before = await self._threads.run(self._studies.take_over, key.namespace, key.name, hold.epoch)
            taken_over = any(epoch > 0 and epoch not in self._own for epoch in before)
            takeover = self._takeovers[key] = _Takeover(hold, taken_over and not self._first, views)
            if taken_over:
                metrics.TAKEOVERS.inc()
                log.info("taken over from a replica that has not let go of it")
        if not takeover.disputed:
            return 0.0
        # The earlier holder's member lock may be released a moment after the study's. Only the next view surely lacks
        # it.
        return max(self._safe_at - time.monotonic(), HEARTBEAT_SECONDS if self._views == takeover.views else 0.0, 0.0)

    async def leave(self) -> None:
        """Release all studies, and let `run` end. No reconciliation may be running any more."""
        await asyncio.gather(*self._letting_go.values(), return_exceptions=True)
        try:
            held = [hold.epoch for hold in self._holds.values()]
            await asyncio.wait_for(self._threads.run(self._studies.release, held), LEASE_SECONDS)
        except (StorageUnavailable, StorageError, TimeoutError) as error:
            log.warning("the studies are handed over without a word: %s", error)
        self._leaving = True
        if self._locks is not None:
            self._locks.wake()

    def close(self) -> None:
        """Close the connection, which releases all locks at once."""
        if self._locks is not None:
            self._locks.close()
        self._executor.shutdown(wait=False)

    # The one task that uses the connection

    async def run(self) -> None:
        """Keep the locks until `leave`.

        Raises:
            StorageError: the database is too old, or a pooler gives one connection to several sessions.
        """
        waits = delays(_FIRST_DELAY_SECONDS, _LONGEST_DELAY_SECONDS)
        while not self._leaving:
            try:
                locks = await Locks.join(self._database, self._executor, self._group)
                self._begin(locks)
                await self._keep(locks)
                await locks.leave()
                return
            except StorageUnavailable as error:
                if self.joined.is_set():
                    waits = delays(_FIRST_DELAY_SECONDS, _LONGEST_DELAY_SECONDS)
                delay = next(waits)
                self._end(str(error))
                log.warning("without a connection for locks, trying again in %.1f s: %s", delay, error)
            await asyncio.sleep(delay)

    def _begin(self, locks: Locks) -> None:
        self._locks, self._members = locks, {}
        # The replica that has served a study until now may have lost its lock only just before.
        self._safe_at = time.monotonic() + LEASE_SECONDS
        self._first = self._first and locks.server_age > LEASE_SECONDS

    def _end(self, trouble: str) -> None:
        self.trouble = trouble
        if self._locks is None:
            return
        self._locks.close()
        self._first = False
        self.alone = len(self._members) <= 1
        self._locks, self._members, self._lost_at = None, {}, time.monotonic()
        self.joined.clear()
        self._unlock.clear()
        self._takeovers.clear()
        lost, self._holds = self._holds, {}
        for key in lost:
            self._serving.lost(key)

    async def _keep(self, locks: Locks) -> None:
        while not self._leaving:
            begun = time.monotonic()
            await self._beat(locks)
            if await locks.pause(max(0.0, begun + HEARTBEAT_SECONDS - time.monotonic())):
                await asyncio.sleep(max(0.0, begun + _SHORTEST_HEARTBEAT_SECONDS - time.monotonic()))

    async def _beat(self, locks: Locks) -> None:
        self._see(await locks.members())
        if not self.joined.is_set():
            self.joined.set()
            log.info("replica %d of %d", sorted(self._members).index(locks.member) + 1, len(self._members))
        if self._unlock:
            await self._release(locks)
        mine = placement.share(self._members, locks.member, self._known)
        wanted = {placement.lock_key(self._cluster_id, key): key for key in mine if key not in self._holds}
        if wanted:
            taken, epoch = await locks.take(wanted)
            self._own.add(epoch)
            for number in taken:
                key = wanted[number]
                self._holds[key] = Hold(epoch, locks.lease)
                self._serving.gained(key)
        for key, hold in list(self._holds.items()):
            if key not in mine or hold.superseded:
                hold.leaving = True
            if hold.leaving and not self._serving.busy(key):
                self._let_go(key, hold)

    def _see(self, found: dict[int, float]) -> None:
        now = time.monotonic()
        for member, silent in self._members.items():
            # A member that had been silent for as long as the lease had stopped acting already.
            if member not in found and silent < LEASE_SECONDS:
                self._safe_at = now + LEASE_SECONDS
        self._members, self._first = found, self._first and len(found) == 1
        self._views += 1

    async def _release(self, locks: Locks) -> None:
        keys, self._unlock = self._unlock, set()
        for key in keys:
            self._holds.pop(key, None)
            self._takeovers.pop(key, None)
        await locks.release([placement.lock_key(self._cluster_id, key) for key in keys])

    def _let_go(self, key: StudyKey, hold: Hold) -> None:
        """Forget a study, note in the database that it is released, and then unlock it."""
        if key in self._letting_go or key in self._unlock:
            return
        self._serving.lost(key)
        task = self._letting_go[key] = asyncio.create_task(self._note(key, hold))
        task.add_done_callback(lambda _: self._letting_go.pop(key, None))

    async def _note(self, key: StudyKey, hold: Hold) -> None:
        try:
            await self._threads.run(self._studies.release, [hold.epoch], (key.namespace, key.name))
        except (StorageUnavailable, StorageError) as error:
            log.info("Study %s/%s is handed over without a word: %s", *key, error)
        if self._holds.get(key) is hold and self._locks is not None:
            self._unlock.add(key)
            self._locks.wake()

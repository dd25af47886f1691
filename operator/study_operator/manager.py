"""The running operator: watches, workers and timers around one queue of studies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from study_operator import fence, metrics, probes
from study_operator.clocks import RemoteClock
from study_operator.controller.job_watch import watch_jobs
from study_operator.controller.outage import Outage
from study_operator.controller.replicas import Replicas
from study_operator.controller.reporter_guard import guard
from study_operator.controller.study_watch import watch_studies
from study_operator.controller.workqueue import WorkQueue
from study_operator.kube.client import ApiError, Cluster
from study_operator.logs import study_context
from study_operator.model.study import StudyKey
from study_operator.podlogs.follower import Follower
from study_operator.pool import BlockingPool
from study_operator.reconcile.reconciler import Reconciler
from study_operator.settings import Settings
from study_operator.storage.database import Database, StorageError, StorageFull, StorageUnavailable
from study_operator.storage.listen import listen
from study_operator.storage.studies import Studies

READINESS_INTERVAL_SECONDS, READINESS_TIMEOUT_SECONDS = 5.0, 15.0  # seconds
SHUTDOWN_SECONDS = 15.0  # for how many seconds looks that are going on are waited for at the end
# Of a thousand trials that run, one ends every few milliseconds, and a look for each of them would leave the API server
# and the other studies no CPU. So a study of which looks read for longer than READ_BUDGET_SECONDS rests until that is a third of the
# time; what it does with what it has read counts as rest. Seconds.
READ_BUDGET_SECONDS, LONGEST_REST_SECONDS = 0.1, 2.0
JOINING = "no connection for locks yet: looking for the other replicas"

log = logging.getLogger(__name__)


class Service:
    """One operator process. `run` returns when `stop` is set.

    Raises:
        StorageError: from `run`, when the database is not one that this version may work on.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._queue: WorkQueue[StudyKey] = WorkQueue()
        metrics.QUEUE_DEPTH.set_function(self._queue.__len__)
        self._health = probes.Health(self._queue.longest_work)
        self._threads = BlockingPool(settings.storage_threads)
        self._database = Database(settings.dsn)
        self._clock = RemoteClock()  # the database's
        self.stop = asyncio.Event()

    async def run(self) -> None:
        server = probes.serve(self._health, self._settings.http_port)
        cluster = await Cluster.connect()
        # LISTEN has a thread of its own to connect in: the storage threads may all be waiting for a dead database.
        listener = ThreadPoolExecutor(1, thread_name_prefix="listen")
        follower = Follower.on(cluster, self._threads, self._database, self._queue.add)
        try:
            cluster_id = await self._cluster_id(cluster)
            self._studies = Studies(self._database, cluster_id)
            self._reconciler = Reconciler(
                self._settings,
                cluster,
                cluster_id,
                self._database,
                self._threads,
                follower,
                self._clock.now,
                cluster.clock.now,
            )
            self._cluster, self._follower = cluster, follower
            self._replicas = Replicas(
                self._database, self._threads, self._studies, cluster_id, self._settings.watch_namespaces, self
            )
            nobody_ready = partial(cluster.nobody_ready, *self._settings.service) if self._settings.service else None
            self._outage = Outage(self._replicas, nobody_ready, self._tell_all)
            await self._check_storage()  # a database of another version ends the process here, with a sentence
            with contextlib.suppress(ApiError):  # the watch will tell
                for key, _ in await self._present():
                    self._replicas.notice(key)  # before this replica is seen: what it is handed over, it must know of
            await self._until_stopped(
                self._readiness(),
                self._resync(),
                self._outage.watch(),
                guard(self._settings, self._replicas.leads),
                listen(self._database, listener, self._reported, self._look_at_all_soon),
                watch_studies(self._noticed, self._settings.watch_namespaces),
                watch_jobs(
                    cluster.configuration,
                    self._changed,
                    self._moved,
                    self._look_at_all_soon,
                    self._settings.watch_namespaces,
                ),
            )
        finally:
            await follower.close()
            await cluster.close()
            server.shutdown()
            server.server_close()
            self._threads.shutdown()
            listener.shutdown(wait=False)

    async def _until_stopped(self, *watching: Coroutine[Any, Any, None]) -> None:
        """Runs everything; at the end, lets the looks that are going on end, and hands the studies over."""
        for number in (signal.SIGTERM, signal.SIGINT):  # until now nothing is served
            asyncio.get_running_loop().add_signal_handler(number, self.stop.set)
        alive, locks = asyncio.ensure_future(self._sign_of_life()), asyncio.ensure_future(self._replicas.run())
        others = [asyncio.ensure_future(coroutine) for coroutine in (*watching, self.stop.wait())]
        workers = [asyncio.ensure_future(self._work()) for _ in range(self._settings.workers)]
        done, _ = await asyncio.wait([alive, locks, *others, *workers], return_when=asyncio.FIRST_COMPLETED)
        self.stop.set()
        await _cancelled(others)
        self._queue.close()
        await asyncio.wait(workers, timeout=SHUTDOWN_SECONDS)  # while the locks are still kept
        await _cancelled(workers)
        await self._follower.close()
        await self._replicas.leave()
        await asyncio.wait([locks], timeout=fence.LEASE_SECONDS)
        await _cancelled([alive, locks])
        self._replicas.close()
        for task in done:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _cluster_id(self, cluster: Cluster) -> str:
        delay = 1.0
        while True:
            try:
                found = await cluster.cluster_id()
                await cluster.list_studies(next(iter(self._settings.watch_namespaces), None))
                return found
            except ApiError as error:
                hint = "; is the CRD installed?" if error.status == 404 else ""
                log.warning("waiting for the API server, trying again in %.0f s: %s%s", delay, error, hint)
                await asyncio.sleep(delay)
                self._health.progress()
                delay = min(delay * 2, 10.0)

    # What the replicas want

    def gained(self, key: StudyKey) -> None:
        self._queue.add(key)

    def lost(self, key: StudyKey) -> None:
        self._reconciler.forget(key)

    def busy(self, key: StudyKey) -> bool:
        return self._queue.working(key)

    # Work

    async def _work(self) -> None:
        while (got := await self._queue.get()) is not None:
            key, noticed = got
            begun, acted = time.monotonic(), 0.0
            try:
                with study_context(*key):
                    acted = await self._serve(key, noticed)
            finally:
                read = time.monotonic() - begun - acted
                self._queue.done(key, min(max(2 * (read - READ_BUDGET_SECONDS) - acted, 0.0), LONGEST_REST_SECONDS))
                self._replicas.looked(key)

    async def _serve(self, key: StudyKey, noticed: float) -> float:
        """Looks at a study if it is served here. Returns for how many seconds it has acted on it."""
        hold = self._replicas.hold(key)
        if hold is None:
            if self._replicas.serves(key):
                self._queue.add_after(
                    key, fence.HEARTBEAT_SECONDS
                )  # the database is only slow to answer, or it is handed over
            elif self._outage.words() is not None:
                await self._tell_outage(key)
            return 0.0
        with fence.under(hold):
            try:
                if wait := await self._replicas.claim(key, hold):
                    self._queue.add_after(key, wait)
                else:
                    return await self._look(key, noticed)
            except fence.NotHeld as error:
                log.warning("left off: %s", error)
                self._queue.add_after(key, fence.HEARTBEAT_SECONDS)
            except (StorageUnavailable, StorageError) as error:
                log.warning("trying again in %.1f s: %s", self._queue.retry(key), error)
        return 0.0

    async def _look(self, key: StudyKey, noticed: float) -> float:
        begun = time.perf_counter()
        try:
            look = await self._reconciler.reconcile(key, noticed)
        except ApiError as error:
            log.warning("trying again in %.1f s: %s", self._queue.retry(key), error)
            return 0.0
        except fence.NotHeld:
            raise
        except Exception:
            log.exception("trying again in %.1f s", self._queue.retry(key))
            return 0.0
        finally:
            metrics.RECONCILE.observe(time.perf_counter() - begun)
        if look.failed:
            delay = self._queue.retry(key)
            if look.troubles:
                log.warning("trying again in %.1f s: %s", delay, "; ".join(look.troubles[:3]))
        else:
            self._queue.succeeded(key)
        if look.again is not None:
            self._queue.add_after(key, look.again)
        if look.gone and not self._queue.again(key):  # otherwise there may be a new Study of that name by now
            self._replicas.gone(key)
        return look.acted

    def _noticed(self, key: StudyKey) -> None:
        """Something has happened to a Study."""
        self._replicas.notice(key)
        if self._replicas.serves(key) or self._outage.words() is not None:
            self._queue.add(key)

    def _changed(self, key: StudyKey) -> None:
        """Something has happened to a study's Jobs."""
        if self._replicas.serves(key):
            self._queue.add(key)

    def _moved(self, key: StudyKey) -> None:
        """Nothing is to be decided; people see it in the status, which is written no more often than this."""
        if self._replicas.serves(key):
            self._queue.add_after(key, self._reconciler.status_interval())

    def _reported(self, study_id: int) -> None:
        if (key := self._reconciler.reported(study_id)) is None:
            return
        if self._reconciler.prunes(key):
            self._queue.add(key)
        else:
            self._moved(key)

    # Timers

    async def _sign_of_life(self) -> None:
        while True:
            self._health.progress()
            await asyncio.sleep(1.0)

    async def _readiness(self) -> None:
        while True:
            await asyncio.sleep(READINESS_INTERVAL_SECONDS if self._health.not_ready != JOINING else 0.1)
            await self._check_storage()

    async def _check_storage(self) -> None:
        trouble = full = None
        try:
            self._clock.heard(await asyncio.wait_for(self._threads.run(self._studies.check), READINESS_TIMEOUT_SECONDS))
        except StorageFull as error:
            trouble, full = f"the database has no room: {error}", str(error)
        except StorageUnavailable as error:
            trouble = f"the database does not answer: {error}"
        except TimeoutError:
            trouble = f"the database has not answered for {READINESS_TIMEOUT_SECONDS:.0f} s"
        before = self._health.not_ready
        # In a rolling update the one before ends as soon as this one is ready.
        self._health.not_ready = trouble or (None if self._replicas.joined.is_set() else JOINING)
        if trouble and before in (None, "starting", JOINING):
            log.warning("%s", trouble)
        elif trouble is None and before not in (None, "starting", JOINING):
            log.info("the database answers again")
            self._look_at_all_soon()
        if self._reconciler.database_full(full):
            self._look_at_all_soon()

    async def _resync(self) -> None:
        """Events can get lost: all studies are looked at from time to time, and those that are gone are cleaned up."""
        while True:
            delay = self._settings.resync_seconds
            try:
                await self._look_at_all()
            except (ApiError, StorageUnavailable, StorageError) as error:
                log.warning("could not look for lost events and deleted Studies, trying again soon: %s", error)
                delay = min(delay, 10.0)
            await asyncio.sleep(delay)

    async def _look_at_all(self) -> None:
        await self._replicas.joined.wait()
        heard_of = self._replicas.known()
        stored = await self._reconciler.known_studies()  # before the list: what is not in it then is really gone
        present = await self._present()
        uids = {uid for _, uid in present}
        left = {StudyKey(study.namespace, study.name) for study in stored if study.uid not in uids}
        there = {key for key, _ in present} | left
        self._replicas.forget({key: notice for key, notice in heard_of.items() if key not in there})
        for key in left:
            self._reconciler.look_for_predecessors(key)
        for key in there:
            self._noticed(key)

    async def _present(self) -> list[tuple[StudyKey, str]]:
        """The Studies that there are, with their UIDs."""
        return [
            (StudyKey(manifest["metadata"]["namespace"], manifest["metadata"]["name"]), manifest["metadata"]["uid"])
            for namespace in self._settings.watch_namespaces or (None,)
            for manifest in await self._cluster.list_studies(namespace)
        ]

    def _look_at_all_soon(self) -> None:
        for key in self._replicas.served():
            self._queue.add(key)

    # Without a database

    def _tell_all(self) -> None:
        for key in self._replicas.known():
            self._queue.add(key)

    async def _tell_outage(self, key: StudyKey) -> None:
        try:
            await self._reconciler.tell_outage(key, self._replicas.trouble)
        except ApiError as error:
            log.warning("trying again in %.1f s: %s", self._queue.retry(key), error)
        else:
            self._queue.succeeded(key)


async def _cancelled(tasks: list[asyncio.Future]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def run(settings: Settings) -> None:
    """Runs the operator until SIGTERM or SIGINT."""
    service = Service(settings)
    with contextlib.suppress(asyncio.CancelledError):
        await service.run()

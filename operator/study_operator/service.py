"""The running operator: watches, workers and timers around one queue of studies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from concurrent.futures import ThreadPoolExecutor

from study_operator import metrics, probes
from study_operator.clocks import RemoteClock
from study_operator.cluster import ApiError, Cluster
from study_operator.follow import Follower
from study_operator.logs import study_context
from study_operator.publish import STATUS_INTERVAL
from study_operator.queue import Queue
from study_operator.reconcile import Key, Reconciler
from study_operator.settings import Settings
from study_operator.storage.database import Database, StorageError, StorageUnavailable
from study_operator.storage.listen import listen
from study_operator.storage.migrate import renew_reporter
from study_operator.storage.studies import Studies
from study_operator.storage.threads import StorageThreads
from study_operator.watch import watch

READINESS_INTERVAL, READINESS_TIMEOUT = 5.0, 15.0  # seconds

log = logging.getLogger(__name__)


class Service:
    """One operator process. `run` returns when `stop` is set.

    Raises:
        StorageError: from `run`, when the database is not one that this version may work on.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._queue: Queue[Key] = Queue()
        metrics.QUEUE_DEPTH.set_function(self._queue.__len__)
        self._health = probes.Health(self._queue.longest_work)
        self._threads = StorageThreads(settings.storage_threads)
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
            self._cluster = cluster
            await self._check_storage()  # a database of another version ends the process here, with a sentence
            forever = [
                self._sign_of_life(),
                self._readiness(),
                self._resync(),
                listen(self._database, listener, self._reported, self._look_at_all_soon),
                watch(self._queue.add, self._moved, self._settings.watch_namespaces, self.stop),
                *(self._work() for _ in range(self._settings.workers)),
            ]
            await self._until_stopped(forever)
        finally:
            await follower.close()
            await cluster.close()
            server.shutdown()
            server.server_close()
            self._threads.shutdown()
            listener.shutdown(wait=False)

    async def _until_stopped(self, forever: list) -> None:
        tasks = [asyncio.ensure_future(coroutine) for coroutine in forever]
        tasks.append(asyncio.ensure_future(self.stop.wait()))
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        self.stop.set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
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

    # Work

    async def _work(self) -> None:
        while True:
            key, noticed = await self._queue.get()
            try:
                with study_context(*key):
                    await self._look(key, noticed)
            finally:
                self._queue.done(key)

    async def _look(self, key: Key, noticed: float) -> None:
        begun = time.perf_counter()
        try:
            look = await self._reconciler.reconcile(key, noticed)
        except ApiError as error:
            log.warning("trying again in %.1f s: %s", self._queue.retry(key), error)
            return
        except Exception:
            log.exception("trying again in %.1f s", self._queue.retry(key))
            return
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

    def _moved(self, key: Key) -> None:
        """Nothing is to be decided; people see it in the status, which is written no more often than this."""
        self._queue.add_after(key, STATUS_INTERVAL)

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
            await asyncio.sleep(READINESS_INTERVAL)
            await self._check_storage()

    async def _check_storage(self) -> None:
        trouble = None
        try:
            self._clock.heard(await asyncio.wait_for(self._threads.run(self._studies.check), READINESS_TIMEOUT))
        except StorageUnavailable as error:
            trouble = f"the database does not answer: {error}"
        except TimeoutError:
            trouble = f"the database has not answered for {READINESS_TIMEOUT:.0f} s"
        before, self._health.not_ready = self._health.not_ready, trouble
        if trouble and before in (None, "starting"):
            log.warning("%s", trouble)
        elif trouble is None and before not in (None, "starting"):
            log.info("the database answers again")
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
        if self._settings.manage_reporter:
            await self._renew_reporter()
        known = await self._reconciler.gone.known()  # before the list: what is not in it then is really gone
        present: set[str] = set()
        for namespace in self._settings.watch_namespaces or (None,):
            for manifest in await self._cluster.list_studies(namespace):
                present.add(manifest["metadata"]["uid"])
                self._queue.add(Key(manifest["metadata"]["namespace"], manifest["metadata"]["name"]))
        await self._reconciler.gone.sweep(known, present)

    async def _renew_reporter(self) -> None:
        try:
            await self._threads.run(renew_reporter, self._database, self._settings)
        except StorageError as error:
            log.warning("%s", error)  # reports may still arrive; the next time is soon enough

    def _look_at_all_soon(self) -> None:
        for key in self._reconciler.served():
            self._queue.add(key)


async def run(settings: Settings) -> None:
    """Runs the operator until SIGTERM or SIGINT."""
    service = Service(settings)
    with contextlib.suppress(asyncio.CancelledError):
        await service.run()

"""The process: builds everything, starts it, and ends it in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

from study_operator import fence, metrics, probes
from study_operator.backoff import delays
from study_operator.clocks import RemoteClock
from study_operator.controller.controller import Controller
from study_operator.controller.database_usage import measure_database
from study_operator.controller.job_watch import watch_jobs
from study_operator.controller.namespaces import Namespaces
from study_operator.controller.replicas import Replicas, Serving
from study_operator.controller.reporter_guard import guard
from study_operator.controller.study_watch import watch_studies
from study_operator.controller.workqueue import WorkQueue
from study_operator.kube.api_server import ApiError
from study_operator.kube.client import Cluster
from study_operator.model.study import StudyKey
from study_operator.podlogs.follower import Follower
from study_operator.pool import BlockingPool
from study_operator.processes.client import Limits, Optimizers
from study_operator.processes.launch import optimizer_process
from study_operator.reconcile.event_recorder import EventRecorder
from study_operator.reconcile.reconciler import Reconciler
from study_operator.settings import Settings, SettingsError
from study_operator.storage.database import Database
from study_operator.storage.listen import listen
from study_operator.storage.studies import Studies

SHUTDOWN_SECONDS = 15.0  # how long running reconciliations are waited for at the end
# Between two attempts to reach the API server at the start: the first and the longest delay.
FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS = 1.0, 10.0

log = logging.getLogger(__name__)


class Manager:
    """One operator process. `connect` builds it; `run` returns when `stop` is set.

    Args:
        settings: the operator's.
        cluster: the API server.
        cluster_id: the UID of the cluster's kube-system namespace.
        database: PostgreSQL; it need not answer yet.
        threads: where everything that blocks is done.
        listener: one thread that opens the connection for LISTEN. The threads of the pool may all be waiting for a dead
            database.
        optimizers: where studies compute.
        queue: the studies to reconcile.
        health: what the probes tell.
        namespaces: those that are served; to be read before.

    Attributes:
        stop: ends `run` when it is set; so do SIGTERM and SIGINT.
        queue, health, threads: as given.
        controller: decides when a study is reconciled.
        replicas: which studies this replica serves.
        serving: what `replicas` calls.
        follower: reads pods' logs; to be closed at the end.
    """

    def __init__(
        self,
        settings: Settings,
        cluster: Cluster,
        cluster_id: str,
        database: Database,
        threads: BlockingPool,
        listener: ThreadPoolExecutor,
        optimizers: Optimizers,
        queue: WorkQueue[StudyKey],
        health: probes.Health,
        namespaces: Namespaces,
    ) -> None:
        self._settings, self._cluster, self._database, self._listener = settings, cluster, database, listener
        self._cluster_id, self._events = cluster_id, EventRecorder(cluster)
        self._namespaces = namespaces
        self.queue, self.health, self.stop, self.threads = queue, health, asyncio.Event(), threads
        clock = RemoteClock()  # the database's
        studies = Studies(database, cluster_id)
        self.follower = Follower.on(cluster, threads, database, queue.add)
        reconciler = Reconciler(
            settings,
            cluster,
            cluster_id,
            database,
            studies,
            threads,
            optimizers,
            self.follower,
            clock.now,
            cluster.clock.now,
        )
        self.serving = Serving(gained=queue.add, lost=reconciler.forget, busy=queue.working)
        served = settings.watch_namespaces or (settings.namespace_selector,)
        self.replicas = Replicas(database, threads, studies, cluster_id, served, self.serving)
        nobody_ready = partial(cluster.nobody_ready, *settings.service) if settings.service else None
        self.controller = Controller(
            settings,
            cluster,
            threads,
            studies,
            reconciler,
            self.replicas,
            queue,
            health,
            clock,
            namespaces,
            nobody_ready,
        )

    @classmethod
    @asynccontextmanager
    async def connect(cls, settings: Settings) -> AsyncIterator[Manager]:
        """Serve the probes, wait for the API server, and build the process; close everything at the end.

        Raises:
            SettingsError: the port of the probes is taken, or may not be used; or the API server does not understand
                the selector of namespaces.
        """
        async with AsyncExitStack() as stack:
            queue: WorkQueue[StudyKey] = WorkQueue(workers=settings.workers, owner=lambda key: key.namespace)
            metrics.QUEUE_DEPTH.set_function(queue.__len__)
            threads, listener = BlockingPool(settings.storage_threads), ThreadPoolExecutor(1, "listen")
            stack.callback(listener.shutdown, wait=False)
            stack.callback(threads.shutdown)
            health = probes.Health()
            try:
                server = probes.serve(health, settings.http_port)
            except OSError as error:
                why = os.strerror(error.errno or 0)  # asyncio's own text names the address twice
                raise SettingsError(f"HTTP_PORT is {settings.http_port}: {why}; write a port that is free") from None
            stack.callback(server.close)
            optimizers = _optimizers(stack, settings)
            cluster = await Cluster.connect()
            stack.push_async_callback(cluster.close)
            namespaces = _namespaces(cluster, settings)
            cluster_id = await _cluster_id(cluster, settings, namespaces, health.progress)
            database = Database(settings.dsn)
            manager = cls(
                settings, cluster, cluster_id, database, threads, listener, optimizers, queue, health, namespaces
            )
            stack.push_async_callback(manager.follower.close)
            yield manager

    async def run(self) -> None:
        """Serve studies until `stop` is set.

        Raises:
            StorageError: the database is not one that this version may work on.
        """
        settings, controller = self._settings, self.controller
        await controller.check_readiness()  # a database of another version ends the process here, with a sentence
        # Before the other replicas see this one: it must know the studies that they hand over to it.
        with contextlib.suppress(ApiError):  # the watch will tell
            await controller.notice_present()
        await self._until_stopped(
            controller.watch_readiness(),
            controller.resync(),
            controller.outage.watch(),
            measure_database(self._database, self.threads),
            guard(settings, self._cluster_id, self.replicas.leads, self._tell_of_database),
            listen(
                self._database,
                self._listener,
                controller.trial_reported,
                controller.wished,
                controller.queue_served,
            ),
            self._namespaces.watch(controller.namespaces_changed),
            watch_studies(
                controller.study_seen,
                controller.study_exists,
                settings.watch_namespaces,
                controller.study_deleted,
                partial(self.health.watching, "Studies"),
            ),
            watch_jobs(
                self._cluster.configuration,
                controller.job_ended,
                controller.job_moved,
                controller.queue_served,
                settings.watch_namespaces,
                partial(self.health.watching, "Jobs"),
            ),
        )

    async def _until_stopped(self, *watching: Coroutine[Any, Any, None]) -> None:
        """Run everything. At the end, let running reconciliations end, and then hand the studies over.

        Raises:
            BaseException: whatever has ended a task.
        """
        for number in (signal.SIGTERM, signal.SIGINT):  # until now this replica has served nothing
            asyncio.get_running_loop().add_signal_handler(number, self.stop.set)
        alive, locks = asyncio.create_task(self._show_progress()), asyncio.create_task(self.replicas.run())
        others: list[asyncio.Task[object]] = [asyncio.create_task(coroutine) for coroutine in watching]
        others.append(asyncio.create_task(self.stop.wait()))
        workers = [asyncio.create_task(self.controller.work()) for _ in range(self._settings.workers)]
        done, _ = await asyncio.wait([alive, locks, *others, *workers], return_when=asyncio.FIRST_COMPLETED)
        self.stop.set()
        await _cancel(others)
        self.queue.close()
        self.controller.end_looks("the operator ends")
        await asyncio.wait(workers, timeout=SHUTDOWN_SECONDS)  # while the locks are still kept
        await _cancel(workers)
        await self.follower.close()
        await self.replicas.leave()
        await asyncio.wait([locks], timeout=fence.LEASE_SECONDS)
        await _cancel([alive, locks])
        self.replicas.close()
        for task in done:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _tell_of_database(self, sentence: str) -> None:
        """Record a Warning Event on the operator's own pod: a login of pods has been set right."""
        if self._settings.pod is not None:
            namespace, name, uid = self._settings.pod
            meta = {"namespace": namespace, "name": name, "uid": uid}
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": meta}
            await self._events.record(pod, "LoginHealed", sentence, self._cluster.clock.now(), warning=True)

    async def _show_progress(self) -> None:
        """Tell `health` every second that the event loop is alive, and the log which looks take long."""
        while True:
            self.health.progress()
            self.controller.name_long_looks()
            await asyncio.sleep(1.0)


def _optimizers(stack: AsyncExitStack, settings: Settings) -> Optimizers:
    """Return where studies compute: in the processes that the pod's other container forks, or else in a child's."""
    path = settings.optimizer_socket or stack.enter_context(optimizer_process())
    limits = Limits(settings.optimizer_processes, settings.optimizer_seconds, settings.optimizer_memory)
    optimizers = Optimizers(path, limits, settings.sampler_classes)
    stack.callback(optimizers.close)
    return optimizers


async def run(settings: Settings) -> bool:
    """Run the operator until SIGTERM or SIGINT. Raises as `Manager.run` does.

    Returns:
        Whether threads still block that did not end in time. Nobody waits for what they do, and whatever they write is
        refused, because the studies have been handed over.
    """
    with contextlib.suppress(asyncio.CancelledError):
        async with Manager.connect(settings) as manager:
            await manager.run()
            return manager.threads.busy > 0
    return False


def _namespaces(cluster: Cluster, settings: Settings) -> Namespaces:
    own = settings.service[0] if settings.service else None
    return Namespaces(cluster.configuration, settings.watch_namespaces, settings.namespace_selector, own)


async def _cluster_id(
    cluster: Cluster, settings: Settings, namespaces: Namespaces, progress: Callable[[], None]
) -> str:
    """Return the cluster's ID as soon as the API server answers, knows Studies, and has told which namespaces to serve.

    Args:
        progress: called after each attempt that has failed.

    Raises:
        SettingsError: the API server does not understand the selector of namespaces.
    """
    waits = delays(FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS)
    while True:
        try:
            found = await cluster.cluster_id()
            await namespaces.read()
            await cluster.list_studies(next(iter(settings.watch_namespaces), None))
            return found
        except ApiError as error:
            if error.status == 400 and settings.namespace_selector:
                raise SettingsError(
                    f"WATCH_NAMESPACE_SELECTOR is {settings.namespace_selector!r}; write labels such as "
                    f"studies=yes,team in (a,b): {error.message}"
                ) from None
            hint, delay = "; is the CRD installed?" if error.status == 404 else "", next(waits)
            log.warning("waiting for the API server, trying again in %.0f s: %s%s", delay, error, hint)
            await asyncio.sleep(delay)
            progress()


async def _cancel(tasks: Iterable[asyncio.Task[object]]) -> None:
    """Cancel the tasks and wait until they have ended."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

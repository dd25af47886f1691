"""Decides when a study is reconciled, and lets workers do it.

Events and timers add keys of studies to the work queue. Workers take keys from it and reconcile the studies that this
replica serves.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable

from study_operator import fence, looks, metrics
from study_operator.clocks import RemoteClock
from study_operator.controller.namespaces import Namespaces
from study_operator.controller.outage import Outage
from study_operator.controller.replicas import Replicas
from study_operator.controller.workqueue import WorkQueue
from study_operator.kube.api_server import ApiError
from study_operator.kube.client import Cluster
from study_operator.logs import study_context
from study_operator.model.study import StudyKey
from study_operator.pool import BlockingPool
from study_operator.probes import Health
from study_operator.reconcile.reconciler import Reconciler
from study_operator.settings import Settings
from study_operator.storage.database import StorageError, StorageFull, StorageUnavailable
from study_operator.storage.studies import Studies

READINESS_INTERVAL_SECONDS, READINESS_TIMEOUT_SECONDS = 5.0, 15.0
# The longest time, in seconds, until a sweep that has failed is tried again.
SWEEP_AGAIN_SECONDS = 10.0
# Limits the share of time that is spent reading. With a thousand running trials, one ends every few milliseconds, and a
# reconciliation for each end would leave the API server and the other studies no CPU. If a reconciliation reads for
# longer than READ_BUDGET_SECONDS, its study pauses for twice the excess, so that reading takes a third of the time.
# Time spent acting counts as pause.
READ_BUDGET_SECONDS, LONGEST_REST_SECONDS = 0.1, 2.0
JOINING = "no connection for locks yet: looking for the other replicas"

log = logging.getLogger(__name__)


class Controller:
    """Workers, event handlers and timers around one queue of studies. Belongs to one event loop.

    Args:
        settings: the operator's.
        cluster: lists the Studies.
        threads: where the database is asked.
        studies: the rows of the studies in the database.
        reconciler: reconciles one study.
        replicas: says which studies this replica serves.
        queue: shared with whatever else adds keys.
        health: learns whether the database answers.
        clock: the database's; it is set here.
        namespaces: those that are served.
        nobody_ready: asks Kubernetes whether no replica is ready; None when Kubernetes does not know the replicas.

    Attributes:
        outage: whether the statuses are to say that the database is away.
    """

    def __init__(
        self,
        settings: Settings,
        cluster: Cluster,
        threads: BlockingPool,
        studies: Studies,
        reconciler: Reconciler,
        replicas: Replicas,
        queue: WorkQueue[StudyKey],
        health: Health,
        clock: RemoteClock,
        namespaces: Namespaces,
        nobody_ready: Callable[[], Awaitable[bool]] | None,
    ) -> None:
        self._settings, self._cluster, self._threads, self._studies = settings, cluster, threads, studies
        self._reconciler, self._replicas, self._queue = reconciler, replicas, queue
        self._health, self._clock, self._namespaces = health, clock, namespaces
        self._sweep_now = asyncio.Event()
        self._looks: dict[StudyKey, looks.Look] = {}
        metrics.LONGEST_LOOKS.going_on = self._going_on
        self.outage = Outage(replicas, nobody_ready, self._queue_known)

    # Workers

    async def work(self) -> None:
        """Take keys from the queue, one after the other, until the queue is closed. Several workers may run."""
        while (got := await self._queue.get()) is not None:
            key, noticed = got
            look, acted = looks.Look(), 0.0
            self._looks[key] = look
            try:
                with study_context(*key), looks.under(look):
                    acted = await self._serve(key, noticed)
            finally:
                del self._looks[key]
                read = look.seconds - acted
                metrics.LONGEST_LOOKS.ended(*key, look.seconds)
                self._queue.done(key, min(max(2 * (read - READ_BUDGET_SECONDS) - acted, 0.0), LONGEST_REST_SECONDS))
                self._replicas.reconciled(key)

    async def _serve(self, key: StudyKey, noticed: float) -> float:
        """Reconcile a study if this replica serves it. Return for how many seconds it has acted."""
        hold = self._replicas.hold(key)
        if hold is None:
            if self._replicas.serves(key):
                # The database only answers slowly, or the study is being handed over.
                self._queue.add_after(key, fence.HEARTBEAT_SECONDS)
            elif self.outage.words() is not None:
                await self._tell_outage(key)
            return 0.0
        with fence.under(hold):
            try:
                if wait := await self._replicas.take_over(key, hold):
                    self._queue.add_after(key, wait)
                else:
                    return await self._reconcile(key, noticed)
            except fence.NotHeld as error:
                log.warning("left off: %s", error)
                self._queue.add_after(key, fence.HEARTBEAT_SECONDS)
            except (StorageUnavailable, StorageError) as error:
                log.warning("trying again in %.1f s: %s", self._queue.retry(key), error)
        return 0.0

    async def _reconcile(self, key: StudyKey, noticed: float) -> float:
        """Reconcile a study and queue it again if needed. Return for how many seconds it has acted.

        Raises:
            NotHeld: this replica does not serve the study any more.
        """
        begun = time.perf_counter()
        try:
            result = await self._reconciler.reconcile(key, noticed, self._queue.throttled(key))
        except looks.Ended as end:
            log.info("left off: %s", end)
            return 0.0
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
        if result.failed:
            delay = self._queue.retry(key)
            if result.troubles:
                log.warning("trying again in %.1f s: %s", delay, "; ".join(result.troubles[:3]))
        else:
            self._queue.succeeded(key)
        if result.again is not None:
            self._queue.add_after(key, result.again)
        if result.gone and not self._queue.again(key):  # otherwise there may be a new Study of that name by now
            self._replicas.gone(key)
        return result.acted

    def end_looks(self, why: str) -> None:
        """Let all looks end as soon as they can."""
        for look in self._looks.values():
            look.end(why)

    def name_long_looks(self) -> None:
        """Log which studies are being looked at for long. To be called every second or so."""
        for key, look in list(self._looks.items()):
            if look.to_be_named():
                with study_context(*key):
                    log.warning(
                        "this look takes long: for %.0f s so far; it %s. Other studies are served meanwhile",
                        look.seconds,
                        look.doing,
                    )

    def _going_on(self) -> dict[tuple[str, str], float]:
        return {(key.namespace, key.name): look.seconds for key, look in list(self._looks.items())}

    async def _tell_outage(self, key: StudyKey) -> None:
        try:
            await self._reconciler.tell_outage(key, self._replicas.trouble)
        except ApiError as error:
            log.warning("trying again in %.1f s: %s", self._queue.retry(key), error)
        else:
            self._queue.succeeded(key)

    # Event handlers

    def study_seen(self, key: StudyKey) -> None:
        """Queue a study that an event of the watch is about, if its namespace is served."""
        if self._namespaces.serves(key.namespace):
            self.study_changed(key)

    def namespaces_changed(self) -> None:
        """Look at once which studies there are now: others are served than before."""
        self._sweep_now.set()

    def study_changed(self, key: StudyKey) -> None:
        """Queue a study whose Study object was created, changed or deleted."""
        self._replicas.notice(key)
        if self._replicas.serves(key) or self.outage.words() is not None:
            self._queue.add(key)

    def study_exists(self, key: StudyKey, created: str, uid: str) -> None:
        """Note that a Study exists, also one that another replica serves: Studies of a namespace are counted."""
        self._reconciler.intake.note(key, created, uid)

    def study_deleted(self, key: StudyKey) -> None:
        """End the look at a Study that is deleted; `study_changed` is called as well."""
        if (look := self._looks.get(key)) is not None:
            look.end("the Study is deleted")

    def job_ended(self, key: StudyKey) -> None:
        """Queue a study because one of its Jobs has ended or was deleted."""
        if self._replicas.serves(key):
            self._queue.add(key)

    def job_moved(self, key: StudyKey) -> None:
        """Queue a study for later because one of its Jobs goes on as expected.

        There is nothing to decide. Only the counts in the status change, and a status is not written more often.
        """
        if self._replicas.serves(key):
            self._queue.add_after(key, self._reconciler.status_interval())

    def trial_reported(self, study_id: int) -> None:
        """Queue the study of a trial that has reported: at once if the report calls for a decision of the pruner."""
        if (key := self._reconciler.reported(study_id)) is None:
            return
        if self._reconciler.prunes(key):
            self._queue.add(key)
        else:
            self.job_moved(key)

    def wished(self, study_id: int) -> None:
        """Queue a study of which a user wishes something, at once."""
        if (key := self._reconciler.key_of(study_id)) is not None:
            self._queue.add(key)

    def queue_served(self) -> None:
        """Queue every study that this replica serves, because events or reports may have been missed."""
        self._queue_all(self._replicas.served())

    def _queue_known(self) -> None:
        self._queue_all(self._replicas.known())

    def _queue_all(self, keys: Iterable[StudyKey]) -> None:
        for key in keys:
            self._queue.add(key)

    # Timers

    async def watch_readiness(self) -> None:
        """Ask the database every few seconds, until cancelled. Raises as `check_readiness` does."""
        while True:
            await asyncio.sleep(READINESS_INTERVAL_SECONDS if self._health.not_ready != JOINING else 0.1)
            await self.check_readiness()

    async def check_readiness(self) -> None:
        """Ask the database whether it answers and has room, and hear its clock.

        Raises:
            StorageError: the database is not one that this version may work on.
        """
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
        # In a rolling update, the replica before this one ends as soon as this one is ready.
        self._health.not_ready = trouble or (None if self._replicas.joined.is_set() else JOINING)
        if trouble and before in (None, "starting", JOINING):
            log.warning("%s", trouble)
        elif trouble is None and before not in (None, "starting", JOINING):
            log.info("the database answers again")
            self.queue_served()
        if self._reconciler.database_full(full):
            self.queue_served()

    async def resync(self) -> None:
        """Sweep from time to time, until cancelled: events can get lost, and deleted Studies leave rows behind."""
        while True:
            delay = self._settings.resync_seconds
            self._sweep_now.clear()
            try:
                await self._sweep()
            except (ApiError, StorageUnavailable, StorageError) as error:
                log.warning("could not look for lost events and deleted Studies, trying again soon: %s", error)
                delay = min(delay, SWEEP_AGAIN_SECONDS)
            except Exception:  # whatever one object has caused must not end the operator of all the others
                log.exception("could not look for lost events and deleted Studies, trying again soon")
                delay = min(delay, SWEEP_AGAIN_SECONDS)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._sweep_now.wait(), delay)

    async def _sweep(self) -> None:
        """Queue every study that exists or has left something, and drop the others."""
        await self._replicas.joined.wait()
        heard_of = self._replicas.known()
        # Stored studies first, Studies second: a study that is stored and not listed is then really gone.
        stored = await self._reconciler.known_studies()
        ours = await self._namespaces.served_or_gone(study.namespace for study in stored)
        stored = [study for study in stored if study.namespace in ours]
        present = await self._present()
        uids = {uid for _, uid in present}
        left = {StudyKey(study.namespace, study.name) for study in stored if study.uid not in uids}
        there = {key for key, _ in present} | left
        self._reconciler.intake.keep({key for key, _ in present}, heard_of)
        self._replicas.forget({key: notice for key, notice in heard_of.items() if key not in there})
        for key in heard_of.keys() - there:
            if not self._namespaces.serves(key.namespace):  # it exists, and is not to be served any more
                self._replicas.gone(key)
        for key in left:
            self._reconciler.look_for_predecessors(key)
        for key in there:
            self.study_changed(key)

    async def notice_present(self) -> None:
        """Tell `replicas` which Studies there are.

        Raises:
            ApiError: the API server did not answer.
        """
        for key, _ in await self._present():
            self._replicas.notice(key)

    async def _present(self) -> list[tuple[StudyKey, str]]:
        """Return key and UID of every Study in the namespaces that are served."""
        found = []
        for namespace in self._settings.watch_namespaces or (None,):
            for study in await self._cluster.list_studies(namespace):
                if not self._namespaces.serves(study.namespace):
                    continue
                key = StudyKey(study.namespace, study.name)
                self._reconciler.intake.note(key, study.created, study.uid)
                found.append((key, study.uid))
        return found

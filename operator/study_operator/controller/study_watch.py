"""Watches Studies. The only module that knows kopf: events come in, study keys go out.

kopf watches and does nothing more: handlers of raw events write nothing to the objects and add no finalizers. An event
says which study to reconcile, never what to do. What a Study says, kopf never sees: its session has responses that show
it metadata only (kube/metadata_response.py), so that no Study can break off the watch of the others.

kopf has a thread and an event loop of its own. When kopf ends, for whatever reason, it cancels all tasks of its loop
that are younger than itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, cast

import aiohttp
import kopf

from study_operator import metrics
from study_operator.backoff import delays
from study_operator.kube import metadata
from study_operator.kube.metadata_response import MetadataResponse, ask_for_metadata
from study_operator.model.study import GROUP, PLURAL, VERSION, StudyKey

if TYPE_CHECKING:
    from kopf._core.engines.peering import Identity  # kopf.operator wants one, and kopf does not export it

# Before a watch that was broken off begins anew: the first and the longest delay. After a watch that has lasted, the
# first.
_FIRST_DELAY_SECONDS, _LONGEST_DELAY_SECONDS, _LASTING_SECONDS = 2.0, 8.0, 30.0

_ALIVE_SECONDS = 5.0

log = logging.getLogger(__name__)


async def watch_studies(
    noticed: Callable[[StudyKey], None],
    exists: Callable[[StudyKey, str, str], None],
    namespaces: Collection[str],
    deleted: Callable[[StudyKey], None] = lambda key: None,
    alive: Callable[[], None] = lambda: None,
) -> None:
    """Watch Studies until cancelled.

    Args:
        noticed: called in the caller's event loop with the Study that an event is about.
        exists: called before it, if the Study exists, with its creationTimestamp and UID.
        namespaces: those to watch; empty for all.
        deleted: called before, if the Study is deleted or is being deleted.
        alive: called from time to time, from kopf's thread, while its event loop makes progress.
    """
    loop, kopfs = asyncio.get_running_loop(), asyncio.new_event_loop()
    kopfs.set_exception_handler(lambda _, context: log.debug("%s", context))  # of tasks that kopf has lost sight of

    def tell(key: StudyKey, created: str | None, uid: str, leaving: bool) -> None:
        if created is not None:
            loop.call_soon_threadsafe(exists, key, created, uid)
        if leaving:
            loop.call_soon_threadsafe(deleted, key)
        loop.call_soon_threadsafe(noticed, key)

    registry = _registry(tell)
    living = kopfs.create_task(_live(alive))
    watching = kopfs.create_task(_watch(registry, namespaces))

    def work() -> None:
        try:
            kopfs.run_until_complete(asyncio.wait([watching]))
            living.cancel()
            kopfs.run_until_complete(asyncio.wait([living]))
        finally:
            kopfs.close()

    thread = ThreadPoolExecutor(1, thread_name_prefix="watch")
    working = loop.run_in_executor(thread, work)
    try:
        await asyncio.shield(working)
    finally:
        if not working.done():
            kopfs.call_soon_threadsafe(watching.cancel)
            await asyncio.wait([working])
        thread.shutdown()


async def _live(alive: Callable[[], None]) -> None:
    """Show every few seconds that this event loop makes progress."""
    while True:
        alive()
        await asyncio.sleep(_ALIVE_SECONDS)


async def _watch(registry: kopf.OperatorRegistry, namespaces: Collection[str]) -> None:
    """Run kopf until cancelled, again and again.

    The API server may put an error into a stream, because its cache is behind or it is short of memory. Such an error
    ends kopf, and must not end the operator. kopf then lists everything anew.
    """
    waits = delays(_FIRST_DELAY_SECONDS, _LONGEST_DELAY_SECONDS)
    while True:
        begun = time.monotonic()
        try:
            await kopf.operator(
                registry=registry,
                settings=_settings(),
                standalone=True,
                # kopf's own identity looks the user up, and an arbitrary UID has no entry.
                identity=cast("Identity", "study-operator"),
                clusterwide=not namespaces,
                namespaces=sorted(namespaces),
            )
        except Exception as error:
            if time.monotonic() - begun > _LASTING_SECONDS:
                waits = delays(_FIRST_DELAY_SECONDS, _LONGEST_DELAY_SECONDS)
            delay = next(waits)
            metrics.WATCHES_BROKEN.labels("studies").inc()
            log.warning("the watch of Studies has ended, opening it again in %.0f s: %s", delay, error)
        else:
            delay = next(waits)
        await asyncio.sleep(delay)


def _registry(tell: Callable[[StudyKey, str | None, str, bool], object]) -> kopf.OperatorRegistry:
    """Return the handlers that kopf is to call. They tell of a Study, when it was created, its UID, and whether it is
    deleted or being deleted."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def login(*, settings: kopf.OperatorSettings, **_: object) -> kopf.AiohttpSession | None:
        found = kopf.login_with_service_account(settings=settings) or kopf.login_with_kubeconfig(settings=settings)
        return _session(found) if found is not None else None

    seen: dict[StudyKey, tuple[str, int, bool]] = {}

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def study_event(*, namespace: str | None, name: str, type: str | None, meta: kopf.Meta, **_: object) -> None:
        assert namespace is not None  # Studies have namespaces
        key = StudyKey(namespace, name)
        version = (meta["uid"], meta["generation"], "deletionTimestamp" in meta)
        if type == "DELETED":
            seen.pop(key, None)
        elif type is not None and seen.get(key) == version:
            return  # the operator's own write of the status
        else:
            seen[key] = version
        created = None if type == "DELETED" else meta["creationTimestamp"]
        tell(key, created, meta["uid"], type == "DELETED" or "deletionTimestamp" in meta)

    return registry


def _session(found: kopf.ConnectionInfo) -> kopf.AiohttpSession:
    """Return a session that kopf closes, and opens anew when the API server refuses its token."""
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=found.as_ssl_context()),
        headers=found.as_http_headers(),
        proxy=found.proxy_url,
        trust_env=found.trust_env,
        middlewares=[ask_for_metadata],
        response_class=MetadataResponse,
    )
    return kopf.AiohttpSession(server=found.server, default_namespace=found.default_namespace, aiohttp_session=session)


class _NoDifferences(kopf.DiffBaseStorage):
    """Keeps kopf from looking for differences: it would copy every Study several times at each write of its status."""

    def build(self, *, body: kopf.Body, extra_fields: Iterable[object] | None = None) -> kopf.BodyEssence:
        """Return nothing of a Study."""
        return kopf.BodyEssence()

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence:
        """Return as little as `build` does, so that there is no difference."""
        return kopf.BodyEssence()

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        """Store nothing."""


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.peering.standalone = True  # with peering, two operators of one priority pause each other
    settings.scanning.disabled = True  # needs no right to watch namespaces and definitions
    settings.posting.enabled = False  # this operator writes its own Events
    settings.watching.chunk_size = metadata.PAGE
    # kopf would kill the process some time after watching was broken off.
    settings.process.ultimate_exiting_timeout = None
    settings.persistence.diffbase_storage = _NoDifferences()
    return settings

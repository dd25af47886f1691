"""The only module that knows kopf: events in, study keys out.

kopf watches and nothing more: raw events write nothing to the objects and add no finalizers. An event says which study
to look at, never what to do.

kopf has a thread and an event loop of its own: when it ends, for whatever reason, it cancels all tasks of its loop that
are younger than itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor

import kopf

from study_operator.model.study import GROUP, PLURAL, VERSION, StudyKey

# Seconds after which watching begins anew when it was broken off.
_RESTART_SECONDS = 2.0

log = logging.getLogger(__name__)


async def watch_studies(noticed: Callable[[StudyKey], None], namespaces: Collection[str]) -> None:
    """Watches Studies until it is cancelled.

    Args:
        noticed: called in the caller's event loop with the Study that an event is about.
        namespaces: those to watch; empty for all.
    """
    loop, kopfs = asyncio.get_running_loop(), asyncio.new_event_loop()
    kopfs.set_exception_handler(lambda _, context: log.debug("%s", context))  # of tasks that kopf has lost sight of

    registry = _registry(lambda key: loop.call_soon_threadsafe(noticed, key))
    watching = kopfs.create_task(_watch(registry, namespaces))

    def work() -> None:
        try:
            kopfs.run_until_complete(asyncio.wait([watching]))
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


async def _watch(registry: kopf.OperatorRegistry, namespaces: Collection[str]) -> None:
    """Runs kopf for ever: an error that the API server puts into a stream, for its cache is behind or it is short of
    memory, ends kopf, and would end the operator with it. Then everything is listed anew."""
    while True:
        try:
            await kopf.operator(
                registry=registry,
                settings=_settings(),
                standalone=True,
                identity="study-operator",  # kopf's own looks the user up, and an arbitrary UID has no entry
                clusterwide=not namespaces,
                namespaces=sorted(namespaces),
            )
        except Exception as error:
            log.warning("watching Studies was broken off, beginning anew in %.0f s: %s", _RESTART_SECONDS, error)
        await asyncio.sleep(_RESTART_SECONDS)


def _registry(noticed: Callable[[StudyKey], object]) -> kopf.OperatorRegistry:
    """What kopf is to call."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def login(**details: object) -> kopf.ConnectionInfo | None:
        return kopf.login_with_service_account(**details) or kopf.login_with_kubeconfig(**details)

    seen: dict[StudyKey, tuple[str, int, bool]] = {}

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def study_event(namespace: str, name: str, type: str | None, meta: kopf.Meta, **_: object) -> None:
        key = StudyKey(namespace, name)
        version = (meta["uid"], meta["generation"], "deletionTimestamp" in meta)
        if type == "DELETED":
            seen.pop(key, None)
        elif type is not None and seen.get(key) == version:
            return  # the operator's own write of the status
        else:
            seen[key] = version
        noticed(key)

    return registry


class _NoDifferences(kopf.DiffBaseStorage):
    """Without it kopf makes several copies of every Study, at each write of its status, to find out what has changed,
    which nobody here asks."""

    def build(self, **_: object) -> None:
        return None

    def fetch(self, **_: object) -> None:
        return None

    def store(self, **_: object) -> None:
        pass


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.peering.standalone = True  # with peering, two operators of one priority pause each other
    settings.scanning.disabled = True  # needs no right to watch namespaces and definitions
    settings.posting.enabled = False  # this operator writes its own Events
    # It would kill the process some time after watching was broken off.
    settings.process.ultimate_exiting_timeout = None
    settings.persistence.diffbase_storage = _NoDifferences()
    return settings

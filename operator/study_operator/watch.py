"""The only module that knows kopf: events in, study keys out.

kopf watches and nothing more: raw events write nothing to the objects and add no finalizers. An event says which study
to look at, never what to do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

import kopf

from study_operator.model.study import GROUP, PLURAL, STUDY_LABEL, VERSION
from study_operator.reconcile import Key


async def watch(
    noticed: Callable[[Key], None],
    changed: Callable[[Key], None],
    moved: Callable[[Key], None],
    namespaces: Collection[str],
    stop: asyncio.Event,
) -> None:
    """Watches Studies and their Jobs until `stop` is set.

    Args:
        noticed: called in the event loop with the Study that an event is about.
        changed: called with the study whose Job an event is about.
        moved: called instead when a Job goes on as expected, which several events say for each trial: nothing is to be
            done, so the look may come later, one for all of them.
        namespaces: those to watch; empty for all.
    """
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def login(**details: object) -> kopf.ConnectionInfo | None:
        return kopf.login_with_service_account(**details) or kopf.login_with_kubeconfig(**details)

    seen: dict[Key, tuple[str, int, bool]] = {}

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def study_event(namespace: str, name: str, type: str | None, meta: kopf.Meta, **_: object) -> None:
        key = Key(namespace, name)
        version = (meta["uid"], meta["generation"], "deletionTimestamp" in meta)
        if type == "DELETED":
            seen.pop(key, None)
        elif type is not None and seen.get(key) == version:
            return  # the operator's own write of the status
        else:
            seen[key] = version
        noticed(key)

    @kopf.on.event("batch", "v1", "jobs", registry=registry)
    async def job_event(
        namespace: str, labels: kopf.Labels, type: str | None, status: kopf.Status, **_: object
    ) -> None:
        if study := labels.get(STUDY_LABEL):
            ended = any(
                c["type"] in ("Complete", "Failed") and c["status"] == "True" for c in status.get("conditions") or ()
            )
            if type == "DELETED" and ended:
                return  # mostly by the operator itself, and its end has been seen to
            (changed if ended or type == "DELETED" else moved)(Key(namespace, study))

    await kopf.operator(
        registry=registry,
        settings=_settings(),
        standalone=True,
        identity="study-operator",  # kopf's own looks the user up, and an arbitrary UID has no entry
        clusterwide=not namespaces,
        namespaces=sorted(namespaces),
        stop_flag=stop,
    )


class _NoDifferences(kopf.DiffBaseStorage):
    """Without it kopf makes several copies of every object to find out what has changed, which nobody here asks: two
    fifths of the operator's work with thousands of trials."""

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
    settings.persistence.diffbase_storage = _NoDifferences()
    # Only trials' Jobs leave the API server: a cluster may have thousands of others.
    settings.watching.label_selectors["batch", "v1", "jobs"] = STUDY_LABEL
    return settings

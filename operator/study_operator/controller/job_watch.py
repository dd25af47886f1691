"""Watches trials' Jobs: an event says which study to look at, and whether at once.

kopf could do it, and took two fifths of the operator's CPU for it with thousands of trials: it makes objects of all
that an event has, and a task and a queue for each Job.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection

import msgspec
from kubernetes.aio import client

from study_operator.kube.client import ApiError
from study_operator.kube.streams import lines, stream
from study_operator.model.study import STUDY_LABEL, StudyKey

# Seconds after which a watch that has ended goes on, and in which a sign of life must come: the API server sends a
# bookmark each minute.
_RESTART_SECONDS, _SILENCE_SECONDS = 1.0, 90.0

log = logging.getLogger(__name__)


class _Condition(msgspec.Struct):
    type: str
    status: str


class _Status(msgspec.Struct):
    conditions: list[_Condition] = []


class _Metadata(msgspec.Struct):
    namespace: str = ""
    resourceVersion: str = ""
    labels: dict[str, str] = {}


class _Object(msgspec.Struct):
    """A Job, or what an ERROR is about: then it has a code and a message, and its status is a word."""

    metadata: _Metadata
    status: _Status | str = ""
    code: int = 0
    message: str = ""

    @property
    def ended(self) -> bool:
        return isinstance(self.status, _Status) and any(
            one.type in ("Complete", "Failed") and one.status == "True" for one in self.status.conditions
        )


class _Event(msgspec.Struct):
    type: str
    object: _Object


_DECODER = msgspec.json.Decoder(_Event)


async def watch_jobs(
    configuration: client.Configuration,
    changed: Callable[[StudyKey], None],
    moved: Callable[[StudyKey], None],
    missed: Callable[[], None],
    namespaces: Collection[str],
) -> None:
    """Watches the Jobs of all trials until it is cancelled.

    Args:
        configuration: of the kubernetes client.
        changed: called with the study one of whose Jobs has ended or is gone.
        moved: called instead when a Job goes on as expected, which several events say for each trial: nothing is to be
            done, so the look may come later, one for all of them.
        missed: called when events may have been lost.
        namespaces: those to watch; empty for all.
    """
    async with client.ApiClient(configuration) as api, asyncio.TaskGroup() as group:
        for namespace in sorted(namespaces) or [None]:
            path = f"/apis/batch/v1/{f'namespaces/{namespace}/' if namespace else ''}jobs"
            group.create_task(_watch(api, path, changed, moved, missed))


async def _watch(
    api: client.ApiClient,
    path: str,
    changed: Callable[[StudyKey], None],
    moved: Callable[[StudyKey], None],
    missed: Callable[[], None],
) -> None:
    version = ""  # begin with what there is, each Job as an ADDED
    while True:
        try:
            async for event in _events(api, path, version):
                version = event.object.metadata.resourceVersion
                if event.type == "BOOKMARK":
                    continue
                key = StudyKey(event.object.metadata.namespace, event.object.metadata.labels[STUDY_LABEL])
                if event.type != "DELETED":
                    (changed if event.object.ended else moved)(key)
                elif not event.object.ended:  # otherwise mostly by the operator itself, and its end has been seen to
                    changed(key)
        except ApiError as error:
            if error.status:  # the server lives, and does not like the version, or has no time for us
                log.info("the watch of Jobs was broken off, beginning anew: %s", error)
                version = ""
                missed()
        await asyncio.sleep(_RESTART_SECONDS)


async def _events(api: client.ApiClient, path: str, version: str) -> AsyncIterator[_Event]:
    """What happens to trials' Jobs after a version, until the server ends the answer, which it does from time to time.

    Raises:
        ApiError: as its words say; status 0 when the server cannot be reached or falls silent.
    """
    # Only trials' Jobs leave the API server: a cluster may have thousands of others.
    query = {"watch": "true", "labelSelector": STUDY_LABEL, "allowWatchBookmarks": "true", "resourceVersion": version}
    async with stream(api, path, query, silence=_SILENCE_SECONDS) as answer:
        async for line in lines(answer):
            event = _DECODER.decode(line)
            if event.type == "ERROR":
                raise ApiError(event.object.code, "", event.object.message)
            yield event

"""Watches trials' Jobs. An event says which study to reconcile, and whether at once.

kopf could watch Jobs too, but with thousands of trials it took two fifths of the operator's CPU, because it makes
objects of everything in an event, and a task and a queue for each Job.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection

from kubernetes.aio import client

from study_operator import metrics
from study_operator.backoff import delays
from study_operator.kube import decoding
from study_operator.kube.api_server import ApiError
from study_operator.kube.streams import lines, stream
from study_operator.model.study import STUDY_LABEL, StudyKey

# Before a watch that has ended goes on: the first and the longest delay.
_FIRST_DELAY_SECONDS, _LONGEST_DELAY_SECONDS = 1.0, 4.0
# A watch in which nothing comes for so long is lost: the API server sends a bookmark each minute.
_SILENCE_SECONDS = 90.0

log = logging.getLogger(__name__)


async def watch_jobs(
    configuration: client.Configuration,
    ended: Callable[[StudyKey], None],
    moved: Callable[[StudyKey], None],
    missed: Callable[[], None],
    namespaces: Collection[str],
    alive: Callable[[], None] = lambda: None,
) -> None:
    """Watch the Jobs of all trials until cancelled.

    Args:
        configuration: of the kubernetes client.
        ended: called with a study when one of its Jobs has ended or is gone.
        moved: called with a study when one of its Jobs goes on as expected. There are several such events for each
            trial and nothing to decide, so one reconciliation for all of them may come later.
        missed: called when events may have been lost.
        namespaces: those to watch; empty for all.
        alive: called whenever the watch makes progress.
    """
    async with client.ApiClient(configuration) as api, asyncio.TaskGroup() as group:
        places = [f"namespaces/{namespace}/" for namespace in sorted(namespaces)]
        for place in places or [""]:
            path = f"/apis/batch/v1/{place}jobs"
            group.create_task(_watch(api, path, ended, moved, missed, alive))


async def _watch(
    api: client.ApiClient,
    path: str,
    ended: Callable[[StudyKey], None],
    moved: Callable[[StudyKey], None],
    missed: Callable[[], None],
    alive: Callable[[], None],
) -> None:
    version = ""  # begin with the Jobs that exist, each as an ADDED
    waits = delays(_FIRST_DELAY_SECONDS, _LONGEST_DELAY_SECONDS)
    while True:
        alive()  # an API server that cannot be reached is no reason to restart the operator
        try:
            async for event in _events(api, path, version):
                alive()
                waits = delays(_FIRST_DELAY_SECONDS, _LONGEST_DELAY_SECONDS)
                if event is None:
                    missed()
                    continue
                job = event["object"]
                version = job["metadata"]["resourceVersion"]
                if event["type"] == "BOOKMARK":
                    continue
                key = StudyKey(job["metadata"]["namespace"], job["metadata"]["labels"][STUDY_LABEL])
                has_ended = decoding.has_ended(job)
                if event["type"] != "DELETED":
                    (ended if has_ended else moved)(key)
                elif not has_ended:  # a deleted Job that has ended was mostly deleted by the operator, after its end
                    ended(key)
        except ApiError as error:
            if error.status:  # the server lives; it does not know the version any more, or it is too busy
                metrics.WATCHES_BROKEN.labels("jobs").inc()
                log.info("the watch of Jobs has ended, opening it again: %s", error)
                version = ""
                missed()
        await asyncio.sleep(next(waits))


async def _events(api: client.ApiClient, path: str, version: str) -> AsyncIterator[decoding.JobEvent | None]:
    """Yield the events of trials' Jobs after a version, until the server ends the answer, as it does from time to time.

    An event that cannot be decoded is None: one Job must not keep those of others from being seen.

    Raises:
        ApiError: the server refuses the watch or breaks it off; status 0 if it cannot be reached or falls silent.
    """
    # The selector keeps other Jobs, of which a cluster may have thousands, in the API server.
    query = {"watch": "true", "labelSelector": STUDY_LABEL, "allowWatchBookmarks": "true", "resourceVersion": version}
    async with stream(api, path, query, silence=_SILENCE_SECONDS) as answer:
        async for line in lines(answer):
            try:
                event = decoding.job_event(line)
            except (ValueError, RecursionError) as error:
                log.warning("an event of a Job cannot be read: %s: %s...", error, line[:300].decode("utf-8", "replace"))
                yield None
                continue
            if event["type"] == "ERROR":
                raise ApiError(event["object"].get("code", 0), "", event["object"].get("message", ""))
            yield event

"""Job controller, kubelet and programs of one namespace: whatever Job is there has a pod at once, and completes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg2
from played_pod import PlayedPod, Program, played_pod, secret_of, succeeds
from raw_api import MERGE, Api, Refused

_THREADS = 256  # some programs wait in theirs until the play is over
_RETRY_SECONDS = 0.05


@dataclass
class Life:
    """One Job. Times are those of `time.monotonic`.

    Attributes:
        job: its name.
        arrived: when the Job was seen.
        programmed: when its program had returned; None until then.
        ended: when the Job was told to be complete; None until then.
        trouble: what its program was refused last.
    """

    job: str
    arrived: float
    programmed: float | None = None
    ended: float | None = None
    trouble: str = ""


class PlayedNamespace:
    """Plays until it is closed.

    Args:
        api: the API server.
        name: of the namespace, which is made.
        patient: programs that fail are begun anew until they succeed, as study_trial waits for a database that is
            away. Otherwise their Jobs complete all the same.

    Attributes:
        name: as given.
        program: of the pods of Jobs that arrive from now on.
        lives: the Jobs that have been there, by study, in the order in which they arrived.
        at_work, over: as `PlayedPod` has them.
    """

    def __init__(self, api: Api, name: str, patient: bool) -> None:
        self._api, self.name, self._patient = api, name, patient
        self.program: Program = succeeds
        self.lives: dict[str, list[Life]] = defaultdict(list)
        self.at_work, self.over = threading.Event(), threading.Event()
        self._threads = ThreadPoolExecutor(_THREADS, f"pods of {name}")
        self._seen: set[str] = set()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def open(self) -> None:
        """Make the namespace, and begin to play."""
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.name}}
        await self._api.call("POST", "/api/v1/namespaces", namespace)
        self._watching = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """End what goes on."""
        self.over.set()
        tasks = {self._watching, *self._tasks}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def check(self) -> None:
        """Raise what has ended the play, if anything has."""
        if self._watching.done():
            self._watching.result()

    async def clear(self) -> None:
        """Let programs return, and remove all Studies and Jobs."""
        self.over.set()
        await self.delete_all("apis/study-operator.io/v1alpha1", "studies")
        await self.delete_all("apis/batch/v1", "jobs")
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=30)
        await self.delete_all("apis/batch/v1", "jobs")  # of a look that was going on
        self.program, self.at_work, self.over = succeeds, threading.Event(), threading.Event()
        self.lives.clear()

    async def delete_all(self, group: str, plural: str, **query: str) -> None:
        """Delete the objects of a kind. No garbage collector is there: Jobs are deleted by name of their kind."""
        path = f"/{group}/namespaces/{self.name}/{plural}"
        await self._api.call("DELETE", path, propagationPolicy="Background", **query)

    async def apply(self, study: str) -> str | None:
        """Create a Study from JSON text. Return what the API server says if it refuses it."""
        path = f"/apis/study-operator.io/v1alpha1/namespaces/{self.name}/studies"
        try:
            await self._api.call("POST", path, study)
        except Refused as refused:
            if refused.status not in (400, 403, 413, 422):
                raise
            return refused.text
        return None

    async def status(self, study: str) -> dict[str, Any]:
        """The status of a Study, which may be nested too deeply for json elsewhere."""
        path = f"/apis/study-operator.io/v1alpha1/namespaces/{self.name}/studies/{study}"
        text = (await self._api.call("GET", path)).rstrip()
        spec, found, status = text.rpartition('"status":{')
        return json.loads("{" + status.removesuffix("}")) if found and '"spec":' in spec else {}

    # Jobs

    async def _watch(self) -> None:
        path = f"/apis/batch/v1/namespaces/{self.name}/jobs"
        async for event in self._api.watch(path, labelSelector="study-operator.io/study"):
            now, job = time.monotonic(), event["object"]
            meta = job["metadata"]
            if event["type"] == "DELETED":
                continue
            if meta["uid"] not in self._seen:
                self._seen.add(meta["uid"])
                life = Life(meta["name"], now)
                self.lives[meta["labels"]["study-operator.io/study"]].append(life)
                self._go_on(self._play(job, life))
            if "deletionTimestamp" in meta and meta.get("finalizers"):
                patch = {"metadata": {"finalizers": None}}
                self._go_on(self._change(f"{path}/{meta['name']}", patch))

    def _go_on(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _play(self, job: dict[str, Any], life: Life) -> None:
        path = f"/api/v1/namespaces/{self.name}/secrets/{secret_of(job)}"
        secret = json.loads(await self._api.call("GET", path))
        pod = played_pod(job, secret, self.at_work, self.over)
        await asyncio.get_running_loop().run_in_executor(self._threads, self._run, self.program, pod, life)
        life.programmed = time.monotonic()
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        times = {"lastTransitionTime": now, "lastProbeTime": now}
        conditions = [{"type": type_, "status": "True", **times} for type_ in ("SuccessCriteriaMet", "Complete")]
        status = {"startTime": now, "completionTime": now, "succeeded": 1, "conditions": conditions}
        life.ended = time.monotonic()  # before the call: the operator may see it before its answer is here
        await self._change(f"/apis/batch/v1/namespaces/{self.name}/jobs/{life.job}/status", {"status": status})

    def _run(self, program: Program, pod: PlayedPod, life: Life) -> None:
        over = pod.over
        while not over.is_set():
            try:
                return program(pod)
            except psycopg2.Error as error:
                life.trouble = " ".join(str(error).split())
            if not self._patient:
                return None
            over.wait(_RETRY_SECONDS)
        return None

    async def _change(self, path: str, patch: dict[str, Any]) -> None:
        with contextlib.suppress(Refused):  # it is gone, or has ended
            await self._api.call("PATCH", path, patch, content=MERGE)

"""Plays the programs in the pods that kwok imitates: watches which run and, for trials, reports.

A trial gets five reports spread over its time and then its final value, through the reporting function, with the login
and the key that its pod has, before kwok completes the pod. Connections are few and shared, as PgBouncer would share
them: a thousand real pods have a thousand machines to log in from, this process has one.

Reads one JSON object from stdin: `kubeconfig`, and `reports`, whether to report. Prints a JSON object each second, and
when its stdin closes a last one. Times are those of `time.monotonic`, the machine's.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg2
from load import NAMESPACE, PODS, Api
from workload import LENGTH, REPORTS, SPREAD, length_of, value_of

from study_trial._messages import Writer

THREADS = 8
SUBMIT = "SELECT study_operator.submit(%s, %s)"
# At which part of its time a trial has said everything; the rest is for a machine that is late.
_DONE_AT = 0.9


class Reporter:
    """Calls of the reporting function, from any thread, each thread with a connection of its own."""

    def __init__(self) -> None:
        self._local = threading.local()
        self.accepted = self.results = self.refused = 0
        self.trouble = ""
        self.took: list[float] = []

    def call(self, url: str, writer: Writer, content: Mapping[str, Any]) -> None:
        """Sends a message of a trial; once more if the server has ended the connection. What is refused is counted."""
        message = writer.write(content)
        for attempt in range(3):
            connection = getattr(self._local, "connection", None)
            begun = time.perf_counter()
            try:
                if connection is None or connection.closed:
                    connection = self._local.connection = psycopg2.connect(url)
                    connection.autocommit = True
                with connection.cursor() as cursor:
                    cursor.execute(SUBMIT, message)
            except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
                self._local.connection = None
                if attempt == 2:
                    self._refused(error)
            except psycopg2.Error as error:
                return self._refused(error)
            else:
                self.took.append(time.perf_counter() - begun)
                self.accepted += content["call"] == "report"
                self.results += content["call"] == "finish"
                return None

    def _refused(self, error: psycopg2.Error) -> None:
        self.refused += 1
        self.trouble = self.trouble or " ".join(str(error).split())


class Driver:
    """What has been seen of the pods so far.

    `curve` has a point for each change: when, how many ran then, and how many had ever run.
    """

    def __init__(self, api: Api, reports: bool) -> None:
        self._api, self._reports = api, reports
        self.reporter = Reporter()
        self._threads = ThreadPoolExecutor(THREADS)
        self._running: set[str] = set()
        self._seen: set[str] = set()
        self._secrets: dict[str, asyncio.Future] = {}
        self._tasks: set[asyncio.Task] = set()
        self.curve: list[tuple[float, int, int]] = []
        self.late: list[float] = []

    async def watch(self) -> None:
        selector = {"fieldSelector": "status.phase=Running", "labelSelector": "study-operator.io/trial"}
        async for event in self._api.watch(PODS, **selector):
            now, pod = time.monotonic(), event["object"]
            uid = pod["metadata"]["uid"]
            if event["type"] == "DELETED":
                self._running.discard(uid)
            elif event["type"] == "ADDED":
                self._running.add(uid)
                if uid not in self._seen and self._reports:
                    task = asyncio.ensure_future(self._play(pod, now))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
                self._seen.add(uid)
            else:
                continue
            self.curve.append((now, len(self._running), len(self._seen)))

    async def _play(self, pod: dict[str, Any], began: float) -> None:
        """One trial's program."""
        environment = {item["name"]: item for item in pod["spec"]["containers"][0]["env"]}
        secret = environment["STUDY_STORAGE_KEY"]["valueFrom"]["secretKeyRef"]["name"]
        if secret not in self._secrets:
            self._secrets[secret] = asyncio.ensure_future(self._read(secret))
        url, key = await self._secrets[secret]
        writer = Writer(key)
        trial = {"trial": int(environment["STUDY_TRIAL_ID"]["value"]), "job": environment["STUDY_TRIAL_JOB"]["value"]}
        value = value_of(json.loads(environment["STUDY_PARAMS"]["value"]))
        annotations, labels = pod["metadata"]["annotations"], pod["metadata"]["labels"]
        number = int(labels["study-operator.io/trial"])
        seconds = _DONE_AT * length_of(int(annotations[LENGTH]), int(annotations[SPREAD]), number) / 1000
        loop = asyncio.get_running_loop()
        for step in range(1, REPORTS + 1):
            await self._until(began + seconds * step / (REPORTS + 1))
            report = {"call": "report", **trial, "step": step, "value": value + 1 / step}
            await loop.run_in_executor(self._threads, self.reporter.call, url, writer, report)
        await self._until(began + seconds)
        final = {"call": "finish", **trial, "values": [value], "pruned": False, "constraints": {}, "infeasible": None}
        await loop.run_in_executor(self._threads, self.reporter.call, url, writer, final)
        self.late.append(time.monotonic() - began - seconds)

    async def _until(self, moment: float) -> None:
        await asyncio.sleep(max(0.0, moment - time.monotonic()))

    async def _read(self, secret: str) -> tuple[str, str]:
        found = (await self._api.call("GET", f"/api/v1/namespaces/{NAMESPACE}/secrets/{secret}"))["data"]
        return base64.b64decode(found["url"]).decode(), base64.b64decode(found["key"]).decode()

    def state(self) -> dict[str, Any]:
        reporter = self.reporter
        return {
            "running": len(self._running),
            "started": len(self._seen),
            "reports": reporter.accepted,
            "results": reporter.results,
            "refused": reporter.refused,
            "trouble": reporter.trouble,
        }


async def main() -> None:
    given = json.loads(sys.stdin.readline())
    api = Api(given["kubeconfig"])
    driver = Driver(api, given["reports"])
    watching = asyncio.ensure_future(driver.watch())
    ended = asyncio.ensure_future(asyncio.to_thread(sys.stdin.read))
    try:
        while not ended.done():
            print(json.dumps(driver.state()), flush=True)
            await asyncio.wait([watching, ended], timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                watching.result()
        result = {"curve": driver.curve, "late": sorted(driver.late), "took": sorted(driver.reporter.took)}
        print(json.dumps(driver.state() | result), flush=True)
        watching.cancel()
        await api.close()
    except BaseException:
        # Not later: asyncio waits for the thread that waits for stdin.
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


if __name__ == "__main__":
    asyncio.run(main())

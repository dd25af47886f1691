"""Watches of the trials API: what clients are told, from where on, and that nobody keeps others waiting."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import aiohttp
import pytest
from aggregated import BASE, Aggregated, aggregated
from optuna.trial import TrialState
from waiting import wait_until
from watch_client import Client, trials_path


@pytest.fixture(scope="module")
def api(own_services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aggregated]:
    with aggregated(own_services, tmp_path_factory.mktemp("api")) as opened:
        yield opened


@pytest.fixture
def http(api) -> Client:
    return Client(api.kubectl.kubeconfig)


@pytest.fixture
def study(api):
    return api.study(api.namespace())


async def test_the_trials_that_there_are_and_then_what_happens(api, http, study):
    study.add(0.5)
    study.add(state=TrialState.RUNNING)
    async with http.watch(study.namespace) as watch:
        assert [await watch.told(), await watch.told()] == [("ADDED", "digits-0"), ("ADDED", "digits-1")]
        study.tell(1, 0.75)
        kind, found = await watch.next()
        assert (kind, found["status"]["state"], found["status"]["values"]) == ("MODIFIED", "Complete", ["0.75"])
        study.add(1.0)
        assert await watch.told() == ("ADDED", "digits-2")


async def test_from_a_list_on(api, http, study):
    """Nothing of what happened since is lost, and what was in the list is not told again."""
    study.add(0.5)
    version = api.get(trials_path(study.namespace).removeprefix(BASE))["metadata"]["resourceVersion"]
    study.add(0.25)
    async with http.watch(study.namespace, resourceVersion=version) as watch:
        kind, found = await watch.next()
        assert (kind, found["metadata"]["name"]) == ("ADDED", "digits-1")
        assert int(found["metadata"]["resourceVersion"]) > int(version)
        study.add(0.125)
        assert await watch.told() == ("ADDED", "digits-2")
    async with http.watch(study.namespace, resourceVersion=found["metadata"]["resourceVersion"]) as watch:
        assert await watch.told() == ("ADDED", "digits-2")


async def test_a_trial_comes_and_goes_by_its_state(api, http, study):
    study.add(state=TrialState.RUNNING)
    running, complete = ("status.state=Running", "status.state=Complete")
    async with (
        http.watch(study.namespace, fieldSelector=running) as first,
        http.watch(study.namespace, fieldSelector=complete) as second,
    ):
        assert await first.told() == ("ADDED", "digits-0")
        study.tell(0, 1.0)
        assert await first.told() == ("DELETED", "digits-0")
        assert await second.told() == ("ADDED", "digits-0")


async def test_a_study_is_deleted_and_its_rows_are_kept(api, http, study):
    study.add(0.5)
    study.add(0.25)
    gone = "study-operator.io/deleted=true"
    async with (
        http.watch(study.namespace) as watch,
        http.watch(study.namespace, labelSelector=gone) as deleted,
    ):
        assert [await watch.told(), await watch.told()] == [("ADDED", "digits-0"), ("ADDED", "digits-1")]
        study.forget()
        kind, first = await watch.next()
        assert (kind, first["metadata"]["name"]) == ("DELETED", "digits-0")
        kind, second = await watch.next()
        assert (kind, second["metadata"]["name"]) == ("DELETED", "digits-1")
        assert int(first["metadata"]["resourceVersion"]) < int(second["metadata"]["resourceVersion"])
        assert await deleted.told() == ("ADDED", f"digits-0-{study.uid[:8]}")


async def test_a_list_as_a_watch(api, http, study):
    """As newer clients of Go ask: the objects first, then a bookmark that says that these were all."""
    study.add(0.5)
    query = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}
    async with http.watch(study.namespace, **query) as watch:
        assert await watch.told() == ("ADDED", "digits-0")
        kind, found = await watch.next()
        assert kind == "BOOKMARK"
        assert found["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
        study.add(0.25)
        assert await watch.told() == ("ADDED", "digits-1")


async def test_a_version_that_is_too_old(api, http, study):
    async with http.watch(study.namespace, resourceVersion="1") as watch:
        kind, found = await watch.next()
        assert (kind, found["code"], found["reason"]) == ("ERROR", 410, "Expired")
        assert await watch.ended()


async def test_a_watch_ends_when_its_time_is_over(api, http, study):
    async with http.watch(study.namespace, timeoutSeconds="1") as watch:
        assert await watch.ended()


async def test_over_a_web_socket(api, http, study):
    """As browsers watch, and so Headlamp."""
    study.add(0.5)
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=http.tls)) as session,
        session.ws_connect(f"{http.host}{trials_path(study.namespace)}?watch=1") as socket_,
    ):
        event = await asyncio.wait_for(socket_.receive_json(), 60)
        assert (event["type"], event["object"]["metadata"]["name"]) == ("ADDED", "digits-0")
        study.add(0.25)
        event = await asyncio.wait_for(socket_.receive_json(), 60)
        assert (event["type"], event["object"]["metadata"]["name"]) == ("ADDED", "digits-1")


def test_kubectl_watches(api, study, tmp_path: Path):
    study.add(0.5)
    words = [api.kubectl.binary, "--kubeconfig", api.kubectl.kubeconfig, "-n", study.namespace, "get", "stt", "-w"]
    log = tmp_path / "watch"
    with log.open("w") as file, subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT) as process:
        try:
            wait_until(lambda: "digits-0" in log.read_text())
            study.add(0.25)
            wait_until(lambda: "digits-1" in log.read_text())
        finally:
            process.terminate()
    lines = [line.split() for line in log.read_text().splitlines()]
    assert lines[0][:4] == ["NAME", "STUDY", "STATE", "VALUE"]
    assert [line[0] for line in lines[1:3]] == ["digits-0", "digits-1"]


async def test_two_hundred_watch_at_once(api, http, study):
    study.add(0.5)
    async with asyncio.TaskGroup() as group:
        ready = [asyncio.Event() for _ in range(200)]

        async def one(number: int) -> None:
            async with http.watch(study.namespace) as watch:
                assert await watch.told() == ("ADDED", "digits-0")
                ready[number].set()
                assert await watch.told() == ("ADDED", "digits-1")

        for number in range(200):
            group.create_task(one(number))
        await asyncio.gather(*(event.wait() for event in ready))
        await asyncio.to_thread(study.add, 0.25)


async def test_clients_that_never_read_keep_nobody_waiting(api, http):
    """They are told of some megabytes each, and take none. Another one is told at once meanwhile."""
    study = api.study(api.namespace())
    for _ in range(30):
        study.add(1.0, attributes={f"a{number}": "x" * 1000 for number in range(60)})
    host, _, port = http.host.removeprefix("https://").partition(":")
    request = f"GET {trials_path(study.namespace)}?watch=1 HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    with ExitStack() as stack:
        for _ in range(20):
            raw = socket.create_connection((host, int(port)))
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stack.enter_context(http.tls.wrap_socket(raw, server_hostname=host)).sendall(request)
        async with http.watch(study.namespace, labelSelector="study-operator.io/trial=30") as watch:
            await asyncio.to_thread(study.add, 0.25)
            assert await watch.told() == ("ADDED", "digits-30")

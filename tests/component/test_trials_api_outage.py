"""The trials API without its database. Discovery and readiness need none: no namespace could be deleted otherwise."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest
from aggregated import BASE, Aggregated, aggregated
from postgres_server import PostgresServer
from waiting import until, wait_until
from watch_client import Client


@pytest.fixture
def away(own_services, tmp_path) -> Iterator[tuple[Aggregated, PostgresServer]]:
    server = PostgresServer(fsync="off")
    try:
        server.start()
        with aggregated({**own_services, "database_url": server.url()}, tmp_path) as opened:
            yield opened, server
            if not server.runs():
                server.start()  # its roles are dropped
    finally:
        server.remove()


async def test_lists_say_so_and_all_else_goes_on(away):
    api, server = away
    study = api.study(api.namespace())
    study.add(0.5)
    client = Client(api.kubectl.kubeconfig)
    async with client.watch(study.namespace) as watch:
        assert await watch.told() == ("ADDED", "digits-0")
        server.stop()
        for path in ("studytrials", "studytrials/digits-0", "studytrialsets/digits"):
            refused = api.kubectl.refused("get", "--raw", f"{BASE}/namespaces/{study.namespace}/{path}")
            assert "the database of the trials cannot be asked now" in refused
            assert "ServiceUnavailable" in refused
        assert api.process.get("/readyz")[0] == 200
        assert api.available()
        found = json.loads(api.kubectl.ok("get", "--raw", BASE))
        assert "studytrials" in [one["name"] for one in found["resources"]]
        assert "to sort by" in api.kubectl.ok("explain", "studytrial.status.value")
        api.kubectl.ok("get", "namespaces")
        server.start()
        await until(lambda: api.kubectl.run("get", "stt", "-n", study.namespace).returncode == 0)
        await asyncio.to_thread(study.add, 0.25)
        assert await watch.told() == ("ADDED", "digits-1"), "the watch has outlived it"


def test_a_process_that_starts_meanwhile_is_ready(away):
    api, server = away
    api.stop()
    server.stop()
    api.start()
    wait_until(api.available)
    assert "cannot be asked now" in api.kubectl.refused("get", "stt")

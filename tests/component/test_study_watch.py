"""The watches go on whatever the API server puts into their streams."""

from __future__ import annotations

from collections import Counter

from aiohttp import web
from kubeconfig import use_kubeconfig, write_kubeconfig
from kubernetes.aio import client
from proxy import Proxy
from running import run_pods, running
from waiting import until
from world import MERGE, counted
from yarl import URL

from study_operator import metrics

_YET_TO_COME = {
    "resourceVersion": str(10**15),
    "resourceVersionMatch": "NotOlderThan",
    "sendInitialEvents": "true",  # what asks for less waits for ever
}


class Behind(Proxy):
    """The first watch of each resource is answered as by an API server whose cache is behind: what the caller has seen
    is yet to come.

    Attributes:
        watches: how often each path has been watched.
    """

    def __init__(self, configuration: client.Configuration) -> None:
        super().__init__(configuration, certified=True)
        self.watches: Counter[str] = Counter()

    def asked(self, request: web.Request) -> URL:
        if request.query.get("watch") != "true":
            return request.rel_url
        self.watches[request.path] += 1
        return request.rel_url.update_query(_YET_TO_COME if self.watches[request.path] == 1 else {})


def broken_off() -> dict[str, float]:
    """How many watches were broken off, by what they watch, as /metrics shows it."""
    return {watch: metrics.WATCHES_BROKEN.labels(watch)._value.get() for watch in ("studies", "jobs", "namespaces")}


async def test_a_server_whose_cache_is_behind(world, tmp_path, monkeypatch, caplog):
    async with Behind(world._configuration) as proxy:
        kubeconfig = tmp_path / "kubeconfig"
        write_kubeconfig(kubeconfig, proxy.url)
        use_kubeconfig(monkeypatch, kubeconfig)
        labels = {"metadata": {"labels": {"studies": "yes"}}}
        await world.cluster._call("PATCH", f"/api/v1/namespaces/{world.namespace}", body=labels, content=MERGE)
        selecting = {"WATCH_NAMESPACES": "", "WATCH_NAMESPACE_SELECTOR": "studies=yes"}
        before = broken_off()
        async with running(world, **selecting):
            await until(lambda: len(proxy.watches) == 3 and min(proxy.watches.values()) >= 2)
            assert all(broken_off()[watch] > before[watch] for watch in before)
            await world.apply()
            status = await run_pods(world, float)
    assert counted(status) == {"total": 4, "complete": 4}
    assert "Too large resource version" in caplog.text

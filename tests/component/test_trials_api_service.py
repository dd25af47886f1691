"""The process of the trials API: whom it believes, who believes it, and what it does while others are away."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from aggregated import API_SERVICE, BASE, NAME, NAMESPACE, Aggregated, aggregated, ca_bundle
from authority import Authority
from ports import free_port
from waiting import wait_until
from watch_client import Client

DISCOVERY = "application/json;g=apidiscovery.k8s.io;v={};as=APIGroupDiscoveryList"


@pytest.fixture(scope="module")
def api(own_services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aggregated]:
    with aggregated(own_services, tmp_path_factory.mktemp("api")) as opened:
        yield opened


class Direct:
    """A client that asks the process itself, past the API server.

    Args:
        certificate: files of its certificate and of the key; None for none.
    """

    def __init__(self, api: Aggregated, certificate: tuple[Path, Path] | None) -> None:
        self._api, self._url = api, f"https://127.0.0.1:{api.port}"
        self._tls = ssl.create_default_context(cadata=ca_bundle(api))
        if certificate is not None:
            self._tls.load_cert_chain(*certificate)

    async def get(self, path: str, **headers: str) -> tuple[int, str]:
        """Status and text of an answer."""
        return (await self.whole(path, **headers))[::2]

    async def whole(self, path: str, **headers: str) -> tuple[int, str, str]:
        """Status, content type and text of an answer."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=self._tls)) as session,
            session.get(self._url + path, headers=named, server_hostname=f"{NAME}.{NAMESPACE}.svc") as answer,
        ):
            return answer.status, answer.headers["Content-Type"], await answer.text()


@pytest.fixture
def proxys(api) -> tuple[Path, Path]:
    """The certificate by which the API server proves itself."""
    folder = Path(api.kubectl.kubeconfig).parent / "front-proxy"
    return folder / "front-proxy-client.crt", folder / "front-proxy-client.key"


class TestWhomItBelieves:
    async def test_the_api_server(self, api, proxys):
        direct = Direct(api, proxys)
        assert (await direct.get(BASE, X_Remote_User="anna"))[0] == 200
        status, text = await direct.get(f"{BASE}/studytrials", X_Remote_User="anna")
        assert (status, json.loads(text)["reason"]) == (403, "Forbidden")
        assert (await direct.get(f"{BASE}/studytrials", X_Remote_User="r", X_Remote_Group="system:masters"))[0] == 200

    async def test_nobody_without_its_certificate(self, api):
        """Who reaches the port from another pod may send what headers they like."""
        for path in (BASE, f"{BASE}/studytrials", "/apis", "/openapi/v2", "/nothing"):
            status, text = await Direct(api, None).get(path, X_Remote_User="r", X_Remote_Group="system:masters")
            assert (status, json.loads(text)["reason"]) == (401, "Unauthorized")

    async def test_nobody_with_a_certificate_of_another_authority(self, api, tmp_path):
        other = Authority(tmp_path, "front-proxy-client").sign("DNS:front-proxy-client")
        with pytest.raises(aiohttp.ClientError):
            await Direct(api, other).get(BASE, X_Remote_User="r")

    async def test_nobody_with_another_name(self, api, tmp_path):
        """The authority of the API server's clients is another one; and its own certificate must have the name."""
        folder = Path(api.kubectl.kubeconfig).parent / "pki"
        with pytest.raises(aiohttp.ClientError):
            await Direct(api, (folder / "admin.crt", folder / "admin.key")).get(BASE, X_Remote_User="r")

    async def test_headers_that_a_user_sends_through_the_api_server_are_not_those_that_arrive(self, api):
        api.kubectl.ok("create", "serviceaccount", "nobody", "-n", NAMESPACE)
        token = api.kubectl.ok("create", "token", "nobody", "-n", NAMESPACE).strip()
        client = Client(api.kubectl.kubeconfig)
        forged = {"X-Remote-User": "r", "X-Remote-Group": "system:masters", "Authorization": f"Bearer {token}"}
        tls = ssl.create_default_context(cafile=str(Path(api.kubectl.kubeconfig).parent / "pki/ca.crt"))
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)) as session,
            session.get(f"{client.host}{BASE}/studytrials", headers=forged) as answer,
        ):
            assert answer.status == 403

    async def test_discovery_in_both_versions(self, api, proxys):
        direct = Direct(api, proxys)
        for version in ("v2", "v2beta1"):
            status, kind, text = await direct.whole("/apis", X_Remote_User="a", Accept=DISCOVERY.format(version))
            assert (status, kind) == (200, DISCOVERY.format(version))
            found = json.loads(text)
            assert found["apiVersion"] == f"apidiscovery.k8s.io/{version}"
            (served,) = found["items"][0]["versions"]
            assert served["freshness"] == "Current"
        status, _, text = await direct.whole("/apis", X_Remote_User="a", Accept="application/json")
        assert json.loads(text)["kind"] == "APIGroupList"


class TestWhoBelievesIt:
    def test_a_second_replica_adds_its_own_certificate(self, api):
        before = ca_bundle(api)
        port, first = api.port, api.process
        api.port = free_port()
        try:
            api.start()
            assert ca_bundle(api).count("BEGIN") == before.count("BEGIN") + 1
            assert before in ca_bundle(api)
        finally:
            api.stop()
            api.port, api.process = port, first
        assert api.available()

    def test_a_bundle_that_somebody_empties_is_filled_again(self, api):
        patch = json.dumps({"spec": {"caBundle": None}})
        api.kubectl.ok("patch", "apiservice", API_SERVICE, "--type=merge", "-p", patch)
        wait_until(lambda: "BEGIN" in ca_bundle(api))
        wait_until(api.available)
        assert api.kubectl.ok("get", "stt") == ""

    def test_the_apiservice_of_another_release_is_left_alone(self, api):
        before = ca_bundle(api)
        process, port = api.process, api.port
        try:
            other = api.spawn(API_SERVICE=f"{NAMESPACE}/another", API_PORT=str(free_port()))
            wait_until(lambda: "another release serves the trials" in other.get("/readyz")[1])
            other.process.terminate()
            assert other.process.wait(30) == 0
        finally:
            api.process, api.port = process, port
        assert ca_bundle(api) == before


def test_it_ends_in_order(api):
    """Watches end, requests are answered until the end, and the next process goes on."""
    study = api.study(api.namespace())
    study.add(0.5)

    async def watched() -> None:
        client = Client(api.kubectl.kubeconfig)
        async with client.watch(study.namespace) as watch:
            assert await watch.told() == ("ADDED", "digits-0")
            api.process.process.terminate()
            assert await watch.ended()
            assert len(api.get(f"/namespaces/{study.namespace}/studytrials")["items"]) == 1
            assert api.process.get("/readyz") == (503, "ending\n")

    asyncio.run(watched())
    assert api.process.process.wait(30) == 0
    api.start()
    wait_until(api.available)
    assert len(api.get(f"/namespaces/{study.namespace}/studytrials")["items"]) == 1


async def test_a_list_of_ten_thousand_streams(api, study_of_many):
    """Without a limit the answer is whole, and comes in one. The process never holds it."""
    found = await asyncio.to_thread(api.get, f"/namespaces/{study_of_many}/studytrials")
    assert len(found["items"]) == 10_000
    assert "continue" not in found["metadata"]
    whole = await asyncio.to_thread(api.get, f"/namespaces/{study_of_many}/studytrialsets/digits")
    assert sum(len(block["number"]) for block in whole["blocks"]) == 10_000
    assert sum(len(steps) for block in whole["blocks"] for steps in block["reports"]["steps"]) == 200_000
    assert memory(api) < 300 * 2**20


@pytest.fixture(scope="module")
def study_of_many(api) -> str:
    """A namespace with a study of ten thousand trials, of 20 reports each."""
    study = api.study(api.namespace())
    study.fill(10_000)
    return study.namespace


def memory(api: Aggregated) -> int:
    """The most memory that the process has had, in bytes."""
    status = Path(f"/proc/{api.process.process.pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024

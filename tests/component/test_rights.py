"""The operator with the chart's rights and no others: all it does is granted, and all that is granted is needed."""

from __future__ import annotations

import copy
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from chart import render
from faults import Faults, FaultyCluster, Wrong
from kubeconfig import use_kubeconfig, write_kubeconfig
from kubernetes.aio import client
from play import Play
from proxy import Proxy, Right
from running import run_pods, running
from scenarios import SCENARIOS
from waiting import until
from world import World, job_template

from study_operator.kube.api_server import ApiError
from study_operator.reconcile import publisher

_RBAC = "/apis/rbac.authorization.k8s.io/v1"


@dataclass
class Operator:
    """The operator's own account, with what the chart grants to it.

    Attributes:
        configuration: of a client that acts as it, through `proxy`.
        kubeconfig: the same as a file.
        granted: its rights.
    """

    proxy: Proxy
    configuration: client.Configuration
    kubeconfig: Path
    granted: set[Right]


def roles_of_operator(objects: list[dict]) -> list[dict]:
    """The roles that the chart binds to the operator's service account, and the bindings."""
    (account,) = (o["metadata"]["name"] for o in objects if o["kind"] == "ServiceAccount" and _is_operators(o))
    bindings = [
        o
        for o in objects
        if o["kind"].endswith("RoleBinding") and account in (subject["name"] for subject in o["subjects"])
    ]
    names = {binding["roleRef"]["name"] for binding in bindings}
    return [o for o in objects if o["kind"] in ("Role", "ClusterRole") and o["metadata"]["name"] in names] + bindings


def _is_operators(account: dict) -> bool:
    return account["metadata"]["labels"].get("app.kubernetes.io/component") == "operator"


def rights_of(objects: list[dict]) -> set[Right]:
    return {
        Right(verb, group, resource)
        for item in objects
        for rule in item.get("rules", ())
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


@pytest.fixture
async def operator(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Operator]:
    monkeypatch.setattr(publisher, "STATUS_INTERVAL_SECONDS", 0.0)
    release = f"r{uuid.uuid4().hex[:8]}"
    objects = roles_of_operator(render(release=release))
    account = next(o for o in objects if "subjects" in o)["subjects"][0]["name"]
    accounts = f"/api/v1/namespaces/{world.namespace}/serviceaccounts"
    manifest = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account}}
    await world.cluster._call("POST", accounts, body=manifest)
    for item in objects:
        for subject in item.get("subjects", ()):
            subject["namespace"] = world.namespace
        if "namespace" in item["metadata"]:
            item["metadata"]["namespace"] = world.namespace
        await world.cluster._call("POST", _path(item), body=item)
    wanted = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
    answer = await world.cluster._call("POST", f"{accounts}/{account}/token", body=wanted)
    token = answer["status"]["token"]
    async with Proxy(world._configuration) as proxy:
        configuration = client.Configuration(host=proxy.url)
        configuration.api_key = {"BearerToken": f"Bearer {token}"}
        kubeconfig = tmp_path / "kubeconfig"
        write_kubeconfig(kubeconfig, proxy.url, token)
        use_kubeconfig(monkeypatch, kubeconfig)
        yield Operator(proxy, configuration, kubeconfig, rights_of(objects))
    for item in objects:
        await world.cluster._call("DELETE", f"{_path(item)}/{item['metadata']['name']}")


def _path(item: dict) -> str:
    """Where an object of RBAC is created."""
    namespace = item["metadata"].get("namespace")
    where = f"/namespaces/{namespace}" if namespace else ""
    return f"{_RBAC}{where}/{item['kind'].lower()}s"


def _each_first_has_no_answer() -> Faults:
    """After a write whose answer never came, the operator has to look what is there: it needs rights for that too."""
    seen = Counter[str]()

    def rule(_: int, name: str) -> Wrong | None:
        seen[name] += 1
        return Wrong.TIMES_OUT_AFTER if seen[name] == 1 else None

    return Faults(rule)


async def test_every_right_is_used_and_none_is_missing(world, operator):
    for name in ("ends", "claims", "quota"):
        async with world.another_operator() as other:
            await other.operators_cluster.close()
            other.operators_cluster = FaultyCluster(operator.configuration)
            await Play(other, SCENARIOS[name], name, _each_first_has_no_answer).run()
    jobs = f"/apis/batch/v1/namespaces/{world.namespace}/jobs"
    theirs = {"metadata": {"name": "study-1"}, "spec": job_template()["spec"]}
    theirs["spec"]["template"]["spec"]["restartPolicy"] = "Never"
    await world.cluster._call("POST", jobs, body=theirs)
    async with running(world, TRIAL_IMAGE="study-trial:1"):
        await world.apply()

        async def in_the_way() -> bool:
            return "a Job study-1 that is not this trial's" in (await world.condition("Progressing")).get("message", "")

        await until(in_the_way)
        await world.cluster._call("DELETE", f"{jobs}/study-1", {"propagationPolicy": "Background"})
        status = await run_pods(world, lambda number: number / 10)
        assert status["phase"] == "Succeeded"
        await world.apply("files", metrics={"from": "File", "path": "/metrics/m.jsonl"})
        await until(lambda: Right("list", "", "limitranges") in operator.proxy.used | operator.proxy.refused)
        await world.delete_study("files")
    proxy = operator.proxy
    nowhere = {"DATABASE_URL": "postgresql://optuna@127.0.0.1:1/studies"}
    async with running(world, OPERATOR_SERVICE=f"{world.namespace}/replicas", **nowhere):
        await until(lambda: Right("list", "discovery.k8s.io", "endpointslices") in proxy.used | proxy.refused)
    assert proxy.refused == set(), "the chart does not grant what the operator needs"
    assert proxy.used <= operator.granted
    assert operator.granted - proxy.used == set(), "the chart grants what the operator never needs"


async def test_a_right_that_is_missing_would_be_noticed(world, operator):
    """The account really has no others: it cannot read a Secret."""
    stranger = FaultyCluster(copy.copy(operator.configuration))
    with pytest.raises(ApiError) as refused:
        await stranger._call("GET", f"/api/v1/namespaces/{world.namespace}/secrets")
    await stranger.close()
    assert refused.value.status == 403
    assert operator.proxy.refused == {Right("list", "", "secrets")}

"""Namespaces that are served because of their labels, and those in which Studies are refused."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest
from prometheus_client import REGISTRY
from running import RunningManager, run_pods, running
from waiting import until
from world import MERGE, World, counted

from study_operator.controller import namespaces as namespaces_module
from study_operator.controller.namespaces import Namespaces
from study_operator.model.study import StudyKey
from study_operator.settings import SettingsError


async def label(world: World, value: str | None) -> None:
    """Give the world's namespace the label `studies`; None takes it away."""
    body = {"metadata": {"labels": {"studies": value}}}
    await world.cluster._call("PATCH", f"/api/v1/namespaces/{world.namespace}", body=body, content=MERGE)


def selecting(world: World, value: str) -> Any:
    """An operator that serves the namespaces that have the label."""
    return running(world, WATCH_NAMESPACES="", WATCH_NAMESPACE_SELECTOR=f"studies={value}")


def serves(operator: RunningManager, world: World, name: str = "study") -> bool:
    return operator.manager.replicas.serves(StudyKey(world.namespace, name))


async def test_a_namespace_is_served_while_it_has_the_labels(world, kubeconfig):
    value = uuid.uuid4().hex[:8]
    other = await World.create(kubeconfig, world.database)

    async def two_run() -> bool:
        return len(await world.active()) == 2

    try:
        await label(other, value)
        await world.apply(maxTrials=4, parallelism=2)
        async with selecting(world, value) as operator:
            await other.apply("first")
            await run_pods(other, float, "first")
            assert "status" not in await world.study()

            await label(world, value)
            await until(lambda: serves(operator, world))
            await until(two_run)

            await label(world, None)
            await until(lambda: not serves(operator, world))
            await world.finish(0, 0.5)
            await world.end_job(0)
            await world.apply("late")
            version = (await world.study())["metadata"]["resourceVersion"]
            await other.apply("second")
            await run_pods(other, float, "second")
            assert (await world.study())["metadata"]["resourceVersion"] == version
            assert "status" not in await world.study("late")
            assert await world.active() == [1]

            await label(world, value)
            status = await run_pods(world, float)
            assert counted(status) == {"total": 4, "complete": 4}
            assert counted(await run_pods(world, float, "late")) == {"total": 4, "complete": 4}
    finally:
        await other.leave()


async def test_what_was_deleted_meanwhile_is_ended_when_the_labels_are_back(world, kubeconfig):
    value = uuid.uuid4().hex[:8]
    await label(world, value)
    await world.apply(deletionPolicy="Delete")
    async with selecting(world, value) as operator:
        await until(world.active)
        await label(world, None)
        await until(lambda: not serves(operator, world))
        await world.delete_study()
        controller = operator.manager.controller
        await controller._sweep()
        assert len(await controller._reconciler.known_studies()) == 1, "its rows are left alone"
        await label(world, value)

        async def ended() -> bool:
            return not await controller._reconciler.known_studies()

        await until(ended)


async def test_namespaces_are_read_in_pages(world, monkeypatch):
    monkeypatch.setattr(namespaces_module, "_PAGE", 1)
    selected = Namespaces(
        world.cluster.configuration, (), "kubernetes.io/metadata.name in (default, kube-system)", None
    )
    await selected.read()
    assert [name for name in ("default", "kube-system", world.namespace) if selected.serves(name)] == [
        "default",
        "kube-system",
    ]


async def test_what_a_namespace_that_is_gone_has_left_is_ended(world, kubeconfig):
    namespaces = Namespaces(world.cluster.configuration, (), "studies=nobody", "own")
    await namespaces.read()
    assert await namespaces.served_or_gone({world.namespace, "there-is-none", "own"}) == {"there-is-none", "own"}
    everywhere = Namespaces(world.cluster.configuration, (), "", None)
    assert await everywhere.served_or_gone({world.namespace, "there-is-none"}) == {world.namespace, "there-is-none"}


async def test_labels_that_the_api_server_does_not_understand_end_the_process_with_a_sentence(world, kubeconfig):
    operator = RunningManager(world.database, world.namespace, WATCH_NAMESPACES="", WATCH_NAMESPACE_SELECTOR="a in b")
    with pytest.raises(SettingsError, match=r"WATCH_NAMESPACE_SELECTOR is 'a in b'; write labels such as .*parse"):
        await asyncio.wait_for(operator.task, 30)


async def refused(world: World, name: str) -> dict[str, Any] | None:
    status = (await world.study(name)).get("status") or {}
    return next((c for c in status.get("conditions", []) if c["type"] == "Accepted" and c["status"] == "False"), None)


async def test_studies_of_the_operators_own_namespace_are_refused_and_that_of_helm_test_is_not(world, kubeconfig):
    """As with an upgrade to a version that refuses them: a Job of an earlier one runs, ends and counts."""
    async with running(world):
        await world.apply("before", maxTrials=4, parallelism=1)
        await until(lambda: world.active("before"))
    own = {"WATCH_NAMESPACES": "", "WATCH_NAMESPACE_SELECTOR": "studies=nobody"}
    async with running(world, **own, OPERATOR_SERVICE=f"{world.namespace}/operator"):
        await world.apply("other")
        for name in ("before", "other"):
            condition = await until(lambda name=name: refused(world, name))
            assert condition["reason"] == "NamespaceReserved"
            assert f"the namespace {world.namespace} is the operator's own" in condition["message"]
        labels = {"namespace": world.namespace, "reason": "NamespaceReserved"}
        assert REGISTRY.get_sample_value("study_operator_studies_refused", labels) == 2
        await world.apply("operator-test")
        assert counted(await run_pods(world, float, "operator-test")) == {"total": 4, "complete": 4}
        assert await world.active("before") == [0], "what runs is left alone"
        await world.finish(0, 0.5, study="before")
        await world.end_job(0, study="before")

        async def complete() -> bool:
            return counted((await world.study("before"))["status"]).get("complete") == 1

        await until(complete)
        assert await world.active("before") == []
        assert await world.active("other") == []
    async with running(
        world, **own, OPERATOR_SERVICE=f"{world.namespace}/operator", ALLOWED_NAMESPACES=world.namespace
    ):
        assert counted(await run_pods(world, float, "other")) == {"total": 4, "complete": 4}

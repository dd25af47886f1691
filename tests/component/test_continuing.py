"""A Study that was created again goes on with the rows of the one before it: CRD deleted by mistake, cluster lost."""

from __future__ import annotations

import pytest
from database import TrialPod
from restoring import incidents, jobs_of_rows, run_to_the_end
from world import World, study_manifest

from study_operator.model.mark import CONTINUE_ANNOTATION

Manifest = dict


async def create(world: World, continued: str, name: str = "study", **spec: object) -> Manifest:
    """What is restored from `kubectl get studies -o json`, with the annotation."""
    manifest = study_manifest(name, world.namespace, **spec)
    manifest["metadata"]["annotations"] = {CONTINUE_ANNOTATION: continued}
    return await world.cluster._call("POST", world._path("studies"), body=manifest)


async def _begun(world: World) -> str:
    """Trial 0 has ended, 1 and 2 run; then the Study is gone with its Jobs, and the operator was away."""
    await world.apply()
    await world.settle()
    await world.finish(0, 0.1)
    await world.end_job(0)
    await world.settle()
    name = (await world.study())["status"]["studyName"]
    pod = await world.pod(1)
    TrialPod(pod.database, pod.key, pod.trial_id, job="study-1").call("report", 1, 0.5)
    await world.delete_study()
    await world.collect_garbage()
    await world.remove_finalizers()
    assert await world.jobs() == []
    world.start_operator()
    return name


@pytest.mark.parametrize("name", ["study", "another"])
async def test_a_study_that_is_created_again_goes_on(world, name):
    before = await _begun(world)
    again = await create(world, before, name)
    await world.settle(name)
    status = (await world.study(name))["status"]
    assert status["studyName"] == before
    assert status["trials"]["complete"] == 1
    assert jobs_of_rows(world) == {0: "study-0", 1: f"{name}-1-r1", 2: f"{name}-2-r1"}
    assert incidents(world) == [(n, "Infrastructure", "StudyContinued") for n in (1, 2)]
    assert world.database.query("SELECT uid FROM study_operator.access") == [(again["metadata"]["uid"],)]
    # An edit of the annotation, or its loss, changes nothing any more.
    body = {"metadata": {"annotations": {CONTINUE_ANNOTATION: None}}}
    path = world._path("studies", name)
    await world.cluster._call("PATCH", path, body=body, content="application/merge-patch+json")
    world.start_operator()
    if name == "study":
        await run_to_the_end(world)
        assert world.rows() == [(number, "COMPLETE") for number in range(4)]
        assert (await world.study(name))["status"]["bestTrial"]["number"] != 0


async def test_after_a_deletion_that_the_operator_has_seen(world):
    """It has ended the rows; they are kept, and can be gone on with all the same."""
    await world.apply()
    await world.settle()
    await world.finish(0, 0.1)
    await world.end_job(0)
    await world.settle()
    before = (await world.study())["status"]["studyName"]
    await world.delete_study()
    await world.look()
    await world.collect_garbage()
    await world.remove_finalizers()
    await create(world, before, maxTrials=6)
    await run_to_the_end(world)
    states = [state for _, state in world.database.query("SELECT number, state::text FROM trials ORDER BY 1")]
    assert states == ["COMPLETE", "FAIL", "FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert (await world.study())["status"]["phase"] == "Succeeded"


async def _refusal(world: World, name: str = "study") -> str:
    await world.settle(name)
    found = await world.condition("Accepted", name)
    assert (found["status"], found["reason"]) == ("False", "ContinueRefused")
    assert await world.jobs(name) == []
    return found["message"]


async def test_what_may_not_be_gone_on_with(world):
    await world.apply()
    await world.settle()
    before = (await world.study())["status"]["studyName"]
    await create(world, before, "second")
    assert "still exists" in await _refusal(world, "second")
    await create(world, "nowhere/study-12345678", "third")
    assert "no stored study" in await _refusal(world, "third")
    world.database.query("UPDATE study_operator.access SET namespace = 'another'")
    await create(world, before, "fourth")
    assert "no stored study" in await _refusal(world, "fourth")


async def test_the_rows_of_a_lost_cluster(world):
    """An administrator declares it lost: until then its rows are those of other people."""
    before = await _begun(world)
    world.database.query("UPDATE study_operator.access SET cluster_id = 'lost'")
    await create(world, before)
    assert "no stored study" in await _refusal(world)
    world.database.query("INSERT INTO study_operator.lost_clusters VALUES ('lost')")
    await run_to_the_end(world)
    assert world.rows() == [(number, "COMPLETE") for number in range(4)]
    assert world.database.query("SELECT cluster_id FROM study_operator.access") == [(world.cluster_id,)]


async def test_objectives_must_be_the_same(world):
    before = await _begun(world)
    await create(world, before, objectives=[{"name": "score", "direction": "Minimize"}])
    assert "other objectives" in await _refusal(world)

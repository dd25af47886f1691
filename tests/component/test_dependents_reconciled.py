"""What looks at a Study make of claims, Services and sidecars: before its Jobs, and after its trials have ended."""

from __future__ import annotations

from typing import Any

import pytest
from faults import Faults
from world import Manifest, World, job_template

CLAIM = {"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}}
INDEXED = {"completionMode": "Indexed", "completions": 2, "parallelism": 2}


def of_subdomain(subdomain: str) -> dict[str, Any]:
    template = job_template()
    template["spec"] |= INDEXED
    template["spec"]["template"]["spec"]["subdomain"] = subdomain
    return template


async def core(world: World, method: str, plural: str, name: str = "", body: Manifest | None = None) -> Manifest:
    path = f"/api/v1/namespaces/{world.namespace}/{plural}" + (f"/{name}" if name else "")
    return await world.cluster._call(method, path, body=body)


async def claims(world: World) -> list[str]:
    """The names of the claims that are not being deleted."""
    found = (await core(world, "GET", "persistentvolumeclaims"))["items"]
    return sorted(item["metadata"]["name"] for item in found if "deletionTimestamp" not in item["metadata"])


def writes(world: World) -> list[str]:
    return [write for write in world.operators_cluster.faults.writes if write.startswith("POST ")]


async def end(world: World, number: int, value: float) -> None:
    await world.finish(number, value)
    await world.end_job(number)
    await world.settle()


async def test_a_claim_is_there_before_its_job(world):
    world.operators_cluster.faults = Faults()
    await world.apply(parallelism=1, checkpoints={"claimTemplate": CLAIM})
    await world.look()
    assert await claims(world) == ["study-0"]
    made = [write for write in writes(world) if "dry run" not in write and "events" not in write]
    assert made == ["POST secrets", "POST persistentvolumeclaims", "POST jobs"]
    volumes = (await world.job(0))["spec"]["template"]["spec"]["volumes"]
    assert volumes[0] == {"name": "study-checkpoints", "persistentVolumeClaim": {"claimName": "study-0"}}
    assert [volume["name"] for volume in volumes[1:]] == ["study-storage"]


@pytest.mark.parametrize(("keep", "left"), [("All", [0, 1, 2]), ("Best", [1, 2]), ("None", [2])])
async def test_claims_of_ended_trials_go_as_the_study_says(world, keep, left):
    await world.apply(parallelism=1, checkpoints={"claimTemplate": CLAIM, "keep": keep})
    await world.settle()
    await end(world, 0, 0.5)
    await end(world, 1, 0.9)
    assert await claims(world) == [f"study-{number}" for number in left]


async def test_a_better_trial_takes_the_place_of_the_best(world):
    await world.apply(parallelism=1, checkpoints={"claimTemplate": CLAIM, "keep": "Best"})
    await world.settle()
    for number, value, left in ((0, 0.5, [0, 1]), (1, 0.4, [0, 2]), (2, 0.9, [2, 3]), (3, 0.1, [2])):
        await end(world, number, value)
        assert await claims(world) == [f"study-{kept}" for kept in left]


async def test_the_whole_pareto_front_is_kept(world):
    objectives = [{"name": "a", "direction": "Maximize"}, {"name": "b", "direction": "Maximize"}]
    await world.apply(parallelism=1, objectives=objectives, checkpoints={"claimTemplate": CLAIM, "keep": "Best"})
    await world.settle()
    for number, values in enumerate(((1, 0), (0, 1), (0, 0), (2, 0))):
        await world.finish(number, *values)
        await world.end_job(number)
        await world.settle()
    assert await claims(world) == ["study-1", "study-3"]


async def test_a_trial_that_still_saves_keeps_its_claim_until_its_job_has_ended(world):
    await world.apply(parallelism=1, checkpoints={"claimTemplate": CLAIM, "keep": "None"})
    await world.settle()
    await world.finish(0, 0.5)
    await world.settle()
    assert (0, "COMPLETE") in world.rows()
    assert await claims(world) == ["study-0"]
    await world.end_job(0)
    await world.settle()
    assert await claims(world) == ["study-1"]


async def test_changing_what_is_kept_holds_for_trials_that_have_ended(world):
    await world.apply(parallelism=1, maxTrials=1, checkpoints={"claimTemplate": CLAIM})
    await world.settle()
    await end(world, 0, 0.5)
    assert await claims(world) == ["study-0"]
    await world.edit(checkpoints={"keep": "None"})
    await world.settle()
    assert await claims(world) == []


async def test_an_operator_that_has_just_started_deletes_what_its_predecessor_missed(world):
    await world.apply(parallelism=1, maxTrials=1, checkpoints={"claimTemplate": CLAIM, "keep": "None"})
    await world.settle()
    world.start_operator()
    await end(world, 0, 0.5)
    assert await claims(world) == []


async def test_a_study_whose_trials_do_not_end_lists_no_claims(world):
    await world.apply(parallelism=1, checkpoints={"claimTemplate": CLAIM, "keep": "None"})
    await world.settle()
    asked: list[str] = []
    original = world.operators_cluster.list_claims

    async def list_claims(*arguments: Any) -> Any:
        asked.append("list")
        return await original(*arguments)

    world.operators_cluster.list_claims = list_claims
    await world.look()
    assert asked == []
    await end(world, 0, 0.5)
    assert asked


async def test_a_claim_that_is_somebody_elses_keeps_its_trial_waiting(world):
    theirs = {"metadata": {"name": "study-0"}, **CLAIM}
    await core(world, "POST", "persistentvolumeclaims", body=theirs)
    await world.apply(parallelism=1, checkpoints={"claimTemplate": CLAIM})
    look = await world.look()
    assert look.failed
    assert await world.jobs() == []
    assert "PersistentVolumeClaim study-0 that is not this trial's" in (await world.condition("Progressing"))["message"]
    path = f"/api/v1/namespaces/{world.namespace}/persistentvolumeclaims/study-0"
    await world.cluster._call("DELETE", path)
    patch = {"metadata": {"finalizers": None}}  # as the controller does when no pod uses it
    await world.cluster._call("PATCH", path, body=patch, content="application/merge-patch+json")
    await world.settle()
    assert await world.active() == [0]


async def test_a_claim_that_the_api_server_refuses_is_said_before_any_trial(world):
    await world.apply(checkpoints={"claimTemplate": {"spec": {"accessModes": ["Sometimes"]}}})
    await world.settle()
    accepted = await world.condition("Accepted")
    assert (accepted["status"], accepted["reason"]) == ("False", "CheckpointsRefused")
    assert "Sometimes" in accepted["message"]
    assert world.rows() == []


async def test_the_service_is_there_before_the_first_job_and_made_once(world):
    world.operators_cluster.faults = Faults()
    await world.apply(parallelism=2, jobTemplate=of_subdomain("workers"))
    await world.settle()
    assert (await core(world, "GET", "services", "workers"))["spec"]["clusterIP"] == "None"
    made = [write for write in writes(world) if "dry run" not in write and "events" not in write]
    assert made == ["POST secrets", "POST services", "POST jobs", "POST jobs"]
    await end(world, 0, 0.5)
    assert writes(world).count("POST services") == 1


async def test_a_template_with_another_subdomain_gets_another_service(world):
    await world.apply(parallelism=1, jobTemplate=of_subdomain("workers"))
    await world.settle()
    await world.edit(jobTemplate=of_subdomain("others"))
    await end(world, 0, 0.5)
    assert (await core(world, "GET", "services", "others"))["spec"]["selector"]


async def test_metrics_from_a_file_need_the_trial_image(world):
    await world.apply(metrics={"from": "File", "path": "/out/metrics.jsonl"})
    await world.settle()
    accepted = await world.condition("Accepted")
    assert (accepted["status"], accepted["reason"]) == ("False", "TrialImageMissing")

"""The metrics' sidecar fits where the program fits: admission of a real API server judges the trials' pods."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from waiting import until
from world import World, job_template

from study_operator.kube.api_server import ApiError

FILE = {"from": "File", "path": "/m/m.jsonl"}
RESOURCES = {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "500m", "memory": "128Mi"}}


async def admit(world: World, resources: dict[str, Any], *init: dict[str, Any]) -> None:
    """Asks the API server to let in a pod with these resources, without making it."""
    spec = {"containers": [{"name": "trial", "image": "trial:1", "resources": resources}], "initContainers": [*init]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod", "namespace": world.namespace}, "spec": spec}
    await world.cluster._call("POST", f"/api/v1/namespaces/{world.namespace}/pods", {"dryRun": "All"}, pod)


@pytest.mark.parametrize(
    ("item", "refused"),
    [
        ({"min": {"cpu": "50m", "memory": "64Mi"}}, {"requests": {"cpu": "10m", "memory": "64Mi"}}),
        ({"max": {"cpu": "500m", "memory": "128Mi"}}, {"limits": {"cpu": "500m", "memory": "256Mi"}}),
        ({"maxLimitRequestRatio": {"cpu": "5"}}, {"requests": {"cpu": "10m"}, "limits": {"cpu": "200m"}}),
    ],
    ids=["min", "max", "ratio"],
)
async def test_where_a_limit_range_lets_the_program_in(world, item, refused):
    manifest = {
        "apiVersion": "v1",
        "kind": "LimitRange",
        "metadata": {"name": "limits", "namespace": world.namespace},
        "spec": {"limits": [{"type": "Container", **item}]},
    }
    await world.cluster._call("POST", f"/api/v1/namespaces/{world.namespace}/limitranges", body=manifest)

    async def holds() -> bool:
        try:
            await admit(world, refused)
        except ApiError as error:
            return error.status == 403
        return False

    await until(holds)  # admission has it from a cache of its own
    world.settings = replace(world.settings, trial_image="study-trial:1")
    world.start_operator()
    await world.apply(metrics=FILE, jobTemplate=job_template(resources=RESOURCES))
    await world.look()
    (sidecar,) = (await world.job(0))["spec"]["template"]["spec"]["initContainers"]
    await admit(world, RESOURCES, {name: sidecar[name] for name in ("name", "image", "restartPolicy", "resources")})


async def test_a_study_that_has_begun_keeps_a_path_that_would_be_refused_now(world):
    world.settings = replace(world.settings, trial_image="study-trial:1")
    world.start_operator()
    await world.apply(metrics={"from": "File", "path": "/workspace/m.jsonl"})
    await world.look()
    condition = await world.condition("Accepted")
    assert (condition["status"], condition["reason"]) == ("False", "InvalidMetrics")
    path = world._path("studies", "study", "status")
    begun = {"status": {"startTime": "2026-01-01T00:00:00Z"}}  # an older operator has accepted it
    await world.cluster._call("PATCH", path, body=begun, content="application/merge-patch+json")
    world.start_operator()
    await world.look()
    assert (await world.condition("Accepted"))["status"] == "True"

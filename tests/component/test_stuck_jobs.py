"""A Job that gets no pod and a pod that does not start: the Study has the words of their Events, within half a minute.

The test plays Job controller and kubelet, who write these Events.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from world import World, container_status, timestamp

from study_operator.kube.api_server import ApiError
from study_operator.model.study import TRIED_ANNOTATION

RUNS = {"phase": "Running", "containerStatuses": [container_status({"running": {}})]}
QUOTA = 'Error creating: pods "study-1-x" is forbidden: exceeded quota: q, requested: pods=1, used: pods=1'


async def tell(world: World, kind: str, meta: dict[str, Any], reason: str, message: str, type_: str = "Warning"):
    """The Event that a controller or the kubelet writes about an object."""
    about = {"kind": kind, "namespace": world.namespace, "name": meta["name"], "uid": meta["uid"]}
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{meta['name']}.{reason.lower()}", "namespace": world.namespace},
        "involvedObject": about,
        "type": type_,
        "reason": reason,
        "message": message,
        "lastTimestamp": timestamp(),
    }
    assert await world.cluster.create_event(event)


async def gets_no_pod(world: World, number: int, message: str = QUOTA) -> None:
    """The Job controller has begun with a Job, and may not make its pod."""
    await world.begin_job(number)
    await tell(world, "Job", (await world.job(number))["metadata"], "FailedCreate", message)


async def pod_meta(world: World, name: str) -> dict[str, Any]:
    return (await world.cluster._call("GET", f"/api/v1/namespaces/{world.namespace}/pods/{name}"))["metadata"]


async def tried(world: World, number: int) -> str | None:
    """When the Job controller was last made to try a Job again."""
    return (await world.job(number))["metadata"]["annotations"].get(TRIED_ANNOTATION)


async def test_a_job_that_may_not_make_its_pod_says_why(world):
    await world.apply(maxTrials=1, parallelism=1)
    await world.look()
    await gets_no_pod(world, 0)
    world.ahead += timedelta(seconds=9)
    await world.look()
    condition = await world.condition("Progressing")
    assert (condition["status"], condition["reason"]) == ("False", "TrialPending")
    assert condition["message"] == f"Job study-0 has no pod: FailedCreate: {QUOTA}"
    event = (await world.events())["TrialPending"]
    assert (event["type"], event["message"]) == ("Warning", condition["message"])
    assert event["involvedObject"]["kind"] == "Study"


@pytest.mark.parametrize(
    ("reason", "message", "type_"),
    [
        ("FailedMount", 'MountVolume.SetUp failed for volume "c" : configmap "nowhere" not found', "Warning"),
        ("FailedResourceClaimCreation", 'resourceclaimtemplate "two-gpus" not found', "Warning"),
        ("SuccessfulAttachVolume", "AttachVolume.Attach succeeded for volume", "Normal"),
    ],
)
async def test_a_pod_without_a_condition_says_why(world, reason, message, type_):
    await world.apply(maxTrials=1, parallelism=1)
    await world.look()
    name = await world.start_pod(0, {"phase": "Pending"})
    await tell(world, "Pod", await pod_meta(world, name), reason, message, type_)
    world.ahead += timedelta(seconds=19)
    await world.look()
    condition = await world.condition("Progressing")
    assert (condition["status"], condition["reason"]) == ("False", "TrialPending")
    assert condition["message"] == f"the pod of trial 0 waits: {reason}: {message}"
    assert "TrialPending" in await world.events()


async def test_a_large_image_that_is_pulled_is_no_trouble(world):
    await world.apply(maxTrials=1, parallelism=1)
    await world.look()
    name = await world.start_pod(0, {"phase": "Pending"})
    await tell(world, "Pod", await pod_meta(world, name), "Pulling", 'Pulling image "large:1"', "Normal")
    world.ahead += timedelta(minutes=5)
    await world.look()
    assert (await world.condition("Progressing"))["reason"] == "TrialsRunning"


async def test_a_sidecar_that_crashes_beside_a_running_program_is_told(world):
    await world.apply(maxTrials=1, parallelism=1)
    await world.look()
    waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 20s"}}
    sidecar = {**container_status(waiting), "lastState": {"terminated": {"exitCode": 1}}, "name": "study-metrics"}
    name = await world.start_pod(0, {**RUNS, "initContainerStatuses": [sidecar]})
    await world.patch_job_status(0, {"ready": 0})
    world.ahead += timedelta(seconds=9)
    await world.look()
    message = (await world.condition("Progressing"))["message"]
    assert message == ("the pod of trial 0 waits: CrashLoopBackOff: container study-metrics exits with 1: back-off 20s")
    await world.set_pod_status(name, {"initContainerStatuses": None})
    await world.settle()
    assert (await world.condition("Progressing"))["reason"] == "TrialsRunning"


async def test_events_are_read_of_stuck_jobs_only_and_not_at_each_look(world, monkeypatch):
    asked, events_of = [], world.operators_cluster.events_of

    async def events_of_one(namespace: str, uid: str) -> list[dict[str, Any]]:
        asked.append(uid)
        return await events_of(namespace, uid)

    monkeypatch.setattr(world.operators_cluster, "events_of", events_of_one)
    await world.apply(maxTrials=2, parallelism=2)
    await world.look()
    await world.start_pod(0, RUNS)
    world.ahead += timedelta(seconds=60)
    await world.settle()
    assert asked == [], "trial 0 runs, and the Job controller has not begun with trial 1"
    await gets_no_pod(world, 1)
    world.ahead += timedelta(seconds=9)
    await world.look()
    await world.look()
    assert asked == [(await world.job(1))["metadata"]["uid"]]


async def test_without_the_right_to_list_events_it_says_what_it_knows(world, monkeypatch):
    async def events_of(namespace: str, uid: str) -> list[dict[str, Any]]:
        raise ApiError(403, "Forbidden", "events is forbidden")

    monkeypatch.setattr(world.operators_cluster, "events_of", events_of)
    await world.apply(maxTrials=1, parallelism=1)
    await world.look()
    await gets_no_pod(world, 0)
    world.ahead += timedelta(seconds=9)
    await world.look()
    assert "has no pod: a quota or a policy" in (await world.condition("Progressing"))["message"]


async def test_a_freed_place_is_taken_at_once(world):
    """The Job controller would try the waiting Job again only in some minutes."""
    await world.apply(maxTrials=2, parallelism=2)
    await world.look()
    await world.start_pod(0, RUNS)
    await gets_no_pod(world, 1)
    await world.look()
    assert await tried(world, 1) is None
    await world.finish(0, 0.5)
    await world.end_job(0)
    look = await world.look()
    first = await tried(world, 1)
    assert first is not None
    assert look.again <= 2, "the quota controller may not have counted the pod out yet"
    world.ahead += timedelta(seconds=2)
    await world.look()
    assert await tried(world, 1) > first
    await world.start_pod(1, RUNS)
    last = await tried(world, 1)
    world.ahead += timedelta(seconds=2)
    await world.look()
    assert await tried(world, 1) == last


async def test_a_place_that_others_have_freed_is_taken_soon(world):
    await world.apply(maxTrials=1, parallelism=1)
    await world.look()
    await gets_no_pod(world, 0)
    await world.look()
    assert await tried(world, 0) is None
    world.ahead += timedelta(seconds=31)
    await world.look()
    assert await tried(world, 0) is not None


async def test_a_trial_that_waits_its_turn_is_no_failure(world):
    await world.apply(maxTrials=2, parallelism=2, pendingDeadlineSeconds=30, infrastructureRetries=0)
    await world.look()
    await world.start_pod(0, RUNS)
    await gets_no_pod(world, 1)
    for _ in range(4):
        world.ahead += timedelta(seconds=15)
        await world.look()
    assert world.rows() == [(0, "RUNNING"), (1, "RUNNING")]
    await world.finish(0, 0.5)
    await world.end_job(0)
    world.ahead += timedelta(seconds=31)
    await world.look()  # its turn has come now
    world.ahead += timedelta(seconds=31)
    await world.settle()
    (failure,) = (await world.study())["status"]["recentFailures"]
    assert (failure["class"], failure["reason"]) == ("Infrastructure", "NoPod")
    assert failure["message"] == f"its pod did not start within 30 s: FailedCreate: {QUOTA}"

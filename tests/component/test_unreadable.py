"""A Study that is not taken in says so itself, and Jobs and pods that others have written are read like any."""

from __future__ import annotations

import json
import logging
from datetime import timedelta
from typing import Any

import pytest
from faults import Faults
from raw_api import MERGE, Api
from world import World, job_template, study_manifest

from study_operator.kube import api_server, metadata
from study_operator.model.study import STUDY_LABEL, TRIAL_ID_ANNOTATION, TRIAL_LABEL

_PLACE = "what is hostile"


def deep(levels: int, opening: str = "[", closing: str = "]") -> str:
    return opening * levels + closing * levels


async def write(world: World, hostile: str, name: str = "study", **spec: Any) -> None:
    """Creates a Study in which JSON that Python cannot write is in the place of `_PLACE`."""
    text = json.dumps(study_manifest(name, world.namespace, **spec)).replace(json.dumps(_PLACE), hostile)
    api = Api(world._configuration)
    await api.call("POST", f"/apis/study-operator.io/v1alpha1/namespaces/{world.namespace}/studies", text)
    await api.close()


def junk() -> dict[str, Any]:
    template = job_template()
    template["spec"]["junk"] = _PLACE
    return template


async def accepted(world: World, name: str = "study") -> dict[str, Any]:
    """The condition Accepted. The Study is read past the operator's decoder, which gives up."""
    api = Api(world._configuration)
    path = f"/apis/study-operator.io/v1alpha1/namespaces/{world.namespace}/studies/{name}"
    status = (await api.call("GET", path)).rpartition('"status":{')[2]
    await api.close()
    conditions = {one["type"]: one for one in json.loads("{" + status.rstrip().removesuffix("}"))["conditions"]}
    return conditions["Accepted"]


POISON = {
    "deep": ({"sampler": {"name": "TPE", "options": {"foo": _PLACE}}}, deep(1500), "Unreadable", "64 levels deep"),
    "deeper": ({"initialTrials": [{"x": _PLACE}]}, deep(9900), "Unreadable", "64 levels deep"),
    "deep for Python's copy": ({"jobTemplate": junk()}, deep(400), "Unreadable", "spec.jobTemplate: lists and objects"),
    "large": ({"jobTemplate": junk()}, json.dumps("x" * 70_000), "TooLarge", "spec.jobTemplate has 69 KiB"),
    "large options": (
        {"sampler": {"name": "TPE", "options": {"foo": _PLACE}}},
        json.dumps("x" * 20_000),
        "TooLarge",
        "spec.sampler has 20 KiB as JSON, and may have 16",
    ),
}


@pytest.mark.parametrize(("spec", "hostile", "reason", "words"), POISON.values(), ids=POISON)
async def test_a_study_that_is_not_taken_in_says_so(world, caplog, spec, hostile, reason, words):
    await write(world, hostile, **spec)
    with caplog.at_level(logging.WARNING):
        await world.look()
    condition = await accepted(world)
    assert (condition["status"], condition["reason"]) == ("False", reason)
    assert words in condition["message"]
    assert words in caplog.text
    assert "Traceback" not in caplog.text
    assert (await world.events())["Refused"]["message"].startswith(condition["message"][:50])
    faults = world.operators_cluster.faults = Faults()
    look = await world.look()
    assert not faults.writes, "it is said once"
    assert look.again is None
    assert world.rows() == []


async def test_maps_that_are_deep_in_managed_fields_too(world):
    await write(world, '{"a":' * 3000 + "1" + "}" * 3000, jobTemplate=junk())
    await world.look()
    assert (await accepted(world))["reason"] == "Unreadable"
    assert [study.name for study in await world.cluster.list_studies(world.namespace)] == ["study"]


async def test_a_study_that_is_edited_into_one_goes_on_when_it_is_readable_again(world):
    await world.apply(maxTrials=2)
    await world.settle()
    api = Api(world._configuration)
    path = f"/apis/study-operator.io/v1alpha1/namespaces/{world.namespace}/studies/study"
    await api.call("PATCH", path, f'{{"spec": {{"jobTemplate": {{"spec": {{"junk": {deep(2000)}}}}}}}}}', content=MERGE)
    await world.look()
    assert (await accepted(world))["reason"] == "Unreadable"
    assert await world.active() == [0, 1], "what runs goes on"
    assert world.remembered() is None
    for number in 0, 1:
        pod = await api.call("GET", f"/apis/batch/v1/namespaces/{world.namespace}/jobs/study-{number}")
        assert json.loads(pod)["metadata"]["name"] == f"study-{number}"
    await api.call("PATCH", path, {"spec": {"jobTemplate": {"spec": {"junk": None}}}}, content=MERGE)
    await api.close()
    await world.run_trials(float)
    status = (await world.study())["status"]
    assert status["trials"]["complete"] == 2
    assert (await world.condition("Accepted"))["status"] == "True"


async def test_a_study_that_is_not_taken_in_is_ended_when_it_is_deleted(world):
    await write(world, deep(2000), jobTemplate=junk())
    await world.look()
    await world.delete_study()
    assert (await world.look()).gone


async def test_studies_are_listed_in_pages(world, monkeypatch):
    monkeypatch.setattr(metadata, "PAGE", 2)
    for number in range(5):
        await world.apply(f"study-{number}")
    found = await world.cluster.list_studies(world.namespace)
    assert [study.name for study in found] == [f"study-{number}" for number in range(5)]
    one = await world.study("study-3")
    assert found[3].uid == one["metadata"]["uid"]
    assert found[3].generation == 1
    assert not found[3].deleting
    assert found[3] == await world.cluster.identify_study(world.namespace, "study-3")
    assert await world.cluster.identify_study(world.namespace, "study-9") is None


async def test_jobs_that_are_too_many_for_one_answer_are_read_in_pages(world, monkeypatch):
    await world.apply(maxTrials=6, parallelism=6)
    await world.settle()
    uid = (await world.study())["metadata"]["uid"]
    whole = await world.cluster.list_jobs(world.namespace, f"{STUDY_LABEL}=study", uid)
    monkeypatch.setattr(api_server, "_LONGEST_ANSWER", 15_000)
    monkeypatch.setattr(api_server, "_PAGE", 8)
    assert await world.cluster.list_jobs(world.namespace, f"{STUDY_LABEL}=study", uid) == whole
    assert len(whole) == 6
    monkeypatch.setattr(api_server, "_LONGEST_ANSWER", 100)
    with pytest.raises(api_server.ApiError, match=r"the answer for .* has more than"):
        await world.cluster.list_jobs(world.namespace, f"{STUDY_LABEL}=study", uid)


@pytest.mark.parametrize(
    ("number", "trial_id"), [("7" * 63, "1"), ("3", "9" * 5_000), ("3", "٣"), ("4294967296", "-1")]
)
async def test_jobs_and_pods_with_labels_that_are_no_numbers_are_nobodys(world, number, trial_id):
    """They are owned by the Study, as far as their metadata says so."""
    await world.apply(maxTrials=2, parallelism=1)
    await world.settle()
    job = await world.job(0)
    meta = {
        "name": "foreign",
        "namespace": world.namespace,
        "labels": {STUDY_LABEL: "study", TRIAL_LABEL: number},
        "annotations": {TRIAL_ID_ANNOTATION: trial_id, "junk": "x" * 200_000},
        "ownerReferences": job["metadata"]["ownerReferences"],
    }
    spec = {"restartPolicy": "Never", "containers": [{"name": "a", "image": "i"}]}
    foreign = {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": {"template": {"spec": spec}}}
    await world.cluster._call("POST", world._path("jobs"), body=foreign)
    meta = {**meta, "name": "pod", "labels": {STUDY_LABEL: "study"}}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}
    await world.cluster._call("POST", f"/api/v1/namespaces/{world.namespace}/pods", body=pod)
    world.ahead += timedelta(minutes=1)  # the operator asks why there is no ready pod
    await world.look()
    await world.finish(0, 1.0)
    await world.end_job(0)
    for _ in range(3):
        await world.look()
    assert dict(world.rows()) == {0: "COMPLETE", 1: "RUNNING"}

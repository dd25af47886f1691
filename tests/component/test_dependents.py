"""What a trial has beside its Job, in a real API server: claims, the Service of a subdomain, the end of its pods."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from world import Manifest, World, job_template

from study_operator.kube.api_server import ApiError
from study_operator.manifests.job import Reporting, job_manifest
from study_operator.model.job_state import JobState, job_state
from study_operator.model.study import STUDY_LABEL, TRIAL_LABEL, Study, parse
from study_operator.model.trial import Rows, TrialRow, TrialState
from study_operator.reconcile import dependents
from study_operator.settings import TRIAL_STORAGE_DIRECTORY

RUNNING, COMPLETE = TrialState.RUNNING, TrialState.COMPLETE
CLAIM = {"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}}
TRIAL_0 = f"{STUDY_LABEL}=study,{TRIAL_LABEL}=0"
INDEXED = {"completionMode": "Indexed", "completions": 2, "parallelism": 2}


async def study_of(world: World, name: str = "study", **spec: Any) -> Study:
    return parse(await world.apply(name, **spec))


async def core(world: World, method: str, plural: str, name: str = "", body: Manifest | None = None) -> Manifest:
    path = f"/api/v1/namespaces/{world.namespace}/{plural}" + (f"/{name}" if name else "")
    return await world.cluster._call(method, path, body=body)


async def claims(world: World) -> dict[str, Manifest]:
    return {item["metadata"]["name"]: item for item in (await core(world, "GET", "persistentvolumeclaims"))["items"]}


def of_subdomain(subdomain: Any, **spec: Any) -> dict[str, Any]:
    template = job_template()
    template["spec"] |= spec
    template["spec"]["template"]["spec"]["subdomain"] = subdomain
    return template


# Claims


async def test_a_claim_is_made_once(world):
    study = await study_of(world, checkpoints={"claimTemplate": {**CLAIM, "metadata": {"labels": {"team": "a"}}}})
    assert await dependents.ensure_claim(world.cluster, study, 0) is None
    (made,) = (await claims(world)).values()
    assert await dependents.ensure_claim(world.cluster, study, 0) is None
    (again,) = (await claims(world)).values()
    assert again["metadata"]["uid"] == made["metadata"]["uid"]
    assert made["metadata"]["labels"]["team"] == "a"
    assert made["metadata"]["ownerReferences"][0]["uid"] == study.uid
    assert await dependents.list_claims(world.cluster, study) == {0: ("study-0", made["metadata"]["uid"])}


async def test_no_claim_is_made_where_trials_share_one(world):
    study = await study_of(world, checkpoints={"claimName": "shared"})
    assert await dependents.ensure_claim(world.cluster, study, 0) is None
    assert await claims(world) == {}


async def test_somebody_elses_claim_is_never_taken(world):
    study = await study_of(world, checkpoints={"claimTemplate": CLAIM})
    theirs = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "study-0"}, **CLAIM}
    await core(world, "POST", "persistentvolumeclaims", body=theirs)
    assert await dependents.ensure_claim(world.cluster, study, 0) == (
        "a PersistentVolumeClaim study-0 that is not this trial's exists, or is being deleted; if it stays, delete it, "
        "or give the Study another name"
    )
    assert await dependents.list_claims(world.cluster, study) == {}


async def test_a_claim_of_an_earlier_study_of_that_name_is_not_taken(world):
    checkpoints = {"claimTemplate": CLAIM}
    old = await study_of(world, checkpoints=checkpoints)
    await dependents.ensure_claim(world.cluster, old, 0)
    await world.delete_study()
    new = await study_of(world, checkpoints=checkpoints)
    assert "not this trial's" in (await dependents.ensure_claim(world.cluster, new, 0) or "")


async def test_a_claim_that_the_api_server_refuses_is_told(world):
    study = await study_of(world, checkpoints={"claimTemplate": {"spec": {"accessModes": ["Sometimes"]}}})
    trouble = await dependents.ensure_claim(world.cluster, study, 0)
    assert trouble is not None
    assert trouble.startswith("PersistentVolumeClaim study-0 could not be created: ")
    assert "Sometimes" in trouble


async def test_the_api_server_judges_a_claim_before_it_is_needed(world):
    await dependents.try_claim(world.cluster, await study_of(world, "plain"))
    await dependents.try_claim(world.cluster, await study_of(world, "good", checkpoints={"claimTemplate": CLAIM}))
    misspelt = {"spec": {**CLAIM["spec"], "storageClass": "fast"}}
    bad = await study_of(world, "bad", checkpoints={"claimTemplate": misspelt})
    with pytest.raises(ApiError, match=r'unknown field "spec\.storageClass"'):
        await dependents.try_claim(world.cluster, bad)
    assert await claims(world) == {}


@pytest.mark.parametrize(
    ("keep", "left"),
    [("All", [0, 1, 2, 3]), ("Best", [1, 2, 3]), ("None", [2, 3])],
)
async def test_claims_are_deleted_when_their_trials_have_ended(world, keep, left):
    study = await study_of(world, checkpoints={"claimTemplate": CLAIM, "keep": keep})
    other = await study_of(world, "other", checkpoints={"claimTemplate": CLAIM, "keep": keep})
    for number in range(4):
        assert await dependents.ensure_claim(world.cluster, study, number) is None
    await dependents.ensure_claim(world.cluster, other, 0)
    rows = Rows({RUNNING: 1, COMPLETE: 3}, {2: TrialRow(102, 2, RUNNING, {}, "study-2")})
    assert await dependents.clear_claims(world.cluster, study, rows, active=[3], best=[1]) == (True, None)
    # The API server keeps a claim that is being deleted until a controller lets go of it.
    kept = {name for name, item in (await claims(world)).items() if "deletionTimestamp" not in item["metadata"]}
    assert kept == {*(f"study-{number}" for number in left), "other-0"}
    assert sorted(await dependents.list_claims(world.cluster, study)) == left
    assert await dependents.clear_claims(world.cluster, study, rows, active=[3], best=[1]) == (True, None)


async def test_a_claim_being_deleted_is_not_taken_for_ones_own(world):
    study = await study_of(world, checkpoints={"claimTemplate": CLAIM, "keep": "None"})
    await dependents.ensure_claim(world.cluster, study, 0)
    await dependents.clear_claims(world.cluster, study, Rows({COMPLETE: 1}, {}), [], [])
    assert "deletionTimestamp" in (await claims(world))["study-0"]["metadata"]
    assert "is being deleted" in (await dependents.ensure_claim(world.cluster, study, 0) or "")


# The Service of a subdomain


async def test_a_subdomain_gets_a_headless_service(world):
    study = await study_of(world, jobTemplate=of_subdomain("workers", **INDEXED))
    assert await dependents.ensure_service(world.cluster, study) is None
    made = await core(world, "GET", "services", "workers")
    assert await dependents.ensure_service(world.cluster, study) is None
    assert (await core(world, "GET", "services", "workers"))["metadata"]["uid"] == made["metadata"]["uid"]
    assert made["spec"]["clusterIP"] == "None"
    assert made["spec"]["selector"] == {"study-operator.io/study": "study"}
    assert made["spec"]["publishNotReadyAddresses"] is True
    assert made["metadata"]["ownerReferences"][0]["uid"] == study.uid


async def test_a_service_of_the_users_own_is_left_alone(world):
    study = await study_of(world, jobTemplate=of_subdomain("workers", **INDEXED))
    own = {"metadata": {"name": "workers"}, "spec": {"clusterIP": "None", "selector": {"app": "mine"}}}
    before = await core(world, "POST", "services", body=own)
    assert await dependents.ensure_service(world.cluster, study) is None
    assert await core(world, "GET", "services", "workers") == before


async def test_two_studies_do_not_share_a_service(world):
    first = await study_of(world, "first", jobTemplate=of_subdomain("workers", **INDEXED))
    second = await study_of(world, "second", jobTemplate=of_subdomain("workers", **INDEXED))
    assert await dependents.ensure_service(world.cluster, first) is None
    assert await dependents.ensure_service(world.cluster, second) == (
        "Service workers is that of Study first, or of an earlier one: give subdomain another name"
    )


async def test_a_subdomain_that_cannot_be_a_services_name_is_told(world):
    study = await study_of(world, jobTemplate=of_subdomain("No_Name", **INDEXED))
    trouble = await dependents.ensure_service(world.cluster, study)
    assert trouble is not None
    assert trouble.startswith("Service No_Name could not be created: ")


# The end of pods


async def pod_on_a_node(world: World, name: str, owner: Manifest, grace: int = 300) -> None:
    """A pod of trial 0 that only a kubelet could end, of which there is none here."""
    reference = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "name": owner["name"],
        "uid": owner["uid"],
        "controller": True,
    }
    labels = {"study-operator.io/study": "study", "study-operator.io/trial": "0"}
    pod = {
        "metadata": {"name": name, "labels": labels, "ownerReferences": [reference]},
        "spec": {
            "nodeName": "node",
            "terminationGracePeriodSeconds": grace,
            "containers": [{"name": "trial", "image": "trial:1"}],
        },
    }
    await core(world, "POST", "pods", body=pod)


async def grace_of(world: World, name: str) -> int | None:
    return (await core(world, "GET", "pods", name))["metadata"].get("deletionGracePeriodSeconds")


async def test_pods_of_a_job_are_ended_in_time_and_no_others(world):
    await world.apply()
    await world.look()
    job = await world.job(0)
    state = await first_job(world)
    await pod_on_a_node(world, "a", job["metadata"])
    await pod_on_a_node(world, "b", job["metadata"])
    await pod_on_a_node(world, "earlier", {"name": job["metadata"]["name"], "uid": "of a Job that is gone"})
    await core(world, "DELETE", "pods", "b")
    assert await grace_of(world, "b") == 300
    await world.cluster.delete_pods(world.namespace, TRIAL_0, state.uid, grace_seconds=3)
    assert [await grace_of(world, name) for name in ("a", "b", "earlier")] == [3, 3, None]
    await world.cluster.delete_pods(world.namespace, TRIAL_0, state.uid, grace_seconds=3)
    assert await grace_of(world, "a") == 3


async def test_a_job_without_pods_has_none_to_end(world):
    await world.apply()
    await world.look()
    await world.cluster.delete_pods(world.namespace, TRIAL_0, (await first_job(world)).uid, grace_seconds=3)


async def first_job(world: World) -> JobState:
    return next(job for job in await job_states(world) if job.number == 0)


async def job_states(world: World) -> list[JobState]:
    """The study's Jobs."""
    study = parse(await world.study())
    listed = await world.cluster.list_jobs(world.namespace, f"{STUDY_LABEL}=study", study.uid)
    return [state for item in listed if (state := job_state(item, study.is_gpu)) is not None]


# What the API server says to the Jobs


def reporting(world: World, study: Study) -> Reporting:
    made = Reporting.of(study, world.cluster_id, world.settings.study_key_seed, world.settings.reporter_url, None)
    given = {"ca": "-----BEGIN CERTIFICATE-----", "directory": TRIAL_STORAGE_DIRECTORY}
    return replace(made, image="registry.example.com/study-trial:1", **given)


@pytest.mark.parametrize(
    "fields",
    [
        {"jobTemplate": of_subdomain("workers", **INDEXED)},
        {"checkpoints": {"claimTemplate": CLAIM}},
        {"checkpoints": {"claimName": "shared", "mountPath": "/save"}},
        {"metrics": {"from": "File", "path": "/out/metrics.jsonl"}},
        {
            "metrics": {"from": "File", "path": "/checkpoints/runs", "format": "TensorBoard"},
            "checkpoints": {"claimTemplate": CLAIM},
        },
    ],
    ids=["indexed", "claim of its own", "shared claim", "sidecar", "sidecar and claim"],
)
async def test_the_api_server_accepts_the_job(world, fields):
    study = await study_of(world, **fields)
    await world.cluster.create_job(job_manifest(study, reporting(world, study), 0, 0, {"x": 0.5}), dry_run=True)


async def test_the_longest_name_is_accepted_and_a_longer_one_is_not(world):
    template = of_subdomain("workers", **INDEXED)
    study = await study_of(world, "s" * 52, maxTrials=1_000_000, infrastructureRetries=9, jobTemplate=job_template())
    name = study.job_name(999_999, 99)
    assert len(name) == 63
    made = job_manifest(study, reporting(world, study), 999_999, 0, {"x": 0.5}, name=name)
    await world.cluster.create_job(made, dry_run=True)
    with pytest.raises(ApiError, match="63"):
        await world.cluster.create_job({**made, "metadata": {**made["metadata"], "name": name + "9"}}, dry_run=True)
    several = await study_of(world, "t" * 52, maxTrials=1_000_000, infrastructureRetries=0, jobTemplate=template)
    name = several.job_name(999_999) + "-r"  # 61 characters: with "-1" a host name of 63
    made = job_manifest(several, reporting(world, several), 999_999, 0, {"x": 0.5}, name=name)
    await world.cluster.create_job(made, dry_run=True)
    with pytest.raises(ApiError, match="invalid DNS label"):
        await world.cluster.create_job({**made, "metadata": {**made["metadata"], "name": name + "r"}}, dry_run=True)


async def test_gpus_of_all_pods_are_counted_in_the_list(world):
    await world.apply(gpusPerTrial=3, gpuResourceName="amd.com/gpu", jobTemplate=of_subdomain(None, **INDEXED))
    await world.look()
    assert {job.gpus for job in await job_states(world)} == {6}


async def test_the_clusters_choice_of_a_group_can_be_kept(world):
    """Where each namespace has groups of its own, the API server refuses any other."""
    template = job_template()
    template["spec"]["template"]["spec"]["securityContext"] = {"fsGroup": None}
    study = await study_of(world, checkpoints={"claimTemplate": CLAIM}, jobTemplate=template)
    manifest = job_manifest(study, reporting(world, study), 0, 0, {"x": 0.5})
    made = await world.cluster._call("POST", world._path("jobs"), {"dryRun": "All"}, manifest)
    assert "fsGroup" not in made["spec"]["template"]["spec"]["securityContext"]


# A Study of nothing but objectives, parameters, an image and a command


async def test_a_minimal_study_does_the_sensible_thing(world):
    spec = {
        "objectives": [{"name": "loss", "direction": "Minimize"}],
        "parameters": [{"name": "x", "float": {"low": 0, "high": 1}}],
        "jobTemplate": {"spec": {"template": {"spec": {"containers": [{"image": "train:1", "command": ["train"]}]}}}},
    }
    manifest = {
        "apiVersion": "study-operator.io/v1alpha1",
        "kind": "Study",
        "metadata": {"name": "minimal", "namespace": world.namespace},
        "spec": spec,
    }
    await world.cluster._call("POST", world._path("studies"), body=manifest)
    await world.look("minimal")
    assert (await world.condition("Accepted", "minimal"))["status"] == "True"
    (made,) = await world.jobs("minimal")
    job_spec = made["spec"]
    assert job_spec["backoffLimit"] == 0
    pod = job_spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    (container,) = pod["containers"]
    assert (container["name"], container["image"], container["command"]) == ("trial", "train:1", ["train"])
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "1"}

"""Trials of several pods: an Indexed Job, the Service that gives its pods names, and the GPUs of all of them."""

from __future__ import annotations

import pytest
from building import study

from study_operator.manifests.job import Reporting, job_manifest
from study_operator.manifests.subdomain import headless_service
from study_operator.model.job_state import gpus_of
from study_operator.model.study import Refused, owner_reference


def template(pod=None, containers=None, **spec):
    named = containers or [{"name": "trial", "image": "trial:1"}]
    return {"spec": {"template": {"spec": {"containers": named, **(pod or {})}}, **spec}}


INDEXED = {"completionMode": "Indexed", "completions": 2, "parallelism": 2}


def job_of(**fields):
    of = study(**fields)
    return job_manifest(of, Reporting("postgresql://x", "key"), 3, 1003, {"lr": 0.1})


def test_an_indexed_job_is_one_trial_all_pods_of_which_have_its_environment():
    made = job_of(jobTemplate=template(**INDEXED))
    assert {name: made["spec"][name] for name in INDEXED} == INDEXED
    (container,) = made["spec"]["template"]["spec"]["containers"]
    assert {"name": "PARAM_lr", "value": "0.1"} in container["env"]
    assert "JOB_COMPLETION_INDEX" not in {variable["name"] for variable in container["env"]}  # the Job controller's


def test_an_indexed_job_of_one_pod_is_one_too():
    assert job_of(jobTemplate=template(completionMode="Indexed"))["spec"]["completionMode"] == "Indexed"


def test_what_decides_about_several_pods_is_left_to_the_user():
    own = {"successPolicy": {"rules": [{"succeededIndexes": "0"}]}, "backoffLimitPerIndex": 2}
    made = job_of(jobTemplate=template(**INDEXED, **own))
    assert {name: made["spec"][name] for name in own} == own


def test_pods_with_a_subdomain_get_a_service_of_that_name():
    of = study(jobTemplate=template({"subdomain": "workers"}, **INDEXED))
    assert headless_service(of) == {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "workers",
            "namespace": "team-a",
            "labels": {"study-operator.io/study": "digits"},
            "ownerReferences": [owner_reference(of)],
        },
        "spec": {
            "clusterIP": "None",
            "selector": {"study-operator.io/study": "digits"},
            "publishNotReadyAddresses": True,
        },
    }


@pytest.mark.parametrize("pod", [{}, {"subdomain": None}, {"subdomain": ""}])
def test_without_a_subdomain_there_is_no_service(pod):
    assert headless_service(study(jobTemplate=template(pod, **INDEXED))) is None


@pytest.mark.parametrize(
    ("fields", "gpus"),
    [
        ({"gpusPerTrial": 0}, 0),
        ({"gpusPerTrial": 2}, 2),
        ({"gpusPerTrial": 2, "jobTemplate": template(**INDEXED)}, 4),
        ({"gpusPerTrial": 1, "gpuResourceName": "nvidia.com/mig-1g.10gb", "jobTemplate": template(**INDEXED)}, 2),
    ],
)
def test_the_gpus_of_all_pods_are_counted(fields, gpus):
    of = study(**fields)
    assert gpus_of(job_of(**fields), of.is_gpu) == gpus


def test_gpus_that_the_template_asks_for_are_counted_as_well():
    limits = {"limits": {"nvidia.com/gpu": 2, "cpu": "8"}}
    requests = {"requests": {"nvidia.com/gpu": "1"}, "limits": {"cpu": "1"}}
    both = {"requests": {"nvidia.com/gpu": "3"}, "limits": {"nvidia.com/gpu": "3"}}
    containers = [{"name": f"c{i}", "resources": r} for i, r in enumerate((limits, requests, both))]
    made = job_of(jobTemplate=template(None, containers, **INDEXED))
    assert gpus_of(made, study().is_gpu) == 2 * (2 + 1 + 3)


def test_what_is_not_a_number_of_gpus_is_left_to_the_api_server():
    containers = [{"name": "c", "resources": {"limits": {"nvidia.com/gpu": "some"}}}]
    assert gpus_of(job_of(jobTemplate=template(None, containers)), study().is_gpu) == 0


@pytest.mark.parametrize(
    ("limits", "gpus"),
    [
        ({"nvidia.com/mig-1g.10gb": 2}, 2),
        ({"google.com/tpu": "4", "cpu": "8"}, 4),
        ({"aws.amazon.com/neuroncore": 2, "vpc.amazonaws.com/efa": 1}, 2),
        ({"nvidia.com/gpu": 1, "nvidia.com/gpumem": 3000, "nvidia.com/gpucores": 50}, 1),  # HAMi's shares of a GPU
        ({"rdma/hca": 1}, 1),  # gpusPerTrial, which is added to it
    ],
)
def test_what_is_really_asked_for_is_counted(limits, gpus):
    containers = [{"name": "c", "resources": {"limits": limits}}]
    assert gpus_of(job_of(jobTemplate=template(None, containers)), study().is_gpu) == gpus


@pytest.mark.parametrize(
    ("first", "sidecar", "gpus"), [(8, 0, 8), (2, 0, 3), (2, 1, 4), (4, 1, 4)], ids=["init", "program", "both", "even"]
)
def test_init_containers_use_the_same_gpus_and_sidecars_others(first, sidecar, gpus):
    limits = {"nvidia.com/gpu": "3"}
    init = [
        {"name": "fetch", "resources": {"limits": {"nvidia.com/gpu": str(first)}}},
        {"name": "serve", "restartPolicy": "Always", "resources": {"limits": {"nvidia.com/gpu": str(sidecar)}}},
    ]
    containers = [{"name": "c", "resources": {"limits": limits}}]
    made = job_of(jobTemplate=template({"initContainers": init}, containers))
    assert gpus_of(made, study().is_gpu) == gpus


@pytest.mark.parametrize(
    ("modes", "pods", "refused"),
    [(["ReadWriteOncePod"], 2, True), (["ReadWriteOncePod"], 1, False), (["ReadWriteMany"], 2, False)],
)
def test_a_claim_for_one_pod_is_no_claim_for_several(modes, pods, refused):
    claim = {"spec": {"accessModes": modes, "resources": {"requests": {"storage": "1Gi"}}}}
    several = {"completionMode": "Indexed", "completions": pods, "parallelism": pods}
    fields = {"jobTemplate": template(**several), "checkpoints": {"claimTemplate": claim}}
    if not refused:
        job_of(**fields)
        return
    with pytest.raises(Refused, match="ReadWriteOncePod, and each trial has 2 pods: write ReadWriteMany"):
        job_of(**fields)

"""Metrics from a file: the sidecar, and the volume that it shares with the program."""

from __future__ import annotations

import pytest
from building import job_template, study

from study_operator.manifests.job import Reporting, job_manifest
from study_operator.model.study import Refused

FILE = {"from": "File", "path": "/out/logs/metrics.jsonl"}
IMAGE = "registry.example.com/study-trial:1"


def pod_of(metrics=FILE, template=None, image=IMAGE, ca=None, pod=None, **fields):
    template = template or job_template()
    template["spec"]["template"]["spec"].update(pod or {})
    of = study(metrics=metrics, jobTemplate=template, **fields)
    reporting = Reporting("postgresql://x", "key", ca, image, "/the/ca" if ca else "")
    return job_manifest(of, reporting, 31, 1031, {"lr": 0.1})["spec"]["template"]["spec"]


def test_the_sidecar_starts_first_and_reads_what_the_program_writes():
    pod = pod_of(pod={"initContainers": [{"name": "fetch", "image": "fetch:1"}]})
    sidecar, fetch = pod["initContainers"]
    (program,) = pod["containers"]
    assert fetch["name"] == "fetch"
    assert pod["volumes"] == [{"name": "study-metrics", "emptyDir": {}}]
    assert sidecar["volumeMounts"] == [{"name": "study-metrics", "mountPath": "/out/logs", "readOnly": True}]
    for container in (fetch, program):
        assert container["volumeMounts"] == [{"name": "study-metrics", "mountPath": "/out/logs"}]
    assert sidecar["env"] == program["env"]
    del sidecar["volumeMounts"], sidecar["env"]
    assert sidecar == {
        "name": "study-metrics",
        "image": IMAGE,
        "restartPolicy": "Always",
        "command": [
            *("env", "--block-signal=TERM", "study-trial", "follow", "--format", "JsonLines"),
            *("--path", "/out/logs/metrics.jsonl", "--step-name", "epoch"),
        ],
        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": {
            "runAsNonRoot": True,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }


def test_of_tensorboard_the_path_is_the_directory():
    pod = pod_of({"from": "File", "path": "/runs", "format": "TensorBoard", "stepName": "step"})
    (sidecar,) = pod["initContainers"]
    assert sidecar["volumeMounts"][0]["mountPath"] == "/runs"
    assert sidecar["command"][4:] == ["--format", "TensorBoard", "--path", "/runs", "--step-name", "step"]


def test_the_program_and_its_gpus_are_left_alone():
    pod = pod_of(template=job_template(command=["train"]), gpusPerTrial=2)
    assert pod["containers"][0]["command"] == ["train"]
    assert pod["containers"][0]["resources"] == {"limits": {"nvidia.com/gpu": "2"}}
    assert "nvidia.com/gpu" not in str(pod["initContainers"])


def test_a_dollar_sign_in_the_path_is_only_that():
    (sidecar,) = pod_of({"from": "File", "path": "/out/$(HOME)/m"})["initContainers"]
    assert "/out/$$(HOME)/m" in sidecar["command"]


def test_the_sidecar_finds_the_database_as_the_program_does():
    (sidecar,) = pod_of(ca="-----BEGIN CERTIFICATE-----")["initContainers"]
    assert "/the/ca" in [mount["mountPath"] for mount in sidecar["volumeMounts"]]


@pytest.mark.parametrize(
    ("mounts", "shared"),
    [
        ([{"name": "out", "mountPath": "/out/logs"}], {"name": "out", "mountPath": "/out/logs"}),
        ([{"name": "out", "mountPath": "/out"}], {"name": "out", "mountPath": "/out"}),
        (
            [{"name": "out", "mountPath": "/out"}, {"name": "logs", "mountPath": "/out/logs/", "subPath": "a"}],
            {"name": "logs", "mountPath": "/out/logs/", "subPath": "a"},
        ),
    ],
)
def test_a_volume_that_is_there_already_is_shared(mounts, shared):
    pod = pod_of(template=job_template(volumeMounts=mounts), pod={"volumes": [{"name": "out", "emptyDir": {}}]})
    assert pod["initContainers"][0]["volumeMounts"] == [{**shared, "readOnly": True}]
    assert pod["containers"][0]["volumeMounts"] == mounts
    assert pod["volumes"] == [{"name": "out", "emptyDir": {}}]


@pytest.mark.parametrize("path", ["/ou", "/out/log", "/out/logs/more", "/output"])
def test_a_volume_beside_it_is_not(path):
    pod = pod_of(template=job_template(volumeMounts=[{"name": "out", "mountPath": path}]))
    assert pod["initContainers"][0]["volumeMounts"][0]["name"] == "study-metrics"


def test_metrics_may_lie_with_the_checkpoints():
    claim = {"claimTemplate": {"spec": {"accessModes": ["ReadWriteOnce"]}}}
    pod = pod_of({"from": "File", "path": "/checkpoints/metrics.jsonl"}, checkpoints=claim)
    mount = {"name": "study-checkpoints", "mountPath": "/checkpoints", "readOnly": True}
    assert pod["initContainers"][0]["volumeMounts"] == [mount]


@pytest.mark.parametrize(("user", "sidecars"), [(0, 65532), (1000, None), (None, None)])
def test_the_sidecar_is_not_root_though_the_program_is(user, sidecars):
    security = {} if user is None else {"runAsUser": user}
    (sidecar,) = pod_of(pod={"securityContext": security})["initContainers"]
    assert sidecar["securityContext"].get("runAsUser") == sidecars


@pytest.mark.parametrize("metrics", [{"from": "Sdk"}, {"from": "Stdout"}])
def test_other_sources_need_no_sidecar(metrics):
    pod = pod_of(metrics, image=None)
    assert "initContainers" not in pod
    assert "volumes" not in pod


def test_without_a_trial_image_it_is_refused():
    with pytest.raises(Refused, match=r"ask whoever installed it to set trialImage\.repository") as refused:
        pod_of(image=None)
    assert refused.value.reason == "TrialImageMissing"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"pod": {"initContainers": [{"name": "study-metrics"}]}}, "has a container 'study-metrics'"),
        ({"pod": {"volumes": [{"name": "study-metrics"}]}}, "has a volume 'study-metrics'"),
        (
            {"pod": {"initContainers": [{"name": "fetch", "volumeMounts": [{"name": "x", "mountPath": "/out/logs"}]}]}},
            "container 'fetch' of the jobTemplate mounts 'x' at /out/logs, where spec.metrics has its directory",
        ),
    ],
)
def test_a_template_that_clashes_is_refused(fields, words):
    with pytest.raises(Refused, match=words) as refused:
        pod_of(**fields)
    assert refused.value.reason == "JobTemplateInvalid"

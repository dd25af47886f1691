"""Metrics from a file: the sidecar, and the volume that it shares with the program."""

from __future__ import annotations

import pytest
from building import job_template, study

from study_operator.manifests import metrics_directory
from study_operator.manifests.job import Reporting, job_manifest
from study_operator.manifests.metrics_directory import check_directory
from study_operator.model.study import Refused

FILE = {"from": "File", "path": "/out/logs/metrics.jsonl"}
IMAGE = "registry.example.com/study-trial:1"


def pod_of(metrics=FILE, template=None, image=IMAGE, ca=None, pod=None, ranges=(), **fields):
    template = template or job_template()
    template["spec"]["template"]["spec"].update(pod or {})
    of = study(metrics=metrics, jobTemplate=template, **fields)
    reporting = Reporting("postgresql://x", "key", ca, image, "/the/ca" if ca else "")
    return job_manifest(of, reporting, 31, 1031, {"lr": 0.1}, ranges=ranges)["spec"]["template"]["spec"]


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
            *("env", "--block-signal=TERM", "study-trial", "follow", "--format=JsonLines"),
            *("--path=/out/logs/metrics.jsonl", "--step-name=epoch"),
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


@pytest.mark.parametrize(
    ("given", "made"),
    [(None, None), (0, 30), (1, 30), (120, 120), ("5", "5"), (-1, -1), ([1], [1]), (True, True)],
)
def test_the_sidecar_has_time_to_read_the_end(given, made):
    """Also on a node that is so busy that Python alone takes seconds to start."""
    asked = {} if given is None else {"terminationGracePeriodSeconds": given}
    assert pod_of(pod=asked).get("terminationGracePeriodSeconds") == made
    assert pod_of(pod=asked, metrics={"from": "Stdout"}).get("terminationGracePeriodSeconds") == given


def test_of_tensorboard_the_path_is_the_directory():
    pod = pod_of({"from": "File", "path": "/runs", "format": "TensorBoard", "stepName": "step"})
    (sidecar,) = pod["initContainers"]
    assert sidecar["volumeMounts"][0]["mountPath"] == "/runs"
    assert sidecar["command"][4:] == ["--format=TensorBoard", "--path=/runs", "--step-name=step"]


def test_a_pattern_reaches_the_sidecar_as_it_is():
    text = {"from": "File", "path": "/out/log.txt", "format": "Text"}
    (sidecar,) = pod_of(text)["initContainers"]
    assert sidecar["command"][4:] == ["--format=Text", "--path=/out/log.txt", "--step-name=epoch"]
    assert sidecar["volumeMounts"][0]["mountPath"] == "/out"
    (sidecar,) = pod_of({**text, "pattern": "(?P<name>a) (?P<value>.*)$"})["initContainers"]
    assert sidecar["command"][-1] == "--pattern=(?P<name>a) (?P<value>.*)$$"


def test_the_program_and_its_gpus_are_left_alone():
    pod = pod_of(template=job_template(command=["train"]), gpusPerTrial=2)
    assert pod["containers"][0]["command"] == ["train"]
    assert pod["containers"][0]["resources"] == {"limits": {"nvidia.com/gpu": "2"}}
    assert "nvidia.com/gpu" not in str(pod["initContainers"])


def test_a_dollar_sign_in_the_path_is_only_that():
    (sidecar,) = pod_of({"from": "File", "path": "/out/$(HOME)/m"})["initContainers"]
    assert "--path=/out/$$(HOME)/m" in sidecar["command"]


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


@pytest.mark.parametrize(
    ("pod", "program", "sidecar"),
    [
        ({}, {}, {"runAsNonRoot": True}),
        ({"runAsUser": 1000}, {}, {"runAsNonRoot": True}),  # the pod's user is the sidecar's, too
        ({}, {"runAsUser": 1000, "runAsGroup": 7}, {"runAsNonRoot": True, "runAsUser": 1000, "runAsGroup": 7}),
        ({"runAsUser": 0}, {}, {"runAsNonRoot": False}),
        ({"runAsUser": 1000}, {"runAsUser": 0}, {"runAsNonRoot": False, "runAsUser": 0}),
        ({}, {"seLinuxOptions": {"level": "s0:c1"}}, {"runAsNonRoot": True, "seLinuxOptions": {"level": "s0:c1"}}),
    ],
)
def test_the_sidecar_is_the_programs_user_who_can_read_its_files(pod, program, sidecar):
    made = pod_of(template=job_template(securityContext=program), pod={"securityContext": pod})
    found = made["initContainers"][0]["securityContext"]
    names = ("runAsUser", "runAsGroup", "runAsNonRoot", "seLinuxOptions")
    assert {name: found[name] for name in names if name in found} == sidecar
    assert found["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize(
    ("pod", "mounts", "security"),
    [
        ({}, [], {"fsGroup": 65532}),
        ({"securityContext": {"runAsNonRoot": True}}, [], {"runAsNonRoot": True, "fsGroup": 65532}),
        ({"securityContext": {"fsGroup": 7}}, [], {"fsGroup": 7}),
        ({"securityContext": {"fsGroup": None}}, [], {"fsGroup": None}),
        ({"securityContext": {"runAsUser": 1000}}, [], {"runAsUser": 1000}),
        ({"volumes": [{"name": "code", "configMap": {"name": "c"}}]}, [], {"fsGroup": 65532}),
        ({"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "d"}}]}, [], None),
        ({"volumes": [{"name": "keys", "secret": {"secretName": "s"}}]}, [], None),
        ({"volumes": [{"name": "out", "emptyDir": {}}]}, [{"name": "out", "mountPath": "/out"}], None),
    ],
)
def test_a_group_is_shared_with_a_user_whom_only_the_image_knows(pod, mounts, security):
    made = pod_of(template=job_template(volumeMounts=mounts), pod=pod)
    assert made.get("securityContext") == security


# What a namespace asks of every container


def test_the_sidecar_has_a_limit_of_what_the_program_limits():
    limits = {"cpu": "4", "memory": "8Gi", "ephemeral-storage": "1Gi", "nvidia.com/gpu": "1"}
    (sidecar,) = pod_of(template=job_template(resources={"limits": limits}))["initContainers"]
    assert sidecar["resources"] == {
        "requests": {"cpu": "10m", "memory": "64Mi"},
        "limits": {"cpu": "200m", "memory": "256Mi", "ephemeral-storage": "64Mi"},
    }


@pytest.mark.parametrize(
    ("item", "requests", "limits"),
    [
        ({"min": {"cpu": "50m"}}, {"cpu": "50m"}, {}),
        ({"min": {"cpu": 1}}, {"cpu": "1000m"}, {}),
        ({"min": {"memory": "0.5Gi"}}, {"memory": "536870912"}, {"memory": "536870912"}),
        ({"max": {"memory": "100M"}}, {}, {"memory": "100000000"}),
        ({"max": {"memory": "32Mi"}}, {"memory": "33554432"}, {"memory": "33554432"}),
        ({"max": {"cpu": "2"}}, {}, {"cpu": "200m"}),
        ({"max": {"cpu": "2"}, "default": {"cpu": "1"}}, {}, {"cpu": "1000m"}),
        ({"default": {"cpu": "5m"}}, {"cpu": "5m"}, {"cpu": "5m"}),
        ({"maxLimitRequestRatio": {"memory": "2"}}, {"memory": "134217728"}, {}),
        ({"maxLimitRequestRatio": {"cpu": 4}}, {"cpu": "50m"}, {"cpu": "200m"}),
        ({"min": {"ephemeral-storage": "1Gi"}}, {"ephemeral-storage": "1073741824"}, {}),
        ({"type": "Pod", "min": {"cpu": "50m"}}, {}, {}),
        ({"min": {"cpu": "a lot"}}, {}, {}),
    ],
)
def test_the_sidecar_fits_limit_ranges(item, requests, limits):
    (sidecar,) = pod_of(ranges=[{"type": "Container", **item}])["initContainers"]
    assert sidecar["resources"] == {
        "requests": {"cpu": "10m", "memory": "64Mi", **requests},
        "limits": {"memory": "256Mi", **limits},
    }


def test_several_limit_ranges_all_hold():
    ranges = [{"type": "Container", "min": {"cpu": "20m"}}, {"type": "Container", "min": {"cpu": "30m"}}]
    (sidecar,) = pod_of(ranges=ranges)["initContainers"]
    assert sidecar["resources"]["requests"]["cpu"] == "30m"


# Where the file is


POD_NAME = {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
CPU = {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}
CPU_OF_TRIAL = {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "containerName": "trial"}}}
RUN = {"name": "RUN", "value": "$(TEAM)/$(CPU)-$$(NO)"}
TEAM, TOKEN = {"name": "TEAM", "value": "a"}, {"name": "TOKEN", "value": "secret"}


@pytest.mark.parametrize(
    ("expression", "variables"),
    [
        ("$(POD_NAME)", [POD_NAME]),
        ("runs/$(STUDY_TRIAL_JOB)", []),
        ("$(RUN)", [TEAM, CPU_OF_TRIAL, RUN]),
        ("$$(POD_NAME)", []),
    ],
)
def test_the_variables_of_a_sub_path_are_the_sidecars_too(expression, variables):
    mount = {"name": "runs", "mountPath": "/out", "subPathExpr": expression}
    env = [TOKEN, POD_NAME, TEAM, CPU, RUN]
    pod = pod_of(template=job_template(volumeMounts=[mount], env=env, envFrom=[{"configMapRef": {"name": "c"}}]))
    (sidecar,) = pod["initContainers"]
    assert sidecar["volumeMounts"] == [{**mount, "readOnly": True}]
    own = [variable for variable in sidecar["env"] if not variable["name"].startswith(("STUDY_", "PARAM_"))]
    assert own == variables
    assert ("envFrom" in sidecar) is ("STUDY" in expression)


@pytest.mark.parametrize(
    ("mounted", "path", "sidecars", "seen"),
    [
        ("/opt/venv/logs", "/opt/venv/logs/m.jsonl", "/study-metrics", "/study-metrics/m.jsonl"),
        ("/opt/", "/opt/a/m.jsonl", "/study-metrics", "/study-metrics/a/m.jsonl"),
        ("/usr/src/app/runs", "/usr/src/app/runs/x/m.jsonl", "/study-metrics", "/study-metrics/x/m.jsonl"),
        ("/optimal", "/optimal/m.jsonl", "/optimal", "/optimal/m.jsonl"),
    ],
)
def test_a_volume_over_what_the_sidecar_needs_is_mounted_elsewhere(mounted, path, sidecars, seen):
    mounts = [{"name": "out", "mountPath": mounted}]
    pod = pod_of({"from": "File", "path": path}, template=job_template(volumeMounts=mounts))
    (sidecar,) = pod["initContainers"]
    assert sidecar["volumeMounts"] == [{"name": "out", "mountPath": sidecars, "readOnly": True}]
    assert f"--path={seen}" in sidecar["command"]
    assert pod["containers"][0]["volumeMounts"] == mounts


@pytest.mark.parametrize(
    ("path", "container", "held"),
    [
        ("/opt/venv/bin/m.jsonl", {}, "what the image has there"),
        ("/workspace/m.jsonl", {}, "what the image has there"),
        ("/workspace/./m.jsonl", {}, "what the image has there"),
        ("/home/me/m.jsonl", {}, "what the image has there"),
        ("/proc/1/m.jsonl", {}, "what the image has there"),
        ("/train/m.jsonl", {"workingDir": "/train"}, "the program's workingDir /train"),
        ("/train/m.jsonl", {"workingDir": "/train/src/"}, "the program's workingDir /train/src/"),
        ("/train/m.jsonl", {"command": ["python", "/train/src/main.py"]}, "/train/src/main.py"),
        ("/train/m.jsonl", {"args": ["sh", "-c", "exec python3 -u /train/main.py --n=3"]}, "/train/main.py"),
        ("/train/m.jsonl", {"command": ["/train/start"]}, "/train/start"),
        ("/train/m.jsonl", {"command": ["sh", "-c", "cd /train && ./start"]}, "/train, which"),
    ],
)
def test_a_directory_that_holds_the_program_is_refused(path, container, held):
    of = study(metrics={"from": "File", "path": path}, jobTemplate=job_template(**container))
    with pytest.raises(Refused, match="would hide " + held) as refused:
        check_directory(of)
    assert refused.value.reason == "InvalidMetrics"
    assert "such as /study-metrics/metrics.jsonl, or mount a volume at" in refused.value.message


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/metrics/m.jsonl", {}),
        ("/workspace/metrics/m.jsonl", {"workingDir": "/workspace"}),
        ("/tmp/m.jsonl", {}),
        ("/var/lib/metrics/m.jsonl", {}),
        ("/out/m.jsonl", {"command": ["python", "/train/main.py", "--out=/out/m.jsonl", "--model", "/out/model.bin"]}),
        ("/app/m.jsonl", {"volumeMounts": [{"name": "app", "mountPath": "/app"}]}),
        ("/app/logs/m.jsonl", {"volumeMounts": [{"name": "app", "mountPath": "/app"}]}),
    ],
)
def test_other_directories_are_not(path, fields):
    check_directory(study(metrics={"from": "File", "path": path}, jobTemplate=job_template(**fields)))
    claim = {"claimTemplate": {"spec": {"accessModes": ["ReadWriteOnce"]}}, "mountPath": "/workspace"}
    check_directory(study(metrics={"from": "File", "path": "/workspace/m.jsonl"}, checkpoints=claim))
    check_directory(study())


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


def test_an_argument_of_slashes_takes_no_longer_than_it_is_long():
    """Each slash may begin a path: with paths of any length this took minutes, on the loop that serves everybody."""
    assert list(metrics_directory._named({"args": ["/" * 200_000, "python /opt/train.py"]})) == ["/opt/train.py"]

"""A trial's Job: what is added to the Study's template, what is left alone, what is refused; and the study's Secret."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from typing import Any

import pytest
from building import PARAMETERS, job_template, study
from hypothesis import given
from hypothesis import strategies as st

from study_operator.manifests.contradictions import check_contradictions
from study_operator.manifests.job import Reporting, job_manifest, secret, secret_name
from study_operator.manifests.variables import variable_name
from study_operator.model.search_space import as_text
from study_operator.model.study import Refused, Study, owner_reference
from study_operator.settings import TRIAL_STORAGE_DIRECTORY

SEED = "a seed of at least thirty-two characters"
URL = "postgresql://study_reporter:pw@db:5432/studies?connect_timeout=5"
CA = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
PARAMS = {"lr": 0.003, "layers": 2, "optimizer": "sgd"}


def reporting_of(of: Study, cluster: str = "cluster-1", seed: str = SEED, url: str = URL, ca: str | None = None):
    return Reporting.of(of, cluster, seed, url, ca, None, TRIAL_STORAGE_DIRECTORY)


def job_of(template: dict[str, Any] | None = None, ca: str | None = None, **given: Any) -> dict[str, Any]:
    """The Job of trial 31, whose id in the database is 1031; `params` or fields of the Study's spec may be given."""
    params = given.pop("params", PARAMS)
    of = study(jobTemplate=job_template() if template is None else template, **given)
    return job_manifest(of, reporting_of(of, ca=ca), 31, 1031, params)


def pod_of(template: dict[str, Any], **given: Any) -> dict[str, Any]:
    return job_of(template, **given)["spec"]["template"]["spec"]


def pod_template(pod: dict[str, Any], **spec: Any) -> dict[str, Any]:
    """A Job template with these fields of the pod's and the Job's spec."""
    container = {"name": "trial", "image": "trial:1"}
    return {"spec": {"template": {"spec": {"containers": [container], **pod}}, **spec}}


# What the Job is


def test_a_job_is_the_template_and_what_makes_it_a_trial():
    of = study()
    made = job_manifest(of, reporting_of(of), 31, 1031, PARAMS)
    assert {name: made[name] for name in ("apiVersion", "kind", "metadata")} == {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": "digits-31",
            "namespace": "team-a",
            "labels": {"study-operator.io/study": "digits", "study-operator.io/trial": "31"},
            "annotations": {"study-operator.io/trial-id": "1031", "study-operator.io/generation": "3"},
            "ownerReferences": [owner_reference(of)],
        },
    }
    spec = made["spec"]
    assert spec["backoffLimit"] == 0
    pod = spec["template"]
    assert pod["metadata"] == {
        "labels": {"study-operator.io/study": "digits", "study-operator.io/trial": "31"},
        "annotations": {"kubectl.kubernetes.io/default-container": "trial", "study-operator.io/program": "trial"},
    }
    assert pod["spec"]["restartPolicy"] == "Never"
    (container,) = pod["spec"]["containers"]
    assert (container["name"], container["image"]) == ("trial", "trial:1")
    assert container["resources"] == {"limits": {"nvidia.com/gpu": "1"}}
    assert set(container) == {"name", "image", "env", "resources", "volumeMounts"}
    assert set(pod["spec"]) == {"containers", "restartPolicy", "volumes"}
    assert set(spec) == {"template", "backoffLimit", "podFailurePolicy"}


@pytest.mark.parametrize(
    ("labels", "shown"),
    [({}, {"team": "vision"}), (None, {"team": "vision"}), ({"queue": "a"}, {"queue": "a"})],
)
def test_labels_that_are_written_once_in_the_pods_template_are_the_jobs_as_well(labels, shown):
    template = {"metadata": {"labels": labels}, **pod_template({})}
    template["spec"]["template"]["metadata"] = {"labels": {"team": "vision", "study-operator.io/trial": "mine"}}
    before = copy.deepcopy(template)
    made = job_of(template)
    ours = {"study-operator.io/study": "digits", "study-operator.io/trial": "31"}
    assert made["metadata"]["labels"] == {**shown, **ours}
    assert made["spec"]["template"]["metadata"]["labels"] == {"team": "vision", **ours}
    assert template == before


def test_the_owner_is_the_study_and_asks_for_no_right_to_its_finalizers():
    assert owner_reference(study()) == {
        "apiVersion": "study-operator.io/v1alpha1",
        "kind": "Study",
        "name": "digits",
        "uid": study().uid,
        "controller": True,
    }


def test_all_else_in_the_template_is_left_as_it_is():
    template = {
        "metadata": {
            "labels": {"kueue.x-k8s.io/queue-name": "gpus", "study-operator.io/trial": "mine"},
            "annotations": {"note": "x", "study-operator.io/trial-id": "mine", "study-operator.io/generation": "0"},
        },
        "spec": {
            "activeDeadlineSeconds": 3600,
            "backoffLimit": 3,
            "ttlSecondsAfterFinished": 60,
            "completions": 1,
            "parallelism": 1,
            "template": {
                "metadata": {
                    "labels": {"app": "x"},
                    "annotations": {"kubectl.kubernetes.io/default-container": "logger"},
                },
                "spec": {
                    "nodeSelector": {"gpu": "a100"},
                    "volumes": [{"name": "data", "emptyDir": {}}],
                    "initContainers": [{"name": "fetch", "image": "fetch:1", "env": [{"name": "A", "value": "1"}]}],
                    "containers": [
                        {
                            "name": "trial",
                            "image": "trial:1",
                            "args": ["--lr=$(PARAM_lr)"],
                            "env": [{"name": "B", "value": "$(PARAM_lr)"}],
                            "envFrom": [{"configMapRef": {"name": "more"}}],
                            "resources": {"requests": {"cpu": "2"}, "limits": {"memory": "1Gi"}},
                            "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                        },
                        {"name": "logger", "image": "logger:1"},
                    ],
                },
            },
        },
    }
    before = copy.deepcopy(template)
    made = job_of(template, ca=CA)
    assert template == before
    metadata, spec = made["metadata"], made["spec"]
    assert metadata["labels"] == {
        "kueue.x-k8s.io/queue-name": "gpus",
        "study-operator.io/study": "digits",
        "study-operator.io/trial": "31",
    }
    assert metadata["annotations"] == {
        "note": "x",
        "study-operator.io/trial-id": "1031",
        "study-operator.io/generation": "3",
    }
    for name in ("activeDeadlineSeconds", "backoffLimit", "completions", "parallelism"):
        assert spec[name] == before["spec"][name]
    assert "ttlSecondsAfterFinished" not in spec, "the operator removes the Job, once its trial's end is stored"
    assert spec["template"]["metadata"] == {
        "labels": {"app": "x", "study-operator.io/study": "digits", "study-operator.io/trial": "31"},
        "annotations": {"kubectl.kubernetes.io/default-container": "logger", "study-operator.io/program": "trial"},
    }
    pod, given = spec["template"]["spec"], before["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == given["nodeSelector"]
    assert pod["volumes"][0] == given["volumes"][0]
    trial, theirs = pod["containers"][0], given["containers"][0]
    assert (trial["args"], trial["envFrom"]) == (theirs["args"], theirs["envFrom"])
    assert trial["env"][-1:] == theirs["env"]
    assert trial["volumeMounts"][:1] == theirs["volumeMounts"]
    assert trial["resources"] == {
        "requests": {"cpu": "2"},
        "limits": {"memory": "1Gi", "nvidia.com/gpu": "1"},
    }
    assert pod["containers"][1]["image"] == "logger:1"
    assert "resources" not in pod["containers"][1]


@pytest.mark.parametrize(
    ("number", "attempt", "name"),
    [(0, 0, "digits-0"), (7, 0, "digits-7"), (7, 1, "digits-7-r1"), (31, 12, "digits-31-r12")],
)
def test_the_name_tells_the_trial_and_the_attempt(number, attempt, name):
    of = study()
    assert of.job_name(number, attempt) == name
    assert job_manifest(of, reporting_of(of), number, 7, PARAMS, name=name)["metadata"]["name"] == name


@pytest.mark.parametrize(
    ("length", "fields", "indexed", "allowed"),
    [
        (52, {}, None, 52),
        (52, {"maxTrials": 1_000_000, "infrastructureRetries": 99}, None, 52),
        (52, {"maxTrials": 1_000_000, "infrastructureRetries": 100}, None, 51),
        (52, {"maxTrials": 10, "infrastructureRetries": 9}, 10, 52),
        (52, {"maxTrials": 1_000_000, "infrastructureRetries": 5}, 8, 51),
        (20, {"maxTrials": 1_000_000, "infrastructureRetries": 5}, 100, 20),
    ],
)
def test_the_names_of_all_jobs_and_pods_fit(length, fields, indexed, allowed):
    several = {"completionMode": "Indexed", "completions": indexed, "parallelism": indexed} if indexed else {}
    of = study(name="x" * length, jobTemplate=pod_template({}, **several), **fields)
    if allowed == length:
        last = of.job_name(of.max_trials - 1, of.infrastructure_retries) + (f"-{indexed - 1}" if indexed else "")
        assert len(last) <= 63
        job_manifest(of, reporting_of(of), 0, 0, PARAMS)
        return
    with pytest.raises(Refused, match=f"give the Study a name of at most {allowed} characters") as refused:
        job_manifest(of, reporting_of(of), 0, 0, PARAMS)
    assert refused.value.reason == "NameTooLong"


# Environment


def environment(container: dict[str, Any]) -> dict[str, Any]:
    """The variables of a container; each is there once."""
    names = [variable["name"] for variable in container["env"]]
    assert len(set(names)) == len(names)
    return {variable["name"]: variable.get("value", variable.get("valueFrom")) for variable in container["env"]}


def test_every_container_has_the_trials_environment():
    pod = pod_of(
        pod_template(
            {
                "initContainers": [{"name": "fetch", "image": "fetch:1"}],
                "containers": [{"name": "trial", "image": "trial:1"}, {"name": "logger", "image": "logger:1"}],
            }
        )
    )
    fetch, trial, logger = (environment(c) for c in (*pod["initContainers"], *pod["containers"]))
    assert fetch == trial == logger
    of = study()
    name = secret_name(of)
    assert trial == {
        "STUDY_NAME": "digits",
        "STUDY_NAMESPACE": "team-a",
        "STUDY_TRIAL_NUMBER": "31",
        "STUDY_TRIAL_ID": "1031",
        "STUDY_TRIAL_JOB": "digits-31",
        "STUDY_PARAMS": '{"lr": 0.003, "layers": 2, "optimizer": "sgd"}',
        "STUDY_SEARCH_SPACE": json.dumps(PARAMETERS),
        "STUDY_OBJECTIVES": '["accuracy"]',
        "STUDY_CONSTRAINTS": "[]",
        "STUDY_DIRECTIONS": '["maximize"]',
        "STUDY_OPTUNA_NAME": of.optuna_name,
        "STUDY_STORAGE_DIRECTORY": TRIAL_STORAGE_DIRECTORY,
        "PARAM_lr": "0.003",
        "PARAM_layers": "2",
        "PARAM_optimizer": "sgd",
        "STUDY_STORAGE_URL": {"secretKeyRef": {"name": name, "key": "url"}},
        "STUDY_STORAGE_KEY": {"secretKeyRef": {"name": name, "key": "key"}},
    }


def test_the_trials_variables_come_before_the_users_own():
    own = [{"name": "LEARNING_RATE", "value": "$(PARAM_lr)"}, {"name": "A", "value": "b"}]
    (container,) = pod_of(job_template(env=own))["containers"]
    assert container["env"][-2:] == own
    assert len(container["env"]) == 17 + 2


def test_objectives_constraints_and_directions_are_named_in_order():
    pod = pod_of(
        job_template(),
        objectives=[{"name": "loss", "direction": "Minimize"}, {"name": "acc", "direction": "Maximize"}],
        constraints=[{"name": "latency_ms", "max": 50}, {"name": "memory", "max": 2}],
    )
    known = environment(pod["containers"][0])
    assert json.loads(known["STUDY_OBJECTIVES"]) == ["loss", "acc"]
    assert json.loads(known["STUDY_CONSTRAINTS"]) == ["latency_ms", "memory"]
    assert json.loads(known["STUDY_DIRECTIONS"]) == ["minimize", "maximize"]


@pytest.mark.parametrize(
    ("parameter", "variable"), [("lr", "lr"), ("optimizer.lr", "optimizer_lr"), ("a-b.c_d", "a_b_c_d"), ("_X9", "_X9")]
)
def test_the_variable_of_a_parameter(parameter, variable):
    assert variable_name(parameter) == variable
    (container,) = pod_of(job_template(), params={parameter: 1})["containers"]
    assert environment(container)[f"PARAM_{variable}"] == "1"


def expand(text: str, known: dict[str, str]) -> str:
    """What the kubelet makes of $(NAME) in values and arguments: Kubernetes' third_party/forked/golang/expansion."""

    def replace(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        return known.get(found[1], found[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", replace, text)


def container_environment(container: dict[str, Any]) -> dict[str, str]:
    """The environment that the kubelet gives a process, Secrets aside."""
    known: dict[str, str] = {}
    for variable in container["env"]:
        if "value" in variable:
            known[variable["name"]] = expand(variable["value"], known)
    return known


@pytest.mark.parametrize(
    "choice", ["$", "$$", "$(PARAM_lr)", "$$(PARAM_lr)", "a$(HOME)b$", "$(", "$)", "100$", "äöü $(X) 漢"]
)
def test_a_dollar_sign_reaches_the_pod_as_it_is(choice):
    check_choice(choice)


@given(st.text("$()PARAMlr_ x", max_size=20))
def test_any_choice_reaches_the_pod_as_it_is(choice):
    check_choice(choice)


def check_choice(choice: str) -> None:
    parameters = [{"name": "c", "categorical": {"choices": [choice, "other"]}}]
    args, own = ["--c=$(PARAM_c)", "$(PARAM_lr)"], [{"name": "OWN", "value": "<$(PARAM_c)>"}]
    of = study(parameters=parameters, jobTemplate=job_template(args=args, env=own))
    made = job_manifest(of, reporting_of(of), 0, 0, {"lr": 0.5, "c": choice})
    (container,) = made["spec"]["template"]["spec"]["containers"]
    known = container_environment(container)
    assert known["PARAM_c"] == as_text(choice)
    assert known["OWN"] == f"<{choice}>"
    assert json.loads(known["STUDY_PARAMS"]) == {"lr": 0.5, "c": choice}
    assert json.loads(known["STUDY_SEARCH_SPACE"]) == parameters
    assert [expand(arg, known) for arg in container["args"]] == [f"--c={choice}", "0.5"]


# The Secret's files


@pytest.mark.parametrize("ca", [None, CA])
def test_every_container_finds_the_secrets_files(ca):
    """Without a subPath, so that the kubelet brings a new password or CA into pods that run."""
    template = pod_template({"initContainers": [{"name": "fetch", "image": "fetch:1"}], "volumes": None})
    of = study(jobTemplate=template)
    pod = job_manifest(of, reporting_of(of, ca=ca), 0, 0, PARAMS)["spec"]["template"]["spec"]
    assert pod["volumes"] == [{"name": "study-storage", "secret": {"secretName": secret_name(of)}}]
    for container in (*pod["initContainers"], *pod["containers"]):
        mount = {"name": "study-storage", "mountPath": "/var/run/secrets/study-operator.io", "readOnly": True}
        assert container["volumeMounts"] == [mount]


# GPUs


@pytest.mark.parametrize(
    ("spec", "limits"),
    [
        ({}, {"nvidia.com/gpu": "1"}),
        ({"gpusPerTrial": 4}, {"nvidia.com/gpu": "4"}),
        ({"gpusPerTrial": 2, "gpuResourceName": "nvidia.com/mig-1g.10gb"}, {"nvidia.com/mig-1g.10gb": "2"}),
        ({"gpusPerTrial": 0}, None),
    ],
)
def test_the_first_container_gets_the_gpus(spec, limits):
    template = pod_template(
        {
            "initContainers": [{"name": "fetch", "image": "fetch:1", "resources": {"limits": {"cpu": "1"}}}],
            "containers": [{"name": "trial", "image": "trial:1"}, {"name": "logger", "image": "logger:1"}],
        }
    )
    pod = pod_of(template, **spec)
    assert pod["containers"][0].get("resources", {}).get("limits") == limits
    assert "resources" not in pod["containers"][1]
    assert pod["initContainers"][0]["resources"] == {"limits": {"cpu": "1"}}


@pytest.mark.parametrize("kind", ["limits", "requests"])
@pytest.mark.parametrize(
    "resource", ["nvidia.com/gpu", "amd.com/gpu", "nvidia.com/mig-2g.20gb", "gpu.intel.com/xe", "habana.ai/Gaudi"]
)
@pytest.mark.parametrize("where", ["first", "second", "init"])
def test_a_template_that_asks_for_gpus_itself_is_left_alone(kind, resource, where):
    wants = {"resources": {kind: {"cpu": "1", resource: "2"}}}
    containers = {
        name: {"name": name, "image": "i", **(wants if name == where else {})} for name in ("first", "second", "init")
    }
    template = pod_template(
        {"containers": [containers["first"], containers["second"]], "initContainers": [containers["init"]]}
    )
    pod = pod_of(template, gpusPerTrial=8)
    for container in (*pod["containers"], *pod["initContainers"]):
        assert container.get("resources") == (wants["resources"] if container["name"] == where else None)


@pytest.mark.parametrize("resources", [None, {}, {"limits": None}, {"limits": {"cpu": 1, "hugepages-2Mi": "4Mi"}}])
def test_other_resources_are_no_devices(resources):
    (container,) = pod_of(job_template(resources=resources))["containers"]
    given = (resources or {}).get("limits") or {}
    assert container["resources"]["limits"] == {**given, "nvidia.com/gpu": "1"}


@pytest.mark.parametrize("device", ["rdma/hca", "vpc.amazonaws.com/efa", "example.com/fpga"])
def test_a_network_device_is_no_gpu(device):
    (container,) = pod_of(job_template(resources={"limits": {device: 1}}), gpusPerTrial=2)["containers"]
    assert container["resources"]["limits"] == {device: 1, "nvidia.com/gpu": "2"}


def test_what_gpu_resource_name_names_is_a_gpu_whatever_its_name_is():
    (container,) = pod_of(job_template(resources={"limits": {"a.b/c": 1}}), gpuResourceName="a.b/c")["containers"]
    assert container["resources"]["limits"] == {"a.b/c": 1}


def test_a_template_that_claims_devices_is_left_alone():
    claims = [{"name": "gpus", "resourceClaimTemplateName": "two-gpus"}]
    template = pod_template({"resourceClaims": claims, "containers": [{"name": "trial", "image": "i"}]})
    assert "resources" not in pod_of(template, gpusPerTrial=8)["containers"][0]


# Retries


def test_disruptions_are_not_the_programs_fault():
    condition = {"type": "DisruptionTarget", "status": "True"}
    assert job_of()["spec"]["podFailurePolicy"] == {"rules": [{"action": "FailJob", "onPodConditions": [condition]}]}


def test_parameters_that_cannot_work_are_not_tried_again():
    rules = job_of(pod_template({}, backoffLimit=3), infeasibleExitCodes=[43, 42])["spec"]["podFailurePolicy"]["rules"]
    assert rules[1:] == [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42, 43]}}]


def test_a_policy_of_the_users_own_is_kept():
    policy = {"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [3]}}]}
    assert job_of(pod_template({}, podFailurePolicy=policy))["spec"]["podFailurePolicy"] == policy


def test_the_api_allows_a_policy_only_for_pods_that_are_never_restarted():
    made = job_of(pod_template({"restartPolicy": "OnFailure"}, backoffLimit=3))
    assert "podFailurePolicy" not in made["spec"]
    assert made["spec"]["template"]["spec"]["restartPolicy"] == "OnFailure"
    assert made["spec"]["backoffLimit"] == 3


# What is refused


def refusal(template: dict[str, Any]) -> str:
    with pytest.raises(Refused) as refused:
        job_of(template)
    assert refused.value.reason == "JobTemplateInvalid"
    return refused.value.message


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (pod_template({"subdomain": 3}), "spec.jobTemplate.spec.template.spec.subdomain is 3: write the name"),
        (pod_template({}, selector={"matchLabels": {"a": "b"}}), "selector cannot be used for trials"),
        (pod_template({}, manualSelector=True), "manualSelector cannot be used for trials"),
    ],
)
def test_a_template_that_contradicts_what_a_trial_is(template, words):
    assert words in refusal(template)


IGNORES = {"rules": [{"action": "Ignore", "onExitCodes": {"operator": "In", "values": [41, 42]}}]}
KEEPS = {"rules": [{"action": "FailJob", "onExitCodes": {"operator": "NotIn", "values": [1]}}, *IGNORES["rules"]]}
IN_PLACE = {"restartPolicy": "OnFailure"}


@pytest.mark.parametrize(
    ("template", "codes", "words"),
    [
        (pod_template(IN_PLACE), [42], "spec.infeasibleExitCodes ends no trial with spec.jobTemplate.spec.template"),
        (pod_template(IN_PLACE, podFailurePolicy=KEEPS), [], "podFailurePolicy needs spec.jobTemplate.spec.template"),
        (pod_template({}, podReplacementPolicy="TerminatingOrFailed"), [], "write Failed, or leave it out"),
        (pod_template({}, podFailurePolicy=IGNORES), [3, 42], "podFailurePolicy ignores the exit code 42"),
        (pod_template(IN_PLACE), [], None),
        (pod_template(IN_PLACE, podReplacementPolicy="TerminatingOrFailed"), [], None),
        (pod_template({}, podReplacementPolicy="Failed", podFailurePolicy=KEEPS), [42], None),
        (pod_template({}, podFailurePolicy=IGNORES), [3], None),
        (pod_template({}, podFailurePolicy={"rules": "none"}), [3], None),
    ],
)
def test_fields_that_exclude_each_other(template, codes, words):
    written = study(jobTemplate=template, infeasibleExitCodes=codes)
    if words is None:
        check_contradictions(written)
        return
    with pytest.raises(Refused) as refused:
        check_contradictions(written)
    assert refused.value.reason == "JobTemplateInvalid"
    assert words in refused.value.message


@pytest.mark.parametrize("where", ["containers", "initContainers"])
@pytest.mark.parametrize(
    "name",
    [
        "STUDY_NAME",
        "STUDY_NAMESPACE",
        "STUDY_PARAMS",
        "STUDY_SEARCH_SPACE",
        "STUDY_OBJECTIVES",
        "STUDY_CONSTRAINTS",
        "STUDY_DIRECTIONS",
        "STUDY_OPTUNA_NAME",
        "STUDY_CHECKPOINT_DIR",
        "STUDY_TRIAL_NUMBER",
        "STUDY_TRIAL_ID",
        "STUDY_TRIAL_JOB",
        "STUDY_STORAGE_URL",
        "STUDY_STORAGE_KEY",
        "PARAM_lr",
    ],
)
def test_a_variable_of_the_operators_own_is_refused(name, where):
    container = {"name": "mine", "image": "i", "env": [{"name": "FINE"}, {"name": name, "value": "x"}]}
    assert refusal(pod_template({where: [container]})) == (
        f"container 'mine' of spec.jobTemplate.spec sets {name}, which the operator sets itself for each trial: "
        "rename the variable"
    )


@pytest.mark.parametrize("name", ["STUDY", "STUDY_DIRECTORY", "MY_PARAM_lr", "param_lr", "PARAMETERS"])
def test_other_variables_are_the_users_own(name):
    (container,) = pod_of(job_template(env=[{"name": name, "value": "x"}]))["containers"]
    assert container["env"][-1] == {"name": name, "value": "x"}


POD = "spec.jobTemplate.spec.template.spec"


@pytest.mark.parametrize(
    ("template", "where", "must_be"),
    [
        (pod_template({"initContainers": "x"}), f"{POD}.initContainers", "a list"),
        (pod_template({"initContainers": [[]]}), f"{POD}.initContainers[0]", "an object"),
        (pod_template({"volumes": {"data": {}}}), f"{POD}.volumes", "a list"),
        (job_template(env={"EPOCHS": "3"}), f"{POD}.containers[0].env", "a list"),
        (job_template(env=["EPOCHS=3"]), f"{POD}.containers[0].env[0]", "an object"),
        (job_template(volumeMounts={"a": 1}), f"{POD}.containers[0].volumeMounts", "a list"),
        (job_template(resources="2"), f"{POD}.containers[0].resources", "an object"),
        (job_template(resources={"limits": ["gpu"]}), f"{POD}.containers[0].resources.limits", "an object"),
        (pod_template({"securityContext": "x"}), f"{POD}.securityContext", "an object"),
        (
            {"spec": {"template": {"metadata": {"labels": ["x"]}, "spec": {"containers": []}}}},
            "spec.jobTemplate.spec.template.metadata.labels",
            "an object",
        ),
        (
            {"spec": {"template": {"metadata": "x", "spec": {"containers": []}}}},
            "spec.jobTemplate.spec.template.metadata",
            "an object",
        ),
    ],
)
def test_a_template_of_another_shape_is_told_where_and_how_it_must_be(template, where, must_be):
    message = refusal(template)
    assert message.startswith(f"{where} must be {must_be}")
    assert message.endswith("see kubectl explain job.spec")


def test_what_only_the_api_server_can_judge_is_left_to_it():
    strange = pod_template(
        {"containers": [{"image": 7, "env": [{"value": "1"}, {}]}], "initContainers": None, "unknown": 1},
        completions=1,
        activeDeadlineSeconds="soon",
    )
    assert job_of(strange, ca=CA)["spec"]["activeDeadlineSeconds"] == "soon"


# Secret and key


def test_the_secret_holds_address_and_key():
    of = study()
    reporting = reporting_of(of)
    made = secret(of, reporting)
    assert made["metadata"] == {
        "name": secret_name(of),
        "namespace": "team-a",
        "labels": {"study-operator.io/study": "digits"},
        "ownerReferences": [owner_reference(of)],
    }
    assert (made["kind"], made["type"]) == ("Secret", "Opaque")
    assert "immutable" not in made, "a new password is written into it"
    assert made["stringData"] == {"url": reporting.url, "key": reporting.key}
    assert secret(of, reporting_of(of, ca=CA))["stringData"]["ca.crt"] == CA


def test_neither_key_nor_password_is_in_the_job():
    of = study()
    reporting = reporting_of(of, ca=CA)
    text = json.dumps(job_manifest(of, reporting, 0, 0, PARAMS))
    assert reporting.key not in text
    assert "pw" not in text
    assert SEED not in text


def test_the_secrets_name_is_that_of_the_study_and_its_digest_that_of_its_content():
    of = study()
    names = {secret_name(of), secret_name(study(uid="another")), secret_name(study(maxTrials=3))}
    assert len(names) == 2
    assert all(re.fullmatch(r"digits-storage-[0-9a-f]{8}", name) for name in names)
    assert len(secret_name(study(name="x" * 52))) <= 253
    digests = {
        reporting_of(of).digest,
        reporting_of(of, url=URL + "&sslmode=require").digest,
        reporting_of(of, ca=CA).digest,
        reporting_of(of, seed=SEED + "!").digest,
    }
    assert len(digests) == 4
    assert reporting_of(study(maxTrials=3)).digest in digests


def test_a_key_is_known_again_and_another_for_every_study_cluster_and_installation():
    of = study()
    again = reporting_of(study(maxTrials=7), url="postgresql://elsewhere", ca=CA)
    assert again.key == reporting_of(of).key
    keys = {
        reporting_of(of).key,
        reporting_of(study(uid="another")).key,
        reporting_of(of, cluster="cluster-2").key,
        reporting_of(of, seed=SEED + "!").key,
    }
    assert len(keys) == 4
    assert all(re.fullmatch(r"[0-9a-f]{64}", key) for key in keys)


def test_only_the_hash_of_a_key_is_for_the_database():
    reporting = reporting_of(study())
    assert len(reporting.key_hash) == 32
    assert reporting.key_hash.hex() != reporting.key
    assert dataclasses.replace(reporting, key="x").key_hash != reporting.key_hash

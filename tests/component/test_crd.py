"""What the API server accepts, refuses, fills in and prints for a Study, asked by kubectl as users do."""

import copy
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from crd_rules import (
    CATEGORICAL,
    FLOAT,
    INT,
    LOSS,
    RULES,
    Change,
    Study,
    changed,
    floats,
    minimal,
    parameters,
    spec,
)
from kubectl_cli import Kubectl

REPOSITORY = Path(__file__).parents[2]
CRD_FILE = REPOSITORY / "crds" / "study.yaml"
CRD = yaml.safe_load(CRD_FILE.read_text())
SCHEMA = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kubectl:
    """An API server that serves crds/study.yaml as it is now."""
    kubeconfig = os.environ.get("TEST_KUBECONFIG") or request.getfixturevalue("api_server").kubeconfig
    kubectl = Kubectl(str(kubeconfig), tmp_path_factory.mktemp("kubectl"))
    kubectl.ok("apply", "--server-side", "--force-conflicts", "-f", str(CRD_FILE))
    wait_until_served(kubectl, CRD)
    return kubectl


@pytest.fixture(scope="module")
def shared(cluster: Kubectl) -> Iterator[Kubectl]:
    """A namespace for what writes nothing: dry runs."""
    yield from cluster.in_new_namespace()


@pytest.fixture
def kubectl(cluster: Kubectl) -> Iterator[Kubectl]:
    """A namespace of the test's own."""
    yield from cluster.in_new_namespace()


def wait_until_served(kubectl: Kubectl, crd: dict[str, Any]) -> None:
    """Waits until the API server publishes a resource definition's schema, which it does after serving it."""
    group = crd["spec"]["group"]
    version = crd["spec"]["versions"][0]
    kind = ".".join([*reversed(group.split(".")), version["name"], crd["spec"]["names"]["kind"]])
    wanted = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    deadline = time.monotonic() + 60
    while True:
        answer = kubectl.run("get", "--raw", f"/openapi/v3/apis/{group}/{version['name']}")
        if answer.returncode == 0:
            served = json.loads(answer.stdout)["components"]["schemas"].get(kind)
            if served and served["properties"]["spec"] == wanted:
                return
        assert time.monotonic() < deadline, f"{kind} is not served as the file has it: {answer.stderr}"
        time.sleep(0.1)


def try_create(kubectl: Kubectl, study: Study) -> Study:
    """All of creating a Study but the writing; the Study as it would be stored."""
    return json.loads(kubectl.ok("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=json.dumps(study)))


def refuse_create(kubectl: Kubectl, study: Study) -> str:
    """What the API server says to a Study that it must refuse."""
    return kubectl.refused("create", "--dry-run=server", "-f", "-", stdin=json.dumps(study))


@pytest.mark.parametrize("rule", RULES)
def test_rule_accepts(shared: Kubectl, rule: str) -> None:
    try_create(shared, changed(RULES[rule][0]))


@pytest.mark.parametrize("rule", RULES)
def test_rule_refuses_and_says_what_to_write_instead(shared: Kubectl, rule: str) -> None:
    _, change, message = RULES[rule]
    assert message in refuse_create(shared, changed(change))


def walk(schema: dict[str, Any], path: str = "study") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema inside a schema, with its path as kubectl explain takes it."""
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from walk(inner, f"{path}.{name}")
    for inner in (schema.get("items"), schema.get("additionalProperties")):
        if inner:
            yield from walk(inner, path)


def test_every_rule_is_tried() -> None:
    tried = [message for *_, message in RULES.values()] + [message for _, message in FIXED.values()]
    rules = [rule["message"] for _, schema in walk(SCHEMA) for rule in schema.get("x-kubernetes-validations", [])]
    assert [rule for rule in rules if not any(rule.split(":")[0] in said for said in tried)] == []


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (spec(suspend=True), "spec.suspend"),
        (spec(activeDeadlineSeconds=60), "spec.activeDeadlineSeconds"),
        (spec(objectives=[{**LOSS, "goal": 0.1}]), "spec.objectives[0].goal"),
        (parameters({**INT, "when": {"parameter": "x", "in": ["y"]}}), "spec.parameters[0].when"),
        (floats(low=0, high=1, scale="log"), "spec.parameters[0].float.scale"),
        (
            spec(jobTemplate={"metadata": {"name": "x"}, "spec": {"template": {}}}),
            "spec.jobTemplate.metadata.name",
        ),
    ],
)
def test_unknown_fields_are_refused(shared: Kubectl, change: Change, field: str) -> None:
    assert f'unknown field "{field}"' in refuse_create(shared, changed(change))


def test_several_mistakes_are_named_at_once(shared: Kubectl) -> None:
    study = changed(parameters({"float": {"low": 2, "high": 1}}, {"int": {"low": 1}}, parallelism=0, maxTrials=0))
    answer = refuse_create(shared, study)
    for field in ("spec.maxTrials", "spec.parallelism", "spec.parameters[1].int.high"):
        assert field in answer


def test_defaults(shared: Kubectl) -> None:
    stored = try_create(shared, minimal())
    assert stored["spec"] == minimal()["spec"] | {
        "sampler": {"name": "TPE"},
        "maxTrials": 100,
        "parallelism": 1,
        "maxFailedTrials": 10,
        "gpusPerTrial": 1,
        "gpuResourceName": "nvidia.com/gpu",
        "deletionPolicy": "Retain",
    }
    assert try_create(shared, changed(spec(sampler={"seed": 7})))["spec"]["sampler"] == {
        "name": "TPE",
        "seed": 7,
    }


def test_numbers_as_people_write_them(shared: Kubectl) -> None:
    study = """
      apiVersion: study-operator.io/v1alpha1
      kind: Study
      metadata: {name: digits}
      spec:
        objectives: [{name: accuracy, direction: Maximize}]
        parameters:
        - {name: a, float: {low: 1e-5, high: 1, log: true}}
        - {name: b, float: {low: 1.0e-5, high: 1E+2}}
        - {name: c, float: {low: -3, high: 3, step: 1}}
        - {name: d, float: {low: 100000000000000000000, high: 1.5e+25}}
        - {name: e, int: {low: -5, high: 1_000}}
        jobTemplate: {spec: {template: {spec: {containers: [{name: trial, image: train}]}}}}
    """
    stored = json.loads(shared.ok("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=study))
    assert [p.get("float") or p["int"] for p in stored["spec"]["parameters"]] == [
        {"low": 1e-5, "high": 1, "log": True},
        {"low": 1e-5, "high": 100},
        {"low": -3, "high": 3, "step": 1},
        {"low": 1e20, "high": 1.5e25},
        {"low": -5, "high": 1000},
    ]


def test_the_documented_example_is_accepted(shared: Kubectl) -> None:
    [example] = re.findall(r"```yaml\n(.*?)```", (REPOSITORY / "docs" / "study.md").read_text(), re.DOTALL)
    example = example.replace("namespace: team-a", f"namespace: {shared.namespace}")
    shared.ok("create", "--dry-run=server", "-f", "-", stdin=example)


OPTIONS = {"n_startup_trials": 10, "x0": {"lr": 0.1}}


@pytest.fixture(scope="module")
def existing(shared: Kubectl) -> Study:
    """A Study that exists, with one parameter of each kind."""
    study = changed(parameters(FLOAT, INT, CATEGORICAL, sampler={"seed": 7, "options": OPTIONS}, maxTrials=20))
    shared.ok("create", "-f", "-", stdin=json.dumps(study))
    return study


def sampler(**fields: Any) -> Change:
    return spec(sampler={"seed": 7, "options": OPTIONS} | fields)


_OBJECTIVES = 'spec.objectives: Invalid value: "array": objectives are fixed once the Study exists: '
_PARAMETERS = 'spec.parameters: Invalid value: "array": parameters are fixed once the Study exists: '
_CHOICES = "choices and their order are fixed once the Study exists: "
_SAMPLER = 'spec.sampler: Invalid value: "object": sampler is fixed once the Study exists: '

# Changes of an existing Study that are refused.
FIXED: dict[str, tuple[Change, str]] = {
    "direction": (spec(objectives=[{"name": "accuracy", "direction": "Minimize"}]), _OBJECTIVES),
    "objective's name": (spec(objectives=[LOSS]), _OBJECTIVES),
    "a parameter more": (parameters(FLOAT, INT, CATEGORICAL, FLOAT), _PARAMETERS),
    "a parameter less": (parameters(FLOAT, INT), _PARAMETERS),
    "a parameter renamed": (parameters(FLOAT, INT, {**CATEGORICAL, "name": "p3"}), _PARAMETERS),
    "a parameter's kind": (parameters(FLOAT, FLOAT, CATEGORICAL), _PARAMETERS),
    "a wider range": (parameters({"float": {"low": 0, "high": 1.1}}, INT, CATEGORICAL), _PARAMETERS),
    "a step more": (parameters(FLOAT, {"int": {"low": 1, "high": 4, "step": 1}}, CATEGORICAL), _PARAMETERS),
    "a choice more": (
        parameters(FLOAT, INT, {"categorical": {"choices": ["adam", "sgd", "lion"]}}),
        _CHOICES,
    ),
    "choices reordered": (parameters(FLOAT, INT, {"categorical": {"choices": ["sgd", "adam"]}}), _CHOICES),
    "sampler removed": (lambda study: study["spec"].pop("sampler"), _SAMPLER),
    "another sampler": (sampler(name="Random"), _SAMPLER),
    "another seed": (sampler(seed=8), _SAMPLER),
    "seed removed": (spec(sampler={"options": OPTIONS}), _SAMPLER),
    "another value of an option": (sampler(options=OPTIONS | {"n_startup_trials": 11}), _SAMPLER),
    "another value inside an option": (sampler(options=OPTIONS | {"x0": {"lr": 0.2}}), _SAMPLER),
    "another option in place of one": (sampler(options={"n_startup": 10, "x0": {"lr": 0.1}}), _SAMPLER),
    "options removed": (spec(sampler={"seed": 7}), _SAMPLER),
}

# Changes of an existing Study that are accepted.
MUTABLE: dict[str, Change] = {
    "parameters in another order": lambda study: study["spec"]["parameters"].reverse(),
    "a number written otherwise": parameters({"float": {"low": 0.0, "high": 1.0}}, INT, CATEGORICAL),
    "sampler's default name": sampler(name="TPE"),
    "pruner": spec(pruner={"name": "Median", "options": {"n_warmup_steps": 2}}),
    "limits": spec(maxTrials=200, parallelism=16, maxFailedTrials=0),
    "GPUs": spec(gpusPerTrial=0, gpuResourceName="amd.com/gpu"),
    "deletionPolicy": spec(deletionPolicy="Delete"),
    "jobTemplate": spec(jobTemplate={"spec": {"template": {"spec": {"containers": []}}}}),
    "labels": lambda study: study["metadata"].update(labels={"team": "a"}),
}


@pytest.mark.parametrize("what", FIXED)
def test_fixed_once_the_study_exists(shared: Kubectl, existing: Study, what: str) -> None:
    change, message = FIXED[what]
    study = copy.deepcopy(existing)
    change(study)
    answer = shared.refused("replace", "--dry-run=server", "-f", "-", stdin=json.dumps(study))
    assert message + "create a Study under another name, or delete this one first" in answer


@pytest.mark.parametrize("what", MUTABLE)
def test_mutable_while_the_study_exists(shared: Kubectl, existing: Study, what: str) -> None:
    study = copy.deepcopy(existing)
    MUTABLE[what](study)
    shared.ok("replace", "--dry-run=server", "-f", "-", stdin=json.dumps(study))


def test_applying_a_study_again_changes_nothing(kubectl: Kubectl) -> None:
    study = json.dumps(changed(parameters(FLOAT, INT, CATEGORICAL, sampler={"seed": 7}, pruner={"name": "Median"})))
    assert "created" in kubectl.ok("apply", "-f", "-", stdin=study)
    assert "unchanged" in kubectl.ok("apply", "-f", "-", stdin=study)


STATUS: dict[str, Any] = {
    "observedGeneration": 1,
    "phase": "Succeeded",
    "conditions": [
        {
            "type": kind,
            "status": status,
            "observedGeneration": 1,
            "lastTransitionTime": "2025-01-01T00:00:00Z",
            "reason": reason,
            "message": message,
        }
        for kind, status, reason, message in [
            ("Progressing", "False", "Finished", "ended"),
            ("Complete", "True", "MaxTrialsReached", ""),
        ]
    ],
    "startTime": "2025-01-01T00:00:00Z",
    "completionTime": "2025-01-01T01:00:00.123456Z",
    "studyName": "team-a/digits-1b9d6bcd",
    "trials": {"total": 37, "running": 8, "complete": 21, "pruned": 6, "failed": 2},
    "progress": "29/100",
    "bestTrial": {"number": 31, "values": ["0.9734"], "parameters": {"lr": "0.0031"}, "jobName": "digits-31"},
    "bestValue": "0.9734",
    "recentFailures": [{"trial": 5, "reason": "OOMKilled", "exitCode": 137, "message": "Killed"}],
}


def set_status(kubectl: Kubectl, status: dict[str, Any]) -> str:
    patch = json.dumps({"status": status})
    return kubectl.ok("patch", "study", "digits", "--subresource=status", "--type=merge", "-p", patch)


def test_status_is_a_subresource_and_keeps_every_field(kubectl: Kubectl) -> None:
    created = minimal() | {"status": STATUS}
    assert "status" not in json.loads(kubectl.ok("create", "-o", "json", "-f", "-", stdin=json.dumps(created)))
    set_status(kubectl, STATUS)
    stored = json.loads(kubectl.ok("get", "study", "digits", "-o", "json"))
    assert stored["status"] == STATUS
    assert stored["metadata"]["generation"] == 1
    kubectl.ok("wait", "--for=condition=Complete", "study/digits", "--timeout=10s")


def test_columns(kubectl: Kubectl) -> None:
    study = changed(spec(pruner={"name": "SuccessiveHalving"}))
    kubectl.ok("create", "-f", "-", stdin=json.dumps(study))
    head, row = (line.split() for line in kubectl.ok("get", "studies").splitlines())
    assert head == ["NAME", "PHASE", "TRIALS", "RUNNING", "FAILED", "BEST", "AGE"]
    assert row[:1] == ["digits"]

    set_status(kubectl, STATUS)
    row = kubectl.ok("get", "study", "digits", "--no-headers").split()
    assert row[:-1] == ["digits", "Succeeded", "29/100", "8", "2", "0.9734"]

    head, row = (line.split() for line in kubectl.ok("get", "stu", "-o", "wide").splitlines())
    assert head[7:] == ["PRUNED", "BEST-TRIAL", "SAMPLER", "PRUNER", "MESSAGE"]
    assert row[7:] == ["6", "31", "TPE", "SuccessiveHalving", "ended"]


@pytest.mark.parametrize("category", ["all", "ml"])
def test_categories(kubectl: Kubectl, category: str) -> None:
    kubectl.ok("create", "-f", "-", stdin=json.dumps(minimal()))
    assert "study.study-operator.io/digits" in kubectl.ok("get", category, "-o", "name")


def test_scale(kubectl: Kubectl) -> None:
    kubectl.ok("create", "-f", "-", stdin=json.dumps(minimal()))
    kubectl.ok("scale", "study/digits", "--replicas=16")
    assert kubectl.ok("get", "study", "digits", "-o", "jsonpath={.spec.parallelism}") == "16"
    answer = kubectl.refused("scale", "study/digits", "--replicas=101")
    assert "parallelism must not be greater than maxTrials" in answer
    set_status(kubectl, STATUS)
    path = f"/apis/study-operator.io/v1alpha1/namespaces/{kubectl.namespace}/studies/digits/scale"
    scale = json.loads(kubectl.ok("get", "--raw", path))
    assert (scale["spec"]["replicas"], scale["status"]["replicas"]) == (16, 8)


def test_every_field_is_described() -> None:
    # The API server describes metadata itself and lets nobody else; values of these maps have no names.
    bare = [path for path, schema in walk(SCHEMA) if not schema.get("description")]
    maps = ("labels", "annotations", "options")
    assert [path for path in bare if path != "study.metadata" and not path.endswith(maps)] == []


def test_explain_prints_every_description(cluster: Kubectl) -> None:
    for path, schema in walk(SCHEMA):
        if not schema.get("properties"):
            continue
        printed = " ".join(cluster.ok("explain", path).split())
        for name, field in schema["properties"].items():
            if name not in ("apiVersion", "kind", "metadata"):
                assert " ".join(field["description"].split()) in printed, f"{path}.{name}"


def test_everything_in_status_is_bounded() -> None:
    for path, schema in walk(SCHEMA["properties"]["status"], "status"):
        match schema["type"]:
            case "string":
                assert "enum" in schema or schema["maxLength"] <= 2048, path
            case "array":
                assert schema["maxItems"] <= 8, path
            case "object":
                assert "properties" in schema or schema["maxProperties"] <= 100, path


def test_rules_leave_headroom(kubectl: Kubectl) -> None:
    """With all limits doubled, neither the cost that is estimated when the resource definition is installed
    nor that of checking the largest Study reaches what the API server allows."""
    crd = copy.deepcopy(CRD)
    crd["spec"]["group"] = f"{kubectl.namespace}.study-operator.io"
    crd["metadata"]["name"] = f"studies.{crd['spec']['group']}"
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for _, inner in walk(schema):
        for limit in ("maxItems", "maxProperties"):
            if limit in inner:
                inner[limit] *= 2
    kubectl.ok("create", "-f", "-", stdin=json.dumps(crd))
    try:
        wait_until_served(kubectl, crd)
        stepped = {"float": {"low": 0, "high": 1, "step": 0.1}}
        various = {"categorical": {"choices": [f"{i:0128d}" for i in range(20)]}}
        study = changed(parameters(sampler={"name": "Grid"}))
        study["apiVersion"] = f"{crd['spec']['group']}/v1alpha1"
        study["spec"]["parameters"] = [
            {"name": "a.-" * 20 + f"{i:03d}", **(stepped if i % 2 else various)} for i in range(200)
        ]
        kubectl.ok("create", "-f", "-", stdin=json.dumps(study))
        study["spec"]["maxTrials"] = 200
        kubectl.ok("replace", "-f", "-", stdin=json.dumps(study))
    finally:
        kubectl.ok("delete", "crd", crd["metadata"]["name"])

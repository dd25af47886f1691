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
    CLAIM,
    EARLIER,
    FLOAT,
    INT,
    LATENCY,
    LOSS,
    PLUG_IN,
    RULES,
    Change,
    Study,
    changed,
    floats,
    minimal,
    parameters,
    spec,
    without,
)
from kubectl_cli import DryRuns, Kubectl

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


@pytest.fixture(scope="module")
def dry_runs(shared: Kubectl) -> Iterator[DryRuns]:
    """All of creating and replacing but the writing, in the namespace `shared`."""
    opened = DryRuns(shared.kubeconfig, shared.namespace)
    yield opened
    opened.close()


def accepted(answer: tuple[bool, dict[str, Any]]) -> Study:
    """The Study as it would be stored."""
    done, found = answer
    assert done, found["message"]
    return found


def refused(answer: tuple[bool, dict[str, Any]]) -> str:
    """What the API server says to a Study that it must refuse."""
    done, found = answer
    assert not done, found
    return found["message"]


@pytest.mark.parametrize("rule", RULES)
def test_rule_accepts(dry_runs: DryRuns, rule: str) -> None:
    accepted(dry_runs.create(changed(RULES[rule][0])))


@pytest.mark.parametrize("rule", RULES)
def test_rule_refuses_and_says_what_to_write_instead(dry_runs: DryRuns, rule: str) -> None:
    _, change, message = RULES[rule]
    assert message in refused(dry_runs.create(changed(change)))


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
    assert [rule for rule in rules if not any(rule.split(":")[0].split(", but")[0] in said for said in tried)] == []


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (spec(suspended=True), "spec.suspended"),
        (spec(objectives=[{**LOSS, "target": 0.1}]), "spec.objectives[0].target"),
        (parameters({**INT, "when": {"parameter": "x", "equals": "y"}}), "spec.parameters[0].when.equals"),
        (spec(warmStart={"studies": ["a"], "from": "b"}), "spec.warmStart.from"),
        (floats(low=0, high=1, scale="log"), "spec.parameters[0].float.scale"),
        (
            lambda study: study["spec"]["jobTemplate"].update(metadata={"name": "x"}),
            "spec.jobTemplate.metadata.name",
        ),
    ],
)
def test_unknown_fields_are_refused(dry_runs: DryRuns, change: Change, field: str) -> None:
    assert f'unknown field "{field}"' in refused(dry_runs.create(changed(change)))


def test_several_mistakes_are_named_at_once(dry_runs: DryRuns) -> None:
    study = changed(parameters({"float": {"low": 2, "high": 1}}, {"int": {"low": 1}}, parallelism=-1, maxTrials=0))
    answer = refused(dry_runs.create(study))
    for field in ("spec.maxTrials", "spec.parallelism", "spec.parameters[1].int.high"):
        assert field in answer


DEFAULTS: dict[str, Any] = {
    "sampler": {"name": "TPE"},
    "maxTrials": 100,
    "parallelism": 1,
    "maxFailedTrials": 10,
    "activeTrialsPolicy": "Terminate",
    "suspend": False,
    "suspendPolicy": "Drain",
    "infrastructureRetries": 5,
    "metrics": {"from": "Sdk", "stepName": "epoch", "format": "JsonLines"},
    "successfulJobsHistoryLimit": 3,
    "failedJobsHistoryLimit": 5,
    "gpusPerTrial": 1,
    "gpuResourceName": "nvidia.com/gpu",
    "deletionPolicy": "Retain",
}
# What is absent unless given, and what its absence means is in its description.
OPTIONAL = {
    "constraints", "pruner", "activeDeadlineSeconds", "convergence", "pendingDeadlineSeconds", "infeasibleExitCodes",
    "initialTrials", "warmStart", "checkpoints", "stop",
}  # fmt: skip


def least() -> Study:
    """Nothing but objectives, parameters, an image and a command."""
    study = minimal()
    [container] = study["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    del container["name"]
    container["command"] = ["python", "train.py"]
    return study


def test_the_least_that_is_a_study_gets_every_default(dry_runs: DryRuns) -> None:
    given, stored = least()["spec"], accepted(dry_runs.create(least()))["spec"]
    assert {name: stored[name] for name in stored if name not in given} == DEFAULTS
    assert set(SCHEMA["properties"]["spec"]["properties"]) == {*given, *DEFAULTS, *OPTIONAL}
    assert stored["jobTemplate"]["spec"] == {
        "backoffLimit": 0,
        "template": {
            "spec": {
                "restartPolicy": "Never",
                "containers": [{"name": "trial", "image": "train:1", "command": ["python", "train.py"]}],
            }
        },
    }


def test_defaults_of_what_is_given(dry_runs: DryRuns) -> None:
    study = changed(spec(convergence={}, checkpoints={"claimName": "c"}, metrics={}, sampler={"class": "a:B"}))
    stored = accepted(dry_runs.create(study))["spec"]
    assert stored["convergence"] == {"evaluator": "BestValueStagnation", "minTrials": 20}
    assert stored["checkpoints"] == {"claimName": "c", "mountPath": "/checkpoints", "keep": "All"}
    assert stored["metrics"] == DEFAULTS["metrics"]
    assert stored["sampler"] == {"class": "a:B"}


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
    example, *_ = re.findall(r"```yaml\n(.*?)```", (REPOSITORY / "docs" / "study.md").read_text(), re.DOTALL)
    example = example.replace("namespace: team-a", f"namespace: {shared.namespace}")
    shared.ok("create", "--dry-run=server", "-f", "-", stdin=example)


OPTIONS = {"n_startup_trials": 10, "x0": {"lr": 0.1}}
CHOICES = {"categorical": {"choices": ["adam", "sgd", 1, True, None]}}
CONDITIONAL = {**FLOAT, "when": {"parameter": "p2", "in": ["adam", 1]}}


def space(*given: dict[str, Any]) -> Change:
    """The parameters of the existing Study, the last ones replaced."""
    return parameters(*[FLOAT, INT, CHOICES, CONDITIONAL][: 4 - len(given)], *given)


@pytest.fixture(scope="module")
def existing(shared: Kubectl) -> Study:
    """A Study that exists, with one parameter of each kind and everything that is fixed."""
    study = minimal()
    for change in (
        space(),
        sampler(),
        spec(
            maxTrials=20,
            constraints=[LATENCY],
            initialTrials=[{"p0": 0.5}, {"p1": 2}],
            warmStart={"studies": [EARLIER]},
            checkpoints={"claimTemplate": CLAIM},
            metrics={"from": "Stdout"},
        ),
    ):
        change(study)
    stored = json.loads(shared.ok("create", "-o", "json", "-f", "-", stdin=json.dumps(study)))
    study["metadata"]["resourceVersion"] = stored["metadata"]["resourceVersion"]
    return study


def sampler(**fields: Any) -> Change:
    return spec(sampler={"name": "TPE", "seed": 7, "options": OPTIONS} | fields)


def _fixed(field: str, kind: str, what: str) -> str:
    return f'spec.{field}: Invalid value: "{kind}": {what} fixed once the Study exists'


_OBJECTIVES = _fixed("objectives", "array", "objectives are")
_PARAMETERS = _fixed("parameters", "array", "parameters are")
_SAMPLER = _fixed("sampler", "object", "sampler is")
_CONSTRAINTS = _fixed("constraints", "array", "constraints are")
_INITIAL = _fixed("initialTrials", "array", "initialTrials are")
_WARM_START = _fixed("warmStart", "object", "warmStart is")
_METRICS = _fixed("metrics", "object", "metrics is")
_CHECKPOINTS = _fixed("checkpoints", "object", "checkpoints are")

# Changes of an existing Study that are refused.
FIXED: dict[str, tuple[Change, str]] = {
    "direction": (spec(objectives=[{"name": "accuracy", "direction": "Minimize"}]), _OBJECTIVES),
    "objective's name": (spec(objectives=[LOSS]), _OBJECTIVES),
    "an objective more": (spec(objectives=[{"name": "accuracy", "direction": "Maximize"}, LOSS]), _OBJECTIVES),
    "a parameter more": (parameters(FLOAT, INT, CHOICES, CONDITIONAL, FLOAT), _PARAMETERS),
    "a parameter less": (parameters(FLOAT, INT, CHOICES), _PARAMETERS),
    "a parameter renamed": (space({**CONDITIONAL, "name": "p4"}), _PARAMETERS),
    "a parameter's kind": (parameters(FLOAT, FLOAT, CHOICES, CONDITIONAL), _PARAMETERS),
    "a wider range": (parameters({"float": {"low": 0, "high": 1.1}}, INT, CHOICES, CONDITIONAL), _PARAMETERS),
    "a step more": (space({"int": {"low": 1, "high": 4, "step": 1}}, CHOICES, CONDITIONAL), _PARAMETERS),
    "a choice more": (space({"categorical": {"choices": ["adam", "sgd", 1, True, None, 2]}}, CONDITIONAL), _PARAMETERS),
    "a choice's type": (
        space({"categorical": {"choices": ["adam", "sgd", "1", True, None]}}, CONDITIONAL),
        _PARAMETERS,
    ),
    "choices reordered": (
        space({"categorical": {"choices": ["sgd", "adam", 1, True, None]}}, CONDITIONAL),
        _PARAMETERS,
    ),
    "when removed": (space(FLOAT), _PARAMETERS),
    "another when": (space({**FLOAT, "when": {"parameter": "p2", "in": ["adam", 2]}}), _PARAMETERS),
    "sampler removed": (lambda study: study["spec"].pop("sampler"), _SAMPLER),
    "another sampler": (sampler(name="Random"), _SAMPLER),
    "a class instead": (spec(sampler={"class": PLUG_IN, "seed": 7, "options": OPTIONS}), _SAMPLER),
    "another seed": (sampler(seed=8), _SAMPLER),
    "seed removed": (spec(sampler={"name": "TPE", "options": OPTIONS}), _SAMPLER),
    "another value of an option": (sampler(options=OPTIONS | {"n_startup_trials": 11}), _SAMPLER),
    "another value inside an option": (sampler(options=OPTIONS | {"x0": {"lr": 0.2}}), _SAMPLER),
    "another option in place of one": (sampler(options={"n_startup": 10, "x0": {"lr": 0.1}}), _SAMPLER),
    "options removed": (spec(sampler={"name": "TPE", "seed": 7}), _SAMPLER),
    "another limit": (spec(constraints=[{**LATENCY, "max": 60}]), _CONSTRAINTS),
    "a constraint more": (spec(constraints=[LATENCY, {"name": "memory", "max": 1}]), _CONSTRAINTS),
    "constraints removed": (
        without("constraints"),
        'spec.constraints: Invalid value: "object": constraints are fixed once the Study exists',
    ),
    "an initial trial more": (spec(initialTrials=[{"p0": 0.5}, {"p1": 2}, {"p1": 3}]), _INITIAL),
    "initial trials removed": (
        without("initialTrials"),
        'spec.initialTrials: Invalid value: "object": initialTrials are fixed once the Study exists',
    ),
    "another study": (spec(warmStart={"studies": [EARLIER + "0"]}), _WARM_START),
    "warm start removed": (
        without("warmStart"),
        'spec.warmStart: Invalid value: "object": warmStart is fixed once the Study exists',
    ),
    "other metrics": (spec(metrics={"from": "Sdk"}), _METRICS),
    "another pattern": (spec(metrics={"from": "Stdout", "pattern": "x"}), _METRICS),
    "metrics removed": (without("metrics"), _METRICS),
    "another path": (spec(checkpoints={"claimTemplate": CLAIM, "mountPath": "/state"}), _CHECKPOINTS),
    "another claim": (
        spec(checkpoints={"claimTemplate": {"spec": {**CLAIM["spec"], "accessModes": ["ReadWriteMany"]}}}),
        _CHECKPOINTS,
    ),
    "an existing claim": (spec(checkpoints={"claimName": "c"}), _CHECKPOINTS),
    "checkpoints removed": (
        without("checkpoints"),
        'spec.checkpoints: Invalid value: "object": checkpoints are fixed once the Study exists',
    ),
}

# Changes of an existing Study that are accepted.
MUTABLE: dict[str, Change] = {
    "parameters in another order": lambda study: study["spec"]["parameters"].insert(
        1, study["spec"]["parameters"].pop(0)
    ),
    "a number written otherwise": parameters({"float": {"low": 0.0, "high": 1.0}}, INT, CHOICES, CONDITIONAL),
    "metrics' default step": spec(metrics={"from": "Stdout", "stepName": "epoch", "format": "JsonLines"}),
    "pruner": spec(pruner={"name": "Median", "options": {"n_warmup_steps": 2}}),
    "limits": spec(maxTrials=200, parallelism=16, maxFailedTrials=0, activeDeadlineSeconds=60),
    "a pause": spec(suspend=True, suspendPolicy="Terminate", parallelism=0),
    "ends": spec(activeTrialsPolicy="Wait", convergence={"minTrials": 5}),
    "retries": spec(infrastructureRetries=0, pendingDeadlineSeconds=60, infeasibleExitCodes=[42]),
    "kept checkpoints": spec(checkpoints={"claimTemplate": CLAIM, "keep": "Best"}),
    "kept Jobs": spec(successfulJobsHistoryLimit=0, failedJobsHistoryLimit=100),
    "GPUs": spec(gpusPerTrial=0, gpuResourceName="amd.com/gpu"),
    "deletionPolicy": spec(deletionPolicy="Delete"),
    "jobTemplate": spec(jobTemplate={"spec": {"template": {"spec": {"containers": [{"image": "train:2"}]}}}}),
    "labels": lambda study: study["metadata"].update(labels={"team": "a"}),
}


@pytest.mark.parametrize("what", FIXED)
def test_fixed_once_the_study_exists(dry_runs: DryRuns, existing: Study, what: str) -> None:
    change, message = FIXED[what]
    study = copy.deepcopy(existing)
    change(study)
    answer = refused(dry_runs.replace(study))
    assert re.search(
        re.escape(message)
        + "(, but for keep)?: create a Study under another name, or (delete this one first|use study)",
        answer,
    )


@pytest.mark.parametrize("what", MUTABLE)
def test_mutable_while_the_study_exists(dry_runs: DryRuns, existing: Study, what: str) -> None:
    study = copy.deepcopy(existing)
    MUTABLE[what](study)
    accepted(dry_runs.replace(study))


def test_applying_a_study_again_changes_nothing(kubectl: Kubectl) -> None:
    study = changed(parameters(FLOAT, INT, CHOICES, sampler={"name": "TPE", "seed": 7}, pruner={"name": "Median"}))
    assert "created" in kubectl.ok("apply", "-f", "-", stdin=json.dumps(study))
    assert "unchanged" in kubectl.ok("apply", "-f", "-", stdin=json.dumps(study))


@pytest.mark.parametrize("how", ["--server-side=false", "--server-side=true"])
def test_applying_the_least_again_is_no_new_generation(kubectl: Kubectl, how: str) -> None:
    """The container's name is a default inside a list: kubectl says `configured`, and nothing is written."""
    for _ in range(2):
        kubectl.ok("apply", how, "-f", "-", stdin=json.dumps(least()))
    assert kubectl.ok("get", "study", "digits", "-o", "jsonpath={.metadata.generation}") == "1"


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
            ("Finished", "True", "MaxTrialsReached", ""),
            ("Complete", "True", "MaxTrialsReached", ""),
        ]
    ],
    "startTime": "2025-01-01T00:00:00Z",
    "completionTime": "2025-01-01T01:00:00.123456Z",
    "studyName": "team-a/digits-1b9d6bcd",
    "trials": {
        "total": 40,
        "running": 8,
        "queued": 1,
        "complete": 21,
        "pruned": 6,
        "failed": 2,
        "infeasible": 1,
        "terminated": 1,
    },
    "progress": "29/100",
    "bestTrial": {
        "number": 31,
        "values": ["0.9734"],
        "params": {"lr": 0.0031, "layers": 2, "bias": True, "optimizer": "sgd"},
        "parameters": {"lr": "0.0031"},
        "jobName": "digits-31",
    },
    "bestValue": "0.9734",
    "best": "0.9734 (max)",
    "paretoFront": [{"number": 31, "values": ["0.9734", "12"], "parameters": {"lr": "0.0031"}}],
    "paretoFrontSize": 1,
    "failures": {"program": 1, "infrastructure": 3, "infeasible": 1},
    "gpus": 8,
    "deadlineTime": "2025-01-01T02:00:00Z",
    "warmStart": [{"study": EARLIER, "taken": 30, "left": 2, "message": "2: no parameter lr"}],
    "badReports": 1,
    "lastBadReport": "epoch=x: not a number",
    "recentFailures": [
        {
            "trial": 5,
            "class": "Program",
            "reason": "OOMKilled",
            "exitCode": 137,
            "message": "Killed",
            "lastLogLine": "x",
        }
    ],
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
    kubectl.ok("wait", "--for=condition=Finished", "study/digits", "--timeout=10s")


def test_columns(kubectl: Kubectl) -> None:
    study = changed(spec(pruner={"name": "SuccessiveHalving"}))
    kubectl.ok("create", "-f", "-", stdin=json.dumps(study))
    head, row = (line.split() for line in kubectl.ok("get", "studies").splitlines())
    assert head == ["NAME", "PHASE", "TRIALS", "RUNNING", "FAILED", "BEST", "BEST-TRIAL", "AGE"]
    assert row[:1] == ["digits"]

    set_status(kubectl, STATUS)
    row = kubectl.ok("get", "study", "digits", "--no-headers").split()
    assert row[:-1] == ["digits", "Succeeded", "29/100", "8", "2", "0.9734", "(max)", "31"]

    head, row = (line.split() for line in kubectl.ok("get", "stu", "-o", "wide").splitlines())
    assert head[8:] == ["QUEUED", "PRUNED", "INFEASIBLE", "SAMPLER", "PRUNER", "MESSAGE"]
    assert row[9:] == ["1", "6", "1", "TPE", "SuccessiveHalving", "ended"]


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
    maps = ("labels", "annotations", "options", "claimTemplate.spec")
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
                assert schema["maxItems"] <= 20, path
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
        various = {"categorical": {"choices": [*map(str, range(100)), *range(99), None]}}
        study = changed(parameters(sampler={"name": "Grid"}))
        study["apiVersion"] = f"{crd['spec']['group']}/v1alpha1"
        names = ["a.-" * 20 + f"{i:03d}" for i in range(200)]
        study["spec"]["parameters"] = [
            {
                "name": name,
                **(stepped if i % 2 else various),
                **({"when": {"parameter": names[(i - 1) & ~1], "in": various["categorical"]["choices"]}} if i else {}),
            }
            for i, name in enumerate(names)
        ]
        study["spec"]["objectives"] = [{"name": f"o{i}" + "x" * 61, "direction": "Minimize"} for i in range(8)]
        study["spec"]["constraints"] = [{"name": f"c{i:02d}" + "x" * 60, "max": 1} for i in range(20)]
        study["spec"]["initialTrials"] = [{names[0]: 1}] * 100
        study["spec"]["warmStart"] = {"studies": [f"{i:0128d}" for i in range(20)]}
        kubectl.ok("create", "-f", "-", stdin=json.dumps(study))
        study["spec"]["maxTrials"] = 200
        kubectl.ok("replace", "-f", "-", stdin=json.dumps(study))
    finally:
        kubectl.ok("delete", "crd", crd["metadata"]["name"])

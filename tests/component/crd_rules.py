"""One accepted and one refused Study for every rule of crds/study.yaml, with what the refusal says."""

from collections.abc import Callable
from typing import Any

Study = dict[str, Any]
Change = Callable[[Study], None]


def minimal(name: str = "digits") -> Study:
    """The least that is a Study."""
    return {
        "apiVersion": "study-operator.io/v1alpha1",
        "kind": "Study",
        "metadata": {"name": name},
        "spec": {
            "objectives": [{"name": "accuracy", "direction": "Maximize"}],
            "parameters": [{"name": "lr", "float": {"low": 0.001, "high": 1, "log": True}}],
            "jobTemplate": {"spec": {"template": {"spec": {"containers": [{"name": "trial", "image": "train:1"}]}}}},
        },
    }


def changed(change: Change) -> Study:
    """The minimal Study with one change."""
    study = minimal()
    change(study)
    return study


def spec(**fields: Any) -> Change:
    """Sets fields of the spec."""
    return lambda study: study["spec"].update(fields)


def parameters(*given: dict[str, Any], **fields: Any) -> Change:
    """Sets the parameters, naming those that have no name p0, p1 and so on, and other fields of the spec."""
    named = [{"name": f"p{i}", **parameter} for i, parameter in enumerate(given)]
    return spec(parameters=named, **fields)


def floats(**given: Any) -> Change:
    return parameters({"float": given})


def ints(**given: Any) -> Change:
    return parameters({"int": given})


def choices(*given: Any) -> Change:
    return parameters({"categorical": {"choices": list(given)}})


def names(*given: str) -> Change:
    return parameters(*({"name": name, "int": {"low": 1, "high": 2}} for name in given))


def metadata(**fields: Any) -> Change:
    return lambda study: study["metadata"].update(fields)


def without(field: str) -> Change:
    return lambda study: study["spec"].pop(field)


LOSS = {"name": "loss", "direction": "Minimize"}
ACCURACY = {"name": "accuracy", "direction": "Maximize"}
MEDIAN = {"name": "Median"}
FLOAT = {"float": {"low": 0, "high": 1}}
STEPPED = {"float": {"low": 0, "high": 1, "step": 0.25}}
INT = {"int": {"low": 1, "high": 4}}
CATEGORICAL = {"categorical": {"choices": ["adam", "sgd"]}}
INT_LIMIT = 2**53 - 1

# By rule: what it lets through, what it refuses, and what the refusal says.
RULES: dict[str, tuple[Change, Change, str]] = {
    "name-length": (
        metadata(name="a" * 52),
        metadata(name="a" * 53),
        "metadata.name must be at most 52 characters long, because Jobs are named <study>-<number>",
    ),
    "name-dot": (
        metadata(name="di-gits"),
        metadata(name="di.gits"),
        "metadata.name must not contain a dot, because Jobs and pods are named after it: write '-' instead",
    ),
    "spec-required": (spec(), lambda study: study.pop("spec"), "spec: Required value"),
    "objectives-required": (spec(), without("objectives"), "spec.objectives: Required value"),
    "objectives-some": (spec(objectives=[LOSS]), spec(objectives=[]), "should have at least 1 items"),
    "objectives-one": (
        spec(objectives=[LOSS]),
        spec(objectives=[LOSS, ACCURACY]),
        "several objectives are not supported yet: give exactly one objective",
    ),
    "objectives-max": (
        spec(objectives=[LOSS]),
        spec(objectives=[{**LOSS, "name": f"loss{i}"} for i in range(5)]),
        "spec.objectives: Too many: 5: must have at most 4 items",
    ),
    "objectives-unique": (
        spec(objectives=[LOSS]),
        spec(objectives=[LOSS, {**LOSS, "direction": "Maximize"}]),
        "spec.objectives[1]: Duplicate value",
    ),
    "objective-name": (
        spec(objectives=[{**LOSS, "name": "val/loss-1.0"}]),
        spec(objectives=[{**LOSS, "name": "val loss"}]),
        "spec.objectives[0].name in body should match '^[A-Za-z_][A-Za-z0-9_./-]*$'",
    ),
    "objective-name-length": (
        spec(objectives=[{**LOSS, "name": "a" * 63}]),
        spec(objectives=[{**LOSS, "name": "a" * 64}]),
        "spec.objectives[0].name: Too long: may not be more than 63",
    ),
    "objective-direction": (
        spec(objectives=[{**LOSS, "direction": "Maximize"}]),
        spec(objectives=[{**LOSS, "direction": "maximize"}]),
        'supported values: "Minimize", "Maximize"',
    ),
    "objective-direction-required": (
        spec(objectives=[LOSS]),
        spec(objectives=[{"name": "loss"}]),
        "spec.objectives[0].direction: Required value",
    ),
    "parameters-required": (spec(), without("parameters"), "spec.parameters: Required value"),
    "parameters-some": (parameters(FLOAT), parameters(), "should have at least 1 items"),
    "parameters-max": (
        parameters(*[FLOAT] * 100),
        parameters(*[FLOAT] * 101),
        "spec.parameters: Too many: 101: must have at most 100 items",
    ),
    "parameters-unique": (
        names("lr", "LR"),
        names("lr", "lr"),
        'spec.parameters[1]: Duplicate value: {"name":"lr"}',
    ),
    "parameters-environment": (
        names("optimizer.lr", "optimizer-wd"),
        names("optimizer.lr", "optimizer-lr"),
        "two parameters would share one environment variable, because '.' and '-' become '_' in PARAM_<name>",
    ),
    "parameters-environment-underscore": (
        names("a_b", "a__b"),
        names("a_b", "a.b"),
        'spec.parameters: Invalid value: "array": two parameters would share one environment variable',
    ),
    "parameter-name": (
        names("_Optimizer.lr-0"),
        names("0lr"),
        "spec.parameters[0].name in body should match '^[A-Za-z_][A-Za-z0-9_.-]*$'",
    ),
    "parameter-name-length": (
        names("a" * 63),
        names("a" * 64),
        "spec.parameters[0].name: Too long: may not be more than 63",
    ),
    "parameter-one-of": (
        parameters(FLOAT, INT, CATEGORICAL),
        parameters({**FLOAT, **INT}),
        'spec.parameters[0]: Invalid value: "object": give exactly one of float, int and categorical',
    ),
    "parameter-none-of": (parameters(INT), parameters({}), "give exactly one of float, int and categorical"),
    "float-range-required": (
        floats(low=0, high=1),
        floats(low=0),
        "spec.parameters[0].float.high: Required value",
    ),
    "float-low-high": (
        floats(low=0.5, high=0.5),
        floats(low=0.5, high=0.1),
        'spec.parameters[0].float: Invalid value: "object": low must not be greater than high: swap them',
    ),
    "float-low-bound": (
        floats(low=-1e300, high=1e300),
        floats(low=-1.1e300, high=0),
        "low and high must lie between -1.0e300 and 1.0e300: choose a narrower range",
    ),
    "float-high-bound": (
        floats(low=0, high=1e300),
        floats(low=0, high=1.7e308),
        "low and high must lie between -1.0e300 and 1.0e300: choose a narrower range",
    ),
    "float-log-low": (
        floats(low=1e-6, high=1, log=True),
        floats(low=0, high=1, log=True),
        "log needs low greater than 0: raise low (for example to 1.0e-6) or remove log",
    ),
    "float-log-false": (
        floats(low=0, high=1, log=False, step=0.5),
        floats(low=-1, high=1, log=True),
        "log needs low greater than 0",
    ),
    "float-log-step": (
        floats(low=0.5, high=1, step=0.3),
        floats(low=0.5, high=1, step=0.1, log=True),
        "log and step exclude each other: remove one of them",
    ),
    "float-step": (
        floats(low=0, high=1, step=0.0001),
        floats(low=0, high=1, step=0),
        "spec.parameters[0].float.step in body should be greater than 0",
    ),
    "int-range-required": (ints(low=0, high=1), ints(high=1), "spec.parameters[0].int.low: Required value"),
    "int-whole": (
        ints(low=0, high=1),
        ints(low=0, high=1.5),
        "spec.parameters[0].int.high in body must be of type",
    ),
    "int-low-high": (
        ints(low=-3, high=-3),
        ints(low=3, high=-3),
        'spec.parameters[0].int: Invalid value: "object": low must not be greater than high: swap them',
    ),
    "int-low-bound": (
        ints(low=-INT_LIMIT, high=INT_LIMIT),
        ints(low=-INT_LIMIT - 1, high=0),
        "spec.parameters[0].int.low in body should be greater than or equal to -9007199254740991",
    ),
    "int-high-bound": (
        ints(low=0, high=INT_LIMIT),
        ints(low=0, high=INT_LIMIT + 1),
        "spec.parameters[0].int.high in body should be less than or equal to 9007199254740991",
    ),
    "int-log-low": (
        ints(low=1, high=8, log=True),
        ints(low=0, high=8, log=True),
        "log needs low of at least 1: raise low to 1 or remove log",
    ),
    "int-log-step": (
        ints(low=1, high=8, log=True, step=1),
        ints(low=1, high=8, log=True, step=2),
        "log and step exclude each other: remove one of them",
    ),
    "int-step": (
        ints(low=0, high=8, step=3),
        ints(low=0, high=8, step=0),
        "spec.parameters[0].int.step in body should be greater than or equal to 1",
    ),
    "choices-required": (
        parameters(CATEGORICAL),
        parameters({"categorical": {}}),
        "spec.parameters[0].categorical.choices: Required value",
    ),
    "choices-some": (choices("adam"), choices(), "choices in body should have at least 1 items"),
    "choices-max": (
        choices(*map(str, range(100))),
        choices(*map(str, range(101))),
        "choices: Too many: 101: must have at most 100 items",
    ),
    "choices-unique": (
        choices("adam", "Adam"),
        choices("adam", "adam"),
        'choices[1]: Duplicate value: "adam"',
    ),
    "choices-text": (
        choices("1", "true"),
        choices(1, 2),
        'choices[0] in body must be of type string: "integer"',
    ),
    "choices-length": (
        choices("ä" * 128),
        choices("a" * 129),
        "choices[0]: Too long: may not be more than 128",
    ),
    "choices-printable": (choices("", "naïve $(x) 日本"), choices("a\0b"), "choices[0] in body should match"),
    "sampler-name": (
        spec(sampler={"name": "CmaES"}),
        spec(sampler={"name": "GP"}),
        'sampler.name: Unsupported value: "GP": supported values: "TPE", "Random", "Grid", "QMC", "CmaES"',
    ),
    "sampler-seed": (
        spec(sampler={"seed": 2**32 - 1}),
        spec(sampler={"seed": 2**32}),
        "spec.sampler.seed in body should be less than or equal to 4294967295",
    ),
    "sampler-seed-negative": (
        spec(sampler={"seed": 0}),
        spec(sampler={"seed": -1}),
        "spec.sampler.seed in body should be greater than or equal to 0",
    ),
    "sampler-options": (
        spec(sampler={"options": {"n_startup_trials": 20, "multivariate": True, "x0": {"lr": 0.1}}}),
        spec(sampler={"options": {f"o{i}": 1 for i in range(33)}}),
        "spec.sampler.options: Too many: 33: must have at most 32",
    ),
    "sampler-grid": (
        parameters(STEPPED, INT, CATEGORICAL, sampler={"name": "Grid"}),
        parameters(STEPPED, INT, FLOAT, sampler={"name": "Grid"}),
        "the Grid sampler needs a finite number of values for every parameter: give each float a step",
    ),
    "pruner-name": (
        spec(pruner={"name": "Hyperband"}),
        spec(pruner={"name": "Percentile"}),
        'supported values: "Median", "SuccessiveHalving", "Hyperband"',
    ),
    "pruner-name-required": (spec(pruner=MEDIAN), spec(pruner={}), "spec.pruner.name: Required value"),
    "pruner-options": (
        spec(pruner={**MEDIAN, "options": {"n_warmup_steps": 3}}),
        spec(pruner={**MEDIAN, "options": {f"o{i}": 1 for i in range(33)}}),
        "spec.pruner.options: Too many: 33: must have at most 32",
    ),
    "pruner-objectives": (
        spec(pruner=MEDIAN),
        spec(pruner=MEDIAN, objectives=[LOSS, ACCURACY]),
        "a pruner works with exactly one objective: remove pruner, or keep one objective",
    ),
    "trials-some": (
        spec(maxTrials=1),
        spec(maxTrials=0),
        "spec.maxTrials in body should be greater than or equal to 1",
    ),
    "trials-max": (
        spec(maxTrials=1_000_000),
        spec(maxTrials=1_000_001),
        "spec.maxTrials in body should be less than or equal to 1000000",
    ),
    "parallelism-trials": (
        spec(parallelism=8, maxTrials=8),
        spec(parallelism=9, maxTrials=8),
        'spec.parallelism: Invalid value: "object": parallelism must not be greater than maxTrials: '
        "lower parallelism or raise maxTrials",
    ),
    "parallelism-some": (
        spec(parallelism=1),
        spec(parallelism=0),
        "spec.parallelism in body should be greater than or equal to 1",
    ),
    "parallelism-max": (
        spec(parallelism=10_000, maxTrials=20_000),
        spec(parallelism=10_001, maxTrials=20_000),
        "spec.parallelism in body should be less than or equal to 10000",
    ),
    "failed-trials-min": (
        spec(maxFailedTrials=0),
        spec(maxFailedTrials=-1),
        "spec.maxFailedTrials in body should be greater than or equal to 0",
    ),
    "failed-trials-max": (
        spec(maxFailedTrials=1_000_000),
        spec(maxFailedTrials=1_000_001),
        "spec.maxFailedTrials in body should be less than or equal to 1000000",
    ),
    "gpus-min": (
        spec(gpusPerTrial=0),
        spec(gpusPerTrial=-1),
        "spec.gpusPerTrial in body should be greater than or equal to 0",
    ),
    "gpus-max": (
        spec(gpusPerTrial=64),
        spec(gpusPerTrial=65),
        "spec.gpusPerTrial in body should be less than or equal to 64",
    ),
    "gpu-resource": (
        spec(gpuResourceName="nvidia.com/mig-1g.10gb"),
        spec(gpuResourceName="gpu"),
        "spec.gpuResourceName in body should match",
    ),
    "gpu-resource-length": (
        spec(gpuResourceName="a" * 253 + "/" + "b" * 63),
        spec(gpuResourceName="a" * 253 + "/" + "b" * 64),
        "spec.gpuResourceName: Too long: may not be more than 317",
    ),
    "deletion-policy": (
        spec(deletionPolicy="Delete"),
        spec(deletionPolicy="Keep"),
        'supported values: "Retain", "Delete"',
    ),
    "job-template-required": (spec(), without("jobTemplate"), "spec.jobTemplate: Required value"),
    "job-spec-required": (spec(), spec(jobTemplate={}), "spec.jobTemplate.spec: Required value"),
    "job-pod-required": (
        spec(jobTemplate={"spec": {"backoffLimit": 3, "template": {"spec": {"whatever": [1]}}}}),
        spec(jobTemplate={"spec": {"backoffLimit": 3}}),
        "spec.jobTemplate.spec.template: Required value",
    ),
    "job-labels": (
        spec(
            jobTemplate={
                "metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}},
                "spec": {"template": {}},
            }
        ),
        spec(jobTemplate={"metadata": {"labels": {"a": 1}}, "spec": {"template": {}}}),
        "spec.jobTemplate.metadata.labels.a in body must be of type string",
    ),
}

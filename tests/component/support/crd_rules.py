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


def when(parameter: Any, *given: Any) -> dict[str, Any]:
    """A parameter that is active with some values of another one."""
    return {**FLOAT, "when": {"parameter": parameter, "in": list(given)}}


def convergence(**given: Any) -> Change:
    return spec(convergence=given)


def metrics(**given: Any) -> Change:
    return spec(metrics=given)


def checkpoints(**given: Any) -> Change:
    return spec(checkpoints=given)


def job(**given: Any) -> Change:
    """Sets fields of the Job's spec."""
    return lambda study: study["spec"]["jobTemplate"]["spec"].update(given)


def pod(**given: Any) -> Change:
    """Sets fields of the pod's spec."""
    return lambda study: study["spec"]["jobTemplate"]["spec"]["template"]["spec"].update(given)


LOSS = {"name": "loss", "direction": "Minimize"}
ACCURACY = {"name": "accuracy", "direction": "Maximize"}
LATENCY = {"name": "latency_ms", "max": 50}
MEDIAN = {"name": "Median"}
FLOAT = {"float": {"low": 0, "high": 1}}
STEPPED = {"float": {"low": 0, "high": 1, "step": 0.25}}
INT = {"int": {"low": 1, "high": 4}}
CATEGORICAL = {"categorical": {"choices": ["adam", "sgd"]}}
INT_LIMIT = 2**53 - 1
PLUG_IN = "optuna_integration.botorch:BoTorchSampler"
EARLIER = "team-a/digits-1b9d6bcd"
CLAIM = {"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}

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
    "objectives-max": (
        spec(objectives=[{**LOSS, "name": f"loss{i}"} for i in range(4)]),
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
        "write what the program calls the value as metric, such as {name: map, metric: ",
    ),
    "objective-name-length": (
        spec(objectives=[{**LOSS, "name": "a" * 63}]),
        spec(objectives=[{**LOSS, "name": "a" * 64}]),
        "a name has at most 63 letters, digits, '_', '.', '/' and '-', beginning with a letter or '_'",
    ),
    "objective-name-much-too-long": (
        spec(objectives=[{**LOSS, "name": "val/loss"}]),
        spec(objectives=[{**LOSS, "name": "a" * 1025}]),
        "spec.objectives[0].name: Too long: may not be more than 1024",
    ),
    "objective-metric": (
        spec(objectives=[{**LOSS, "metric": "metrics/mAP50-95(B)"}]),
        spec(objectives=[{**LOSS, "metric": "a\nb"}]),
        "spec.objectives[0].metric in body should match",
    ),
    "objective-metric-length": (
        spec(objectives=[{**LOSS, "metric": "Précision à 5 %" + "x" * 241}]),
        spec(objectives=[{**LOSS, "metric": "x" * 257}]),
        "spec.objectives[0].metric: Too long: may not be more than 256",
    ),
    "objective-final-value": (
        spec(objectives=[{**LOSS, "finalValue": "Best"}], metrics={"from": "Stdout"}),
        spec(objectives=[{**LOSS, "finalValue": "Latest"}]),
        'spec.objectives[0].finalValue: Unsupported value: "Latest": supported values: "Last", "Best", "Min", "Max"',
    ),
    "objective-final-value-sdk": (
        spec(objectives=[{**LOSS, "finalValue": "Last"}]),
        spec(objectives=[{**LOSS, "finalValue": "Best"}]),
        "finalValue is for metrics from Stdout or File; with Sdk the final value is the one that the program returns",
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
    "goal-number": (
        spec(objectives=[{**LOSS, "goal": 0.1}]),
        spec(objectives=[{**LOSS, "goal": "0.1"}]),
        "spec.objectives[0].goal in body must be of type number",
    ),
    "goal-objectives": (
        spec(objectives=[{**LOSS, "goal": -1}]),
        spec(objectives=[LOSS, {**ACCURACY, "goal": 0.9}]),
        "a goal works with exactly one objective: remove goal, or keep one objective",
    ),
    "constraints-some": (
        spec(constraints=[LATENCY]),
        spec(constraints=[]),
        "spec.constraints in body should have at least 1 items",
    ),
    "constraints-max": (
        spec(constraints=[{**LATENCY, "name": f"c{i}"} for i in range(10)]),
        spec(constraints=[{**LATENCY, "name": f"c{i}"} for i in range(11)]),
        "spec.constraints: Too many: 11: must have at most 10 items",
    ),
    "constraints-unique": (
        spec(constraints=[LATENCY, {"name": "memory", "min": 1}]),
        spec(constraints=[LATENCY, {"name": "latency_ms", "min": 1}]),
        "spec.constraints[1]: Duplicate value",
    ),
    "constraint-name": (
        spec(constraints=[{"name": "p99/latency-ms.0", "max": 50}]),
        spec(constraints=[{"name": "p99 latency", "max": 50}]),
        "write what the program calls the value as metric, such as {name: map, metric: ",
    ),
    "constraint-name-length": (
        spec(constraints=[{"name": "a" * 63, "max": 50}]),
        spec(constraints=[{"name": "a" * 64, "max": 50}]),
        "a name has at most 63 letters, digits, '_', '.', '/' and '-', beginning with a letter or '_'",
    ),
    "constraint-name-much-too-long": (
        spec(constraints=[{"name": "p99", "max": 50}]),
        spec(constraints=[{"name": "a" * 1025, "max": 50}]),
        "spec.constraints[0].name: Too long: may not be more than 1024",
    ),
    "constraint-metric": (
        spec(constraints=[{**LATENCY, "metric": "latency (p99) in ms"}]),
        spec(constraints=[{**LATENCY, "metric": "a\tb"}]),
        "spec.constraints[0].metric in body should match",
    ),
    "constraint-metric-length": (
        spec(constraints=[{**LATENCY, "metric": "x" * 256}]),
        spec(constraints=[{**LATENCY, "metric": "x" * 257}]),
        "spec.constraints[0].metric: Too long: may not be more than 256",
    ),
    "constraint-both": (
        spec(constraints=[{"name": "accuracy_b", "min": 0.5}]),
        spec(constraints=[{"name": "accuracy_b", "min": 0.5, "max": 0.6}]),
        "give exactly one of max and min: for both, list two constraints under two names",
    ),
    "constraint-none": (
        spec(constraints=[{"name": "latency_ms", "max": 0}]),
        spec(constraints=[{"name": "latency_ms"}]),
        'spec.constraints[0]: Invalid value: "object": give exactly one of max and min',
    ),
    "constraint-objective": (
        spec(constraints=[{"name": "Accuracy", "min": 0.5}]),
        spec(constraints=[{"name": "accuracy", "min": 0.5}]),
        "a constraint and an objective have the same name: rename one of them",
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
    "choices-length": (
        choices("ä" * 128),
        choices("a" * 129),
        "choices[0]: Too long: may not be more than 128",
    ),
    "choices-printable": (choices("", "naïve $(x) 日本"), choices("a\0b"), "choices[0] in body should match"),
    "choices-typed": (
        choices("1", 1, 2.5, True, None),
        choices(["adam"]),
        "choices[0]: Too many: 1: must have at most 0 items",
    ),
    "choices-map": (choices("fixed"), choices({"name": "adam"}), "choices[0]: Too many: 1: must have at most 0 items"),
    "when-parameter": (
        parameters(CATEGORICAL, when("p0", "sgd"), when("p0", "adam", "sgd")),
        parameters(CATEGORICAL, when("optimizer", "sgd")),
        "when.parameter must be the name of a parameter that is listed before this one: correct the name, or move",
    ),
    "when-nested": (
        parameters(CATEGORICAL, {**INT, "when": {"parameter": "p0", "in": ["sgd"]}}, when("p1", 3)),
        parameters({**INT, "when": {"parameter": "p1", "in": [1]}}, {**INT, "when": {"parameter": "p0", "in": [1]}}),
        "when.parameter must be the name of a parameter that is listed before this one",
    ),
    "when-itself": (
        parameters(CATEGORICAL, when("p0", "sgd")),
        parameters({**CATEGORICAL, "when": {"parameter": "p0", "in": ["sgd"]}}),
        "(so that no parameter depends on itself)",
    ),
    "when-float": (
        parameters(INT, when("p0", 2)),
        parameters(FLOAT, when("p0", 0.5)),
        "when.parameter must not be a float, whose values are never met exactly: name a categorical or int parameter",
    ),
    "when-parameter-required": (
        parameters(INT, when("p0", 2)),
        parameters(INT, {**FLOAT, "when": {"in": [2]}}),
        "spec.parameters[1].when.parameter: Required value",
    ),
    "when-parameter-length": (
        parameters({"name": "a" * 63, **INT}, when("a" * 63, 2)),
        parameters({"name": "a" * 63, **INT}, when("a" * 64, 2)),
        "spec.parameters[1].when.parameter: Too long: may not be more than 63",
    ),
    "when-in-required": (
        parameters(INT, when("p0", 2)),
        parameters(INT, {**FLOAT, "when": {"parameter": "p0"}}),
        "spec.parameters[1].when.in: Required value",
    ),
    "when-in-some": (
        parameters({"categorical": {"choices": ["a", True, None, 2]}}, when("p0", True, None, 2)),
        parameters(CATEGORICAL, when("p0")),
        "spec.parameters[1].when.in in body should have at least 1 items",
    ),
    "when-in-max": (
        parameters({"int": {"low": 0, "high": 200}}, when("p0", *range(100))),
        parameters({"int": {"low": 0, "high": 200}}, when("p0", *range(101))),
        "spec.parameters[1].when.in: Too many: 101: must have at most 100 items",
    ),
    "when-in-length": (
        parameters({"categorical": {"choices": ["a" * 128, "b"]}}, when("p0", "a" * 128)),
        parameters({"categorical": {"choices": ["a" * 128, "b"]}}, when("p0", "a" * 129)),
        "spec.parameters[1].when.in[0]: Too long: may not be more than 128",
    ),
    "when-in-list": (
        parameters(CATEGORICAL, when("p0", "sgd")),
        parameters(CATEGORICAL, when("p0", ["sgd"])),
        "spec.parameters[1].when.in[0]: Too many: 1: must have at most 0 items",
    ),
    "when-in-object": (
        parameters(CATEGORICAL, when("p0", "sgd")),
        parameters(CATEGORICAL, when("p0", {"sgd": 1})),
        "spec.parameters[1].when.in[0]: Too many: 1: must have at most 0 items",
    ),
    "sampler-name": (
        spec(sampler={"name": "PartialFixed"}),
        spec(sampler={"name": "tpe"}),
        'sampler.name: Unsupported value: "tpe": supported values: "TPE", "Random", "Grid", "BruteForce", "QMC", '
        '"CmaES", "GP", "NSGAII", "NSGAIII", "PartialFixed"',
    ),
    "sampler-name-and-class": (
        spec(sampler={"class": PLUG_IN}),
        spec(sampler={"name": "TPE", "class": PLUG_IN}),
        'spec.sampler: Invalid value: "object": give exactly one of name (such as TPE) and class',
    ),
    "sampler-neither": (
        spec(sampler={"name": "TPE", "seed": 7}),
        spec(sampler={"seed": 7}),
        'spec.sampler: Invalid value: "object": give exactly one of name (such as TPE) and class',
    ),
    "sampler-class": (
        spec(sampler={"class": PLUG_IN, "seed": 7, "options": {"n_startup_trials": 5}}),
        spec(sampler={"class": "BoTorchSampler"}),
        "spec.sampler.class in body should match",
    ),
    "sampler-class-length": (
        spec(sampler={"class": "a" * 251 + ":B"}),
        spec(sampler={"class": "a" * 252 + ":B"}),
        "spec.sampler.class: Too long: may not be more than 253",
    ),
    "sampler-seed": (
        spec(sampler={"name": "TPE", "seed": 2**32 - 1}),
        spec(sampler={"name": "TPE", "seed": 2**32}),
        "spec.sampler.seed in body should be less than or equal to 4294967295",
    ),
    "sampler-seed-negative": (
        spec(sampler={"name": "TPE", "seed": 0}),
        spec(sampler={"name": "TPE", "seed": -1}),
        "spec.sampler.seed in body should be greater than or equal to 0",
    ),
    "sampler-options": (
        spec(sampler={"name": "TPE", "options": {"n_startup_trials": 20, "multivariate": True, "x0": {"lr": 0.1}}}),
        spec(sampler={"name": "TPE", "options": {f"o{i}": 1 for i in range(33)}}),
        "spec.sampler.options: Too many: 33: must have at most 32",
    ),
    "sampler-grid": (
        parameters(STEPPED, INT, CATEGORICAL, sampler={"name": "Grid"}),
        parameters(STEPPED, INT, FLOAT, sampler={"name": "Grid"}),
        "the Grid and BruteForce samplers need a finite number of values for every parameter: give each float a step",
    ),
    "sampler-brute-force": (
        parameters(STEPPED, INT, CATEGORICAL, sampler={"name": "BruteForce"}),
        parameters({"float": {"low": 1, "high": 2, "log": True}}, sampler={"name": "BruteForce"}),
        "the Grid and BruteForce samplers need a finite number of values for every parameter: give each float a step",
    ),
    **{
        f"sampler-when-{name}": (
            parameters(CATEGORICAL, FLOAT, FLOAT, sampler={"name": name}),
            parameters(CATEGORICAL, FLOAT, when("p0", "sgd"), sampler={"name": name}),
            "the CmaES, QMC and GP samplers cannot handle parameters with when: choose TPE, Random, Grid, BruteForce, "
            "NSGAII or NSGAIII, or remove when",
        )
        for name in ("CmaES", "QMC", "GP")
    },
    "sampler-continuous": (
        parameters(FLOAT, INT, CATEGORICAL, sampler={"name": "CmaES"}),
        parameters(FLOAT, CATEGORICAL, sampler={"name": "CmaES"}),
        "the CmaES sampler needs at least two float or int parameters, and is random without them: choose TPE, or add",
    ),
    "sampler-objectives": (
        spec(objectives=[LOSS, ACCURACY], sampler={"name": "NSGAIII"}),
        spec(objectives=[LOSS, ACCURACY], sampler={"name": "CmaES"}),
        "the CmaES sampler works with exactly one objective: choose NSGAII, NSGAIII, TPE, GP, Random or QMC, or keep "
        "one objective",
    ),
    "pruner-name": (
        spec(pruner={"name": "Wilcoxon"}),
        spec(pruner={"name": "Nop"}),
        'supported values: "Median", "Percentile", "SuccessiveHalving", "Hyperband", "Threshold", "Patient", '
        '"Wilcoxon"',
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
    "parallelism-pause": (
        spec(parallelism=0),
        spec(parallelism=-1),
        "spec.parallelism in body should be greater than or equal to 0",
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
    "deadline-some": (
        spec(activeDeadlineSeconds=1),
        spec(activeDeadlineSeconds=0),
        "spec.activeDeadlineSeconds in body should be greater than or equal to 1",
    ),
    "deadline-max": (
        spec(activeDeadlineSeconds=3_153_600_000),
        spec(activeDeadlineSeconds=3_153_600_001),
        "spec.activeDeadlineSeconds in body should be less than or equal to 3153600000",
    ),
    "active-trials-policy": (
        spec(activeTrialsPolicy="Wait"),
        spec(activeTrialsPolicy="Drain"),
        'spec.activeTrialsPolicy: Unsupported value: "Drain": supported values: "Terminate", "Wait"',
    ),
    "convergence-objectives": (
        convergence(),
        spec(convergence={}, objectives=[LOSS, ACCURACY]),
        "convergence is judged by exactly one objective: remove convergence, or keep one objective",
    ),
    "convergence-evaluator": (
        convergence(evaluator="EMMR"),
        convergence(evaluator="Stagnation"),
        'supported values: "BestValueStagnation", "RegretBound", "EMMR"',
    ),
    "convergence-error-missing": (
        convergence(evaluator="RegretBound", error=0.01),
        convergence(evaluator="RegretBound"),
        "RegretBound needs error: the difference in the objective that is not worth more trials",
    ),
    "convergence-error-useless": (
        convergence(evaluator="BestValueStagnation", options={"max_stagnation_trials": 30}),
        convergence(error=0.01),
        "error is only for the evaluator RegretBound: remove it",
    ),
    "convergence-error-negative": (
        convergence(evaluator="RegretBound", error=0),
        convergence(evaluator="RegretBound", error=-0.5),
        "spec.convergence.error in body should be greater than or equal to 0",
    ),
    "convergence-options": (
        convergence(options={"max_stagnation_trials": 30}),
        convergence(options={f"o{i}": 1 for i in range(33)}),
        "spec.convergence.options: Too many: 33: must have at most 32",
    ),
    "convergence-trials-min": (
        convergence(minTrials=1),
        convergence(minTrials=0),
        "spec.convergence.minTrials in body should be greater than or equal to 1",
    ),
    "convergence-trials-max": (
        convergence(minTrials=1_000_000),
        convergence(minTrials=1_000_001),
        "spec.convergence.minTrials in body should be less than or equal to 1000000",
    ),
    "suspend": (spec(suspend=True), spec(suspend="yes"), "spec.suspend in body must be of type boolean"),
    "suspend-policy": (
        spec(suspendPolicy="Terminate"),
        spec(suspendPolicy="Wait"),
        'spec.suspendPolicy: Unsupported value: "Wait": supported values: "Drain", "Terminate"',
    ),
    "stop": (
        spec(stop="Terminate"),
        spec(stop=True),
        "spec.stop in body must be of type string",
    ),
    "stop-values": (
        spec(stop="Drain"),
        spec(stop="Wait"),
        'spec.stop: Unsupported value: "Wait": supported values: "Drain", "Terminate"',
    ),
    "infrastructure-retries-min": (
        spec(infrastructureRetries=0),
        spec(infrastructureRetries=-1),
        "spec.infrastructureRetries in body should be greater than or equal to 0",
    ),
    "infrastructure-retries-max": (
        spec(infrastructureRetries=100),
        spec(infrastructureRetries=101),
        "spec.infrastructureRetries in body should be less than or equal to 100",
    ),
    "pending-deadline-min": (
        spec(pendingDeadlineSeconds=1),
        spec(pendingDeadlineSeconds=0),
        "spec.pendingDeadlineSeconds in body should be greater than or equal to 1",
    ),
    "pending-deadline-max": (
        spec(pendingDeadlineSeconds=31_536_000),
        spec(pendingDeadlineSeconds=31_536_001),
        "spec.pendingDeadlineSeconds in body should be less than or equal to 31536000",
    ),
    "exit-codes-min": (
        spec(infeasibleExitCodes=[1]),
        spec(infeasibleExitCodes=[0]),
        "spec.infeasibleExitCodes[0] in body should be greater than or equal to 1",
    ),
    "exit-codes-max": (
        spec(infeasibleExitCodes=[42, 255]),
        spec(infeasibleExitCodes=[256]),
        "spec.infeasibleExitCodes[0] in body should be less than or equal to 255",
    ),
    "exit-codes-unique": (
        spec(infeasibleExitCodes=[42, 43]),
        spec(infeasibleExitCodes=[42, 42]),
        "spec.infeasibleExitCodes[1]: Duplicate value: 42",
    ),
    "exit-codes-many": (
        spec(infeasibleExitCodes=list(range(1, 33))),
        spec(infeasibleExitCodes=list(range(1, 34))),
        "spec.infeasibleExitCodes: Too many: 33: must have at most 32 items",
    ),
    "initial-trials": (
        spec(initialTrials=[{"lr": 0.01}] * 2, maxTrials=2),
        spec(initialTrials=[{"lr": 0.01}] * 3, maxTrials=2),
        "there are more initialTrials than maxTrials: raise maxTrials or remove some",
    ),
    "initial-trials-max": (
        spec(initialTrials=[{"lr": 0.01}] * 100),
        spec(initialTrials=[{"lr": 0.01}] * 101),
        "spec.initialTrials: Too many: 101: must have at most 100 items",
    ),
    "initial-trials-map": (
        spec(initialTrials=[{"lr": 0.01, "optimizer": "sgd", "nesterov": True, "decay": None}]),
        spec(initialTrials=[0.01]),
        "spec.initialTrials[0] in body must be of type object",
    ),
    "initial-trials-some": (
        spec(initialTrials=[{"lr": 0.01}]),
        spec(initialTrials=[{}]),
        "spec.initialTrials[0] in body should have at least 1 properties",
    ),
    "warm-start-required": (
        spec(warmStart={"studies": [EARLIER]}),
        spec(warmStart={}),
        "spec.warmStart.studies: Required value",
    ),
    "warm-start-some": (
        spec(warmStart={"studies": [EARLIER]}),
        spec(warmStart={"studies": []}),
        "spec.warmStart.studies in body should have at least 1 items",
    ),
    "warm-start-max": (
        spec(warmStart={"studies": [f"{EARLIER}{i}" for i in range(10)]}),
        spec(warmStart={"studies": [f"{EARLIER}{i}" for i in range(11)]}),
        "spec.warmStart.studies: Too many: 11: must have at most 10 items",
    ),
    "warm-start-unique": (
        spec(warmStart={"studies": [EARLIER, EARLIER + "0"]}),
        spec(warmStart={"studies": [EARLIER, EARLIER]}),
        f'spec.warmStart.studies[1]: Duplicate value: "{EARLIER}"',
    ),
    "warm-start-name": (
        spec(warmStart={"studies": ["a" * 128]}),
        spec(warmStart={"studies": ["a" * 129]}),
        "spec.warmStart.studies[0]: Too long: may not be more than 128",
    ),
    "metrics-from": (
        metrics(**{"from": "Stdout"}),
        metrics(**{"from": "Stderr"}),
        'spec.metrics.from: Unsupported value: "Stderr": supported values: "Sdk", "Stdout", "File"',
    ),
    "metrics-path-missing": (
        metrics(**{"from": "File", "path": "/metrics/log.jsonl"}),
        metrics(**{"from": "File"}),
        "path and from: File belong together: give both or neither",
    ),
    "metrics-path-useless": (
        metrics(**{"from": "File", "path": "/metrics/tb", "format": "TensorBoard"}),
        metrics(path="/metrics/log.jsonl"),
        "path and from: File belong together: give both or neither",
    ),
    "metrics-path": (
        metrics(**{"from": "File", "path": "/a/b-c.d/e"}),
        metrics(**{"from": "File", "path": "log.jsonl"}),
        "spec.metrics.path in body should match",
    ),
    "metrics-path-length": (
        metrics(**{"from": "File", "path": "/m/" + "a" * 509}),
        metrics(**{"from": "File", "path": "/m/" + "a" * 510}),
        "spec.metrics.path: Too long: may not be more than 512",
    ),
    "metrics-pattern": (
        metrics(**{"from": "Stdout", "pattern": "(?P<name>loss) is (?P<value>.+)"}),
        metrics(pattern="(?P<name>loss) is (?P<value>.+)"),
        "pattern is for lines of text, that is from: Stdout, or from: File with format: Text: remove it",
    ),
    "metrics-pattern-of-a-file": (
        metrics(**{"from": "File", "path": "/m/log", "format": "Text", "pattern": "(?P<name>loss) is (?P<value>.+)"}),
        metrics(**{"from": "File", "path": "/m/log", "pattern": "(?P<name>loss) is (?P<value>.+)"}),
        "pattern is for lines of text, that is from: Stdout, or from: File with format: Text: remove it",
    ),
    "metrics-pattern-length": (
        metrics(**{"from": "Stdout", "pattern": "a" * 512}),
        metrics(**{"from": "Stdout", "pattern": "a" * 513}),
        "spec.metrics.pattern: Too long: may not be more than 512",
    ),
    "metrics-format": (
        metrics(**{"from": "File", "path": "/m/log", "format": "JsonLines"}),
        metrics(**{"from": "Stdout", "format": "TensorBoard"}),
        "format is only for from: File: remove it",
    ),
    "metrics-format-name": (
        metrics(**{"from": "File", "path": "/m/log", "format": "TensorBoard"}),
        metrics(**{"from": "File", "path": "/m/log", "format": "Csv"}),
        'spec.metrics.format: Unsupported value: "Csv": supported values: "JsonLines", "Text", "TensorBoard"',
    ),
    "metrics-path-directory": (
        metrics(**{"from": "File", "path": "/runs", "format": "TensorBoard"}),
        metrics(**{"from": "File", "path": "/metrics.jsonl"}),
        "path must lie in a directory of its own, which becomes a volume: write for example /metrics/metrics.jsonl",
    ),
    "metrics-step-name": (
        metrics(stepName="Global Step"),
        metrics(stepName="global\nstep"),
        "spec.metrics.stepName in body should match",
    ),
    "metrics-step-name-length": (
        metrics(stepName="a" * 256),
        metrics(stepName="a" * 257),
        "spec.metrics.stepName: Too long: may not be more than 256",
    ),
    "metrics-additional": (
        metrics(additional=["loss", "top-5 %"]),
        metrics(additional=["loss", "a\x1bb"]),
        "spec.metrics.additional[1] in body should match",
    ),
    "metrics-additional-length": (
        metrics(additional=["x" * 256]),
        metrics(additional=["x" * 257]),
        "spec.metrics.additional[0]: Too long: may not be more than 256",
    ),
    "metrics-additional-max": (
        metrics(additional=[f"m{i}" for i in range(10)]),
        metrics(additional=[f"m{i}" for i in range(11)]),
        "spec.metrics.additional: Too many: 11: must have at most 10 items",
    ),
    "metrics-additional-unique": (
        metrics(additional=["loss", "lr"]),
        metrics(additional=["loss", "loss"]),
        'spec.metrics.additional[1]: Duplicate value: "loss"',
    ),
    "metrics-additional-own": (
        metrics(additional=["study/loss"]),
        metrics(additional=["study_operator:job"]),
        "attributes that begin with study_operator: are the operator's own: choose another",
    ),
    "checkpoints-one-of": (
        checkpoints(claimTemplate=CLAIM),
        checkpoints(claimTemplate=CLAIM, claimName="checkpoints"),
        "give exactly one of claimName and claimTemplate",
    ),
    "checkpoints-none-of": (
        checkpoints(claimName="checkpoints"),
        checkpoints(),
        "give exactly one of claimName and claimTemplate",
    ),
    "checkpoints-keep-existing": (
        checkpoints(claimTemplate=CLAIM, keep="Best"),
        checkpoints(claimName="checkpoints", keep="Best"),
        "what is in an existing claim is not the operator's to remove: leave keep out (All), or use claimTemplate",
    ),
    "checkpoints-keep": (
        checkpoints(claimTemplate=CLAIM, keep="None"),
        checkpoints(claimTemplate=CLAIM, keep="Latest"),
        'spec.checkpoints.keep: Unsupported value: "Latest": supported values: "All", "Best", "None"',
    ),
    "checkpoints-path": (
        checkpoints(claimTemplate=CLAIM, mountPath="/var/run/state"),
        checkpoints(claimTemplate=CLAIM, mountPath="state"),
        "spec.checkpoints.mountPath in body should match '^/[^:]+$'",
    ),
    "checkpoints-claim-spec": (
        checkpoints(claimTemplate={"metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}}, **CLAIM}),
        checkpoints(claimTemplate={}),
        "spec.checkpoints.claimTemplate.spec: Required value",
    ),
    "successful-jobs-limit": (
        spec(successfulJobsHistoryLimit=0),
        spec(successfulJobsHistoryLimit=-1),
        "spec.successfulJobsHistoryLimit in body should be greater than or equal to 0",
    ),
    "failed-jobs-limit": (
        spec(failedJobsHistoryLimit=0),
        spec(failedJobsHistoryLimit=-1),
        "spec.failedJobsHistoryLimit in body should be greater than or equal to 0",
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
        job(backoffLimit=3, completionMode="Indexed", completions=2, parallelism=2),
        spec(jobTemplate={"spec": {"backoffLimit": 3}}),
        "spec.jobTemplate.spec.template: Required value",
    ),
    "pod-spec-required": (
        pod(subdomain="workers", whatever=[1]),
        spec(jobTemplate={"spec": {"template": {}}}),
        "spec.jobTemplate.spec.template.spec: Required value",
    ),
    "containers-required": (
        pod(initContainers=[{"name": "data", "image": "data:1"}]),
        spec(jobTemplate={"spec": {"template": {"spec": {}}}}),
        "spec.jobTemplate.spec.template.spec.containers: Required value",
    ),
    "containers-some": (
        pod(containers=[{"image": "train:1"}, {"name": "proxy", "image": "proxy:1"}]),
        pod(containers=[]),
        "spec.jobTemplate.spec.template.spec.containers in body should have at least 1 items",
    ),
    "containers-max": (
        pod(containers=[{"name": f"c{i}", "image": "train:1"} for i in range(64)]),
        pod(containers=[{"name": f"c{i}", "image": "train:1"} for i in range(65)]),
        "spec.jobTemplate.spec.template.spec.containers: Too many: 65: must have at most 64 items",
    ),
    "job-several-pods": (
        job(completionMode="Indexed", completions=4, parallelism=4),
        job(completionMode="Indexed", completions=4, parallelism=2),
        "a trial is one pod, or several that run together: leave out completions and parallelism",
    ),
    "job-completions-alone": (
        job(completions=1),
        job(completionMode="Indexed", completions=2),
        "or set completionMode to Indexed and completions equal to parallelism",
    ),
    "job-parallelism-alone": (
        job(parallelism=1),
        job(parallelism=2),
        "spec.parallelism of the Study says how many trials run at once",
    ),
    "job-several-pods-of-no-index": (
        job(completions=1, parallelism=1, completionMode="NonIndexed"),
        job(completions=2, parallelism=2),
        "a trial is one pod, or several that run together",
    ),
    "job-completions-min": (
        job(completions=1),
        job(completions=0, parallelism=0),
        "spec.jobTemplate.spec.completions in body should be greater than or equal to 1",
    ),
    "job-parallelism-type": (
        job(parallelism=1),
        job(parallelism="1"),
        "spec.jobTemplate.spec.parallelism in body must be of type integer",
    ),
    "job-completion-mode": (
        job(completionMode="Indexed"),
        job(completionMode="Ordered"),
        'completionMode: Unsupported value: "Ordered": supported values: "NonIndexed", "Indexed"',
    ),
    "job-suspend": (
        job(suspend=False),
        job(suspend=True),
        "trials are not created suspended: leave suspend out; spec.suspend suspends the Study",
    ),
    "job-backoff-limit": (
        job(backoffLimit=3),
        job(backoffLimit="3"),
        "spec.jobTemplate.spec.backoffLimit in body must be of type integer",
    ),
    "pod-restart-policy": (
        pod(restartPolicy="OnFailure"),
        pod(restartPolicy="Always"),
        'restartPolicy: Unsupported value: "Always": supported values: "Never", "OnFailure"',
    ),
    "pod-restarted-in-place": (
        pod(restartPolicy="OnFailure"),
        lambda study: (pod(restartPolicy="OnFailure")(study), spec(infeasibleExitCodes=[42])(study)),
        "infeasibleExitCodes end no trial with restartPolicy OnFailure, because the kubelet restarts the program "
        "whatever its exit code is: write Never in the jobTemplate",
    ),
    "job-labels": (
        lambda study: study["spec"]["jobTemplate"].update(
            metadata={"labels": {"a": "b"}, "annotations": {"c": "d"}},
        ),
        lambda study: study["spec"]["jobTemplate"].update(metadata={"labels": {"a": 1}}),
        "spec.jobTemplate.metadata.labels.a in body must be of type string",
    ),
}

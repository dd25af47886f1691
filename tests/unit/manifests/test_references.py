"""Variables in a Job template: what refers to no variable of a trial, and what is left out with its parameter."""

from __future__ import annotations

from typing import Any

import pytest
from building import job_template, study

from study_operator.manifests.job import Reporting, check_variables, job_manifest
from study_operator.model.study import Refused, Study

REPORTING = Reporting("postgresql://x", "key")
PARAMETERS = [
    {"name": "learning-rate", "float": {"low": 0, "high": 1}},
    {"name": "opt", "categorical": {"choices": ["adam", "sgd"]}},
    {"name": "momentum", "float": {"low": 0, "high": 1}, "when": {"parameter": "opt", "in": ["sgd"]}},
    {"name": "beta", "float": {"low": 0, "high": 1}, "when": {"parameter": "opt", "in": ["adam", "sgd"]}},
    {"name": "bn", "categorical": {"choices": [True, False]}},
    {"name": "decay", "categorical": {"choices": [None, "cosine"]}},
]
ADAM = {"learning-rate": 0.1, "opt": "adam", "beta": 0.9, "bn": False, "decay": None}
SGD = {"learning-rate": 0.1, "opt": "sgd", "beta": 0.9, "momentum": 0.8, "bn": True, "decay": "cosine"}


def of(fields: dict[str, Any] | None = None, **container: Any) -> Study:
    return study(parameters=PARAMETERS, jobTemplate=job_template(**container), **(fields or {}))


def warnings(**container: Any) -> list[str]:
    return check_variables(of(**container), REPORTING)


def refusal(**container: Any) -> str:
    with pytest.raises(Refused) as refused:
        warnings(**container)
    assert refused.value.reason == "JobTemplateInvalid"
    return refused.value.message


def args_of(params: dict[str, Any], **container: Any) -> list[str]:
    made = job_manifest(of(**container), REPORTING, 0, 0, params)
    return made["spec"]["template"]["spec"]["containers"][0]["args"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("--lr=$(PARAM_lerning_rate)", "refers to $(PARAM_lerning_rate), which no trial has"),
        ("--lr=$(PARAM_lerning_rate)", "write $(PARAM_learning_rate); there are $(PARAM_beta), $(PARAM_bn)"),
        ("--lr=$(PARAM_learning-rate)", "write $(PARAM_learning_rate)"),
        ("--lr=$(PARAM_LEARNING_RATE)", "write $(PARAM_learning_rate)"),
        ("--lr=$(param_learning_rate)", "write $(PARAM_learning_rate)"),
        ("--lr=$( PARAM_opt )", "write $(PARAM_opt)"),
        ("a $(PARAM_opt) and\n$(PARAM_none)", "refers to $(PARAM_none), which no trial has"),
        ("$$$(PARAM_none)", "refers to $(PARAM_none)"),
        ("--lr=$(PARAM_opt", "begins $(PARAM_opt and has no closing parenthesis"),
        ("echo $(cat $(PARAM_opt))", "inside other parentheses, where Kubernetes does not look: write $PARAM_opt"),
        ("--n=$(STUDY_TRIAL_NUMBRE)", "write $(STUDY_TRIAL_NUMBER)"),
        ("--n=$(STUDY_NUMBER)", "which no trial has"),
        ("--to=$(STUDY_CHECKPOINT_DIR)/x", "with spec.checkpoints alone"),
        (
            "--lr=${trialParameters.learningRate}",
            "has ${trialParameters.learningRate}, which is Katib's: write $(",
        ),
        ("--name=${trialSpec.Name}", "which is Katib's: write $(STUDY_TRIAL_JOB) for the Job's name"),
        ("--team=${trialSpec.Labels[team]}", "and for the rest a variable in env with a fieldRef"),
        ("--use-bn=$(PARAM_bn_FLAG)", "which is an option by itself, or nothing: write $(PARAM_bn_FLAG) alone"),
    ],
)
@pytest.mark.parametrize(
    ("field", "place"),
    [
        ("args", "args[1]"),
        ("command", "command[1]"),
        ("env", "env[1].value"),
        ("mounts", "volumeMounts[0].subPathExpr"),
    ],
)
def test_what_would_reach_the_program_as_it_stands_is_refused(field, place, text, words):
    given: dict[str, Any] = {field: ["x", text]}
    if field == "env":
        given = {"env": [{"name": "A", "value": "1"}, {"name": "B", "value": text}]}
    if field == "mounts":
        given = {"volumeMounts": [{"name": "v", "mountPath": "/v", "subPathExpr": text}]}
    message = refusal(**given)
    assert message.startswith(f"spec.jobTemplate.spec.template.spec.containers[0].{place} ")
    assert words in message


@pytest.mark.parametrize(
    ("container", "words"),
    [
        ({"image": "train:$(PARAM_opt)"}, "containers[0].image has $(PARAM_opt), and Kubernetes replaces variables in"),
        ({"resources": {"limits": {"memory": "$(PARAM_opt)"}}}, "resources.limits.memory has $(PARAM_opt)"),
        ({"workingDir": "/${trialSpec.Name}"}, "workingDir has ${trialSpec.Name}"),
        ({"livenessProbe": {"exec": {"command": ["test", "$(PARAM_opt)"]}}}, "exec.command[1] has $(PARAM_opt)"),
    ],
)
def test_where_kubernetes_replaces_nothing_a_reference_is_refused(container, words):
    assert words in refusal(**container)


def test_arguments_that_may_all_go_need_a_command():
    args = ["--momentum=$(PARAM_momentum)", "$(PARAM_bn_FLAG)"]
    (warning,) = warnings(args=args)
    assert "containers[0].args may all be left out of a trial" in warning
    assert warnings(args=args, command=["train"]) == []
    assert warnings(args=["--opt=$(PARAM_opt)", *args]) == []


def test_init_containers_are_looked_at():
    template = job_template()
    template["spec"]["template"]["spec"]["initContainers"] = [{"name": "i", "args": ["$(PARAM_none)"]}]
    with pytest.raises(Refused, match=r"initContainers\[0\].args\[0\] refers to \$\(PARAM_none\)"):
        check_variables(study(jobTemplate=template), REPORTING)


@pytest.mark.parametrize(
    "container",
    [
        {"args": ["--lr=$(PARAM_learning_rate)", "$(STUDY_TRIAL_NUMBER)", "$(STUDY_STORAGE_URL)", "$(PARAM_beta)"]},
        {"args": ["$$(NONE)", "$(date +%s)", "$", "$(", "$()", "100%", "$(cat x; echo $(pwd))"]},
        {"args": ["--x=$(MINE)"], "env": [{"name": "MINE", "value": "$(PARAM_opt)"}]},
        {"args": ["--x=$(STUDY_MINE)"], "envFrom": [{"configMapRef": {"name": "c"}}]},
        {"command": ["sh", "-c"], "args": ["train --lr=$PARAM_learning_rate ${PARAM_momentum:+-m $PARAM_momentum}"]},
        {"command": ["sh", "-c", "PARAM_own=3; train $PARAM_own"]},
        {"command": ["python", "-c", "for name in os.environ: name.startswith('PARAM_'), 'PARAM_model_' + x"]},
        {"args": ["$PARAM_opt"]},  # the image's entry point may be a shell
        {"args": [None, "x"], "command": None, "env": [{"name": "A", "valueFrom": {}}]},
        {"args": ["--verbose", "$(PARAM_bn_FLAG)", "$(PARAM_decay_FLAG)"]},
    ],
)
def test_what_a_trial_has_is_accepted_without_a_word(container):
    assert warnings(**container) == []


@pytest.mark.parametrize(
    ("container", "words"),
    [
        ({"command": ["sh", "-c", "train $PARAM_opti"]}, "names PARAM_opti, which no trial has: write $(PARAM_opt)"),
        ({"command": ["sh", "-c", "train ${PARAM_rate:-3}"]}, "names PARAM_rate, which no trial has"),
        ({"command": ["python", "-c", "os.environ['PARAM_rate']"]}, "names PARAM_rate, which no trial has"),
        ({"command": ["sh", "-c", "train $PARAM_learning-rate"]}, "names PARAM_learning, which no trial has"),
        ({"args": ["$(opt)"]}, "if it means the parameter opt, write $(PARAM_opt)"),
        ({"args": ["$(LEARNING_RATE)"]}, "if it means the parameter learning-rate, write $(PARAM_learning_rate)"),
        ({"command": ["train"], "args": ["--opt=$PARAM_opt"]}, "has $PARAM_opt, which only a shell replaces"),
        ({"command": ["train", "--opt=${PARAM_opt}"]}, "has ${PARAM_opt}, which only a shell replaces"),
        ({"env": [{"name": "OPT", "value": "$PARAM_opt"}]}, "env[0].value has $PARAM_opt, which only a shell"),
        ({"args": ["--bn=$(PARAM_bn)"]}, "if so, write $(PARAM_bn_FLAG), which is --bn or nothing"),
    ],
)
def test_what_is_likely_a_mistake_is_a_warning(container, words):
    (warning,) = warnings(**container)
    assert words in warning


@pytest.mark.parametrize(
    "element",
    ["--momentum=$(PARAM_momentum)", "$(PARAM_momentum)", "model.momentum=$(PARAM_momentum)", "-m$(PARAM_momentum)"],
)
def test_an_argument_goes_with_its_parameter(element):
    given = {"args": ["--opt=$(PARAM_opt)", element, "last"]}
    assert warnings(**given) == []
    assert args_of(SGD, **given) == given["args"]
    assert args_of(ADAM, **given) == ["--opt=$(PARAM_opt)", "last"]


def test_the_only_argument_is_left_out_too():
    assert args_of(ADAM, args=["--momentum=$(PARAM_momentum)"]) == []


@pytest.mark.parametrize(
    "container",
    [
        {"command": ["train", "--momentum=$(PARAM_momentum)"]},
        {"env": [{"name": "M", "value": "$(PARAM_momentum)"}]},
        {"args": ["--momentum", "$(PARAM_momentum)"]},
        {"command": ["train", "--momentum"], "args": ["$(PARAM_momentum)"]},
        {"args": ["--both=$(PARAM_momentum),$(PARAM_opt)"]},
        {"command": ["sh", "-c"], "args": ["train --momentum=$(PARAM_momentum)"]},
        {"command": ["sh", "-ec"], "args": ["run$(PARAM_momentum)"]},
        {"args": ["-c", "run$(PARAM_momentum)"]},
    ],
)
def test_elsewhere_a_parameter_that_some_trials_lack_is_refused_with_an_idiom(container):
    message = refusal(**container)
    assert 'a trial has momentum only when opt is "sgd"' in message
    assert '"--momentum=$(PARAM_momentum)"' in message
    assert "sh -c 'exec train ${PARAM_momentum:+--momentum=$PARAM_momentum}'" in message


def test_a_parameter_below_one_that_some_trials_lack_is_one_too():
    nested = [*PARAMETERS, {"name": "nesterov", "int": {"low": 0, "high": 1}, "when": {"parameter": "m", "in": [1, 2]}}]
    nested.insert(3, {"name": "m", "int": {"low": 1, "high": 2}, "when": {"parameter": "opt", "in": ["sgd"]}})
    container = {"command": ["$(PARAM_nesterov)"]}
    with pytest.raises(Refused, match="a trial has nesterov only when m is 1 or 2"):
        check_variables(study(parameters=nested, jobTemplate=job_template(**container)), REPORTING)


def test_a_flag_is_an_option_or_nothing():
    given = {"args": ["--verbose", "$(PARAM_bn_FLAG)", "$(PARAM_decay_FLAG)"]}
    assert args_of(SGD, **given) == given["args"]
    assert args_of(ADAM, **given) == ["--verbose"]
    made = job_manifest(of(), REPORTING, 0, 0, SGD)["spec"]["template"]["spec"]["containers"][0]["env"]
    values = {variable["name"]: variable.get("value") for variable in made}
    assert values["PARAM_bn_FLAG"] == "--bn"
    assert values["PARAM_decay_FLAG"] == "--decay=cosine"
    assert "PARAM_opt_FLAG" not in values


def test_a_parameter_that_has_the_name_of_a_flag_keeps_it():
    parameters = [
        {"name": "bn", "categorical": {"choices": [True, False]}},
        {"name": "bn_FLAG", "categorical": {"choices": ["a"]}},
    ]
    made = job_manifest(study(parameters=parameters), REPORTING, 0, 0, {"bn": True, "bn_FLAG": "a"})
    container = made["spec"]["template"]["spec"]["containers"][0]
    assert [v["value"] for v in container["env"] if v["name"] == "PARAM_bn_FLAG"] == ["a"]


@pytest.mark.parametrize(
    ("container", "message"),
    [
        ({"env": [{"name": "A", "value": 3}]}, 'env[0].value is 3, a number, and must be text: put it in quotes, "3"'),
        (
            {"env": [{"name": True, "value": "x"}]},
            "env[0].name is true and must be text: put what stands there in quotes",
        ),
        ({"args": ["--epochs", 3]}, 'args[1] is 3, a number, and must be text: put it in quotes, "3"'),
        ({"args": ["--bn", False]}, "args[1] is false and must be text: put what stands there in quotes"),
        ({"args": ["--bn", False]}, "because YAML reads n, no and off without quotes as false"),
        ({"command": [["a"]]}, "command[0] is a list"),
        ({"args": "train"}, 'args must be a list of texts and is "train"'),
    ],
)
def test_what_must_be_text_is_text(container, message):
    assert message in refusal(**container)

"""The environment of a trial's pod, and of a run outside a cluster."""

from __future__ import annotations

import json

import pytest

from study_trial._environment import read_given_params, read_param_variables, read_pod_environment
from study_trial._errors import SetupError

POD = {
    "STUDY_NAME": "digits",
    "STUDY_NAMESPACE": "team-a",
    "STUDY_TRIAL_NUMBER": "7",
    "STUDY_TRIAL_ID": "4711",
    "STUDY_PARAMS": '{"lr": 0.01}',
    "STUDY_SEARCH_SPACE": '[{"name": "lr", "float": {"low": 0.001, "high": 0.1}}]',
    "STUDY_STORAGE_URL": "postgresql://study_reporter:hunter2@database:5432/optuna",
    "STUDY_STORAGE_KEY": "0123456789abcdef",
}


def test_reads_a_pods_environment():
    pod = read_pod_environment(POD)
    assert pod is not None
    assert (pod.study, pod.namespace, pod.number, pod.trial_id) == ("digits", "team-a", 7, 4711)
    assert pod.params == {"lr": 0.01}
    assert pod.search_space == [{"name": "lr", "float": {"low": 0.001, "high": 0.1}}]
    assert (pod.report_timeout, pod.finish_timeout) == (5.0, 3600.0)


def test_does_not_show_secrets():
    text = repr(read_pod_environment(POD))
    assert "hunter2" not in text
    assert POD["STUDY_STORAGE_KEY"] not in text


@pytest.mark.parametrize("env", [{}, {"STUDY_PARAMS": "{}"}, {"STUDY_PORT": "tcp://10.0.0.1:80", "PATH": "/bin"}])
def test_an_environment_without_the_operators_variables_is_a_local_run(env):
    assert read_pod_environment(env) is None


@pytest.mark.parametrize("missing", POD)
def test_names_the_variable_that_is_missing(missing):
    env = {name: value for name, value in POD.items() if name != missing}
    with pytest.raises(SetupError, match=f"^{missing} not set"):
        read_pod_environment(env)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("STUDY_TRIAL_ID", "seven"),
        ("STUDY_PARAMS", "{"),
        ("STUDY_PARAMS", "[]"),
        ("STUDY_SEARCH_SPACE", "{}"),
        ("STUDY_OBJECTIVES", "accuracy"),
        ("STUDY_CONSTRAINTS", "{}"),
        ("STUDY_REPORT_TIMEOUT", "soon"),
        ("STUDY_REPORT_TIMEOUT", "0"),
        ("STUDY_FINISH_TIMEOUT", "inf"),
    ],
)
def test_names_the_variable_that_cannot_be_read(name, value):
    with pytest.raises(SetupError, match=name):
        read_pod_environment({**POD, name: value})


def test_an_older_operator_tells_no_objectives_and_constraints():
    pod = read_pod_environment(POD)
    assert pod is not None
    assert (pod.objectives, pod.constraints, pod.silent_because) == ((), (), None)


def test_reads_objectives_constraints_and_which_pod_it_is():
    more = {"STUDY_OBJECTIVES": '["accuracy", "f1"]', "STUDY_CONSTRAINTS": "[]", "JOB_COMPLETION_INDEX": "3"}
    pod = read_pod_environment({**POD, **more})
    assert pod is not None
    assert (pod.objectives, pod.constraints, pod.silent_because) == (
        ("accuracy", "f1"),
        (),
        "JOB_COMPLETION_INDEX=3",
    )


def test_timeouts_can_be_set():
    pod = read_pod_environment({**POD, "STUDY_REPORT_TIMEOUT": "0.5", "STUDY_FINISH_TIMEOUT": "60"})
    assert pod is not None
    assert (pod.report_timeout, pod.finish_timeout) == (0.5, 60.0)


def test_reads_given_params():
    assert read_given_params({}) == {}
    copied = {"PARAM_lr": "0.1", "PARAM_bn": "false", "PARAM_bn_FLAG": "--no-bn", "PARAM_on_FLAG": "x", "PATH": "/bin"}
    assert read_param_variables(copied) == {"lr": "0.1", "bn": "false", "on_FLAG": "x"}
    assert read_given_params({"STUDY_PARAMS": json.dumps({"lr": 0.1})}) == {"lr": 0.1}
    with pytest.raises(SetupError, match="STUDY_PARAMS"):
        read_given_params({"STUDY_PARAMS": "lr=0.1"})

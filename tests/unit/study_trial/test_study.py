"""What `trial` and `trial.study` have for callbacks, and what they say about the rest."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import warnings
from datetime import datetime

import optuna
import pytest
from remembering import RememberingChannel

import study_trial
from study_trial import _study
from study_trial import _trial as trial_module
from study_trial._search_space import LocalSpace, StudySpace
from study_trial._study import Study
from study_trial._trial import Trial

PARAMETERS = [
    {"name": "lr", "float": {"low": 0.001, "high": 0.1, "log": True}},
    {"name": "dropout", "float": {"low": 0.0, "high": 0.5}},
    {"name": "momentum", "float": {"low": 0.0, "high": 1.0, "step": 0.25}},
    {"name": "layers", "int": {"low": 1, "high": 8}},
    {"name": "width", "int": {"low": 16, "high": 256, "log": True}},
    {"name": "batch", "categorical": {"choices": ["16", "32"]}},
]
PARAMS = {"lr": 0.01, "dropout": 0.2, "momentum": 0.75, "layers": 2, "width": 32, "batch": "32"}
MAXIMIZE, MINIMIZE = optuna.study.StudyDirection.MAXIMIZE, optuna.study.StudyDirection.MINIMIZE


@pytest.fixture
def channel() -> RememberingChannel:
    return RememberingChannel()


@pytest.fixture
def trial(channel) -> Trial:
    study = Study("team-a/digits-1b9d6bcd", ["accuracy"], ["maximize"])
    return Trial(7, StudySpace(PARAMS, PARAMETERS), channel, ["accuracy"], [], study)


def without_optuna(code: str, **env: str) -> str:
    """Runs code in a process that cannot import Optuna; returns what it prints."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("STUDY_")}
    code = f"import sys\nsys.modules['optuna'] = None\nimport study_trial\n{code}"
    done = subprocess.run([sys.executable, "-c", code], env=clean | env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_directions_are_optunas_own(trial):
    assert trial.study.direction is MAXIMIZE
    assert Study("s", ["a", "b"], ["minimize", "maximize"]).directions == [MINIMIZE, MAXIMIZE]
    assert (trial.study.study_name, trial.study.metric_names) == ("team-a/digits-1b9d6bcd", ["accuracy"])


def test_without_optuna_directions_are_equal_to_its_own():
    code = "d = study_trial.current().study.directions; print([(x.name, int(x)) for x in d], d[0] == d[0].MAXIMIZE)"
    printed = without_optuna(code, STUDY_DIRECTIONS='["maximize", "Minimize"]')
    assert printed == f"{[('MAXIMIZE', int(MAXIMIZE)), ('MINIMIZE', int(MINIMIZE))]} True\n"
    assert {each.name: each for each in _study.StudyDirection} == {"MINIMIZE": MINIMIZE, "MAXIMIZE": MAXIMIZE}
    assert str(_study.StudyDirection.MAXIMIZE) == "StudyDirection.MAXIMIZE"


def test_optuna_is_imported_only_when_its_objects_are_asked_for():
    code = (
        "import sys, study_trial; t = study_trial.current(); t.suggest_float('lr', 0, 1); t.study.study_name; "
        "hasattr(t.study, 'trials'); print('optuna' in sys.modules); t.study.direction; print('optuna' in sys.modules)"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith("STUDY_")}
    env = clean | {"STUDY_DIRECTIONS": '["minimize"]'}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "False\nTrue\n"


def test_several_objectives_have_no_single_direction():
    study = Study("s", ["a", "b"], ["minimize", "maximize"])
    with pytest.raises(RuntimeError, match=r"2 objectives, and so no single direction: use study\.directions"):
        _ = study.direction  # a RuntimeError, as Optuna's


def test_a_pod_of_an_older_operator_says_what_is_missing(channel):
    trial = Trial(7, StudySpace({}, []), channel, ["accuracy"])
    for attribute in ("direction", "directions"):
        with pytest.raises(study_trial.SetupError, match=r"STUDY_DIRECTIONS is not set.*upgrade the operator"):
            getattr(trial.study, attribute)
    with pytest.raises(study_trial.SetupError, match=r"STUDY_OPTUNA_NAME is not set.*upgrade the operator"):
        _ = trial.study.study_name


@pytest.fixture
def outside(monkeypatch) -> None:
    """Outside a cluster, with a fresh process's state."""
    for name in os.environ:
        if name.startswith("STUDY_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(trial_module, "_current", None)


def test_a_local_run_has_the_directions_that_it_is_given(outside, monkeypatch):
    monkeypatch.setenv("STUDY_DIRECTIONS", '["minimize"]')
    study = study_trial.current().study
    assert (study.direction, study.study_name, study.metric_names) == (MINIMIZE, "local", None)


def test_a_local_run_without_directions_says_how_to_give_them(outside):
    with pytest.raises(study_trial.SetupError) as caught:
        _ = study_trial.current().study.direction
    assert """STUDY_DIRECTIONS='["maximize"]'""" in str(caught.value)


@pytest.mark.parametrize("text", ['["up"]', "maximize", '{"a": 1}', "[1]"])
def test_directions_that_are_none_are_refused(outside, monkeypatch, text):
    monkeypatch.setenv("STUDY_DIRECTIONS", text)
    with pytest.raises(study_trial.SetupError, match="STUDY_DIRECTIONS"):
        study_trial.current()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("trials", "optuna.load_study"),
        ("get_trials", "optuna.load_study"),
        ("best_trial", "the Study's status"),
        ("best_trials", "optuna.load_study"),
        ("best_value", "optuna.load_study"),
        ("best_params", "optuna.load_study"),
        ("_storage", "RDBStorage, as Lightning's under DDP"),
        ("_study_id", "no Optuna storage"),
        ("sampler", "spec.sampler"),
        ("pruner", "spec.pruner"),
        ("stop", "a goal, a deadline or convergence"),
        ("enqueue_trial", "study_trial.run"),
        ("tell", "study_trial.run"),
        ("user_attrs", "trial.set_user_attr"),
        ("no_such_thing", "trial.study has no attribute 'no_such_thing'"),
    ],
)
def test_what_the_study_cannot_answer_says_what_to_do(trial, name, words):
    _says_what_to_do(trial.study, name, words)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("storage", "RDBStorage, as Lightning's under DDP"),
        ("_trial_id", "use trial.number"),
        ("relative_params", "trial.params"),
        ("system_attrs", "trial.set_user_attr"),
        ("set_system_attr", "trial.set_user_attr"),
        ("no_such_thing", "trial has no attribute 'no_such_thing'"),
    ],
)
def test_what_the_trial_cannot_answer_says_what_to_do(trial, name, words):
    _says_what_to_do(trial, name, words)


def _says_what_to_do(target: object, name: str, words: str) -> None:
    with pytest.raises(study_trial.UnsupportedError) as caught:
        getattr(target, name)
    assert isinstance(caught.value, AttributeError)
    assert words in str(caught.value)
    assert not hasattr(target, name)
    assert getattr(target, name, 5) == 5


def test_every_public_attribute_of_optunas_trial_is_there_or_says_what_to_do(trial):
    for theirs, ours in ((optuna.Trial, trial), (optuna.Study, trial.study)):
        for name in dir(theirs):
            if name.startswith("_") or hasattr(ours, name):
                continue
            with pytest.raises(study_trial.UnsupportedError, match="is not available: "):
                getattr(ours, name)


def test_a_trial_can_be_copied(trial):
    assert copy.copy(trial).number == 7
    assert copy.deepcopy(trial.study).study_name == trial.study.study_name


def test_the_deprecated_suggest_methods_have_optunas_meaning(trial):
    with pytest.warns(FutureWarning, match=r"removed in 6\.0: use suggest_float$"):
        assert trial.suggest_uniform("dropout", 0, 0.5) == 0.2
    with pytest.warns(FutureWarning, match=r"use suggest_float\(\.\.\., log=True\)"):
        assert trial.suggest_loguniform("lr", 0.001, 0.1) == 0.01
    with pytest.warns(FutureWarning, match=r"use suggest_float\(\.\.\., step=\.\.\.\)"):
        assert trial.suggest_discrete_uniform("momentum", 0, 1, 0.25) == 0.75


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_deprecated_suggest_methods_are_compared_with_the_studys_space(trial):
    with pytest.raises(study_trial.SearchSpaceError, match="'lr': the script asks for float from"):
        trial.suggest_uniform("lr", 0.001, 0.1)
    with pytest.raises(study_trial.SearchSpaceError, match="'dropout'"):
        trial.suggest_discrete_uniform("dropout", 0, 0.5, 0.1)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("space", [StudySpace(PARAMS, PARAMETERS), LocalSpace(PARAMS)], ids=["study", "local"])
def test_distributions_are_those_that_optunas_trial_would_have(space, channel):
    def ask(trial):
        trial.suggest_loguniform("lr", 0.001, 0.1)
        trial.suggest_uniform("dropout", 0, 0.5)
        trial.suggest_discrete_uniform("momentum", 0, 1, 0.25)
        trial.suggest_int("layers", 1, 8)
        trial.suggest_int("width", 16, 256, log=True)
        trial.suggest_categorical("batch", [16, 32])

    trial = Trial(7, space, channel)
    assert trial.distributions == {}
    ask(trial)
    theirs = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1)).ask()
    ask(theirs)
    assert trial.distributions == theirs.distributions


def test_distributions_need_optuna():
    code = """
trial = study_trial.current()
trial.suggest_float("lr", 0, 1)
try:
    trial.distributions
except study_trial.SetupError as error:
    print(error)
"""
    assert "install it, or use trial.params" in without_optuna(code)


def test_constraints_are_those_set_so_far(channel):
    trial = Trial(7, StudySpace({}, []), channel, ["accuracy"], ["latency_ms"])
    trial.set_constraint("latency_ms", 43)
    assert trial.constraints == {"latency_ms": 43.0}


def test_the_start_is_when_this_process_began_the_trial(channel):
    before = datetime.now()
    trial = Trial(7, StudySpace({}, []), channel)
    assert before <= trial.datetime_start <= datetime.now()
    assert trial.datetime_start == trial.datetime_start
    assert trial.datetime_start.tzinfo is None


def test_old_names_work_and_say_the_new_ones(trial, channel):
    with pytest.warns(
        DeprecationWarning, match=r"trial\.send_rest\(\) is now trial\.flush\(\).*version 0\.4"
    ) as caught:
        trial.send_rest()
    assert caught[0].filename == __file__
    with pytest.warns(
        DeprecationWarning, match=r"infeasible\(reason\) is now trial\.mark_infeasible\(reason\)"
    ) as caught:
        trial.infeasible("OOM")
    assert caught[0].filename == __file__
    assert channel.calls == [("flush", 10.0), ("finish", [], False)]
    assert channel.final.infeasible == "OOM"


def test_the_new_names_warn_of_nothing(trial, channel):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trial.flush()
        trial.mark_infeasible("OOM")
    assert channel.final.infeasible == "OOM"


def test_all_that_is_public_is_named():
    public = {name for name in vars(study_trial) if not name.startswith("_")}
    assert public == set(study_trial.__all__)

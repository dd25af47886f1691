"""Pruning callbacks of optuna-integration in a trial's pod, against a real PostgreSQL."""

from __future__ import annotations

import json

import pytest
from database import TestDatabase
from optuna.trial import TrialState
from trial_pod import Pod, write_script

DATA = """
import numpy
import optuna

random = numpy.random.default_rng(1)
x = random.normal(size=(200, 4))
y = (x[:, 0] > 0).astype(int)
"""
LIGHTGBM = """
import lightgbm
from optuna_integration import LightGBMPruningCallback

def objective(trial):
    train = lightgbm.Dataset(x, y)
    valid = lightgbm.Dataset(x[:50], y[:50], reference=train)
    params = {"objective": "binary", "metric": "auc", "verbosity": -1, "num_threads": 1, "eta": trial.params["lr"]}
    result = {}
    callbacks = [LightGBMPruningCallback(trial, "auc"), lightgbm.record_evaluation(result)]
    lightgbm.train(params, train, 5, valid_sets=[valid], callbacks=callbacks)
    return result["valid_0"]["auc"][-1]
"""
XGBOOST = """
import xgboost
from optuna_integration import XGBoostPruningCallback

def objective(trial):
    params = {"objective": "binary:logistic", "eval_metric": "auc", "nthread": 1, "eta": trial.params["lr"]}
    callbacks = [XGBoostPruningCallback(trial, "valid-auc")]
    result = {}
    evals = [(xgboost.DMatrix(x[:50], y[:50]), "valid")]
    train = xgboost.DMatrix(x, y)
    xgboost.train(params, train, 5, evals=evals, callbacks=callbacks, evals_result=result, verbose_eval=False)
    return result["valid"]["auc"][-1]
"""


@pytest.fixture
def pod(database: TestDatabase) -> Pod:
    return Pod.create(database)


@pytest.mark.parametrize("library", [LIGHTGBM, XGBOOST], ids=["lightgbm", "xgboost"])
@pytest.mark.parametrize("pruned", [False, True])
def test_a_callback_reports_and_prunes(pod, tmp_path, library, pruned):
    if pruned:
        pod.end(TrialState.PRUNED)  # the first report brings it back
    done = pod.command("run", write_script(tmp_path, DATA + library), STUDY_CONSTRAINTS="")
    assert done.returncode == 0, done.stderr
    assert list(pod.stored().intermediate_values) == ([] if pruned else [0, 1, 2, 3, 4])
    if pruned:
        assert pod.result() is None
    else:
        (values, by_script) = pod.result()
        assert (values, by_script) == ([pod.stored().intermediate_values[4]], False)


def test_lightgbm_refuses_a_metric_of_the_other_direction(pod, tmp_path):
    env = {"STUDY_DIRECTIONS": json.dumps(["minimize"])}
    done = pod.command("run", write_script(tmp_path, DATA + LIGHTGBM), **env)
    assert done.returncode == 1
    assert "inconsistent with the objective values in terms of study directions" in done.stderr
    assert (pod.result(), pod.stored().intermediate_values) == (None, {})


def test_lightgbm_in_a_pod_of_an_operator_that_passed_no_directions_on(pod, tmp_path):
    done = pod.command("run", write_script(tmp_path, DATA + LIGHTGBM), STUDY_DIRECTIONS="", STUDY_OPTUNA_NAME="")
    assert done.returncode == 1
    assert "STUDY_DIRECTIONS is not set" in done.stderr.splitlines()[-1]


def test_a_pod_knows_its_study_as_optuna_does(pod, tmp_path):
    body = "def objective(trial):\n    print(trial.study.study_name, trial.study.direction)\n    return 0.5\n"
    done = pod.command("run", write_script(tmp_path, body), STUDY_CONSTRAINTS="")
    with pod._study() as study:
        assert done.stdout == f"{study.study_name} {study.direction}\n"

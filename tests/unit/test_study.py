"""A Study object as the operator understands it."""

from __future__ import annotations

import dataclasses

import pytest
from building import PARAMETERS, job_template, manifest, study
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from study_operator.model.study import Algorithm, Refused, parse


def test_every_field_of_the_spec_is_taken():
    found = study(
        objectives=[{"name": "loss", "direction": "Minimize"}],
        sampler={"name": "QMC", "seed": 7, "options": {"scramble": True}},
        pruner={"name": "Median", "options": {"n_startup_trials": 3}},
        maxTrials=7,
        parallelism=3,
        maxFailedTrials=2,
        gpusPerTrial=4,
        gpuResourceName="amd.com/gpu",
        deletionPolicy="Delete",
    )
    assert dataclasses.asdict(found) == {
        "namespace": "team-a",
        "name": "digits",
        "uid": "1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed",
        "generation": 3,
        "objective": "loss",
        "direction": "MINIMIZE",
        "parameters": tuple(PARAMETERS),
        "distributions": {
            "lr": FloatDistribution(1e-5, 0.1, log=True),
            "layers": IntDistribution(1, 4),
            "optimizer": CategoricalDistribution(("adam", "sgd")),
        },
        "sampler": {"name": "QMC", "options": {"scramble": True}, "seed": 7},
        "pruner": {"name": "Median", "options": {"n_startup_trials": 3}, "seed": None},
        "max_trials": 7,
        "parallelism": 3,
        "max_failed_trials": 2,
        "gpus_per_trial": 4,
        "gpu_resource_name": "amd.com/gpu",
        "deletion_policy": "Delete",
        "job_template": job_template(),
    }


@pytest.mark.parametrize(
    ("spec", "sampler", "pruner"),
    [
        ({}, Algorithm("TPE", {}), None),
        ({"sampler": {"name": "TPE", "options": {}}}, Algorithm("TPE", {}), None),
        ({"sampler": {"name": "TPE", "seed": 0}}, Algorithm("TPE", {}, 0), None),
        ({"pruner": {"name": "Median"}}, Algorithm("TPE", {}), Algorithm("Median", {})),
    ],
)
def test_sampler_and_pruner_have_options_and_seed_or_none(spec, sampler, pruner):
    found = study(**spec)
    assert (found.sampler, found.pruner) == (sampler, pruner)


def test_names_that_follow_from_the_study():
    found = study()
    assert found.optuna_name == "team-a/digits-1b9d6bcd"
    assert found.job_name(31) == "digits-31"
    assert study(uid="another-uid").optuna_name != found.optuna_name


def test_an_impossible_search_space_is_refused_with_the_reason():
    with pytest.raises(Refused) as refused:
        parse(manifest(parameters=[{"name": "x", "int": {"low": 4, "high": 1}}]))
    assert refused.value.reason == "InvalidSearchSpace"
    assert refused.value.message == str(refused.value)
    assert refused.value.message.startswith("parameter 'x': ")

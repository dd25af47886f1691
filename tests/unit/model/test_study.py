"""A Study object as the operator understands it."""

from __future__ import annotations

import dataclasses

import pytest
from building import PARAMETERS, job_template, manifest, study
from hypothesis import given
from hypothesis import strategies as st

from study_operator.model.distributions import Categorical, Float, Int
from study_operator.model.study import (
    Algorithm,
    Checkpoints,
    Constraint,
    Convergence,
    Metrics,
    Objective,
    Refused,
    parse,
)
from study_operator.model.trial import attempt_of


def test_every_field_of_the_spec_is_taken():
    spec = {
        "objectives": [{"name": "loss", "direction": "Minimize", "goal": 0}],
        "constraints": [{"name": "latency_ms", "max": 50}, {"name": "recall", "min": 0.8}],
        "sampler": {"name": "QMC", "seed": 7, "options": {"scramble": True}},
        "pruner": {"name": "Median", "options": {"n_startup_trials": 3}},
        "convergence": {"evaluator": "RegretBound", "error": 0.1, "options": {"seed": 1}, "minTrials": 30},
        "initialTrials": [{"lr": 0.001}],
        "warmStart": {"studies": ["team-a/older-12345678"]},
        "maxTrials": 7,
        "parallelism": 3,
        "maxFailedTrials": 2,
        "activeDeadlineSeconds": 3600,
        "activeTrialsPolicy": "Wait",
        "suspend": True,
        "suspendPolicy": "Terminate",
        "stop": "Drain",
        "infrastructureRetries": 1,
        "pendingDeadlineSeconds": 60,
        "infeasibleExitCodes": [42, 43],
        "metrics": {"from": "File", "path": "/out/m.jsonl", "format": "TensorBoard", "stepName": "step"},
        "checkpoints": {"claimName": "shared", "mountPath": "/ckpt", "keep": "All"},
        "successfulJobsHistoryLimit": 9,
        "failedJobsHistoryLimit": 8,
        "gpusPerTrial": 4,
        "gpuResourceName": "amd.com/gpu",
        "deletionPolicy": "Delete",
        "jobTemplate": job_template(),
    }
    found = study(**spec)
    assert {field.name: getattr(found, field.name) for field in dataclasses.fields(found) if field.name != "space"} == {
        "namespace": "team-a",
        "name": "digits",
        "uid": "1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed",
        "generation": 3,
        "objectives": (Objective("loss", "MINIMIZE", 0.0),),
        "constraints": (Constraint("latency_ms", max=50), Constraint("recall", min=0.8)),
        "parameters": tuple(PARAMETERS),
        "sampler": Algorithm("QMC", {"scramble": True}, 7),
        "pruner": Algorithm("Median", {"n_startup_trials": 3}),
        "convergence": Convergence("RegretBound", {"seed": 1}, 30, 0.1),
        "initial_trials": ({"lr": 0.001},),
        "warm_start": ("team-a/older-12345678",),
        "max_trials": 7,
        "parallelism": 3,
        "max_failed_trials": 2,
        "active_deadline": 3600,
        "active_trials_policy": "Wait",
        "suspend": True,
        "suspend_policy": "Terminate",
        "stop": "Drain",
        "infrastructure_retries": 1,
        "pending_deadline": 60,
        "infeasible_exit_codes": frozenset({42, 43}),
        "metrics": Metrics("File", "step", "TensorBoard", path="/out/m.jsonl"),
        "checkpoints": Checkpoints("/ckpt", "All", claim_name="shared"),
        "successful_jobs_history_limit": 9,
        "failed_jobs_history_limit": 8,
        "gpus_per_trial": 4,
        "gpu_resource_name": "amd.com/gpu",
        "gpu_names": ("gpu", "mig", "tpu", "gaudi", "neuron", "npu"),
        "deletion_policy": "Delete",
        "job_template": manifest(**spec)["spec"]["jobTemplate"],
        "stored_name": None,
    }
    assert found.distributions == {
        "lr": Float(1e-5, 0.1, log=True),
        "layers": Int(1, 4),
        "optimizer": Categorical(("adam", "sgd")),
    }


def test_a_study_of_an_earlier_resource_definition_is_not_stopped():
    assert "stop" not in manifest()["spec"]
    assert study().stop is None


def test_a_plug_in_is_called_by_its_class():
    assert study(sampler={"class": "acme.samplers:Best"}).sampler == Algorithm(
        "acme.samplers:Best", {}, cls="acme.samplers:Best"
    )


def test_constraints_say_by_how_much_they_are_broken():
    latency, recall = Constraint("latency_ms", max=50), Constraint("recall", min=0.8)
    assert (latency.violation(61), latency.violation(50), latency.limit) == (11, 0, "max is 50")
    assert (recall.violation(0.5), recall.violation(1.0), recall.limit) == (0.8 - 0.5, 0.8 - 1.0, "min is 0.8")


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
    assert (found.job_name(31), found.job_name(31, 2)) == ("digits-31", "digits-31-r2")
    assert (attempt_of("digits-31"), attempt_of("digits-31-r2"), attempt_of("a-r2-31")) == (0, 2, 0)
    assert study(uid="another-uid").optuna_name != found.optuna_name


def test_an_impossible_search_space_is_refused_with_the_reason():
    with pytest.raises(Refused) as refused:
        parse(manifest(parameters=[{"name": "x", "int": {"low": 4, "high": 1}}]))
    assert refused.value.reason == "InvalidSearchSpace"
    assert refused.value.message == str(refused.value)
    assert refused.value.message.startswith("parameter 'x': ")


STUDY = study()
NAMES = st.lists(st.sampled_from(["a", "b", "0", "1", "12", "r1", "r2", "dry", "run"]), min_size=1, max_size=5)
TRIALS = st.tuples(st.sampled_from([0, 1, 2, 12]), st.integers(0, 2))


@given(NAMES, TRIALS, NAMES, TRIALS)
def test_no_two_studies_have_jobs_of_one_name(one, of_one, other, of_other):
    """`a-1` may be the Job of Study a or the name of a Study, but never the Job of two."""
    names = ["-".join(one), "-".join(other)]
    jobs = [
        dataclasses.replace(STUDY, name=name).job_name(*trial)
        for name, trial in zip(names, (of_one, of_other), strict=True)
    ]
    assert (jobs[0] == jobs[1]) is ((names[0], of_one) == (names[1], of_other))
    assert jobs[0] != f"{names[1]}-dry-run"

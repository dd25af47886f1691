"""What goes wrong because of a user, a script or a cluster, and the words in which the user learns of it."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import timedelta

import pytest
from faults import Faults, Wrong
from world import container_status, job_template

from study_operator.reconcile import acceptance

X = [{"name": "x", "int": {"low": 1, "high": 2_000_000}}]
CONTAINER = {"name": "trial", "image": "trial:1"}


def pod_template(*containers: dict, **job_spec: object) -> dict:
    return {"spec": {**job_spec, "template": {"spec": {"containers": list(containers)}}}}


REFUSED = {
    "no options": (
        {"sampler": {"name": "Random", "options": {"sede": 1}}},
        "InvalidSamplerOptions",
        "spec.sampler: sampler Random has no option 'sede'; its options are none",
    ),
    "option of the operator's own": (
        {"sampler": {"name": "QMC", "options": {"seed": 1}}},
        "InvalidSamplerOptions",
        "spec.sampler: sampler QMC has no option 'seed': write seed beside name and options",
    ),
    "text for a number": (
        {"sampler": {"name": "TPE", "options": {"n_startup_trials": "ten"}}},
        "InvalidSamplerOptions",
        "spec.sampler: option 'n_startup_trials' of sampler TPE is 'ten'; it must be a whole number",
    ),
    "grid too large": (
        {"sampler": {"name": "Grid"}, "parameters": X},
        "InvalidSamplerOptions",
        "spec.sampler: the grid has more than 1,000,000 cells; write larger steps or fewer choices",
    ),
    "unknown option of a pruner": (
        {"pruner": {"name": "Median", "options": {"n_startup": 3}}},
        "InvalidPrunerOptions",
        "spec.pruner: pruner Median has no option 'n_startup'; its options are interval_steps, n_min_trials, "
        "n_startup_trials, n_warmup_steps",
    ),
    "option out of range": (
        {"pruner": {"name": "Median", "options": {"n_startup_trials": -1}}},
        "InvalidPrunerOptions",
        "spec.pruner: Number of startup trials cannot be negative, but got n_startup_trials=-1.",
    ),
    "true for a number": (
        {"pruner": {"name": "Hyperband", "options": {"max_resource": True}}},
        "InvalidPrunerOptions",
        "spec.pruner: option 'max_resource' of pruner Hyperband is True; it must be text or a whole number",
    ),
    "variable of the operator's own": (
        {"jobTemplate": job_template(env=[{"name": "PARAM_x", "value": "0.5"}])},
        "JobTemplateInvalid",
        "container 'trial' of spec.jobTemplate.spec sets PARAM_x, which the operator sets itself for each trial: "
        "rename the variable",
    ),
    "typing error in a variable": (
        {"jobTemplate": job_template(args=["--x=$(PARAM_X)"])},
        "JobTemplateInvalid",
        "spec.jobTemplate.spec.template.spec.containers[0].args[0] refers to $(PARAM_X), which no trial has: write "
        "$(PARAM_x); there are $(PARAM_kind), $(PARAM_layers), $(PARAM_x)",
    ),
    "number in the environment": (
        {"jobTemplate": job_template(env=[{"name": "A", "value": "1"}, {"name": "EPOCHS", "value": 3}])},
        "JobTemplateInvalid",
        "spec.jobTemplate.spec.template.spec.containers[0].env[1].value is 3, a number, and must be text: put it in "
        'quotes, "3"',
    ),
    "no image": (
        {"jobTemplate": pod_template({"name": "trial"})},
        "JobTemplateRefused",
        'the API server refuses the Job: Job.batch "study-dry-run" is invalid: '
        "spec.template.spec.containers[0].image: Required value",
    ),
    "misspelt field": (
        {"jobTemplate": job_template(comand=["python"])},
        "JobTemplateRefused",
        'the API server refuses the Job: Job in version "v1" cannot be handled as a Job: strict decoding error: '
        'unknown field "spec.template.spec.containers[0].comand"',
    ),
}


@pytest.mark.parametrize(("spec", "reason", "message"), REFUSED.values(), ids=REFUSED)
async def test_a_study_that_cannot_be_run_is_refused(world, spec, reason, message):
    await world.apply(**spec)
    await world.settle()
    accepted, progressing = await world.condition("Accepted"), await world.condition("Progressing")
    assert (accepted["status"], accepted["reason"], accepted["message"]) == ("False", reason, message)
    assert (progressing["status"], progressing["reason"]) == ("False", "NotAccepted")
    assert message in progressing["message"]
    assert (await world.study())["status"]["phase"] == "Refused"
    assert (await world.events())["Refused"]["message"] == message
    assert (world.rows(), await world.jobs()) == ([], [])


async def test_what_may_be_a_mistake_is_said_and_stays_said(world):
    await world.apply(jobTemplate=job_template(command=["sh", "-c", "train $PARAM_y"]))
    for _ in range(2):
        await world.settle()
        accepted = await world.condition("Accepted")
        assert (accepted["status"], accepted["reason"]) == ("True", "Accepted")
        where = "spec.jobTemplate.spec.template.spec.containers[0].command[2]"
        assert f"; but {where} names PARAM_y, which no trial has" in accepted["message"]
        world.start_operator()
    assert await world.active() == [0, 1]


async def test_a_study_that_an_earlier_version_has_accepted_goes_on(world, monkeypatch):
    with monkeypatch.context() as earlier:
        earlier.setattr(acceptance, "check_variables", lambda *_: [])
        await world.apply(jobTemplate=job_template(args=["--x=$(PARAM_typo)"]))
        await world.settle()
    world.start_operator()
    await world.finish(0, 0.5)
    await world.end_job(0)
    await world.settle()
    assert await world.active() == [1, 2]
    await world.edit(parallelism=3)
    await world.settle()
    assert "refers to $(PARAM_typo)" in (await world.condition("Accepted"))["message"]


async def test_an_argument_is_left_out_with_its_parameter(world):
    opt = {"name": "opt", "categorical": {"choices": ["adam", "sgd"]}}
    momentum = {"name": "momentum", "float": {"low": 0, "high": 1}, "when": {"parameter": "opt", "in": ["sgd"]}}
    args = ["--opt=$(PARAM_opt)", "--momentum=$(PARAM_momentum)"]
    await world.apply(
        parameters=[opt, momentum],
        jobTemplate=job_template(args=args),
        initialTrials=[{"opt": "adam"}, {"opt": "sgd"}],
    )
    await world.settle()
    made = {job["metadata"]["name"]: job for job in await world.jobs()}
    shown = [made[f"study-{i}"]["spec"]["template"]["spec"]["containers"][0]["args"] for i in range(2)]
    assert shown == [args[:1], args]


async def test_a_corrected_template_runs(world):
    await world.apply(jobTemplate=pod_template({"name": "trial"}))
    await world.settle()
    await world.edit(jobTemplate=job_template())
    await world.settle()
    assert (await world.condition("Accepted"))["status"] == "True"
    assert await world.active() == [0, 1]


async def test_a_template_that_is_spoilt_later_stops_new_trials_only(world):
    await world.apply()
    await world.settle()
    await world.edit(jobTemplate=pod_template({"name": "trial", "image": None}))
    await world.finish(0, 0.5)
    await world.end_job(0)
    await world.settle()
    progressing = await world.condition("Progressing")
    assert (progressing["status"], progressing["reason"]) == ("False", "NotAccepted")
    assert progressing["message"].startswith(
        "no new trials are started, 1 trial still runs: the API server refuses the Job: "
    )
    assert await world.active() == [1]
    assert world.rows() == [(0, "COMPLETE"), (1, "RUNNING")]


async def test_jobs_that_the_api_server_refuses_do_not_use_up_trials(world):
    world.operators_cluster.faults = Faults(lambda _, name: Wrong.THROTTLED if name == "POST jobs" else None)
    await world.apply()
    for _ in range(3):
        look = await world.look()
        assert look.failed
    progressing = await world.condition("Progressing")
    assert (progressing["status"], progressing["reason"]) == ("False", "TrialsCannotStart")
    assert progressing["message"] == "Job study-0 could not be created: as the test wants it (and 1 more like it)"
    assert world.rows() == [(0, "RUNNING"), (1, "RUNNING")]
    world.operators_cluster.faults = Faults()
    await world.settle()
    assert await world.active() == [0, 1]


# How trials fail


async def _assert_failed(world, failure: dict, event: tuple[str, str]) -> None:
    """Trial 0 has failed, and everybody can see why; the study goes on."""
    await world.settle()
    status = (await world.study())["status"]
    assert status["recentFailures"] == [{"trial": 0, "class": "Program", **failure}]
    assert status["failures"] == {"program": 1, "infrastructure": 0, "infeasible": 0}
    assert status["trials"]["failed"] == 1
    reason, message = event
    events = await world.events()
    assert (events[reason]["message"], events[reason]["type"]) == (message, "Warning")
    assert world.rows() == [(0, "FAIL"), (1, "RUNNING"), (2, "RUNNING")]
    with world.database.optuna_study(status["studyName"]) as study:
        stored = study.trials[0].user_attrs["study_operator:failure"]
    assert (stored["reason"], stored["exit_code"]) == (failure["reason"], failure.get("exitCode"))


@pytest.mark.parametrize(("reason", "exit_code"), [("Error", 3), ("OOMKilled", 137)])
async def test_a_container_that_fails(world, reason, exit_code):
    await world.apply()
    await world.settle()
    await world.end_pod(0, reason, exit_code)
    await world.end_job(0, "BackoffLimitExceeded", "Job has reached the specified backoff limit")
    await _assert_failed(
        world,
        {"reason": reason, "exitCode": exit_code},
        (f"Trial{reason}", f"trial 0 failed: {reason}, exit code {exit_code}"),
    )


async def test_a_job_that_runs_out_of_time(world):
    await world.apply()
    await world.settle()
    message = "Job was active longer than specified deadline"
    await world.end_job(0, "DeadlineExceeded", message)
    await _assert_failed(
        world,
        {"reason": "DeadlineExceeded", "message": message},
        ("TrialDeadlineExceeded", f"trial 0 failed: DeadlineExceeded: {message}"),
    )


@pytest.mark.parametrize(
    ("metrics", "call"),
    [
        ({"from": "Sdk"}, ("report", 3, 0.5)),
        ({"from": "File", "path": "/m/metrics.jsonl"}, ("candidate", [0.5])),
    ],
)
async def test_a_job_that_runs_out_of_time_says_which_value_it_had(world, metrics, call):
    world.settings = replace(world.settings, trial_image="study-trial:1")
    world.start_operator()
    await world.apply(metrics=metrics)
    await world.settle()
    (await world.pod(0)).call(*call)
    message = "Job was active longer than specified deadline"
    await world.end_job(0, "DeadlineExceeded", message)
    had = (
        f"{message}; it had score 0.5 so far, which is not final because the program had not ended: raise "
        "activeDeadlineSeconds, or let the program end in time"
    )
    await _assert_failed(
        world,
        {"reason": "DeadlineExceeded", "message": had},
        ("TrialDeadlineExceeded", f"trial 0 failed: DeadlineExceeded: {had}"),
    )


async def test_a_final_value_is_not_lost_to_the_jobs_deadline(world):
    await world.apply()
    await world.settle()
    await world.finish(0, 0.5)
    await world.end_job(0, "DeadlineExceeded", "Job was active longer than specified deadline")
    await world.settle()
    assert world.rows()[0] == (0, "COMPLETE")
    assert "recentFailures" not in (await world.study())["status"]


async def test_a_trial_that_never_reports(world):
    await world.apply()
    await world.settle()
    await world.end_pod(0, "Completed", 0, phase="Succeeded")
    await world.end_job(0)
    message = "the program ended without a final value: let it call finish(), or `study-trial finish VALUE`"
    await _assert_failed(
        world,
        {"reason": "MetricMissing", "exitCode": 0, "message": message},
        ("TrialMetricMissing", f"trial 0 failed: MetricMissing, exit code 0: {message}"),
    )


async def test_a_final_value_that_is_not_a_number(world):
    await world.apply()
    await world.settle()
    await world.finish(0, math.nan)
    await world.settle()
    assert world.rows() == [(0, "FAIL"), (1, "RUNNING")], "its Job still holds the slot"
    await world.end_job(0)
    await _assert_failed(
        world,
        {"reason": "InvalidValue", "message": "the final value is NaN"},
        ("TrialInvalidValue", "trial 0 failed: InvalidValue: the final value is NaN"),
    )


async def test_a_job_that_a_user_deletes(world):
    await world.apply()
    await world.settle()
    await world.delete_job(0)
    await world.settle()
    assert world.rows()[0] == (0, "FAIL")
    status = (await world.study())["status"]
    assert (status["trials"]["terminated"], status["trials"]["failed"]) == (1, 0), "so one ends a trial"
    incidents = world.database.query("SELECT kind, reason, message FROM study_operator.incidents")
    assert incidents == [("Terminated", "JobMissing", "Job study-0 was deleted before the trial had ended")]


@pytest.mark.parametrize("value", [math.inf, -math.inf])
async def test_an_infinite_final_value_counts_as_in_optuna(world, value):
    await world.apply(maxTrials=1, parallelism=1)
    await world.run_trials(lambda _: value)
    status = (await world.study())["status"]
    assert (status["phase"], status["bestValue"], status["bestTrial"]["values"]) == (
        "Succeeded",
        str(value),
        [str(value)],
    )
    with world.database.optuna_study(status["studyName"]) as study:
        assert study.best_value == study.trials[0].value == value


# What the reporting functions refuse


async def test_reports_that_are_refused(world):
    await world.apply()
    await world.apply("other")
    await world.settle()
    await world.settle("other")
    pod, other = await world.pod(0), await world.pod(0, "other")
    forged = type(pod)(world.database, other.key, pod.trial_id)
    for function, *arguments in (("report", 1, 0.5), ("finish", [0.5]), ("set_user_attr", "a", "1"), ("should_stop",)):
        assert forged.refusal(function, *arguments) == "SO001"
    assert pod.refusal("report", 1, "many") == "SO003"
    assert pod.refusal("report", -1, 0.5) == pod.refusal("report", 2**31, 0.5) == "SO003"
    assert pod.refusal("finish", [0.5, 0.5]) == pod.refusal("finish", []) == "SO003"
    assert pod.call("finish", [0.5]) is False
    assert pod.call("finish", [0.5]) is False, "the answer may have been lost"
    assert pod.refusal("finish", [0.6]) == "SO002"
    await world.settle()
    assert pod.refusal("report", 2, 0.5) == pod.refusal("set_user_attr", "a", "1") == "SO002"
    assert pod.call("finish", [0.5]) is False
    assert world.database.query("SELECT count(*) FROM trial_intermediate_values") == [(0,)]
    assert world.rows("other") == [(0, "RUNNING"), (1, "RUNNING")]


# Why nothing happens


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (
            {
                "conditions": [
                    {
                        "type": "PodScheduled",
                        "status": "False",
                        "reason": "Unschedulable",
                        "message": "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.",
                    }
                ]
            },
            "Unschedulable: 0/1 nodes are available: 1 Insufficient nvidia.com/gpu.",
        ),
        (
            {
                "containerStatuses": [
                    container_status(
                        {"waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "trial:1"'}}
                    )
                ]
            },
            'ImagePullBackOff: Back-off pulling image "trial:1"',
        ),
        (
            {"containerStatuses": [container_status({"waiting": {"reason": "CreateContainerConfigError"}})]},
            "CreateContainerConfigError: container trial",
        ),
    ],
    ids=["unschedulable", "no image", "without a message"],
)
async def test_a_pod_that_cannot_start_is_told_in_the_clusters_own_words(world, status, message):
    await world.apply(maxTrials=1, parallelism=1)
    await world.settle()
    assert (await world.look()).again <= 30.0
    pod = await world.start_pod(0, {"phase": "Pending", **status})
    world.ahead += timedelta(seconds=10)
    look = await world.look()
    assert look.again <= 30.0
    progressing = await world.condition("Progressing")
    assert (progressing["status"], progressing["reason"]) == ("False", "TrialPending")
    assert (await world.study())["status"]["phase"] == "Waiting"
    assert progressing["message"] == f"the pod of trial 0 waits: {message}"

    await world.set_pod_status(pod, {"phase": "Running", "conditions": None, "containerStatuses": None})
    await world.settle()
    progressing = await world.condition("Progressing")
    assert (progressing["status"], progressing["reason"]) == ("True", "TrialsRunning")


async def test_a_pod_that_is_just_starting_is_no_trouble(world):
    await world.apply(maxTrials=1, parallelism=1)
    await world.settle()
    waiting = container_status({"waiting": {"reason": "ContainerCreating"}})
    await world.start_pod(0, {"phase": "Pending", "containerStatuses": [waiting]})
    world.ahead += timedelta(seconds=10)
    await world.settle()
    assert (await world.condition("Progressing"))["reason"] == "TrialsRunning"

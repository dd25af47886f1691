"""Studies that fail, go on, are edited, deleted and created again."""

from __future__ import annotations

import math

import pytest
from world import GOES_ON, params_of, secret_of

from study_operator.model.study import STUDY_LABEL, TRIAL_LABEL
from study_operator.reconcile.study_trials import StudyTrials

CONTAINER = {"name": "trial", "image": "trial:1"}


async def test_too_many_failures_end_the_study_until_more_are_allowed(world):
    await world.apply(maxFailedTrials=0)
    await world.settle()
    await world.end_job(0, "BackoffLimitExceeded")
    await world.settle()
    (failed, running) = sorted(await world.jobs(), key=lambda job: job["metadata"]["name"])
    assert "deletionTimestamp" not in failed["metadata"], "people may want to see its log"
    assert "deletionTimestamp" in running["metadata"]
    assert await world.condition("Failed") == {}, "a pod still holds a GPU"
    await world.remove_finalizers()
    await world.settle()
    condition = await world.condition("Failed")
    message = "1 trial failed, maxFailedTrials is 0; fix the cause and raise maxFailedTrials to go on"
    assert (condition["status"], condition["reason"], condition["message"]) == (
        "True",
        "MaxFailedTrialsExceeded",
        message,
    )
    assert (await world.study())["status"]["phase"] == "Failed"
    assert (await world.events())["Failed"]["message"] == message

    counts = (await world.study())["status"]["trials"]
    assert (counts["failed"], counts["terminated"]) == (1, 1), "what the study ended is no failure"

    await world.edit(maxFailedTrials=1)
    await world.run_trials(lambda number: number)
    status = (await world.study())["status"]
    assert (status["phase"], status["progress"]) == ("Succeeded", "4/4")
    assert world.rows() == [(0, "FAIL"), (1, "FAIL"), (2, "COMPLETE"), (3, "COMPLETE")]


async def test_a_study_of_which_no_trial_succeeds_has_failed(world):
    await world.apply(maxTrials=1, parallelism=1)
    await world.settle()
    await world.end_pod(0, "Completed", 0, phase="Succeeded")
    await world.end_job(0)
    await world.settle()
    condition = await world.condition("Failed")
    assert (condition["reason"], condition["message"]) == ("NoTrialSucceeded", "none of 1 trial completed, 1 failed")
    assert await world.condition("Complete") == {}


async def test_many_free_slots_are_filled_with_few_transactions_and_the_first_one_at_once(world):
    await world.apply(maxTrials=20, parallelism=20, sampler={"name": "TPE", "options": {"n_startup_trials": 1}})
    await world.settle()
    assert sorted(await world.active()) == list(range(20))
    stored = world.database.query("SELECT count(*) FROM trials GROUP BY datetime_start ORDER BY min(number)")
    assert [count for (count,) in stored] == [1, 2, 4, 8, 5]
    assert len({repr(params_of(job)) for job in await world.jobs()}) == 20


@pytest.mark.parametrize("in_memory", [True, False], ids=["with its history in memory", "after a restart"])
async def test_trials_that_end_together_are_told_in_one_transaction(world, in_memory):
    await world.apply(maxTrials=4, parallelism=4)
    await world.settle()
    for number in range(4):
        await world.finish(number, float(number))
        await world.end_job(number)
    if not in_memory:
        world.start_operator()
    await world.settle()
    assert world.rows() == [(number, "COMPLETE") for number in range(4)]
    assert world.database.query("SELECT count(DISTINCT datetime_complete) FROM trials") == [(1,)]


@pytest.mark.parametrize("in_memory", [True, False], ids=["with its history in memory", "after a restart"])
async def test_a_result_that_arrives_at_the_last_moment_holds_up_no_other_end(world, monkeypatch, in_memory):
    await world.apply(maxTrials=5, parallelism=5, maxFailedTrials=5)
    await world.settle()
    for number in range(5):
        await world.end_job(number, "BackoffLimitExceeded")
    late, tell, tried = await world.pod(3), StudyTrials.tell, []

    def tell_late(live, tells):
        if not tried:
            late.call("finish", [0.25])
        if not in_memory:
            live.drop()
        tried.append(tell(live, tells))
        return tried[-1]

    monkeypatch.setattr(StudyTrials, "tell", tell_late)
    await world.settle()
    assert tried == [[True, True, True, False, True], [True]]
    assert world.rows() == [(number, "COMPLETE" if number == 3 else "FAIL") for number in range(5)]
    status = (await world.study())["status"]
    assert (status["phase"], status["bestTrial"]["number"]) == ("Succeeded", 3)
    # What could be told was not told again: one incident for each that has failed.
    assert world.database.query("SELECT count(*), count(DISTINCT trial_id) FROM study_operator.incidents") == [(4, 4)]


async def test_more_trials_continue_a_finished_study(world):
    await world.apply(maxTrials=2)
    await world.run_trials(lambda number: number)
    assert "completionTime" in (await world.study())["status"]
    await world.edit(maxTrials=3)
    await world.settle()
    status = (await world.study())["status"]
    assert (status["phase"] in GOES_ON, status["progress"], "completionTime" in status) == (True, "2/3", False)
    assert (await world.condition("Complete"))["status"] == "False"
    await world.run_trials(lambda number: number)
    status = (await world.study())["status"]
    assert (status["phase"], status["progress"], status["bestTrial"]["number"]) == ("Succeeded", "3/3", 2)


async def test_lower_parallelism_ends_no_trial(world):
    await world.apply(parallelism=3, maxTrials=6)
    await world.settle()
    await world.edit(parallelism=1)
    await world.settle()
    assert await world.active() == [0, 1, 2]
    for number in (0, 1):
        await world.finish(number, 0.5)
        await world.end_job(number)
        await world.settle()
        assert await world.active() == list(range(number + 1, 3)), "no new one beside those"
    await world.finish(2, 0.5)
    await world.end_job(2)
    await world.settle()
    assert await world.active() == [3]


async def test_values_that_came_before_the_study_was_deleted_are_told_as_ever(world):
    await world.apply(parallelism=4)
    await world.settle()
    pods = [await world.pod(number) for number in range(4)]
    pods[0].call("finish", [0.5])
    pods[1].call("finish", [math.nan])
    pods[2].call("finish", [], True)
    name = (await world.study())["status"]["studyName"]
    await world.delete_study()
    await world.look()
    with world.database.optuna_study(name) as study:
        assert [(trial.state.name, trial.values) for trial in study.trials] == [
            ("COMPLETE", [0.5]),
            ("FAIL", None),
            ("PRUNED", None),
            ("FAIL", None),
        ]


@pytest.mark.parametrize("swept", [False, True], ids=["seen", "swept later"])
@pytest.mark.parametrize("policy", ["Retain", "Delete"])
async def test_a_study_deleted_while_it_runs(world, policy, swept):
    await world.apply(deletionPolicy=policy)
    await world.settle()
    pods = [await world.pod(0), await world.pod(1)]
    pods[0].call("finish", [0.5])
    await world.delete_study()
    assert await world.cluster.get_study(world.namespace, "study") is None, "nothing holds it back"
    if swept:
        world.start_operator()
    await world.look()
    assert [pod.refusal("report", 1, 0.5) for pod in pods] == ["SO001", "SO001"]
    assert world.rows() == ([(0, "COMPLETE"), (1, "FAIL")] if policy == "Retain" else [])
    assert await world.reconciler.known_studies() == []


async def test_a_study_created_again_at_once_under_the_same_name(world):
    await world.apply()
    await world.settle()
    old_jobs, old_pod = {job["metadata"]["uid"] for job in await world.jobs()}, await world.pod(0)
    await world.delete_study()
    new = await world.apply()
    look = await world.look()
    assert look.failed
    progressing = await world.condition("Progressing")
    message = "a Job study-0 that is not this trial's exists; delete it, or give the Study another name"
    assert (progressing["reason"], progressing["message"]) == ("TrialsCannotStart", f"{message} (and 1 more like it)")
    assert old_pod.refusal("finish", [9.0]) == "SO001", "it is not the new study's trial"
    assert {job["metadata"]["uid"] for job in await world.jobs()} == old_jobs

    await world.collect_garbage()
    await world.run_trials(lambda number: number / 10)
    jobs = await world.jobs()
    assert {job["metadata"]["ownerReferences"][0]["uid"] for job in jobs} == {new["metadata"]["uid"]}
    assert len({secret_of(job) for job in jobs}) == 1
    status = (await world.study())["status"]
    assert (status["phase"], status["bestTrial"]["values"]) == ("Succeeded", ["0.3"])
    assert world.rows()[:2] == [(0, "FAIL"), (1, "FAIL")], "the old study's"
    assert world.rows()[2:] == [(number, "COMPLETE") for number in range(4)]


async def test_somebody_elses_job_is_never_taken_for_a_trials(world):
    study = await world.apply(maxTrials=1, parallelism=1)
    metadata = {
        "name": "study-0",
        "namespace": world.namespace,
        "labels": {STUDY_LABEL: "study", TRIAL_LABEL: "0"},
        "annotations": {"study-operator.io/trial-id": "1"},
        # An owner, but not its controller: anybody may write that.
        "ownerReferences": [
            {
                "apiVersion": "study-operator.io/v1alpha1",
                "kind": "Study",
                "name": "study",
                "uid": study["metadata"]["uid"],
            }
        ],
    }
    spec = {"template": {"spec": {"restartPolicy": "Never", "containers": [CONTAINER]}}}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}
    await world.cluster.create_job(job)
    await world.end_job(0)
    for _ in range(3):
        assert (await world.look()).failed
    message = "a Job study-0 that is not this trial's exists; delete it, or give the Study another name"
    assert (await world.condition("Progressing"))["message"] == message
    assert world.rows() == [(0, "RUNNING")], "it was complete, but is not the trial's"
    assert await world.secrets()

    await world.delete_job(0)
    await world.run_trials(lambda _: 0.5)
    assert world.rows() == [(0, "COMPLETE")]

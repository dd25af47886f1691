"""What is done next for one study: tables under the names of the rules, then whatever may be observed."""

from __future__ import annotations

import dataclasses
import math
from datetime import timedelta

import pytest
from building import (
    COMPLETE,
    FAIL,
    NOW,
    PRUNED,
    RUNNING,
    WAITING,
    job_state,
    job_template,
    observe,
    result,
    rows_of,
    study,
    trial_row,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from study_operator.model.actions import (
    Ask,
    CreateJob,
    FindCause,
    RemoveFinishedJob,
    RunAgain,
    StopJob,
    Tell,
)
from study_operator.model.job_state import JobPhase
from study_operator.model.observed import Observed, Stuck
from study_operator.model.plan import PRUNED_GRACE, PRUNED_KILL_SECONDS, Plan, plan
from study_operator.model.pod_status import job_deleted
from study_operator.model.study import Constraint
from study_operator.model.study_outcome import outcome, over
from study_operator.model.trial import BestTrial, Clock, Failure, FailureClass, Result
from study_operator.model.trial_rules import RULES, Case, decide, tell_result, verdict

ACTIVE, COMPLETED, FAILED = JobPhase.ACTIVE, JobPhase.COMPLETE, JobPhase.FAILED
NAN, INF = float("nan"), float("inf")

# Drawing an observation takes longer than planning for it.
QUICKLY = settings(max_examples=40)

# A study that fails at the next failed trial, and one that has failed.
STRICT = {"maxFailedTrials": 0, "parallelism": 4}
BROKEN = {"spec": STRICT, "counts": {FAIL: 1}}


def actions(observed: Observed) -> list:
    return list(plan(observed).actions)


def without_ask(observed: Observed) -> list:
    return [action for action in actions(observed) if not isinstance(action, Ask)]


# The plan as a whole


def test_all_actions_of_a_kind_come_together_and_the_kinds_in_the_order_of_doing():
    rows = [trial_row(n, result=None if n % 2 else result(0.5)) for n in range(16)]
    jobs = [job_state(n, FAILED if n % 2 else COMPLETED) for n in range(16)]
    found = plan(observe(*rows, jobs=jobs, spec={"parallelism": 16}))
    assert found.tells == tuple(Tell(row, COMPLETE, (0.5,)) for row in rows[::2])
    assert found.causes == tuple(FindCause(row, job) for row, job in zip(rows[1::2], jobs[1::2], strict=True))
    assert found.actions == (*found.tells, *found.causes, Ask(8))


def test_the_actions_are_in_the_order_of_the_fields():
    row, job = trial_row(0), job_state(0)
    kinds = {
        "tells": (Tell(row, PRUNED),),
        "causes": (FindCause(row, job),),
        "reruns": (RunAgain(row),),
        "stops": (StopJob(job),),
        "creations": (CreateJob(row),),
        "ask": Ask(1),
        "removals": (RemoveFinishedJob(job),),
    }
    assert [field.name for field in dataclasses.fields(Plan)] == [*kinds, "reconcile_after"]
    found = Plan(**kinds)
    assert found.actions == tuple(one if name == "ask" else one[0] for name, one in kinds.items())
    assert Plan(reconcile_after=timedelta(1)).actions == ()


SUSPENDED = {"suspend": True, "suspendPolicy": "Terminate"}
PRINTS = {"metrics": {"from": "Stdout", "stepName": "epoch"}}
STUCK = {"stuck": {"digits-0": Stuck(Failure("Unschedulable", kind=FailureClass.INFRASTRUCTURE))}}


@pytest.mark.parametrize(
    ("row", "job", "about", "answering"),
    [
        ({"result": result(0.5)}, FAILED, {"prune": frozenset({0})}, "has_result job_failed result_missing given_up"),
        ({}, FAILED, {"spec": PRINTS}, "output_unread job_failed result_missing"),
        ({}, FAILED, BROKEN, "job_failed result_missing study_over"),
        ({}, COMPLETED, {**BROKEN, "prune": frozenset({0})}, "result_missing study_over given_up"),
        ({}, None, {**BROKEN, "launched": frozenset({"digits-0"})}, "study_over job_missing job_not_created"),
        ({"reports": True}, None, {"prune": frozenset({0})}, "job_missing job_not_created given_up"),
        ({}, None, {"spec": SUSPENDED}, "job_not_created suspended"),
        ({}, ACTIVE, {"spec": SUSPENDED, "prune": frozenset({0})}, "given_up suspended"),
        ({}, ACTIVE, {"spec": SUSPENDED, **STUCK}, "suspended stuck"),
    ],
)
def test_the_first_rule_that_answers_wins(row, job, about, answering):
    observed = observe(trial_row(0, **row), jobs=[job_state(0, job)] if job else [], **about)
    case = Case(observed.rows.open[0], observed.jobs.get("digits-0"), observed, over(observed) is not None)
    answers = {rule.__name__: answer for rule in RULES if (answer := rule(case)) is not None}
    assert list(answers) == answering.split()
    assert decide(case) == next(iter(answers.values()))


# has_result


@pytest.mark.parametrize(
    "around",
    [
        {"jobs": [job_state(0)]},
        {"jobs": [job_state(0, COMPLETED)]},
        {"jobs": [job_state(0, FAILED, reason="BackoffLimitExceeded")]},
        {"jobs": [job_state(0, deleting=True)]},
        {},  # the Job is gone
        {"launched": frozenset({"digits-0"})},
        {"prune": frozenset({0}), "jobs": [job_state(0)]},
        {"launching": False},
        {"exhausted": True},
        {**BROKEN, "jobs": [job_state(0)]},
    ],
)
@pytest.mark.parametrize(
    ("stored", "state", "values", "reason"),
    [
        (result(0.5), COMPLETE, (0.5,), None),
        (result(INF), COMPLETE, (INF,), None),
        (result(-INF), COMPLETE, (-INF,), None),
        (result(0.5, pruned=True), PRUNED, (0.5,), None),
        (result(pruned=True), PRUNED, None, None),
        (result(NAN), FAIL, None, "InvalidValue"),
    ],
)
def test_a_stored_result_is_told_whatever_else_is_true(stored, state, values, reason, around):
    row = trial_row(0, result=stored)
    (told, *_) = without_ask(observe(row, **around))
    assert (told.row, told.state, told.values) == (row, state, values)
    assert (told.failure and told.failure.reason) == reason


# given_up, and what becomes of the Jobs of trials that have ended


def test_a_trial_given_up_is_told_and_its_job_left_alone_for_now():
    row = trial_row(0)
    assert without_ask(observe(row, jobs=[job_state(0)], prune=frozenset({0}))) == [Tell(row, PRUNED)]


@pytest.mark.parametrize(
    ("after", "ended", "reconcile_after"),
    [
        (timedelta(0), False, PRUNED_GRACE),
        (timedelta(seconds=2), False, PRUNED_GRACE - timedelta(seconds=2)),
        (PRUNED_GRACE, True, None),
        (timedelta(hours=1), True, None),
    ],
)
def test_the_job_of_a_pruned_trial_is_deleted_after_a_grace_period_and_its_pod_soon(after, ended, reconcile_after):
    row, job = trial_row(0, PRUNED, completed_at=NOW - after), job_state(0)
    found = plan(observe(row, jobs=[job], spec={"maxTrials": 1}))
    assert found == Plan(stops=(StopJob(job, PRUNED_KILL_SECONDS),) if ended else (), reconcile_after=reconcile_after)


@pytest.mark.parametrize(
    ("asked", "source", "stopping", "grace"),
    [
        (120, "Sdk", True, timedelta(seconds=120)),
        (120, "Sdk", False, PRUNED_GRACE),
        (120, "File", True, PRUNED_GRACE),
        (120, "Stdout", True, PRUNED_GRACE),
        (5, "Sdk", True, timedelta(seconds=5)),
        (0, "Sdk", True, PRUNED_GRACE),
        (None, "Sdk", True, PRUNED_GRACE),
        (3600, "Sdk", True, timedelta(seconds=300)),
        (2**63 - 1, "Sdk", True, timedelta(seconds=300)),
        ("120", "Sdk", True, PRUNED_GRACE),
    ],
)
def test_a_program_that_is_ending_by_itself_has_the_time_of_its_template(asked, source, stopping, grace):
    template = job_template()
    if asked is not None:
        template["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = asked
    metrics = {"from": source, **({"path": "/m/log"} if source == "File" else {})}
    spec, job = {"maxTrials": 1, "jobTemplate": template, "metrics": metrics}, job_state(0)

    def after(passed: timedelta) -> Plan:
        row = trial_row(0, PRUNED, completed_at=NOW - passed, stopping=stopping)
        return plan(observe(row, jobs=[job], spec=spec))

    assert after(timedelta(0)) == Plan(reconcile_after=grace)
    assert after(grace) == Plan(stops=(StopJob(job, PRUNED_KILL_SECONDS),))


def test_the_clock_of_a_notebook_in_another_time_zone_keeps_no_job():
    row, job = trial_row(0, PRUNED, completed_at=NOW + timedelta(hours=8)), job_state(0)
    assert plan(observe(row, jobs=[job], spec={"maxTrials": 1})) == Plan(stops=(StopJob(job, PRUNED_KILL_SECONDS),))


def test_grace_and_kill_leave_time_to_notice_within_ten_seconds():
    assert PRUNED_GRACE.total_seconds() + PRUNED_KILL_SECONDS <= 8


def test_the_job_of_a_failed_trial_is_deleted_at_once():
    job = job_state(0)
    assert actions(observe(trial_row(0, FAIL), jobs=[job], spec={"maxTrials": 1})) == [StopJob(job)]


def test_the_next_reconciliation_is_when_the_first_grace_period_ends():
    rows = [trial_row(n, PRUNED, completed_at=NOW - timedelta(seconds=n)) for n in range(3)]
    found = plan(observe(*rows, jobs=[job_state(n) for n in range(3)]))
    assert found.reconcile_after == PRUNED_GRACE - timedelta(seconds=2)


@pytest.mark.parametrize(
    ("row", "job"),
    [
        (trial_row(0, PRUNED, completed_at=NOW - timedelta(hours=1)), job_state(0, deleting=True)),
        (trial_row(0, PRUNED, completed_at=NOW - timedelta(hours=1)), job_state(0, COMPLETED)),
        (trial_row(0, PRUNED, completed_at=NOW - timedelta(hours=1)), job_state(0, FAILED)),
        (trial_row(0, COMPLETE, completed_at=NOW - timedelta(hours=1)), job_state(0)),  # may be saving its model
    ],
)
def test_a_job_that_has_ended_or_is_ending_or_has_given_its_value_is_left_alone(row, job):
    assert without_ask(observe(row, jobs=[job])) == []


@pytest.mark.parametrize("row", [None, trial_row(0, trial_id=7), trial_row(0, COMPLETE, trial_id=7)])
def test_a_job_without_a_row_is_deleted(row):
    job = job_state(0)
    observed = observe(*([row] if row else []), jobs=[job], launching=False)
    assert StopJob(job) in actions(observed)


# job_failed, result_missing, job_missing


def test_a_failed_job_fails_its_trial_and_why_is_to_be_found_out():
    row, job = trial_row(0), job_state(0, FAILED, reason="BackoffLimitExceeded")
    assert without_ask(observe(row, jobs=[job])) == [FindCause(row, job)]


def test_a_job_that_completes_without_a_value_is_a_failed_trial():
    row, job = trial_row(0), job_state(0, COMPLETED)
    (cause,) = without_ask(observe(row, jobs=[job]))
    assert (cause.row, cause.job, cause.otherwise.reason, cause.otherwise.exit_code) == (row, job, "MetricMissing", 0)
    assert "study-trial finish VALUE" in cause.otherwise.message


@pytest.mark.parametrize(
    ("row", "launched"), [(trial_row(0), frozenset({"digits-0"})), (trial_row(0, reports=True), frozenset())]
)
def test_a_job_that_was_there_and_is_gone_fails_its_trial(row, launched):
    (told,) = without_ask(observe(row, launched=launched))
    assert told == Tell(row, FAIL, failure=job_deleted("digits-0"))


def test_an_ended_job_counts_for_more_than_the_pruner():
    row, job = trial_row(0), job_state(0, FAILED)
    assert without_ask(observe(row, jobs=[job], prune=frozenset({0}))) == [FindCause(row, job)]


# job_not_created, and trials that no rule is about


def test_a_trial_that_never_had_a_job_gets_it():
    row = trial_row(0)
    assert without_ask(observe(row)) == [CreateJob(row)]
    assert without_ask(observe(row, exhausted=True)) == [CreateJob(row)]


def test_no_job_is_created_while_nothing_may_be_started():
    assert actions(observe(trial_row(0), launching=False)) == []


def test_a_trial_that_runs_is_left_alone():
    assert without_ask(observe(trial_row(0, reports=True), jobs=[job_state(0)], launched=frozenset({"digits-0"}))) == []


@pytest.mark.parametrize("stored", [None, result(0.5)])
def test_somebody_elses_trial_is_left_alone(stored):
    assert without_ask(observe(trial_row(0, job=None, result=stored, reports=True), prune=frozenset({0}))) == []


# Free slots


@pytest.mark.parametrize(
    ("parallelism", "most", "rows", "jobs", "counts", "asked"),
    [
        (3, 100, [], [], {}, 3),
        (3, 2, [], [], {}, 2),
        (3, 100, [trial_row(0)], [job_state(0)], {}, 2),
        (3, 100, [trial_row(0)], [], {}, 2),  # its Job is about to be created
        (3, 100, [trial_row(0, result=result(1))], [job_state(0, COMPLETED)], {}, 3),
        (3, 100, [trial_row(0, result=result(1))], [job_state(0)], {}, 2),  # its pod still holds a GPU
        (3, 100, [trial_row(0, PRUNED)], [job_state(0)], {}, 2),
        (3, 100, [trial_row(0, PRUNED)], [job_state(0, deleting=True)], {}, 2),
        (3, 100, [trial_row(0, PRUNED)], [job_state(0, FAILED)], {}, 3),
        (1, 100, [trial_row(n) for n in range(3)], [job_state(n) for n in range(3)], {}, 0),  # it was lowered
        (3, 10, [], [], {COMPLETE: 5, PRUNED: 2, FAIL: 1}, 2),
        (3, 10, [], [], {COMPLETE: 9, WAITING: 5}, 1),  # what waits in the queue has not been started
        (3, 10, [], [], {COMPLETE: 10}, 0),
        (3, 10, [], [], {COMPLETE: 12}, 0),  # maxTrials was lowered
        (3, 10, [trial_row(0, job=None)], [], {COMPLETE: 8}, 1),  # somebody else's counts, and holds no slot
    ],
)
def test_free_slots_are_filled(parallelism, most, rows, jobs, counts, asked):
    observed = observe(*rows, jobs=jobs, counts=counts, spec={"parallelism": parallelism, "maxTrials": most})
    assert [action.count for action in actions(observed) if isinstance(action, Ask)] == ([asked] if asked else [])


@pytest.mark.parametrize(
    "why_not",
    [
        {"launching": False},
        {"exhausted": True},
        {"spec": {"maxFailedTrials": 2}, "counts": {FAIL: 3}},
        {"spec": {"suspend": True}},
        {"spec": {"parallelism": 0}},
    ],
)
def test_nothing_is_started_that_cannot_or_should_not_run(why_not):
    assert actions(observe(**why_not)) == []


def test_no_trial_is_started_beside_the_failure_that_ends_the_study():
    told = actions(observe(trial_row(0, result=result(math.nan)), jobs=[job_state(0, COMPLETED)], spec=STRICT))
    assert [type(action) for action in told] == [Tell]


def test_as_many_failures_as_allowed_end_nothing():
    found = actions(observe(trial_row(0), jobs=[job_state(0)], spec={"maxFailedTrials": 2}, counts={FAIL: 2}))
    assert found == []
    assert actions(observe(spec={"maxFailedTrials": 2}, counts={FAIL: 2})) == [Ask(1)]


def test_a_study_that_has_failed_ends_what_runs():
    rows = [trial_row(0), trial_row(1, PRUNED), trial_row(2, COMPLETE), trial_row(3, result=result(0.5))]
    jobs = [job_state(n) for n in range(4)]
    found = actions(observe(*rows, jobs=jobs, **BROKEN))
    failure = Failure("StudyEnded", "the study ended before the trial did", kind=FailureClass.TERMINATED)
    assert found == [Tell(rows[0], FAIL, failure=failure), Tell(rows[3], COMPLETE, (0.5,)), StopJob(jobs[0])]


# outcome


@pytest.mark.parametrize(
    ("observed", "succeeded", "reason", "words"),
    [
        (observe(counts={COMPLETE: 100}), True, "MaxTrialsReached", "100 of 100 trials have ended"),
        (observe(counts={COMPLETE: 1, FAIL: 9, PRUNED: 90}), True, "MaxTrialsReached", "100 of 100"),
        (observe(counts={COMPLETE: 9}, exhausted=True), True, "SearchSpaceExhausted", "9 trials"),
        (observe(counts={PRUNED: 100}), False, "NoTrialSucceeded", "none of 100 trials completed, 100 were pruned"),
        (observe(counts={FAIL: 6}, exhausted=True), False, "NoTrialSucceeded", "none of 6 trials completed, 6 failed"),
        (observe(counts={FAIL: 9, PRUNED: 91}), False, "NoTrialSucceeded", "completed, 9 failed, 91 were pruned"),
        (observe(counts={FAIL: 11}), False, "MaxFailedTrialsExceeded", "raise maxFailedTrials to go on"),
        (observe(counts={FAIL: 11, COMPLETE: 89}), False, "MaxFailedTrialsExceeded", "11 trials failed"),
        (observe(trial_row(0, job=None), counts={COMPLETE: 99}), True, "MaxTrialsReached", "99 of 100"),
        (
            observe(trial_row(0, COMPLETE), jobs=[job_state(0, COMPLETED)], counts={COMPLETE: 99}),
            True,
            "MaxTrialsReached",
            "100 of 100",
        ),
    ],
)
def test_how_a_study_ends(observed, succeeded, reason, words):
    end = outcome(observed)
    assert (end.succeeded, end.reason) == (succeeded, reason)
    assert words in end.message


@pytest.mark.parametrize(
    "observed",
    [
        observe(),
        observe(counts={COMPLETE: 99}),
        observe(counts={COMPLETE: 99, WAITING: 1}),
        observe(counts={FAIL: 10}),
        observe(trial_row(0), jobs=[job_state(0)], counts={COMPLETE: 99}),
        observe(trial_row(0), counts={COMPLETE: 99}),
        observe(trial_row(0, COMPLETE), jobs=[job_state(0)], counts={COMPLETE: 99}),  # its pod holds a GPU
        observe(trial_row(0, FAIL), jobs=[job_state(0, deleting=True)], **BROKEN),
        observe(trial_row(0), jobs=[job_state(0)], counts={COMPLETE: 5}, exhausted=True),
        observe(counts={COMPLETE: 9}, launching=False),
    ],
)
def test_a_study_goes_on(observed):
    assert outcome(observed) is None


# over, study_over

BEST = BestTrial(5, (0.97,), {}, "digits-5")
GOAL = {"objectives": [{"name": "accuracy", "direction": "Maximize", "goal": 0.95}]}
LOSS = {"objectives": [{"name": "loss", "direction": "Minimize", "goal": 0.1}]}


@pytest.mark.parametrize(
    ("spec", "about", "fields", "reason"),
    [
        (GOAL, {"best": BEST}, {}, "GoalReached"),
        (GOAL, {"best": dataclasses.replace(BEST, values=(0.95,))}, {}, "GoalReached"),
        (GOAL, {"best": dataclasses.replace(BEST, values=(0.94,))}, {}, None),
        (GOAL, {}, {}, None),
        (LOSS, {"best": dataclasses.replace(BEST, values=(0.1,))}, {}, "GoalReached"),
        (LOSS, {"best": dataclasses.replace(BEST, values=(0.2,))}, {}, None),
        ({"activeDeadlineSeconds": 60}, {"clock": Clock(NOW - timedelta(seconds=60))}, {}, "DeadlineExceeded"),
        ({"activeDeadlineSeconds": 60}, {"clock": Clock(NOW - timedelta(seconds=59))}, {}, None),
        ({"activeDeadlineSeconds": 60}, {"clock": Clock(NOW - timedelta(seconds=90), None, 40)}, {}, None),
        ({"activeDeadlineSeconds": 60}, {"clock": Clock(NOW - timedelta(days=1), NOW - timedelta(days=1))}, {}, None),
        ({"activeDeadlineSeconds": 60}, {}, {}, None),  # no trial has begun
        ({"convergence": {}}, {}, {"converged": True}, "Converged"),
    ],
)
@pytest.mark.parametrize("policy", ["Terminate", "Wait"])
def test_why_a_study_is_over(spec, about, fields, reason, policy):
    rows, job = [trial_row(0), trial_row(1, job="digits-1-r1")], job_state(0)
    spec = {**spec, "activeTrialsPolicy": policy, "parallelism": 4}
    observed = observe(*rows, jobs=[job], counts={COMPLETE: 5}, spec=spec, about=about, **fields)
    found = actions(observed)
    assert (over(observed) and over(observed).reason) == reason
    told = [action.row.number for action in found if isinstance(action, Tell)]
    assert told == ([] if reason is None else [0, 1] if policy == "Terminate" else [1])  # 1 waits for a slot
    assert (StopJob(job) in found) is (reason is not None and policy == "Terminate")
    assert any(isinstance(action, Ask) for action in found) is (reason is None)
    assert outcome(observed) is None
    ended = observe(counts={COMPLETE: 5}, spec=spec, about=about, **fields)
    assert (outcome(ended) and outcome(ended).reason) == reason


def test_a_deadline_without_one_result_is_a_failure_and_is_looked_at_when_it_comes():
    spec, clock = {"activeDeadlineSeconds": 60}, {"clock": Clock(NOW - timedelta(seconds=60))}
    end = outcome(observe(counts={PRUNED: 3}, spec=spec, about=clock))
    assert (end.succeeded, end.reason) == (False, "DeadlineExceeded")
    soon = {"clock": Clock(NOW - timedelta(seconds=59))}
    assert plan(observe(counts={PRUNED: 3}, spec=spec, about=soon)).reconcile_after == timedelta(seconds=1)


def test_trials_that_the_study_ended_are_no_failures():
    about = {"incidents": {FailureClass.TERMINATED: 11}}
    assert over(observe(counts={FAIL: 11, COMPLETE: 1}, about=about)) is None


# suspended, and scaling


@pytest.mark.parametrize("spec", [{"suspend": True}, {"parallelism": 0}, {"suspend": True, "parallelism": 4}])
def test_nothing_is_started_while_the_study_is_paused_and_what_runs_goes_on(spec):
    rows = [trial_row(0), trial_row(1, job="digits-1-r1")]
    assert actions(observe(*rows, jobs=[job_state(0)], spec=spec)) == []


def test_suspended_trials_are_ended_to_run_again():
    row, job = trial_row(0, reports=True), job_state(0)
    spec = {"suspend": True, "suspendPolicy": "Terminate"}
    assert actions(observe(row, jobs=[job], spec=spec)) == [RunAgain(row), StopJob(job)]
    row = dataclasses.replace(row, job="digits-0-r1")
    assert actions(observe(row, jobs=[job], spec=spec)) == [StopJob(job)]  # cut off between the two
    assert actions(observe(row, spec=spec)) == []
    assert without_ask(observe(row, jobs=[dataclasses.replace(job, deleting=True)])) == []  # its pod is still there
    assert without_ask(observe(row)) == [CreateJob(row)]


def test_trials_that_wait_to_run_again_come_before_new_ones_and_within_the_slots():
    rows = [trial_row(n, job=f"digits-{n}-r1") for n in range(3)]
    assert actions(observe(*rows, spec={"parallelism": 2})) == [CreateJob(rows[0]), CreateJob(rows[1])]
    assert actions(observe(*rows, spec={"parallelism": 4})) == [*(CreateJob(row) for row in rows), Ask(1)]


# verdict, stuck

LOST = Failure("EvictionByEvictionAPI", "evicted", kind=FailureClass.INFRASTRUCTURE)


@pytest.mark.parametrize(
    ("failure", "retries", "expected"),
    [
        (LOST, 0, RunAgain),
        (LOST, 4, RunAgain),
        (LOST, 5, FAIL),
        (Failure("Error", exit_code=1), 0, FAIL),
        (Failure("Infeasible", exit_code=42, kind=FailureClass.INFEASIBLE), 0, PRUNED),
    ],
)
def test_what_follows_from_a_failure(failure, retries, expected):
    row, job = trial_row(0, retries=retries), job_state(0, FAILED)
    found = verdict(study(), row, job, failure)
    assert isinstance(found, RunAgain) if expected is RunAgain else found.state is expected
    assert found.failure is failure


def test_a_pod_that_waits_too_long_is_the_clusters_failure():
    row, job = trial_row(0), job_state(0)
    stuck = {job.name: Stuck(Failure("Unschedulable", "0/1 nodes", kind=FailureClass.INFRASTRUCTURE))}
    found = without_ask(observe(row, jobs=[job], stuck=stuck))
    assert found == [RunAgain(row, stuck[job.name].failure), StopJob(job)]
    late = trial_row(0, retries=5)
    told, ended = without_ask(observe(late, jobs=[job], stuck=stuck))
    assert (told.state, told.failure.reason, ended) == (FAIL, "Unschedulable", StopJob(job))
    corrected = {job.name: dataclasses.replace(stuck[job.name], counts=False)}
    assert without_ask(observe(late, jobs=[job], stuck=corrected)) == [RunAgain(late), StopJob(job)]


def test_a_job_that_a_queue_manager_suspends_is_left_alone_and_keeps_its_slot():
    assert actions(observe(trial_row(0), jobs=[job_state(0, suspended=True)])) == []


# has_result, output_unread: results that do not count as they stand


def test_a_provisional_result_counts_only_when_the_program_has_ended_well():
    row = trial_row(0, result=Result((0.5,), provisional=True))
    assert without_ask(observe(row, jobs=[job_state(0)])) == []
    (judged,) = without_ask(observe(row, jobs=[job_state(0, FAILED)]))
    assert judged == FindCause(row, job_state(0, FAILED))
    (told,) = without_ask(observe(row, jobs=[job_state(0, COMPLETED)]))
    assert (told.state, told.values) == (COMPLETE, (0.5,))


def test_where_trials_report_by_their_output_it_is_read_to_its_end_first():
    spec = {"metrics": {"from": "Stdout", "stepName": "epoch"}}
    row = trial_row(0)
    for phase in (COMPLETED, FAILED):
        job = job_state(0, phase)
        assert without_ask(observe(row, jobs=[job], spec=spec)) == []
        (action,) = without_ask(observe(row, jobs=[job], spec=spec, drained={job.name: ""}))
        assert isinstance(action, FindCause)


CONSTRAINTS = (Constraint("latency_ms", max=50), Constraint("recall", min=0.8))


@pytest.mark.parametrize(
    ("given_values", "state", "reason", "violations"),
    [
        ({"latency_ms": 50, "recall": 0.8}, COMPLETE, None, {"latency_ms": 0, "recall": 0}),
        ({"latency_ms": 61, "recall": 0.9}, COMPLETE, "ConstraintViolated", {"latency_ms": 11, "recall": -0.1}),
        ({"latency_ms": 43}, FAIL, "ConstraintMissing", {}),
    ],
)
def test_constraints_are_told_as_violations(given_values, state, reason, violations):
    told = tell_result(trial_row(0, result=Result((0.5,), constraints=given_values)), CONSTRAINTS)
    assert (told.state, told.failure and told.failure.reason) == (state, reason)
    assert told.constraints == pytest.approx(violations)
    if reason == "ConstraintViolated":
        assert told.failure.message == "latency_ms is 61, max is 50"
        assert told.values == (0.5,)


def test_a_trial_that_calls_itself_infeasible_is_told_so():
    told = tell_result(trial_row(0, result=Result((), infeasible="OOM at this batch size")), CONSTRAINTS)
    assert (told.state, told.values) == (PRUNED, None)
    assert (told.failure.kind, told.failure.message) == (FailureClass.INFEASIBLE, "OOM at this batch size")


def test_a_study_of_infeasible_trials_has_not_succeeded():
    about = {"incidents": {FailureClass.INFEASIBLE: 100}, "broken": 90}
    end = outcome(observe(counts={COMPLETE: 90, PRUNED: 10}, about=about))
    assert (end.succeeded, end.reason) == (False, "NoTrialSucceeded")
    assert "100 were infeasible" in end.message


# Finished Jobs are kept as CronJob keeps them


def test_the_latest_finished_jobs_are_kept_and_the_best_trials():
    def finished(number, phase=COMPLETED):
        return job_state(number, phase, finished_at=NOW - timedelta(minutes=10 - number))

    jobs = [finished(n) for n in range(5)] + [finished(5, FAILED), finished(6, FAILED), job_state(7)]
    spec = {"successfulJobsHistoryLimit": 2, "failedJobsHistoryLimit": 1}
    best = {"best": dataclasses.replace(BEST, job="digits-0")}
    found = actions(observe(trial_row(7), jobs=jobs, spec=spec, about=best))
    assert found == [RemoveFinishedJob(jobs[1]), RemoveFinishedJob(jobs[2]), RemoveFinishedJob(jobs[5])]
    waiting = observe(trial_row(1), trial_row(7), jobs=jobs, spec=spec, about=best)  # not told yet: it is evidence
    assert RemoveFinishedJob(jobs[1]) not in actions(waiting)
    front = {"front": tuple(dataclasses.replace(BEST, job=f"digits-{n}") for n in (0, 5))}
    found = actions(observe(trial_row(7), jobs=jobs, spec=spec, about=front))
    assert found == [RemoveFinishedJob(jobs[1]), RemoveFinishedJob(jobs[2])]


def test_jobs_that_are_not_to_be_kept_stay_for_a_while_but_no_more_of_them_than_run_at_once():
    def finished(number, seconds):
        return job_state(number, COMPLETED, finished_at=NOW - timedelta(seconds=seconds))

    spec = {"successfulJobsHistoryLimit": 1, "parallelism": 3, "maxTrials": 9}
    jobs = [finished(0, 330), finished(1, 301), finished(2, 299), finished(3, 260), finished(4, 10)]
    found = plan(observe(jobs=jobs, counts={COMPLETE: 9}, spec=spec))
    assert (found.actions, found.reconcile_after) == (
        (RemoveFinishedJob(jobs[0]), RemoveFinishedJob(jobs[1])),
        timedelta(seconds=1),
    )
    found = plan(observe(jobs=jobs[2:], counts={COMPLETE: 9}, spec=spec))
    assert (found.actions, found.reconcile_after) == ((), timedelta(seconds=40)), (
        "of both that are left, the later one's"
    )
    many = [finished(number, 10 - number) for number in range(8)]
    found = plan(observe(jobs=many, counts={COMPLETE: 9}, spec=spec))
    assert found.actions == tuple(RemoveFinishedJob(job) for job in many[:4])


def test_every_job_may_be_cleaned_up():
    spec = {"successfulJobsHistoryLimit": 0, "failedJobsHistoryLimit": 0}
    jobs = [job_state(0, COMPLETED), job_state(1, FAILED)]
    assert without_ask(observe(jobs=jobs, spec=spec)) == [RemoveFinishedJob(job) for job in jobs]


# Whatever is observed


@st.composite
def observations(draw: st.DrawFn) -> Observed:
    """What can be observed: every RUNNING row is open, and every row whose Job is active."""
    rows, jobs = [], []
    for number in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from(["none", "active", "deleting", "complete", "failed"]))
        state = draw(st.sampled_from([RUNNING, RUNNING, COMPLETE, PRUNED, FAIL]))
        mine = kind != "none" or draw(st.booleans())
        if kind != "none":
            phase = {"complete": COMPLETED, "failed": FAILED}.get(kind, ACTIVE)
            other = draw(st.sampled_from([0, 0, 0, 1000]))  # of a row that is gone
            jobs.append(job_state(number, phase, deleting=kind == "deleting", trial_id=100 + number + other))
        values = st.tuples(st.floats())
        stored = (
            st.builds(Result, values)
            | st.builds(Result, values | st.just(()), st.just(True))
            | st.builds(Result, values, provisional=st.just(True))
            | st.builds(Result, st.just(()), infeasible=st.just("too large"))
        )
        ended = NOW - timedelta(seconds=draw(st.integers(0, 20)))
        if state is RUNNING or (kind in ("active", "deleting") and draw(st.integers(0, 9))):
            rows.append(
                trial_row(
                    number,
                    state,
                    job=draw(st.sampled_from([f"digits-{number}"] * 4 + [f"digits-{number}-r1"])) if mine else None,
                    retries=draw(st.integers(0, 3)),
                    result=draw(st.none() | stored) if mine else None,
                    reports=draw(st.booleans()),
                    completed_at=None if state is RUNNING else ended,
                )
            )
    numbers = st.frozensets(st.integers(0, 4))
    spec = {
        "parallelism": draw(st.integers(0, 8)),
        "maxTrials": draw(st.integers(1, 20)),
        "maxFailedTrials": draw(st.integers(0, 4)),
        "suspend": draw(st.booleans()),
        "suspendPolicy": draw(st.sampled_from(["Drain", "Terminate"])),
        "activeTrialsPolicy": draw(st.sampled_from(["Terminate", "Wait"])),
        "infrastructureRetries": draw(st.integers(0, 3)),
        "successfulJobsHistoryLimit": draw(st.integers(0, 2)),
    }
    stuck = Stuck(Failure("Unschedulable", kind=FailureClass.INFRASTRUCTURE), draw(st.booleans()))
    return observe(
        *rows,
        jobs=jobs,
        counts=draw(st.dictionaries(st.sampled_from([COMPLETE, PRUNED, FAIL, WAITING]), st.integers(0, 5))),
        spec=spec,
        launched=frozenset(f"digits-{number}" for number in draw(numbers)),
        converged=draw(st.booleans()),
        stuck={f"digits-{number}": stuck for number in draw(numbers)},
        prune=draw(numbers),
        exhausted=draw(st.booleans()),
        launching=draw(st.booleans()),
    )


def over_and_terminating(observed: Observed) -> bool:
    return over(observed) is not None and observed.study.active_trials_policy == "Terminate"


def settles(row, job) -> bool:
    """Whether a row's result is its last word."""
    own = job is not None and job.is_of(row)
    return row.result is not None and (not row.result.provisional or (own and job.phase is COMPLETED))


@given(observations())
@QUICKLY
def test_never_starts_beyond_parallelism_or_max_trials(observed):
    found = actions(observed)
    holding = {job.number for job in observed.active}
    launched = [action.row.number for action in found if isinstance(action, CreateJob)]
    asked = [action.count for action in found if isinstance(action, Ask)]
    assert not holding & set(launched)
    assert len(asked) <= 1
    if launched or asked:
        assert len(launched) + sum(asked) <= observed.study.parallelism - len(holding)
        assert not observed.study.paused
        assert observed.launching
    for count in asked:
        assert 1 <= count <= observed.study.max_trials - observed.rows.total
        assert not observed.exhausted
        assert over(observed) is None


@given(observations())
@QUICKLY
def test_a_stored_result_is_always_told_with_it(observed):
    told = {action.row.number: action for action in actions(observed) if isinstance(action, Tell)}
    for number, row in observed.rows.open.items():
        if row.state is RUNNING and row.job and settles(row, observed.jobs.get(row.job)):
            if row.result.infeasible:
                assert (told[number].state, told[number].values) == (PRUNED, None)
            elif row.result.pruned:
                assert (told[number].state, told[number].values) == (PRUNED, row.result.values or None)
            elif any(map(math.isnan, row.result.values)):
                assert (told[number].state, told[number].values) == (FAIL, None)
            else:
                assert (told[number].state, told[number].values) == (COMPLETE, row.result.values)


@given(observations())
@QUICKLY
def test_only_own_running_trials_are_told_and_none_twice(observed):
    told = [action.row for action in actions(observed) if isinstance(action, Tell)]
    assert len({row.number for row in told}) == len(told)
    assert all(row.state is RUNNING and row.job for row in told)


@given(observations())
@QUICKLY
def test_no_job_of_a_running_trial_is_ended_unless_that_trial_is_told_or_runs_again(observed):
    found = actions(observed)
    ending = {action.row.job for action in found if isinstance(action, Tell | RunAgain)}
    for action in found:
        if isinstance(action, StopJob):
            assert action.job.phase is ACTIVE
            assert not action.job.deleting
            row = observed.rows.open.get(action.job.number)
            if row is not None and (row.trial_id, row.job) == (action.job.trial_id, action.job.name):
                assert row.state in (PRUNED, FAIL) or row.job in ending
                assert row.state is not PRUNED or observed.now - row.completed_at >= PRUNED_GRACE


@given(observations())
@QUICKLY
def test_a_job_is_created_only_for_a_trial_that_has_none(observed):
    for action in actions(observed):
        if isinstance(action, CreateJob):
            assert action.row.state is RUNNING
            assert action.row.job
            assert action.row.job not in {*observed.jobs, *observed.launched}
            assert not action.row.reports or action.row.attempt > 0


@given(observations())
@QUICKLY
def test_a_trial_runs_again_only_for_a_failure_of_the_cluster_within_its_retries_or_for_the_user(observed):
    for action in actions(observed):
        if isinstance(action, RunAgain):
            assert action.row.state is RUNNING
            job = observed.jobs[action.row.job]
            assert not (job.is_of(action.row) and settles(action.row, job))
            assert action.failure is None or action.row.retries < observed.study.infrastructure_retries


@given(observations())
@QUICKLY
def test_only_finished_jobs_of_told_trials_are_cleaned_up(observed):
    for action in actions(observed):
        if isinstance(action, RemoveFinishedJob):
            row = observed.rows.open.get(action.job.number)
            assert action.job.phase is not ACTIVE
            assert row is None or row.state is not RUNNING or row.job != action.job.name or not action.job.is_of(row)


@given(observations())
@QUICKLY
def test_what_is_done_does_not_depend_on_the_order_of_what_is_seen(observed):
    rows = dataclasses.replace(observed.rows, open=dict(reversed(observed.rows.open.items())))
    turned = dataclasses.replace(observed, rows=rows, jobs=dict(reversed(observed.jobs.items())))
    one, other = plan(observed), plan(turned)
    assert one.reconcile_after == other.reconcile_after
    assert sorted(map(repr, one.actions)) == sorted(map(repr, other.actions))


@given(observations())
@QUICKLY
def test_a_study_that_has_ended_has_nothing_left_to_do(observed):
    if outcome(observed) is not None:
        assert all(isinstance(action, RemoveFinishedJob) for action in actions(observed))


def test_an_end_is_told_of_a_study_of_any_parallelism():
    ended = Observed(study(parallelism=8), rows_of(counts={COMPLETE: 100}), {}, NOW)
    assert plan(ended) == Plan()


# What a notebook enqueued


def test_what_was_enqueued_and_cannot_be_run_fails_with_the_reason():
    row = trial_row(3, WAITING, job=None)
    told, asked = plan(observe(counts={WAITING: 1}, impossible=((row, "x is 2"),))).actions
    assert asked == Ask(1)
    assert (told.row, told.state, told.failure.reason) == (row, FAIL, "InvalidParameters")
    assert told.failure.message == "what was enqueued cannot be run: x is 2"


def test_what_was_enqueued_beyond_max_trials_is_left_alone():
    wrong = tuple((trial_row(n, WAITING, job=None), "x is 2") for n in (7, 8))
    (told,) = plan(observe(counts={COMPLETE: 7, WAITING: 2}, impossible=wrong, spec={"maxTrials": 8})).actions
    assert told.row.number == 7
    assert plan(observe(counts={COMPLETE: 8, WAITING: 2}, impossible=wrong, spec={"maxTrials": 8})).actions == ()


def test_it_counts_as_a_failed_trial_at_once():
    wrong = tuple((trial_row(n, WAITING, job=None), "x is 2") for n in range(2))
    found = plan(observe(counts={WAITING: 2}, impossible=wrong, spec={"maxFailedTrials": 1})).actions
    assert [type(action) for action in found] == [Tell, Tell]


def test_a_job_stays_no_longer_than_its_time_to_live_and_until_its_end_is_stored():
    spec = {"jobTemplate": {"spec": {**job_template()["spec"], "ttlSecondsAfterFinished": 60}}}
    ended = [
        job_state(number, COMPLETED, finished_at=NOW - timedelta(seconds=seconds))
        for number, seconds in enumerate((90, 61, 20))
    ]
    rows = [trial_row(0, result=None), trial_row(1, COMPLETE), trial_row(2, COMPLETE)]
    found = plan(observe(*rows, jobs=ended, spec=spec))
    assert [removal.job.name for removal in found.removals] == ["digits-1"], "why trial 0 has no value is in its Job"
    found = plan(observe(rows[2], jobs=ended[2:], spec=spec))
    assert (found.removals, found.reconcile_after) == ((), timedelta(seconds=40))

"""What is done next for one study: a table for each rule, then the same rules over whatever may be observed."""

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
    observe,
    result,
    rows_of,
    study,
    trial_row,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from study_operator.model.plan import PRUNED_GRACE, Ask, EndJob, Launch, Observed, Plan, Tell, outcome, plan
from study_operator.model.trial import Failure, JobPhase, Result

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


# 1. A stored result is told, whatever else is true.


@pytest.mark.parametrize(
    "around",
    [
        {"jobs": [job_state(0)]},
        {"jobs": [job_state(0, COMPLETED)]},
        {"jobs": [job_state(0, FAILED, reason="BackoffLimitExceeded")]},
        {"jobs": [job_state(0, deleting=True)]},
        {},  # the Job is gone
        {"launched": frozenset({0})},
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
    (told,) = without_ask(observe(row, **around))
    assert (told.row, told.state, told.values) == (row, state, values)
    assert (told.failure and told.failure.reason) == reason


# 2. A trial that the pruner gave up is told PRUNED at once, and its Job is deleted after a grace period.


def test_a_trial_given_up_is_told_and_its_job_left_alone_for_now():
    row = trial_row(0)
    assert without_ask(observe(row, jobs=[job_state(0)], prune=frozenset({0}))) == [Tell(row, PRUNED)]


@pytest.mark.parametrize(
    ("after", "ended", "look_again"),
    [
        (timedelta(0), False, PRUNED_GRACE),
        (timedelta(seconds=2), False, PRUNED_GRACE - timedelta(seconds=2)),
        (PRUNED_GRACE, True, None),
        (timedelta(hours=1), True, None),
    ],
)
@pytest.mark.parametrize("state", [PRUNED, FAIL])
def test_the_job_of_a_trial_without_a_future_is_deleted_after_a_grace_period(state, after, ended, look_again):
    row, job = trial_row(0, state, completed_at=NOW - after), job_state(0)
    found = plan(observe(row, jobs=[job]))
    assert found == Plan((EndJob(job),) if ended else (), look_again)


def test_the_next_look_is_when_the_first_grace_period_ends():
    rows = [trial_row(n, PRUNED, completed_at=NOW - timedelta(seconds=n)) for n in range(3)]
    found = plan(observe(*rows, jobs=[job_state(n) for n in range(3)]))
    assert found.look_again == PRUNED_GRACE - timedelta(seconds=2)


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
    assert EndJob(job) in actions(observed)


# 3. A trial whose Job has failed, ended without a value or vanished is told FAIL.


def test_a_failed_job_fails_its_trial_and_why_is_to_be_found_out():
    row, job = trial_row(0), job_state(0, FAILED, reason="BackoffLimitExceeded")
    assert without_ask(observe(row, jobs=[job])) == [Tell(row, FAIL, job=job)]


def test_a_job_that_completes_without_a_value_is_a_failed_trial():
    row, job = trial_row(0), job_state(0, COMPLETED)
    (told,) = without_ask(observe(row, jobs=[job]))
    assert (told.state, told.failure.reason, told.failure.exit_code, told.job) == (FAIL, "MetricMissing", 0, job)
    assert "study-trial finish VALUE" in told.failure.message


@pytest.mark.parametrize(
    ("row", "launched"), [(trial_row(0), frozenset({0})), (trial_row(0, reports=True), frozenset())]
)
def test_a_job_that_was_there_and_is_gone_fails_its_trial(row, launched):
    (told,) = without_ask(observe(row, launched=launched))
    assert told == Tell(row, FAIL, failure=Failure("JobMissing", "Job digits-0 was deleted before the trial had ended"))


def test_an_ended_job_counts_for_more_than_the_pruner():
    row, job = trial_row(0), job_state(0, FAILED)
    assert without_ask(observe(row, jobs=[job], prune=frozenset({0}))) == [Tell(row, FAIL, job=job)]


# 4. A trial that never had a Job gets it.


def test_a_trial_that_never_had_a_job_gets_it():
    row = trial_row(0)
    assert without_ask(observe(row)) == [Launch(row)]
    assert without_ask(observe(row, exhausted=True)) == [Launch(row)]


def test_no_job_is_created_while_nothing_may_be_started():
    assert actions(observe(trial_row(0), launching=False)) == []


def test_a_trial_that_runs_is_left_alone():
    assert without_ask(observe(trial_row(0, reports=True), jobs=[job_state(0)], launched=frozenset({0}))) == []


@pytest.mark.parametrize("stored", [None, result(0.5)])
def test_somebody_elses_trial_is_left_alone(stored):
    assert without_ask(observe(trial_row(0, job=None, result=stored, reports=True), prune=frozenset({0}))) == []


# 5. Free slots are filled while trials are left to start.


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
    ],
)
def test_nothing_is_started_that_cannot_or_should_not_run(why_not):
    assert actions(observe(**why_not)) == []


def test_no_trial_is_started_beside_the_failure_that_ends_the_study():
    told = actions(observe(trial_row(0), jobs=[job_state(0, FAILED)], spec=STRICT))
    assert [type(action) for action in told] == [Tell]


def test_as_many_failures_as_allowed_end_nothing():
    found = actions(observe(trial_row(0), jobs=[job_state(0)], spec={"maxFailedTrials": 2}, counts={FAIL: 2}))
    assert found == []
    assert actions(observe(spec={"maxFailedTrials": 2}, counts={FAIL: 2})) == [Ask(1)]


def test_a_study_that_has_failed_ends_what_runs():
    rows = [trial_row(0), trial_row(1, PRUNED), trial_row(2, COMPLETE), trial_row(3, result=result(0.5))]
    jobs = [job_state(n) for n in range(4)]
    found = actions(observe(*rows, jobs=jobs, **BROKEN))
    failure = Failure("StudyFailed", "the study ended before the trial did")
    assert found == [
        Tell(rows[0], FAIL, failure=failure),
        Tell(rows[3], COMPLETE, (0.5,)),
        EndJob(jobs[0]),
        EndJob(jobs[1]),
    ]


# 6. How a study ends.


@pytest.mark.parametrize(
    ("observed", "succeeded", "reason", "words"),
    [
        (observe(counts={COMPLETE: 100}), True, "MaxTrialsReached", "100 of 100 trials have ended"),
        (observe(counts={COMPLETE: 1, FAIL: 9, PRUNED: 90}), True, "MaxTrialsReached", "100 of 100"),
        (observe(counts={COMPLETE: 9}, exhausted=True), True, "SearchSpaceExhausted", "9 trials"),
        (observe(counts={PRUNED: 100}), False, "NoTrialSucceeded", "none of 100 trials completed, 0 failed"),
        (observe(counts={FAIL: 6}, exhausted=True), False, "NoTrialSucceeded", "none of 6 trials completed, 6 failed"),
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
        stored = st.builds(Result, values) | st.builds(Result, values | st.just(()), st.just(True))
        ended = NOW - timedelta(seconds=draw(st.integers(0, 20)))
        if state is RUNNING or (kind in ("active", "deleting") and draw(st.integers(0, 9))):
            rows.append(
                trial_row(
                    number,
                    state,
                    job=f"digits-{number}" if mine else None,
                    result=draw(st.none() | stored) if mine else None,
                    reports=draw(st.booleans()),
                    completed_at=None if state is RUNNING else ended,
                )
            )
    numbers = st.frozensets(st.integers(0, 4))
    spec = {
        "parallelism": draw(st.integers(1, 8)),
        "maxTrials": draw(st.integers(1, 20)),
        "maxFailedTrials": draw(st.integers(0, 4)),
    }
    return observe(
        *rows,
        jobs=jobs,
        counts=draw(st.dictionaries(st.sampled_from([COMPLETE, PRUNED, FAIL, WAITING]), st.integers(0, 5))),
        spec=spec,
        launched=draw(numbers),
        prune=draw(numbers),
        exhausted=draw(st.booleans()),
        launching=draw(st.booleans()),
    )


def failed_study(observed: Observed) -> bool:
    return observed.rows.count(FAIL) > observed.study.max_failed_trials


@given(observations())
@QUICKLY
def test_never_asks_beyond_parallelism_or_max_trials(observed):
    found = actions(observed)
    told = {action.row.number for action in found if isinstance(action, Tell)}
    holding = {number for number, job in observed.jobs.items() if job.phase is ACTIVE} | {
        number for number, row in observed.rows.open.items() if row.state is RUNNING and row.job and number not in told
    }
    asked = [action.count for action in found if isinstance(action, Ask)]
    assert len(asked) <= 1
    for count in asked:
        assert 1 <= count <= observed.study.parallelism - len(holding)
        assert count <= observed.study.max_trials - observed.rows.total
        assert observed.launching
        assert not observed.exhausted
        assert not failed_study(observed)


@given(observations())
@QUICKLY
def test_a_stored_result_is_always_told_with_it(observed):
    told = {action.row.number: action for action in actions(observed) if isinstance(action, Tell)}
    for number, row in observed.rows.open.items():
        if row.state is RUNNING and row.job and row.result:
            if row.result.pruned:
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
def test_no_job_of_a_running_trial_is_ended_unless_the_study_has_failed(observed):
    for action in actions(observed):
        if isinstance(action, EndJob):
            assert action.job.phase is ACTIVE
            assert not action.job.deleting
            row = observed.rows.open.get(action.job.number)
            if row is not None and row.trial_id == action.job.trial_id and not failed_study(observed):
                assert row.state in (PRUNED, FAIL)
                assert observed.now - row.completed_at >= PRUNED_GRACE


@given(observations())
@QUICKLY
def test_a_job_is_created_only_for_a_trial_that_never_had_one(observed):
    for action in actions(observed):
        if isinstance(action, Launch):
            assert action.row.state is RUNNING
            assert action.row.job
            assert action.row.number not in {*observed.jobs, *observed.launched}
            assert not action.row.reports
            assert observed.launching
            assert not failed_study(observed)


@given(observations())
@QUICKLY
def test_what_is_done_does_not_depend_on_the_order_of_what_is_seen(observed):
    rows = dataclasses.replace(observed.rows, open=dict(reversed(observed.rows.open.items())))
    turned = dataclasses.replace(observed, rows=rows, jobs=dict(reversed(observed.jobs.items())))
    one, other = plan(observed), plan(turned)
    assert one.look_again == other.look_again
    assert sorted(map(repr, one.actions)) == sorted(map(repr, other.actions))


@given(observations())
@QUICKLY
def test_a_study_that_has_ended_has_nothing_left_to_do(observed):
    if outcome(observed) is not None:
        assert actions(observed) == []


def test_an_end_is_told_of_a_study_of_any_parallelism():
    ended = Observed(study(parallelism=8), rows_of(counts={COMPLETE: 100}), {}, NOW)
    assert plan(ended) == Plan(())

"""What is decided about trials and Jobs after the database has been restored."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from building import NOW, job_state, observe, result, trial_row

from study_operator.model.actions import Ask, CreateJob, FindCause, RunAgain, StopJob, Tell
from study_operator.model.job_state import JobPhase
from study_operator.model.plan import plan
from study_operator.model.trial import Failure, FailureClass
from study_operator.model.trial_rules import CLOCKS_DIFFER, RESTORED, blame

STARTED = NOW - timedelta(hours=1)
ROW = trial_row(0, started_at=STARTED)
MADE = {"token": ROW.token, "incarnation": "before"}
AFTER = {"incarnation": "after", "restored_at": NOW}


def kinds(observed) -> list[type]:
    return [type(action) for action in plan(observed).actions]


def test_a_job_of_before_the_restore_goes_on():
    assert plan(observe(ROW, jobs=[job_state(0, **MADE)], spec={"parallelism": 1}, **AFTER)).actions == ()


def test_a_job_that_has_ended_well_without_a_result_lost_it_by_the_restore():
    ended = job_state(0, JobPhase.COMPLETE, **MADE)
    assert plan(observe(ROW, jobs=[ended], **AFTER)).reruns == (RunAgain(ROW, RESTORED),)
    (cause,) = plan(observe(ROW, jobs=[replace(ended, incarnation="after")], **AFTER)).causes
    assert cause.otherwise is not None
    assert cause.otherwise.reason == "MetricMissing"


def test_a_result_that_is_there_counts():
    row = replace(ROW, result=result(0.5))
    assert kinds(observe(row, jobs=[job_state(0, JobPhase.COMPLETE, **MADE)], spec={"maxTrials": 1}, **AFTER)) == [Tell]


@pytest.mark.parametrize(("finished", "blamed"), [(NOW - timedelta(hours=1), False), (NOW + 2 * CLOCKS_DIFFER, True)])
def test_a_program_is_blamed_only_for_what_happened_after_the_restore(finished, blamed):
    job = job_state(0, JobPhase.FAILED, finished_at=finished, **MADE)
    (cause,) = plan(observe(ROW, jobs=[job], **AFTER)).causes
    failure = blame(cause, Failure("Error", exit_code=1, last_log_line="the key is not valid"))
    assert failure.kind is (FailureClass.PROGRAM if blamed else FailureClass.INFRASTRUCTURE)
    assert "the key is not valid" in failure.sentence()


def test_other_classes_stay_what_they_are():
    failure = Failure("Infeasible", kind=FailureClass.INFEASIBLE)
    assert blame(FindCause(ROW, job_state(0), restored=True), failure) is failure


def test_a_trial_whose_job_is_gone_runs_again_if_its_reports_are_older_than_the_restore():
    row = replace(ROW, reports=True)
    assert plan(observe(row, **AFTER)).reruns == (RunAgain(row, RESTORED),)
    for changed in ({"restored_at": STARTED - timedelta(hours=1)}, {"launched": frozenset({row.job})}):
        (told,) = plan(observe(row, **(AFTER | changed))).tells
        assert told.failure is not None
        assert told.failure.reason == "JobMissing"


@pytest.mark.parametrize("phase", [JobPhase.COMPLETE, JobPhase.FAILED])
def test_an_ended_job_of_another_trial_of_this_number_and_id_is_not_taken_for_this_ones(phase):
    stale = job_state(0, phase, token="of another time", incarnation="before")
    found = plan(observe(ROW, jobs=[stale], **AFTER))
    assert (found.reruns, found.tells, found.causes) == ((RunAgain(ROW),), (), ())


def test_no_trial_is_started_while_pods_have_the_id_that_it_could_get():
    stray = job_state(3, token="of another time", incarnation="before")
    observed = observe(jobs=[stray], spec={"parallelism": 4}, **AFTER)
    found = plan(observed)
    assert found.stops == (StopJob(stray),)
    assert found.ask is None
    assert plan(observe(spec={"parallelism": 4}, **AFTER)).ask == Ask(4)


def test_a_stored_trial_still_gets_its_job_meanwhile():
    stray = job_state(3, token="of another time", incarnation="before")
    assert CreateJob in kinds(observe(ROW, jobs=[stray], spec={"parallelism": 4}, **AFTER))


def test_a_job_of_an_operator_before_0_3_is_known_by_the_trials_id():
    assert job_state(0).is_of(ROW)
    assert not job_state(0, trial_id=7).is_of(ROW)
    assert not job_state(0).is_of(None)

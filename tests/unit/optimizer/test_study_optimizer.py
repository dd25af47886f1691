"""The optimizer's door: plain values in and out, and what a batch leaves in memory that is stored, or is not."""

from __future__ import annotations

import pickle
from datetime import datetime
from typing import Any

import pytest
from building import study
from optuna.distributions import FloatDistribution, distribution_to_json

from study_operator.model.actions import RunAgain, Tell
from study_operator.model.batch import Batch, StaleHistory, Stored
from study_operator.model.history import Changes, History, StoredStudy, StoredTrial
from study_operator.model.initial_trials import WISH_ATTR
from study_operator.model.study import Refused, Study
from study_operator.model.trial import JOB_ATTR, Failure, FailureClass, Report, TrialRow, TrialState
from study_operator.optimizer import StudyOptimizer, check

NOW = datetime(2026, 11, 1, 12, 0)
SPACE = [{"name": "lr", "float": {"low": 0.001, "high": 1.0}}]
HALVING = {"name": "SuccessiveHalving", "options": {"min_resource": 1, "reduction_factor": 2}}


def stored_trial(number: int, state: TrialState, **given: Any) -> StoredTrial:
    fields: dict[str, Any] = {
        "trial_id": 100 + number,
        "number": number,
        "state": state,
        "started_at": NOW,
        "completed_at": NOW if state.is_finished() else None,
        "values": [0.5] if state is TrialState.COMPLETE else None,
        "names": (),
        "params": (),
        "distributions": (),
        "user_attrs": {},
        "system_attrs": {},
        "reports": {},
    }
    return StoredTrial(**{**fields, **given})


def optimizer_of(of: Study, *trials: StoredTrial, earlier: tuple[StoredTrial, ...] = ()) -> StudyOptimizer:
    return StudyOptimizer.of(of, History(7, StoredStudy(of.optuna_name, of.directions, {}, {}), trials), earlier, ())


def start(optimizer: StudyOptimizer, *ids: int) -> list[TrialRow]:
    optimizer.suggest(len(ids), 100)
    return optimizer.commit(Stored(NOW, ids))


def test_a_suggestion_is_a_batch_and_becomes_a_trial_when_it_is_stored():
    of = study(parameters=SPACE)
    optimizer = optimizer_of(of)
    batch = optimizer.suggest(2, 10)
    assert batch.most == 10
    changes = list(batch.trials.values())
    assert [(change.new, change.number, change.state) for change in changes] == [
        (True, 0, TrialState.RUNNING),
        (True, 1, TrialState.RUNNING),
    ]
    assert [change.system_attrs[JOB_ATTR] for change in changes] == [of.job_name(0), of.job_name(1)]
    rows = optimizer.commit(Stored(NOW, [40, 41]))
    assert [(row.trial_id, row.number, row.job) for row in rows] == [(40, 0, of.job_name(0)), (41, 1, of.job_name(1))]
    assert [row.params["lr"] for row in rows] == [change.params["lr"][0] for change in changes]
    assert (optimizer.size, optimizer.knows([40, 41]), optimizer.knows([42])) == (2, True, False)


def test_what_crosses_the_door_is_plain():
    """It can be pickled, and nothing of Optuna's is in it."""
    optimizer = optimizer_of(study(parameters=SPACE, pruner=HALVING))
    batch = optimizer.suggest(1, 10)
    (row,) = optimizer.commit(Stored(NOW, [40]))
    verdicts = optimizer.judge([Report(1, 40, 1, 0.5)], [40])
    for value in (batch, row, verdicts, optimizer.outlook()):
        assert b"optuna" not in pickle.dumps(value).replace(b"optuna_name", b"")


def test_what_is_not_stored_never_was():
    optimizer = optimizer_of(study(parameters=SPACE))
    optimizer.suggest(3, 10)
    optimizer.rollback()
    assert (optimizer.size, optimizer.outlook().exhausted) == (0, False)
    (row,) = start(optimizer, 40)
    assert row.number == 0


def test_cells_of_a_grid_that_were_not_stored_are_suggested_again():
    cells = [{"name": "n", "int": {"low": 1, "high": 2}}]
    optimizer = optimizer_of(study(parameters=cells, sampler={"name": "Grid"}))
    optimizer.suggest(1, 10)
    optimizer.rollback()
    rows = start(optimizer, 40) + start(optimizer, 41)
    assert {row.params["n"] for row in rows} == {1, 2}
    assert optimizer.outlook().exhausted


def test_a_trial_is_ended_once():
    optimizer = optimizer_of(study(parameters=SPACE))
    one, two = start(optimizer, 40, 41)
    batch = optimizer.tell([Tell(one, TrialState.COMPLETE, (0.5,))])
    (change,) = batch.trials.values()
    assert (change.trial_id, change.state, change.values) == (40, TrialState.COMPLETE, [0.5])
    assert change.unless_result, "a result that has arrived meanwhile is not overwritten"
    optimizer.commit(Stored(NOW))
    with pytest.raises(StaleHistory, match="trial 0 has ended"):
        optimizer.tell([Tell(two, TrialState.FAIL), Tell(one, TrialState.FAIL)])
    assert optimizer.tell([Tell(two, TrialState.FAIL)]).trials.keys() == {41}, "the other one was left as it was"


def test_a_trial_that_runs_again_gets_another_job_and_no_older_result():
    of = study(parameters=SPACE)
    optimizer = optimizer_of(of)
    (row,) = start(optimizer, 40)
    failure = Failure("Evicted", kind=FailureClass.INFRASTRUCTURE)
    batch = optimizer.run_again(RunAgain(row, failure), of.job_name(0, 1))
    (change,) = batch.trials.values()
    assert change.system_attrs == {JOB_ATTR: of.job_name(0, 1)}
    assert (change.failure, change.unless_result, change.forget_result) == (failure, True, True)
    optimizer.commit(Stored(NOW))
    optimizer.tell([Tell(row, TrialState.FAIL)])
    optimizer.commit(Stored(NOW))
    with pytest.raises(StaleHistory):
        optimizer.run_again(RunAgain(row), of.job_name(0, 2))


def test_what_the_pruner_notes_is_stored_with_an_end_or_by_itself():
    optimizer = optimizer_of(study(parameters=SPACE, pruner=HALVING))
    good, bad = start(optimizer, 40, 41)
    reports = [Report(1, 40, 1, 0.9), Report(2, 41, 1, 0.1)]
    assert optimizer.last_reports([40, 41]) == {40: 0, 41: 0}
    verdicts = optimizer.judge(reports, [40, 41])
    assert verdicts.prune == {41}
    assert verdicts.notes is not None
    assert verdicts.notes.trials.keys() == {40}
    optimizer.commit(Stored(NOW))
    assert optimizer.last_reports([40, 41]) == {40: 1, 41: 2}
    assert optimizer.judge([], [40]).notes is None, "it is stored"
    (change,) = optimizer.tell([Tell(bad, TrialState.PRUNED)]).trials.values()
    assert change.system_attrs, "the note that led to the end"
    assert change.values == [0.1], "the value reported last, as Optuna has it"
    assert good.number == 0


def test_notes_that_could_not_be_stored_go_out_the_next_time():
    optimizer = optimizer_of(study(parameters=SPACE, pruner=HALVING))
    start(optimizer, 40)
    notes = optimizer.judge([Report(1, 40, 1, 0.9)], [40]).notes
    assert notes is not None
    optimizer.rollback()
    again = optimizer.judge([], [40]).notes
    assert again is not None
    assert again.trials[40].system_attrs == notes.trials[40].system_attrs


def test_what_other_programs_write_is_taken_over():
    optimizer = optimizer_of(study(parameters=SPACE))
    waiting = stored_trial(0, TrialState.WAITING, system_attrs={WISH_ATTR: {"lr": 0.25}})
    optimizer.update(Changes(None, [waiting]))
    (row,) = start(optimizer, 0)
    assert (row.trial_id, row.params) == (100, {"lr": 0.25}), "what waits comes first"
    with pytest.raises(StaleHistory, match="trial 5 has come after 1 trials"):
        optimizer.update(Changes(None, [stored_trial(5, TrialState.FAIL)]))


def test_waiting_trials_that_cannot_be_run_are_found():
    def trial(number: int, state: TrialState = TrialState.WAITING, **wanted: Any) -> StoredTrial:
        return stored_trial(number, state, system_attrs={WISH_ATTR: wanted})

    branches = [
        {"name": "optimizer", "categorical": {"choices": ["adam", "sgd"]}},
        {"name": "lr", "float": {"low": 0.001, "high": 1.0}},
        {
            "name": "momentum",
            "float": {"low": 0.0, "high": 1.0},
            "when": {"parameter": "optimizer", "in": ["sgd"]},
        },
    ]
    optimizer = optimizer_of(
        study(parameters=branches),
        trial(0, lr=0.5),
        trial(1, lr=5),
        trial(2, momentum=0.5),  # as in Optuna: used if the sampler chooses a parent that has it
        trial(3, rate=1),
        trial(4, TrialState.FAIL, lr=5),
        stored_trial(5, TrialState.WAITING),
    )
    impossible = optimizer.outlook().impossible
    assert [(row.trial_id, row.number) for row, _ in impossible] == [(101, 1), (103, 3)]
    assert impossible[0][1] == "lr is 5; it must be a number from 0.001 to 1.0"


def test_trials_of_earlier_studies_are_no_trials_of_this_one():
    earlier = tuple(
        stored_trial(
            number,
            TrialState.COMPLETE,
            names=("lr",),
            params=(0.5,),
            distributions=(distribution_to_json(FloatDistribution(0.001, 1.0)),),
        )
        for number in range(3)
    )
    optimizer = optimizer_of(study(parameters=SPACE), earlier=earlier)
    assert (optimizer.size, optimizer.knows([100])) == (0, False)
    (row,) = start(optimizer, 40)
    assert row.number == 0


def test_a_sampler_that_fails_leaves_nothing(monkeypatch):
    optimizer = optimizer_of(study(parameters=SPACE))

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr(type(optimizer._sampling._study.sampler), "before_trial", fail)
        with pytest.raises(ZeroDivisionError):
            optimizer.suggest(1, 10)
    assert optimizer.size == 0
    assert isinstance(optimizer.suggest(1, 10), Batch)


def test_a_study_whose_sampler_cannot_be_built_is_refused():
    check(study(parameters=SPACE), ())
    with pytest.raises(Refused):
        check(study(parameters=SPACE, sampler={"name": "TPE", "options": {"no_such_option": 1}}), ())

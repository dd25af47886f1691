"""What is read from logs, in the database: whole batches, once, and only for trials that run."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
from database import KEY, TestDatabase, TrialPod, settings_for

from study_operator.model.log_position import Position
from study_operator.model.trial import TrialState
from study_operator.storage.database import Database
from study_operator.storage.printed_output import Output, OutputBatch, OutputStored
from study_operator.storage.trial_queries import facts_of

FIRST, SECOND = Position(5, 1, 5), Position(9, 2, 9, 0, 1)


@pytest.fixture
def output(database: TestDatabase) -> Output:
    return Output(Database(settings_for(database).dsn))


def reports(database: TestDatabase, trial_id: int) -> list[tuple[int, str]]:
    return [(r.step, str(r.value)) for r in database.trials().reports({trial_id: 0}, 10_000)[0]]


def bad(database: TestDatabase, trial_id: int) -> tuple[int, str]:
    ((study_id,),) = database.query("SELECT study_id FROM trials WHERE trial_id = %s", trial_id)
    with Database(settings_for(database).dsn).transaction() as cursor:
        facts = facts_of(cursor, study_id)
        return facts.bad_reports, facts.last_bad_report


def results(database: TestDatabase) -> list[tuple]:
    return database.query("SELECT trial_id, vals, pruned, constraint_values, infeasible FROM study_operator.results")


def test_reports_are_those_that_pods_would_have_stored(database, output):
    theirs, ours = database.running_trial(), database.running_trial()
    values = [(3, math.nan), (1, math.inf), (2, -math.inf), (7, 0.1 + 0.2), (8, 5e-324), (7, 99.0)]
    for step, value in values:
        TrialPod(database, KEY, theirs).call("report", step, value)
    assert output.store(ours, "pod", None, FIRST, OutputBatch(values)) is OutputStored.DONE
    columns = "step, intermediate_value, intermediate_value_type::text"
    stored = [
        database.query(
            f"SELECT {columns} FROM trial_intermediate_values WHERE trial_id = %s ORDER BY trial_intermediate_value_id",
            trial_id,
        )
        for trial_id in (theirs, ours)
    ]
    assert stored[0] == stored[1]
    assert len(stored[1]) == 5


def test_of_two_readers_of_one_log_one_stores(database, output):
    trial_id = database.running_trial()
    assert output.position(trial_id, "pod") is None
    assert output.store(trial_id, "pod", None, FIRST, OutputBatch([(0, 1.0)])) is OutputStored.DONE
    assert output.store(trial_id, "pod", None, SECOND, OutputBatch([(1, 1.0)], {}, 1, "bad")) is OutputStored.STALE
    assert output.position(trial_id, "pod") == FIRST
    with ThreadPoolExecutor(8) as threads:
        batches = [OutputBatch([(10 + i, 1.0)], {"score": float(i)}, 1, f"bad {i}") for i in range(8)]
        done = list(threads.map(lambda batch: output.store(trial_id, "pod", FIRST, SECOND, batch), batches))
    assert sorted(answer.name for answer in done) == ["DONE"] + ["STALE"] * 7
    winner = done.index(OutputStored.DONE)
    assert output.position(trial_id, "pod") == SECOND
    assert reports(database, trial_id) == [(0, "1.0"), (10 + winner, "1.0")]
    assert bad(database, trial_id) == (1, f"bad {winner}")


def test_an_ended_trial_takes_nothing_more(database, output):
    trial_id = database.running_trial()
    output.store(trial_id, "pod", None, FIRST, OutputBatch([(0, 1.0)], {"score": 1.0}))
    database.tell(trial_id, TrialState.PRUNED, None)
    assert output.store(trial_id, "pod", FIRST, SECOND, OutputBatch([(1, 1.0)], {}, 1, "bad")) is OutputStored.ENDED
    assert output.finish(trial_id, {"score": "score"}, {}) == ()
    assert reports(database, trial_id) == [(0, "1.0")]
    assert bad(database, trial_id) == (0, "")
    assert results(database) == []
    assert output.store(987654, "pod", None, FIRST, OutputBatch([(1, 1.0)])) is OutputStored.ENDED


def test_a_batch_and_its_position_are_stored_both_or_neither(database, output):
    trial_id = database.running_trial()
    output.store(trial_id, "pod", None, FIRST, OutputBatch([(0, 1.0)]))
    too_large = OutputBatch([(1, 1.0), (2**40, 1.0)], {}, 1, "bad")
    with pytest.raises(Exception, match="integer out of range"):
        output.store(trial_id, "pod", FIRST, SECOND, too_large)
    assert output.position(trial_id, "pod") == FIRST
    assert reports(database, trial_id) == [(0, "1.0")]
    assert bad(database, trial_id) == (0, "")


def test_the_result_is_the_last_of_each_value_over_all_pods(database, output):
    trial_id = database.running_trial(directions=2)
    objectives, constraints = {"score": "score", "cost": "cost"}, {"latency": "latency", "size": "size"}
    assert output.finish(trial_id, objectives, constraints) == ("score", "cost")
    output.store(trial_id, "b", None, FIRST, OutputBatch(values={"score": 0.5, "latency": 43.0}))
    output.store(trial_id, "b", FIRST, SECOND, OutputBatch(values={"score": 0.7}))
    assert output.finish(trial_id, objectives, constraints) == ("cost",)
    assert results(database) == []
    output.store(trial_id, "a", None, FIRST, OutputBatch(values={"cost": math.inf, "latency": 44.0}))
    assert output.finish(trial_id, objectives, constraints) == ()
    expected = [(trial_id, [0.7, math.inf], False, {"latency": 44.0}, None)]
    assert results(database) == expected
    output.store(trial_id, "a", FIRST, SECOND, OutputBatch(values={"cost": 1.0}))
    assert output.finish(trial_id, objectives, constraints) == ()
    assert results(database) == expected, "stored once"


@pytest.mark.parametrize(("resumed", "highest"), [(False, 0.8), (True, 0.9)])
def test_a_highest_value_is_that_of_the_last_pod_or_of_all_pods_that_resume(database, output, resumed, highest):
    trial_id, best = database.running_trial(), "top-5 %\nMax"
    output.store(trial_id, "a", None, FIRST, OutputBatch(values={"top-5 %": 0.9, best: 0.9}))
    output.store(trial_id, "a", FIRST, SECOND, OutputBatch(values={"top-5 %": 0.1, best: 0.1}))
    output.store(trial_id, "b", None, FIRST, OutputBatch(values={"top-5 %": 0.8, best: 0.8}))
    output.store(trial_id, "b", FIRST, SECOND, OutputBatch(values={"top-5 %": 0.7, best: math.nan}))
    assert output.finish(trial_id, {"top5": best}, {"last": "top-5 %", "none": "ms"}, resumed) == ()
    assert results(database) == [(trial_id, [highest], False, {"last": 0.7}, None)]


def test_additional_values_are_user_attributes_of_the_trial(database, output):
    trial_id = database.running_trial(KEY, "team/additional")
    output.store(trial_id, "pod", None, FIRST, OutputBatch(additional={"loss": 0.5, "Lr (max)": math.nan}))
    output.store(trial_id, "pod", FIRST, SECOND, OutputBatch(additional={"loss": 0.25}))
    with database.optuna_study("team/additional") as study:
        (trial,) = study.get_trials()
    assert trial.user_attrs == {"loss": 0.25, "Lr (max)": "nan"}


def test_bad_lines_are_summed_over_a_study_and_the_latest_is_shown(database, output):
    one, two = database.running_trial(), database.running_trial()
    other = database.running_trial(study_name="team/other")
    output.store(two, "pod", None, FIRST, OutputBatch(bad=2, last_bad="second"))
    output.store(one, "pod", None, FIRST, OutputBatch(bad=1, last_bad="first"))
    assert bad(database, one) == (3, "first")
    output.store(two, "pod", FIRST, SECOND, OutputBatch(bad=3, last_bad="third"))
    assert bad(database, one) == (6, "third")
    assert bad(database, other) == (0, "")


def test_positions_go_with_the_study(database, output):
    trial_id = database.running_trial()
    output.store(trial_id, "pod", None, FIRST, OutputBatch([(0, 1.0)], {"score": 1.0}, 1, "bad"))
    database.query("DELETE FROM trial_intermediate_values")
    database.query("DELETE FROM trial_system_attributes")
    database.query("DELETE FROM trials")
    assert database.query("SELECT * FROM study_operator.log_positions") == []


def test_pods_cannot_see_or_move_positions(database):
    for table in ("log_positions", "bad_reports"):
        with pytest.raises(Exception, match="permission denied"):
            database.query_as_reporter(f"SELECT * FROM study_operator.{table}", key=KEY)

"""What people read of trials: every kind of row, ten thousand of them, and whatever a program has stored."""

from __future__ import annotations

import json
import math
import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC
from itertools import pairwise

import psycopg2
import pytest
from database import KEY, TrialPod
from reading import Reading, reading_database

from study_operator.model.readable import (
    ABSENT,
    MOST_ATTRIBUTE,
    MOST_ATTRIBUTES,
    Key,
    Objective,
    ReadableReport,
    ReadableTrial,
    ShownState,
    Where,
)
from study_operator.model.trial import Failure, FailureClass, TrialState
from study_operator.storage.readable_trials import MOST_AT_ONCE, REPORTS_OF_EACH, ReadableTrials
from study_operator.storage.reader_pool import ReaderPool

TEAM = b"a hash of 32 bytes, as it seems."
# Trials as the operator and pods store them, by the thousand. The first parameter has a place in a list of choices.
FILL = """
    SET LOCAL study_operator.own = 'on';
    INSERT INTO trials (number, study_id, state, datetime_start, datetime_complete)
    SELECT n, %(study)s, 'COMPLETE', now(), now() FROM generate_series(0, %(most)s - 1) n;
    INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json)
    SELECT trial_id, p, CASE p WHEN 'optimizer' THEN number %% 2 ELSE number END, CASE p
           WHEN 'optimizer' THEN '{"name": "CategoricalDistribution", "attributes": {"choices": ["adam", "sgd"]}}'
           ELSE '{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 0, "high": 999999}}' END
    FROM trials, unnest(ARRAY['optimizer', 'layers']) p WHERE study_id = %(study)s;
    INSERT INTO trial_values (trial_id, objective, value, value_type)
    SELECT trial_id, 0, number, 'FINITE' FROM trials WHERE study_id = %(study)s;
    INSERT INTO trial_intermediate_values (trial_id, step, intermediate_value, intermediate_value_type)
    SELECT trial_id, s, s / 2.0, 'FINITE' FROM trials, generate_series(1, 20) s WHERE study_id = %(study)s
"""


@pytest.fixture(scope="module")
def shared(services) -> Iterator[Reading]:
    with reading_database(services["database_url"]) as opened:
        yield opened


@pytest.fixture
def reading(shared) -> Reading:
    """Without studies."""
    shared.database.query("TRUNCATE studies CASCADE")
    return shared


def study_of(reading: Reading, name: str, namespace: str = "team", **more) -> int:
    """A study of that namespace. Returns its study_id."""
    uid = more.pop("uid", f"{name}-uid")
    directions = more.pop("directions", ["MAXIMIZE"])
    stored = f"{namespace}/{name}-{uid[:8]}"
    return reading.database.studies(**more).ensure(stored, directions, namespace, name, uid, "Retain", TEAM)


def filled(reading: Reading, name: str, most: int, *place: str, **more) -> int:
    """A study with so many trials. Returns its study_id."""
    study_id = study_of(reading, name, *place, **more)
    with closing(psycopg2.connect(reading.database.url)) as opened, opened, opened.cursor() as cursor:
        cursor.execute(FILL, {"study": study_id, "most": most})
    return study_id


def only(reading: Reading, where: Where = Where()) -> ReadableTrial:  # noqa: B008
    (trial,) = reading.trials.page(where).trials
    return trial


def test_a_running_trial(reading):
    trial_id = reading.database.running_trial(study_name="digits")
    pod = TrialPod(reading.database, KEY, trial_id)
    pod.call("report", 1, 0.25)
    pod.call("report", 7, 0.5)
    pod.call("set_user_attr", "of", '{"nested": [1, null, "text"]}')
    trial = only(reading)
    assert (trial.number, trial.state, trial.job, trial.attempts) == (0, ShownState.RUNNING, "job-0", 1)
    assert (trial.study.namespace, trial.study.name, trial.study.uid) == ("team", "digits", "digits")
    assert trial.study.objectives == (Objective("", "MAXIMIZE"),)
    assert trial.started_at is not None
    assert trial.started_at.tzinfo is UTC
    assert (trial.ended_at, trial.values, trial.failure) == (None, (), None)
    assert trial.attributes == {"of": {"nested": [1, None, "text"]}}
    assert trial.last_report == ReadableReport(7, 0.5)
    assert reading.trials.reports(trial) == [ReadableReport(1, 0.25), ReadableReport(7, 0.5)]
    assert reading.trials.reports(trial, after_step=1) == [ReadableReport(7, 0.5)]


def test_a_complete_trial_with_constraints(reading):
    trial_id = reading.database.running_trial(study_name="digits")
    pod = TrialPod(reading.database, KEY, trial_id)
    pod.call("finish", [0.75], False, '{"latency_ms": 43.5}')
    reading.database.query(
        "INSERT INTO trial_system_attributes (trial_id, key, value_json) VALUES (%s, 'constraints:latency_ms', '-6.5')",
        trial_id,
    )
    assert only(reading).constraints == {"latency_ms": 43.5}
    reading.database.tell(trial_id, TrialState.COMPLETE, [0.75], despite_result=True)
    trial = only(reading)
    assert (trial.state, trial.values) == (ShownState.COMPLETE, (0.75,))
    assert (trial.constraints, trial.violations) == ({"latency_ms": 43.5}, {"latency_ms": -6.5})
    assert trial.ended_at is not None
    assert trial.started_at is not None
    assert trial.ended_at > trial.started_at


@pytest.mark.parametrize(
    ("state", "values", "kind", "shown"),
    [
        (TrialState.FAIL, None, FailureClass.PROGRAM, ShownState.FAILED),
        (TrialState.FAIL, None, FailureClass.TERMINATED, ShownState.TERMINATED),
        (TrialState.PRUNED, None, FailureClass.INFEASIBLE, ShownState.INFEASIBLE),
        (TrialState.PRUNED, None, None, ShownState.PRUNED),
        (TrialState.COMPLETE, [1.0], FailureClass.INFEASIBLE, ShownState.INFEASIBLE),
    ],
)
def test_states_have_the_names_of_the_status(reading, state, values, kind, shown):
    trial_id = reading.database.running_trial(study_name="digits")
    failure = kind and Failure("ThatReason", "that message", 3, "last line", kind)
    reading.database.tell(trial_id, state, values, failure)
    trial = only(reading)
    assert (trial.state, trial.failure) == (shown, failure)
    assert only(reading, Where(states=frozenset({shown}))) == trial
    assert reading.trials.page(Where(states=frozenset(ShownState) - {shown})).trials == []


def test_a_trial_that_runs_again(reading):
    """Its failure of before is shown, and which attempt it is."""
    trial_id = reading.database.running_trial(study_name="digits")
    ((study_id,),) = reading.database.query("SELECT study_id FROM trials")
    again = {
        "id": trial_id,
        "number": 0,
        "was": ["RUNNING"],
        "failure": Failure("NodeLost", kind=FailureClass.INFRASTRUCTURE).attribute(),
        "system": [["study_operator:job", '"digits-0-r1"']],
    }
    reading.database.query("SELECT study_operator.store(%s, %s)", study_id, json.dumps({"trials": [again]}))
    trial = only(reading)
    assert (trial.state, trial.job, trial.attempts) == (ShownState.RUNNING, "digits-0-r1", 2)
    assert trial.failure == Failure("NodeLost", kind=FailureClass.INFRASTRUCTURE)


def test_parameters_have_their_types(reading):
    """As Optuna itself gives them."""
    study_of(reading, "typed")
    with reading.database.optuna_study("team/typed-typed-ui") as study:
        asked = study.ask()
        asked.suggest_float("lr", 1e-5, 1e-1, log=True)
        asked.suggest_int("layers", 2, 8, step=2)
        asked.suggest_categorical("choice", [None, True, 1, 0.5, "text\u202e\x1b[31m", "</script>"])
        study.enqueue_trial({"lr": 0.01})
        trial, waiting = reading.trials.page(Where()).trials
        assert trial.params == asked.params
        assert [*trial.params] == ["lr", "layers", "choice"]
        assert {type(value) for value in trial.params.values()} == {type(value) for value in asked.params.values()}
        assert (trial.job, trial.attempts) == (None, 0)
        assert (waiting.state, waiting.params) == (ShownState.WAITING, {})


def test_several_objectives_with_names(reading):
    study_id = study_of(reading, "several", directions=["MINIMIZE", "MAXIMIZE"])
    assert only_study(reading).objectives == (Objective("", "MINIMIZE"), Objective("", "MAXIMIZE"))
    reading.database.query(
        "INSERT INTO study_system_attributes (study_id, key, value_json) VALUES (%s, 'study:metric_names', %s)",
        study_id,
        '["loss", "accuracy"]',
    )
    assert only_study(reading).objectives == (Objective("loss", "MINIMIZE"), Objective("accuracy", "MAXIMIZE"))
    for nonsense in ('["one"]', "{}", "no json", "[" * 60_000):
        reading.database.query("UPDATE study_system_attributes SET value_json = %s", nonsense)
        assert [one.name for one in only_study(reading).objectives] == ["", ""]


def only_study(reading: Reading):
    (study,) = reading.trials.studies(Where())
    return study


def test_numbers_that_json_does_not_have(reading):
    trial_id = reading.database.running_trial(study_name="numbers")
    pod = TrialPod(reading.database, KEY, trial_id)
    for step, value in enumerate((math.inf, -math.inf, math.nan)):
        pod.call("report", step, value)
    first, second, third = reading.trials.reports(only(reading))
    assert (first.value, second.value) == (math.inf, -math.inf)
    assert math.isnan(third.value)
    assert (last := only(reading).last_report) is not None
    assert math.isnan(last.value)
    reading.database.tell(trial_id, TrialState.COMPLETE, [-math.inf])
    assert only(reading).values == (-math.inf,)
    with reading.trials.whole(only_study(reading)) as chunks:
        (chunk,) = chunks
    ((steps, values),) = chunk.reports
    assert (steps, values[:2], math.isnan(values[2])) == ([0, 1, 2], [math.inf, -math.inf], True)


HOSTILE_JSON = ["", "no json", "[" * 1000, '"\\u0000\\u001b[31m"', '"\\ud800"', "NaN", "1e999", "[" * 500 + "]" * 500]


def test_whatever_a_notebook_stores(reading):
    """It may write to Optuna's tables what it likes. A page is read all the same, and has a bounded size."""
    filled(reading, "hostile", 3)
    ((trial_id,),) = reading.database.query("SELECT trial_id FROM trials WHERE number = 1")
    for n, text in enumerate(HOSTILE_JSON):
        reading.database.query(
            "INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (%s, %s, %s)", trial_id, f"a{n}", text
        )
        reading.database.query(
            "INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json)"
            " VALUES (%s, %s, 'NaN', %s)",
            *(trial_id, f"p{n}", text),
        )
    reading.database.query(
        "INSERT INTO trial_system_attributes (trial_id, key, value_json)"
        " SELECT %s, * FROM (VALUES ('study_operator:job', '[1]'), ('constraints:', '{}'),"
        " ('constraints:x', '1e400')) v",
        trial_id,
    )
    reading.database.query(
        "UPDATE trial_params SET param_value = 7 WHERE trial_id = %s AND param_name = 'optimizer'", trial_id
    )
    reading.database.query("UPDATE trials SET datetime_start = 'infinity', datetime_complete = '4000-01-01 BC'")
    before, trial, _ = reading.trials.page(Where()).trials
    assert before.params == {"optimizer": "adam", "layers": 0}
    assert trial.params == {"layers": 1}, "a place without a choice is left out"
    assert (trial.started_at, trial.ended_at, trial.job) == (None, None, None)
    assert trial.attributes["a3"] == "\0\x1b[31m"
    assert {"a0", "a1", "a2"}.isdisjoint(trial.attributes)
    assert trial.attributes_left_out == len(HOSTILE_JSON) - len(trial.attributes)
    assert trial.violations == {"x": math.inf}


def test_huge_and_many_attributes(reading):
    trial_id = reading.database.running_trial(study_name="huge")
    text = json.dumps("x" * (MOST_ATTRIBUTE - 2))
    for name, value in (("fits", text), ("too long", text + " ")):
        reading.database.query(
            "INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (%s, %s, %s)", trial_id, name, value
        )
    trial = only(reading)
    assert ([*trial.attributes], trial.attributes_left_out) == (["fits"], 1)
    reading.database.query(
        "INSERT INTO trial_user_attributes (trial_id, key, value_json)"
        " SELECT %s, 'a' || n, '1' FROM generate_series(1, 1000) n",
        trial_id,
    )
    trial = only(reading)
    assert len(trial.attributes) == MOST_ATTRIBUTES - 1
    assert trial.attributes_left_out == 1002 - len(trial.attributes)


def test_which_trials(reading):
    for namespace, name, uid in (("a", "one", "11"), ("a", "two", "22"), ("b", "one", "33")):
        filled(reading, name, 2, namespace, uid=uid)
    filled(reading, "other", 2, "a", uid="44", cluster_id="another")

    def found(**where) -> list[tuple[str, str, int]]:
        trials = reading.trials.page(Where(**where)).trials
        return [(one.study.namespace, one.study.name, one.number) for one in trials]

    assert found() == [
        ("a", "one", 0),
        ("a", "one", 1),
        ("a", "two", 0),
        ("a", "two", 1),
        ("b", "one", 0),
        ("b", "one", 1),
    ]
    assert found(namespace="a") == [("a", "one", 0), ("a", "one", 1), ("a", "two", 0), ("a", "two", 1)]
    assert found(study="one", number=1) == [("a", "one", 1), ("b", "one", 1)]
    assert found(namespace="a", study="one", number=1) == [("a", "one", 1)]
    assert found(uid="3") == [("b", "one", 0), ("b", "one", 1)]
    assert found(uid="%") == found(namespace="") == found(states=frozenset()) == []
    assert [study.name for study in reading.trials.studies(Where(namespace="a"))] == ["one", "two"]
    assert reading.trials.trial(Where(namespace="b", study="one", number=7)) is None


def test_trials_by_their_keys(reading):
    study_id = filled(reading, "keys", 4)
    keys = [Key(study_id, 3), Key(study_id, 1), Key(study_id, 9), Key(study_id + 1, 0), Key(study_id, 3)]
    assert [one.number for one in reading.trials.trials(keys)] == [1, 3]
    other = ReadableTrials(reading.pool, "another cluster")
    assert other.trials(keys) == []


def test_pages_go_on_where_the_last_one_ended(reading):
    """Also when trials are added and studies deleted meanwhile."""
    first, second = filled(reading, "first", 5), filled(reading, "second", 3)
    page = reading.trials.page(Where(), limit=3)
    assert [one.number for one in page.trials] == [0, 1, 2]
    assert page.after == Key(first, 2)
    reading.database.query("DELETE FROM trial_params")
    page = reading.trials.page(Where(), 3, page.after)
    assert [(one.study.study_id, one.number) for one in page.trials] == [(first, 3), (first, 4), (second, 0)]
    page = reading.trials.page(Where(), 3, page.after)
    assert ([one.number for one in page.trials], page.after) == ([1, 2], None)


def test_ten_thousand_trials_in_bounded_memory(reading):
    """A page of five hundred takes a few MiB, whichever it is; so does each part of the whole study."""
    filled(reading, "large", 10_000)
    after, seen = None, 0
    tracemalloc.start()
    while True:
        page = reading.trials.page(Where(study="large"), 10**9, after)
        assert len(page.trials) <= MOST_AT_ONCE
        assert [one.number for one in page.trials] == [*range(seen, seen + len(page.trials))]
        seen, after = seen + len(page.trials), page.after
        if after is None:
            break
    assert seen == 10_000
    study = page.trials[0].study
    del page
    numbers, layers, reports = [], [], 0
    with reading.trials.whole(study) as chunks:
        for chunk in chunks:
            numbers += chunk.numbers
            layers += chunk.params["layers"]
            reports += sum(len(steps) for steps, _ in chunk.reports)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert numbers == layers == [*range(10_000)]
    assert reports == 200_000
    assert peak < 16 * 2**20


def test_a_whole_study_by_columns(reading):
    study_id = filled(reading, "columns", 3)
    ((trial_id,),) = reading.database.query("SELECT trial_id FROM trials WHERE number = 1")
    reading.database.query("DELETE FROM trial_params WHERE trial_id = %s AND param_name = 'layers'", trial_id)
    reading.database.query(
        "INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (%s, 'of', 'null')", trial_id
    )
    (study,) = reading.trials.studies(Where(uid="columns"))
    with reading.trials.whole(study, with_reports=False) as chunks:
        (chunk,) = chunks
    assert study.study_id == study_id
    assert chunk.params == {"optimizer": ["adam", "sgd", "adam"], "layers": [0, ABSENT, 2]}
    assert chunk.attributes == {"of": [ABSENT, None, ABSENT]}
    assert (chunk.values, chunk.reports, chunk.constraints) == ([(0.0,), (1.0,), (2.0,)], [], {})


def test_very_many_reports_of_a_trial(reading):
    """Of a whole study's trials they are thinned out evenly. By themselves they come in pieces."""
    study_id = filled(reading, "curves", 1)
    reading.database.query(
        "INSERT INTO trial_intermediate_values (trial_id, step, intermediate_value, intermediate_value_type)"
        " SELECT trial_id, s, s, 'FINITE' FROM trials, generate_series(21, 30000) s WHERE study_id = %s",
        study_id,
    )
    trial = only(reading)
    with reading.trials.whole(trial.study) as chunks:
        ((steps, values),) = next(chunks).reports
    assert REPORTS_OF_EACH / 2 <= len(steps) <= REPORTS_OF_EACH + 1
    assert (steps[0], steps[-1], values[-1]) == (1, 30_000, 30_000.0)
    assert {after - before for before, after in pairwise(steps[:-1])} == {30}
    found, after = [], -1
    while some := reading.trials.reports(trial, after):
        found, after = found + [one.step for one in some], some[-1].step
    assert found == [*range(1, 30_001)]


def test_a_page_and_its_number_are_of_one_moment(reading):
    """A watch from a page's number on misses nothing that the page does not show."""
    reading.database.running_trial(study_name="moment")
    page = reading.trials.page(Where())
    assert [one.number for one in page.trials] == [0]
    assert reading.trials.changes(page.at).changes == []
    reading.database.running_trial(study_name="moment")
    assert [one.first for one in reading.trials.changes(page.at).changes] == [1]


def test_reading_waits_for_nobody_who_writes(reading):
    """A transaction that holds every row of a study keeps no reader waiting."""
    filled(reading, "locked", 10)
    pool = ReaderPool(reading.dsn, statement_seconds=5)
    with reading.database.trials()._database.transaction() as cursor:  # the operator's own way to a transaction
        cursor.execute("SELECT FROM trials FOR UPDATE")
        assert len(ReadableTrials(pool, "test-cluster").page(Where()).trials) == 10
    pool.close()

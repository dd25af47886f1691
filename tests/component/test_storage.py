"""The rows: stock Optuna beside the operator, reports that wake it, and removal."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import optuna
import pytest
from database import KEY, TestDatabase, TrialPod, settings_for
from waiting import until
from world import World, params_of

from study_operator.model.batch import Batch, Stored
from study_operator.model.history import Verdicts
from study_operator.model.study import parse
from study_operator.model.trial import Failure, Report, TrialState
from study_operator.processes.remote_optimizer import RemoteOptimizer
from study_operator.reconcile import study_trials
from study_operator.storage import batch_writer
from study_operator.storage.database import Database, StorageUnavailable
from study_operator.storage.listen import listen

# Stock Optuna beside the operator


def test_rows_are_those_that_optuna_would_write(database):
    trial = TrialPod(database, KEY, database.running_trial())
    reports = {3: math.nan, 1: math.inf, 2: -math.inf, 7: 0.1 + 0.2, 8: 5e-324, 9: 1.7976931348623157e308}
    with database.optuna_study("team/study") as study:
        theirs = study.ask()
        for step, value in reports.items():
            assert trial.call("report", step, value) is False
            theirs.report(value, step)
        trial.call("report", 7, 99.0)
        with pytest.warns(UserWarning, match="already reported"):
            theirs.report(99.0, 7)
        trial.call("set_user_attr", "epochs", '{"a": [1, null]}')
        theirs.set_user_attr("epochs", {"a": [1, None]})
        database.tell(trial.trial_id, TrialState.COMPLETE, [math.inf])
        study.tell(theirs, math.inf)
        for table, columns in {
            "trial_intermediate_values": "step, intermediate_value, intermediate_value_type::text",
            "trial_values": "objective, value, value_type::text",
            "trial_user_attributes": "key, value_json",
        }.items():
            ours, optunas = (
                database.query(f"SELECT {columns} FROM {table} WHERE trial_id = %s ORDER BY 1", trial_id)
                for trial_id in (trial.trial_id, theirs._trial_id)
            )
            assert ours == optunas
            assert ours
        stored = database.trials().reports({trial.trial_id: 0}, 10_000)[0]
        assert [(report.step, str(report.value)) for report in stored] == [(s, str(v)) for s, v in reports.items()]
        assert all(isinstance(report, Report) for report in stored)
        frozen, expected = study.trials
        assert repr(frozen.intermediate_values) == repr(expected.intermediate_values)


async def test_stock_optuna_reads_the_study(world):
    await world.apply(pruner={"name": "SuccessiveHalving", "options": {"min_resource": 1, "reduction_factor": 2}})
    await world.settle()
    params = {0: params_of(await world.job(0))}
    (await world.pod(0)).call("report", 1, 0.9)
    (await world.pod(1)).call("report", 1, 0.1)
    await world.settle()
    await world.end_job(1)
    await world.run_trials(lambda number: number / 10)
    status = (await world.study())["status"]
    with world.database.optuna_study(status["studyName"]) as study:
        trials = study.trials
        assert [trial.state.name for trial in trials] == ["COMPLETE", "PRUNED", "COMPLETE", "COMPLETE"]
        assert [trial.values for trial in trials] == [[0.0], [0.1], [0.2], [0.3]]
        assert [trial.intermediate_values for trial in trials] == [{1: 0.9}, {1: 0.1}, {}, {}]
        assert trials[0].params == params[0]
        assert study.best_trial.number == status["bestTrial"]["number"] == 3
        assert study.direction.name == "MAXIMIZE"
        for trial in trials:
            trial._validate()
            assert trial.datetime_start < trial.datetime_complete
        (summary,) = optuna.get_all_study_summaries(study._storage)
        assert (summary.study_name, summary.n_trials) == (status["studyName"], 4)
        # And it can go on from there: a sampler of its own learns from these trials.
        assert set(study.ask(dict(trials[0].distributions)).params) == {"x", "layers", "kind"}


async def test_a_trial_that_a_notebook_enqueues_runs_next(world):
    await world.apply()
    await world.settle()
    name = (await world.study())["status"]["studyName"]
    with world.database.optuna_study(name) as study:
        study.enqueue_trial({"x": 0.25, "layers": 3, "kind": "b"}, user_attrs={"by": "notebook"})
        study.enqueue_trial({"x": 0.75})
    await world.settle()
    assert await world.active() == [0, 1], "parallelism holds for them too"
    for number in (0, 1):
        await world.finish(number, 0.1)
        await world.end_job(number)
    await world.settle()
    assert params_of(await world.job(2)) == {"x": 0.25, "layers": 3, "kind": "b"}
    partly = params_of(await world.job(3))
    assert (partly["x"], set(partly)) == (0.75, {"x", "layers", "kind"})
    await world.run_trials(lambda number: number)
    assert (await world.study())["status"]["progress"] == "4/4"
    with world.database.optuna_study(name) as study:
        assert study.trials[2].user_attrs == {"by": "notebook"}
        assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 4


async def test_a_trial_that_a_notebook_runs_itself_is_left_alone(world):
    await world.apply(maxTrials=3)
    await world.settle()
    name = (await world.study())["status"]["studyName"]
    with world.database.optuna_study(name) as study:
        theirs = study.ask()
        assert theirs.number == 2
        await world.run_trials(lambda number: number / 10)
        assert world.rows() == [(0, "COMPLETE"), (1, "COMPLETE"), (2, "RUNNING")]
        assert {job["metadata"]["name"] for job in await world.jobs()} == {"study-0", "study-1"}
        study.tell(theirs, 0.9)
    await world.settle()
    status = (await world.study())["status"]
    assert (status["progress"], status["bestTrial"]["number"], "jobName" in status["bestTrial"]) == ("3/3", 2, False)
    assert (await world.condition("Complete"))["reason"] == "MaxTrialsReached"


@pytest.fixture
def somebody_else_adds(monkeypatch: pytest.MonkeyPatch) -> Callable[[World, str, int], None]:
    """Lets another program add a trial whenever the operator is about to store one, so many times."""

    def arrange(world: World, name: str, times: int) -> None:
        store, left = batch_writer.store, [times]

        def store_after_somebody_else(database: Database, study_id: int, batch: Batch) -> Stored:
            if left[0] and batch.most is not None:
                left[0] -= 1
                with world.database.optuna_study(name) as study:
                    study.add_trial(optuna.create_trial(value=0.5))
            return store(database, study_id, batch)

        monkeypatch.setattr(study_trials, "store", store_after_somebody_else)

    return arrange


async def test_a_trial_added_between_a_suggestion_and_its_row(world, somebody_else_adds):
    study = parse(await world.apply())
    somebody_else_adds(world, study.optuna_name, 1)
    assert not (await world.look()).failed
    assert world.rows() == [(0, "COMPLETE"), (1, "RUNNING"), (2, "RUNNING")]
    assert await world.active() == [1, 2]


async def test_a_trial_added_in_the_place_of_the_last_one(world, somebody_else_adds):
    study = parse(await world.apply(maxTrials=2))
    somebody_else_adds(world, study.optuna_name, 1)
    await world.look()
    assert world.rows() == [(0, "COMPLETE"), (1, "RUNNING")]
    assert await world.active() == [1]


async def test_trials_added_again_and_again(world, somebody_else_adds):
    study = parse(await world.apply(maxTrials=50))
    somebody_else_adds(world, study.optuna_name, 100)
    assert (await world.look()).failed
    condition = await world.condition("Progressing")
    message = "other programs keep adding trials to this study; the next attempt comes in a moment"
    assert (condition["reason"], condition["message"]) == ("TrialsCannotStart", message)
    assert not await world.jobs()


def test_a_trial_is_told_once(database):
    trial_id = database.running_trial()
    assert database.tell(trial_id, TrialState.COMPLETE, [0.5]) is True
    told = database.query("SELECT state::text, datetime_complete FROM trials")
    assert database.tell(trial_id, TrialState.FAIL, None, failure=Failure("TooLate"), despite_result=True) is False
    assert database.tell(trial_id, TrialState.COMPLETE, [0.6]) is False
    assert database.query("SELECT state::text, datetime_complete FROM trials") == told
    assert database.query("SELECT value FROM trial_values") == [(0.5,)]
    assert database.query("SELECT count(*) FROM trial_user_attributes") == [(0,)]


async def test_a_value_that_arrives_while_a_failure_is_told_is_kept(world, monkeypatch):
    await world.apply(maxTrials=1, parallelism=1)
    await world.settle()
    pod, store = await world.pod(0), batch_writer.store

    def store_after_the_value_came(database: Database, study_id: int, batch: Batch) -> Stored:
        monkeypatch.setattr(study_trials, "store", store)
        assert pod.call("finish", [0.5]) is False
        return store(database, study_id, batch)

    monkeypatch.setattr(study_trials, "store", store_after_the_value_came)
    await world.end_job(0, "BackoffLimitExceeded")
    await world.look()
    assert world.rows() == [(0, "RUNNING")]
    await world.settle()
    status = (await world.study())["status"]
    assert (status["phase"], status["bestTrial"]["values"], world.rows()) == ("Succeeded", ["0.5"], [(0, "COMPLETE")])


async def test_a_decision_that_is_lost_on_its_way_is_made_again(world, monkeypatch):
    await world.apply(pruner={"name": "SuccessiveHalving", "options": {"min_resource": 1, "reduction_factor": 2}})
    await world.settle()
    good, bad = await world.pod(0), await world.pod(1)
    good.call("report", 1, 0.9)
    bad.call("report", 1, 0.1)
    judge = RemoteOptimizer.judge

    def loses_the_answer(optimizer: RemoteOptimizer, *arguments: Any) -> Verdicts:
        monkeypatch.setattr(RemoteOptimizer, "judge", judge)
        assert judge(optimizer, *arguments).prune
        raise ZeroDivisionError

    monkeypatch.setattr(RemoteOptimizer, "judge", loses_the_answer)
    with pytest.raises(ZeroDivisionError):
        await world.look()
    await world.settle()
    assert world.rows() == [(0, "RUNNING"), (1, "PRUNED")]


async def test_a_pruned_trial_is_told_to_stop_and_stores_nothing_more(world):
    await world.apply(pruner={"name": "SuccessiveHalving", "options": {"min_resource": 1, "reduction_factor": 2}})
    await world.settle()
    good, bad = await world.pod(0), await world.pod(1)
    good.call("report", 1, 0.9)
    assert bad.call("should_stop") is False
    assert bad.call("report", 1, 0.1) is False
    await world.settle()
    assert world.rows() == [(0, "RUNNING"), (1, "PRUNED")], "its Job may still end by itself"
    assert bad.call("should_stop") is True
    assert bad.call("report", 2, 0.9) is True
    assert bad.call("finish", [0.9]) is True
    assert world.database.query("SELECT step FROM trial_intermediate_values WHERE trial_id = %s", bad.trial_id) == [
        (1,)
    ]
    assert world.database.query("SELECT count(*) FROM study_operator.results") == [(0,)]


# Reports wake the operator


async def test_reports_are_heard_also_after_the_connection_was_lost(database):
    trial = TrialPod(database, KEY, database.running_trial())
    (study_id,) = database.query("SELECT study_id FROM studies")[0]
    heard: list[int] = []
    wished: list[int] = []
    connected = asyncio.Event()
    with ThreadPoolExecutor(1) as executor:
        listening = asyncio.create_task(
            listen(Database(settings_for(database).dsn), executor, heard.append, wished.append, connected.set)
        )
        listener = await until(lambda: _listeners(database))
        trial.call("report", 1, 0.5)
        await until(lambda: heard == [study_id], patience=2.0)
        trial.call("finish", [0.5])
        await until(lambda: heard == [study_id] * 2, patience=2.0)
        assert connected.is_set(), "reports from before are to be looked for"
        connected.clear()

        database.query("SELECT pg_terminate_backend(%s)", *listener[0])
        await asyncio.wait_for(connected.wait(), 10.0)
        assert await until(lambda: _listeners(database)) != listener
        for payload in ("rubbish", "wish", "wish of mine", f"wish {study_id}"):
            database.query("SELECT pg_notify(channel, %s) FROM study_operator.installation", payload)
        await until(lambda: wished == [study_id], patience=2.0)
        TrialPod(database, KEY, database.running_trial()).call("report", 1, 0.5)
        await until(lambda: heard == [study_id] * 3, patience=2.0)
        assert not listening.done()
        listening.cancel()
        await asyncio.wait([listening])
    await until(lambda: not _listeners(database))


def _listeners(database: TestDatabase) -> list[tuple[int]]:
    return database.query(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN study%'"
        " AND state = 'idle'"
    )


# Removal


async def test_a_lost_connection_is_found_out_once(database):
    """All threads' connections are lost together when the server restarts: not each of them by a look that fails."""
    opened = Database(settings_for(database).dsn)
    together = threading.Barrier(4)

    def ask(wait: bool) -> int:
        with opened.transaction() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            if wait:
                together.wait(30)  # each in a thread of its own
            return cursor.fetchone()[0]

    with ThreadPoolExecutor(4) as threads:
        before = list(threads.map(ask, [True] * 4))
        database.query("SELECT pg_terminate_backend(pid, 10000) FROM unnest(%s) AS lost (pid)", before)
        with pytest.raises(StorageUnavailable):
            threads.submit(ask, False).result()
        after = list(threads.map(ask, [True] * 4))
    assert len({*before, *after}) == 8


async def test_a_study_deleted_with_its_rows_leaves_none_in_any_table(world):
    for name in ("kept", "gone"):
        await world.apply(name, deletionPolicy="Delete", sampler={"name": "CmaES"})
        await world.settle(name)
        pod = await world.pod(0, name)
        pod.call("report", 1, 0.5)
        pod.call("set_user_attr", "a", "1")
        pod.call("bad_report", "line 7 is no number", 1)
        await world.finish(0, 0.5, study=name)
        await world.end_job(1, "BackoffLimitExceeded", study=name)
        await world.settle(name)
        world.database.query(
            "INSERT INTO study_operator.log_positions (trial_id, pod_uid, position, vals)"
            " VALUES (%s, 'pod', 'end', '{}') RETURNING 1",
            pod.trial_id,
        )
        world.database.query("INSERT INTO study_operator.stops (trial_id) VALUES (%s)", pod.trial_id)
        world.database.query(
            "INSERT INTO study_operator.wishes (study_id, trial_id, kind, content, wished_by)"
            """ SELECT study_id, trial_id, 'Stop', '{"as": "PRUNED"}', 'jane' FROM trials WHERE trial_id = %s""",
            pod.trial_id,
        )
        status = (await world.study(name))["status"]
        with world.database.optuna_study(status["studyName"]) as study:
            study.set_user_attr("by", "notebook")
            study._storage.set_study_system_attr(study._study_id, "by", "notebook")
            study.enqueue_trial({"x": 0.5})
            study._storage.record_heartbeat(study.trials[1]._trial_id)
            study.trials[0]
    before = _rows_of_every_table(world.database)
    assert all(before.values()), "each table has rows to be removed"
    await world.delete_study("gone")
    await world.look("gone")
    after = _rows_of_every_table(world.database)
    kept = (await world.study("kept"))["status"]["studyName"]
    assert world.database.query("SELECT study_name FROM studies") == [(kept,)]
    assert {table: len(rows) * 2 for table, rows in after.items()} == {t: len(rows) for t, rows in before.items()}
    assert all(set(rows) <= set(before[table]) for table, rows in after.items())


def _rows_of_every_table(database: TestDatabase) -> dict[str, list[tuple]]:
    """The rows of every table that belong to a study or a trial. The log of changes forgets its own by itself."""
    tables = database.query(
        "SELECT DISTINCT format('%I.%I', table_schema, table_name) FROM information_schema.columns"
        " JOIN information_schema.tables USING (table_schema, table_name)"
        " WHERE table_schema IN ('public', 'study_operator') AND column_name IN ('study_id', 'trial_id')"
        " AND table_type = 'BASE TABLE' AND table_name <> 'numbered_changes'"
    )
    return {table: database.query(f"SELECT t::text FROM {table} t") for (table,) in tables}

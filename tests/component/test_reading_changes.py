"""The log of changes that watches follow: what is in it, in which order, and for how long."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg2
import pytest
from database import KEY, TrialPod
from psycopg2 import sql
from reading import Reading, reading_database

from study_operator.model.readable import Change, ChangeKind, Gone, Key, ShownState, Where
from study_operator.model.trial import Failure, TrialState
from study_operator.storage.database import Database
from study_operator.storage.migrate import migrate
from study_operator.storage.readable_trials import ReadableTrials
from study_operator.storage.reader_login import prune_changes
from study_operator.storage.reader_pool import ReaderPool, call


@pytest.fixture(scope="module")
def shared(services) -> Iterator[Reading]:
    with reading_database(services["database_url"]) as opened:
        yield opened


@pytest.fixture
def reading(shared) -> Reading:
    """Without studies, and with all earlier changes read."""
    shared.database.query("TRUNCATE studies CASCADE")
    shared.database.query("DELETE FROM study_operator.unnumbered_changes")
    return shared


def since(reading: Reading, number: int) -> list[Change]:
    return reading.trials.changes(number).changes


def told(changes: list[Change]) -> list[tuple]:
    return [(one.study, one.first, one.was and str(one.was), one.made) for one in changes]


def pod(reading: Reading, trial: int) -> TrialPod:
    return TrialPod(reading.database, KEY, trial)


def test_a_trials_life(reading):
    start = reading.trials.number()
    trial = reading.database.running_trial(study_name="digits")
    (made,) = since(reading, start)
    assert (made.kind, made.namespace, made.uid, made.deleted) == (ChangeKind.TRIAL, "team", "digits", False)
    assert told([made]) == [("digits", 0, None, True)]
    pod(reading, trial).call("report", 1, 0.5)
    assert since(reading, made.number) == [], "a report alone is no change"
    pod(reading, trial).call("set_user_attr", "accuracy", "0.5")
    (attribute,) = since(reading, made.number)
    assert told([attribute]) == [("digits", 0, None, False)]
    pod(reading, trial).call("finish", [0.75])
    assert since(reading, attribute.number) == [], "the operator has not told it yet"
    reading.database.tell(trial, TrialState.COMPLETE, [0.75], despite_result=True)
    (ended,) = since(reading, attribute.number)
    assert told([ended]) == [("digits", 0, "Running", False)]
    assert made.number < attribute.number < ended.number
    (read,) = reading.trials.trials([Key(ended.study_id, ended.first)])
    assert (read.state, read.values) == (ShownState.COMPLETE, (0.75,))


def test_what_a_pruner_notes_with_each_report_is_no_change(reading):
    trial = reading.database.running_trial(study_name="pruned")
    ((study_id,),) = reading.database.query("SELECT study_id FROM trials WHERE trial_id = %s", trial)
    start = reading.trials.number()
    batch = {"trials": [{"id": trial, "number": 0, "was": ["RUNNING"], "system": [["completed_rung_0", "0.5"]]}]}
    reading.database.query("SELECT study_operator.store(%s, %s)", study_id, json.dumps(batch))
    assert since(reading, start) == []
    batch["trials"][0]["system"] = [["study_operator:job", '"pruned-0-r1"']]  # it runs again
    reading.database.query("SELECT study_operator.store(%s, %s)", study_id, json.dumps(batch))
    assert told(since(reading, start)) == [("pruned", 0, None, False)]


def test_what_a_notebook_does(reading):
    """By Optuna's own storage: parameters, attributes and values of a trial that it runs itself."""
    reading.database.running_trial(study_name="shared")
    start = reading.trials.number()
    with reading.database.optuna_study("shared") as study:
        trial = study.ask()
        assert told(since(reading, start)) == [("shared", 1, None, True)]
        before = reading.trials.number()
        trial.suggest_float("lr", 0.0, 1.0)
        (suggested,) = since(reading, before)
        trial.set_user_attr("of", "a notebook")
        (attribute,) = since(reading, suggested.number)
        trial.report(0.5, 1)
        assert since(reading, attribute.number) == []
        study.tell(trial, 0.5)
        assert told(since(reading, attribute.number)) == [("shared", 1, "Running", False)]
        study.enqueue_trial({"lr": 0.25})
        (waiting,) = reading.trials.page(Where(states=frozenset({ShownState.WAITING}))).trials
        assert waiting.number == 2


def test_an_open_transaction_is_never_overtaken(reading):
    """It has begun before, and changed a trial before. Its change is numbered after it is committed, and above all."""
    older, newer = (reading.database.running_trial(study_name=name) for name in ("older", "newer"))
    start = reading.trials.number()
    with closing(psycopg2.connect(reading.database.url)) as open_, open_.cursor() as cursor:
        cursor.execute("INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (%s, 'a', '1')", (older,))
        reading.database.tell(newer, TrialState.COMPLETE, [1.0])
        (seen,) = since(reading, start)
        assert seen.study == "newer"
        assert since(reading, seen.number) == []
        open_.commit()
    (late,) = since(reading, seen.number)
    assert late.study == "older"
    assert [one.study for one in since(reading, start)] == ["newer", "older"], "the same for who asks later"


def test_replicas_number_at_once(reading):
    """Each change gets one number, and everybody reads the same."""
    trials = [reading.database.running_trial(study_name="many") for _ in range(20)]
    start = reading.trials.number()

    def change(trial: int) -> None:
        pod(reading, trial).call("set_user_attr", "accuracy", "1")

    def follow(_: int) -> list[int]:
        at, found = start, []
        while len(found) < len(trials):
            answer = reading.trials.changes(at, limit=3)
            found += [one.first for one in answer.changes]
            at = answer.at
        return found

    with ThreadPoolExecutor(8) as pool:
        followers = [pool.submit(follow, n) for n in range(3)]
        list(pool.map(change, trials))
        first, *others = [one.result(30) for one in followers]
    assert sorted(first) == list(range(20))
    assert others == [first] * 2
    numbers = [one.number for one in since(reading, start)]
    assert numbers == sorted(set(numbers))


def test_a_replica_that_stops_keeps_nobody_waiting(reading):
    """Numbers are given out in one statement, which ends its transaction: no lock waits for a client's next word."""
    reading.database.running_trial(study_name="frozen")
    with reading.pool.lend() as connection:
        assert call(connection, "SELECT study_reading.number_changes()") == reading.trials.number()
        assert connection.info.transaction_status == psycopg2.extensions.TRANSACTION_STATUS_IDLE


def test_very_many_changes_at_once(reading):
    """Numbered by a session that has planned its statements while there was nothing: in time in proportion to them."""
    pool = ReaderPool(reading.dsn, size=1, statement_seconds=4)
    trials = ReadableTrials(pool, "test-cluster")
    for _ in range(8):
        reading.database.running_trial(study_name="small")
        start = trials.number()
    reading.database.query(
        "INSERT INTO trials (number, study_id, state) SELECT n, study_id, 'WAITING'"
        " FROM studies, generate_series(8, 15007) n"
    )
    assert trials.number() < trials.number(), "ten thousand at a time"
    counted = reading.database.query("SELECT count(*) FROM study_operator.numbered_changes WHERE number > %s", start)
    assert counted == [(15_000,)]
    reading.database.query("UPDATE trials SET state = 'RUNNING'")
    trials.number()
    pool.close()


def test_batches_are_bounded(reading):
    start = reading.trials.number()
    for _ in range(5):
        reading.database.running_trial(study_name="batches")
    first = reading.trials.changes(start, limit=3)
    assert ([one.first for one in first.changes], first.more) == ([0, 1, 2], True)
    second = reading.trials.changes(first.at, limit=3)
    assert ([one.first for one in second.changes], second.more) == ([3, 4], False)
    assert second.at == reading.trials.number()


def test_attributes_that_change_all_day_are_one_row(reading):
    trial = reading.database.running_trial(study_name="talkative")
    start = reading.trials.number()
    numbers = set()
    for value in range(5):
        pod(reading, trial).call("set_user_attr", "accuracy", str(value))
        numbers.add(reading.trials.number())
    assert len(numbers) == 5
    assert [one.number for one in since(reading, start)] == [max(numbers)]


def test_a_deleted_study(reading):
    """Without its rows: one change for all of its trials, by their names of before."""
    for _ in range(3):
        reading.database.running_trial(study_name="removed")
    start = reading.trials.number()
    studies = reading.database.studies()
    (known,) = studies.known(("team", "removed"))
    reading.database.query("UPDATE study_operator.access SET deletion_policy = 'Delete' WHERE name = 'removed'")
    (known,) = studies.known(("team", "removed"))
    studies.forget(known)
    (gone,) = since(reading, start)
    assert (gone.kind, gone.study, gone.uid) == (ChangeKind.TRIALS_DELETED, "removed", "removed")
    assert (gone.first, gone.last, gone.deleted) == (0, 2, False)


def test_single_rows_that_somebody_deletes(reading):
    ids = [reading.database.running_trial(study_name="holes") for _ in range(4)]
    start = reading.trials.number()
    reading.database.query("DELETE FROM trial_system_attributes")
    reading.database.query("DELETE FROM trials WHERE trial_id = ANY(%s)", [ids[0], ids[1], ids[3]])
    assert [(one.first, one.last) for one in since(reading, start)] == [(0, 1), (3, 3)]


def test_a_study_whose_rows_are_kept(reading):
    for _ in range(2):
        reading.database.running_trial(study_name="kept")
    start = reading.trials.number()
    studies = reading.database.studies()
    (known,) = studies.known(("team", "kept"))
    studies.forget(known)
    (change,) = since(reading, start)
    assert (change.kind, change.study, change.deleted) == (ChangeKind.STUDY, "kept", False)
    assert (change.first, change.last) == (0, 1)
    assert reading.trials.page(Where()).trials == []
    page = reading.trials.page(Where(deleted=True, uid="ke"))
    assert [(trial.number, trial.study.deleted) for trial in page.trials] == [(0, True), (1, True)]
    reading.database.running_trial(study_name="kept")  # its key is back
    back, made = since(reading, change.number)
    assert (back.kind, back.deleted, made.kind) == (ChangeKind.STUDY, True, ChangeKind.TRIAL)


def test_a_study_that_goes_on_as_another_one(reading):
    """Its CRD was deleted, or its cluster was lost, and it was created again: under another UID."""
    reading.database.running_trial(study_name="again")
    start = reading.trials.number()
    reading.database.query("UPDATE study_operator.access SET cluster_id = 'lost', holder = 5")
    since(reading, start)
    between = reading.trials.number()
    reading.database.query("UPDATE study_operator.access SET cluster_id = 'test-cluster', uid = 'another'")
    (change,) = since(reading, between)
    assert (change.kind, change.uid, change.deleted) == (ChangeKind.STUDY, "again", False)
    reading.database.query("UPDATE study_operator.access SET holder = 6, paused_seconds = 7")
    assert since(reading, change.number) == [], "who serves a study is nothing that people read"


def test_the_operator_and_replicas_never_wait_for_each_other_in_a_circle(reading):
    """Who numbers holds the row of the last number, and replaces rows of the log. Who prunes must hold none of them."""
    reading.database.running_trial(study_name="circle")
    reading.trials.number()
    reading.database.query("UPDATE study_operator.numbered_changes SET at = at - interval '1 hour'")
    with closing(psycopg2.connect(reading.database.url)) as numbers, numbers.cursor() as cursor:
        cursor.execute("SELECT FROM study_operator.change_numbers FOR UPDATE")
        with ThreadPoolExecutor(1) as pool:
            pruned = pool.submit(prune_changes, Database(reading.settings().dsn))
            while not waits(reading):
                assert not pruned.done()
            cursor.execute("SET lock_timeout = '1s'; DELETE FROM study_operator.numbered_changes")
            numbers.commit()
            pruned.result(30)


def waits(reading: Reading) -> bool:
    """Whether a session of this database waits for a lock."""
    return bool(
        reading.database.query(
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
    )


def test_changes_are_kept_for_ten_minutes(reading):
    database = Database(reading.settings().dsn)
    start = reading.trials.number()
    trial = reading.database.running_trial(study_name="old")
    (old,) = since(reading, start)
    reading.database.tell(trial, TrialState.FAIL, None, Failure("Oops"))
    (young,) = since(reading, old.number)
    prune_changes(database)
    assert since(reading, start) == [old, young]
    reading.database.query(
        "UPDATE study_operator.numbered_changes SET at = at - interval '10 minutes' WHERE number <= %s", old.number
    )
    prune_changes(database)
    assert since(reading, old.number) == [young]
    with pytest.raises(Gone, match="ten minutes") as gone:
        since(reading, start)
    assert gone.value.oldest == old.number


def test_a_number_that_was_never_given_out_is_gone(reading):
    with pytest.raises(Gone):
        since(reading, reading.trials.number() + 1)
    with pytest.raises(Gone):
        since(reading, 1)


def test_after_a_restore_no_number_is_good_any_more(reading):
    """The database has gone back to an earlier time: numbers of later changes would be given out again."""
    number = reading.trials.number()
    reading.database.query(
        "UPDATE study_operator.change_numbers SET incarnation = 'of another server', last = 7, gone = 5"
    )
    prune_changes(Database(reading.settings().dsn))
    with pytest.raises(Gone):
        since(reading, number)
    assert reading.trials.number() > number


def test_nothing_is_noted_when_nobody_reads(reading):
    """An operator of before, or one without the trials API, prunes nothing: then nothing may pile up."""
    start = reading.trials.number()
    reading.database.query("UPDATE study_operator.change_numbers SET noted_until = clock_timestamp()")
    reading.database.running_trial(study_name="unnoticed")
    assert reading.database.query("SELECT * FROM study_operator.unnumbered_changes") == []
    prune_changes(Database(reading.settings().dsn))
    with pytest.raises(Gone):
        since(reading, start)
    again = reading.trials.number()
    reading.database.running_trial(study_name="unnoticed")
    assert [one.first for one in since(reading, again)] == [1]


def test_the_operator_numbers_what_nobody_asks_for(reading):
    start = reading.trials.number()
    reading.database.running_trial(study_name="alone")
    prune_changes(Database(reading.settings().dsn))
    assert reading.database.query("SELECT * FROM study_operator.unnumbered_changes") == []
    assert told(since(reading, start)) == [("alone", 0, None, True)]


def test_a_migration_keeps_the_log(reading):
    start = reading.trials.number()
    reading.database.running_trial(study_name="migrated")
    migrate(reading.settings())
    assert told(since(reading, start)) == [("migrated", 0, None, True)]


def test_without_the_trials_api_there_are_no_triggers(database):
    assert database.query("SELECT tgname FROM pg_trigger WHERE starts_with(tgname, 'study_reading')") == []
    assert database.query("SELECT to_regclass('public.study_operator_numbers')::text") == [(None,)]


def test_a_database_that_is_in_use_gets_its_triggers(fresh):
    """Who writes to two tables, in another order than the migration changes them, never waits with it in a circle."""
    reader = f"{fresh.database.name}_reader"
    migrate(fresh.settings())
    trial = fresh.database.running_trial(study_name="busy")
    over = threading.Event()

    def write() -> int:
        done = 0
        with closing(psycopg2.connect(fresh.database.url)) as opened, opened.cursor() as cursor:
            while not over.is_set():
                for table in ("trial_system_attributes", "trials"):
                    cursor.execute(f"UPDATE {table} SET trial_id = trial_id WHERE trial_id = %s", (trial,))
                opened.commit()
                done += 1
        return done

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        try:
            migrate(fresh.settings(READER_USER=reader, READER_PASSWORD="a word"))
        finally:
            over.set()
        assert writing.result(30) > 0
    triggers = fresh.database.query("SELECT count(*) FROM pg_trigger WHERE starts_with(tgname, 'study_reading')")
    assert triggers == [(9,)]
    fresh.database.running_trial(study_name="busy")
    assert fresh.database.query("SELECT count(*) FROM study_operator.unnumbered_changes") != [(0,)]
    fresh.execute("DROP OWNED BY {}", sql.Identifier(reader))
    fresh.execute("DROP ROLE {}", sql.Identifier(reader))

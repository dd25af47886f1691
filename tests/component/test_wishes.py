"""Wishes in the database: who may note which, what is refused in words, and that the operator is woken."""

from __future__ import annotations

import select
from collections.abc import Iterator
from contextlib import closing

import psycopg2
import pytest
from database import ANOTHER_KEY, KEY
from reading import CLUSTER, Reading, reading_database

from study_operator.model.trial import StopWish, TrialState
from study_operator.storage.migrate import migrate
from study_operator.storage.studies import KnownStudy
from study_operator.storage.wishes import Wishes, WishRefused

PRUNED, FAIL = TrialState.PRUNED, TrialState.FAIL


@pytest.fixture(scope="module")
def shared(services) -> Iterator[Reading]:
    with reading_database(services["database_url"]) as opened:
        yield opened


@pytest.fixture
def reading(shared) -> Reading:
    """Without studies."""
    shared.database.query("TRUNCATE studies CASCADE")
    return shared


@pytest.fixture
def wishes(reading) -> Wishes:
    return Wishes(reading.pool, CLUSTER)


def stored(reading: Reading) -> list[tuple]:
    return reading.database.query(
        "SELECT study_id, trial_id, kind, content, wished_by FROM study_operator.wishes ORDER BY wish_id"
    )


def seen(reading: Reading, trial_id: int, with_job: bool = True) -> tuple[StopWish | None, bool]:
    """What a look at the study sees of a trial: its wish, and whether it is known to have reported."""
    ((study_id, number),) = reading.database.query("SELECT study_id, number FROM trials WHERE trial_id = %s", trial_id)
    row = reading.database.trials().observe(study_id, [number] if with_job else []).open[number]
    return row.stop, row.reports


def test_a_wish_is_stored_once_with_who_and_when_and_a_look_reads_it(reading, wishes):
    trial_id, other = reading.database.running_trial(), reading.database.running_trial()
    reading.database.query("SET timezone = 'Asia/Tokyo'")
    noted = wishes.stop(trial_id, PRUNED, "jane@example.com")
    assert (noted.state, noted.by) == (PRUNED, "jane@example.com")
    assert noted.at.utcoffset().total_seconds() == 0
    assert wishes.stop(trial_id, FAIL, "joe") == noted, "the first one counts"
    ((study_id,),) = reading.database.query("SELECT study_id FROM studies")
    assert stored(reading) == [(study_id, trial_id, "Stop", {"as": "PRUNED"}, "jane@example.com")]
    assert [seen(reading, one) for one in (trial_id, other)] == [(noted, False), (None, False)]
    assert seen(reading, trial_id, with_job=False) == (noted, False)
    migrate(reading.settings(), patience=60)  # as each start of an operator does
    assert seen(reading, trial_id)[0] == noted


def test_of_a_stopped_trial_alone_a_look_reads_whether_it_has_reported(reading, wishes):
    trial_id, other = reading.database.running_trial(), reading.database.running_trial()
    for one in (trial_id, other):
        reading.database.query("INSERT INTO trial_intermediate_values VALUES (DEFAULT, %s, 1, 0.5, 'FINITE')", one)
    wishes.stop(trial_id, FAIL, "jane")
    assert [seen(reading, one)[1] for one in (trial_id, other)] == [True, False]


def test_what_cannot_be_stopped_is_refused_in_words(reading, wishes):
    database = reading.database
    running, ended, foreign = (database.running_trial() for _ in range(3))
    gone = database.running_trial(ANOTHER_KEY, "team/gone")
    database.tell(ended, TrialState.COMPLETE, [0.5])
    database.query("DELETE FROM trial_system_attributes WHERE trial_id = %s", foreign)
    with database.optuna_study("team/study") as study:
        study.enqueue_trial({"x": 0.5})
    ((waiting,),) = database.query("SELECT trial_id FROM trials WHERE state = 'WAITING'")
    database.query("UPDATE study_operator.access SET key_hash = NULL WHERE name = 'team/gone'")
    words = {}
    for trial_id in (ended, foreign, gone, waiting, 2**31 - 1):
        with pytest.raises(WishRefused) as refused:
            wishes.stop(trial_id, PRUNED, "jane")
        words[trial_id] = str(refused.value)
    assert words == {
        ended: "it has ended already, and is COMPLETE",
        foreign: "another program runs it, such as a notebook, and not the operator: end it there",
        gone: "its Study was deleted, and nothing of it runs",
        waiting: "it has not been started yet, and only a running trial can be stopped",
        2**31 - 1: "its rows have just been deleted",
    }
    with pytest.raises(WishRefused, match="deleted"):
        Wishes(reading.pool, "another-cluster").stop(running, PRUNED, "jane")
    assert stored(reading) == []


def test_the_operator_is_woken_each_time_that_somebody_asks(reading, wishes):
    trial_id = reading.database.running_trial()
    ((study_id,),) = reading.database.query("SELECT study_id FROM studies")
    ((channel,),) = reading.database.query("SELECT channel FROM study_operator.installation")
    with closing(psycopg2.connect(reading.database.url)) as listening:
        listening.autocommit = True
        listening.cursor().execute(f"LISTEN {channel}")
        for times in (1, 2):
            wishes.stop(trial_id, PRUNED, "jane")
            while len(listening.notifies) < times:
                assert select.select([listening], [], [], 10) != ([], [], [])
                listening.poll()
        assert {notice.payload for notice in listening.notifies} == {f"wish {study_id}"}


def test_wishes_go_with_their_trials_and_their_studies(reading, wishes):
    for key, name in ((KEY, "team/study"), (ANOTHER_KEY, "team/other")):
        wishes.stop(reading.database.running_trial(key, name), PRUNED, "jane")
    reading.database.query("UPDATE study_operator.access SET deletion_policy = 'Delete'")
    studies = reading.database.studies()
    studies.forget(next(one for one in studies.known() if one.name == "team/study"))
    assert len(stored(reading)) == 1


def test_a_name_of_any_length_and_content_is_stored_bounded(reading, wishes):
    trial_id = reading.database.running_trial()
    assert wishes.stop(trial_id, PRUNED, "ü'\"; DROP TABLE" * 100).by == ("ü'\"; DROP TABLE" * 100)[:256]


@pytest.mark.parametrize("wanted", ["COMPLETE", None, "pruned"])
def test_the_function_takes_no_other_end(reading, wanted):
    trial_id = reading.database.running_trial()
    with closing(psycopg2.connect(reading.dsn)) as login, login.cursor() as cursor:
        cursor.execute("SET TRANSACTION READ WRITE")
        with pytest.raises(psycopg2.errors.RaiseException, match="as PRUNED or as FAIL"):
            cursor.execute("SELECT study_reading.stop_trial(%s, %s, %s, 'jane')", (CLUSTER, trial_id, wanted))


def test_the_reader_writes_no_wish_and_a_pod_may_note_none(reading):
    assert reading.refusal("SELECT * FROM study_operator.wishes") == "42501"
    assert reading.refusal("INSERT INTO study_operator.wishes DEFAULT VALUES") in ("42501", "25006")
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        reading.database.query_as_reporter("SELECT study_reading.stop_trial('c', 1, 'PRUNED', 'me')")


# Purge


def gone(reading: Reading, name: str = "team/study") -> KnownStudy:
    """A Study that is gone, and has left a trial."""
    reading.database.running_trial(study_name=name)
    studies = reading.database.studies()
    (known,) = (one for one in studies.known() if one.name == name)
    studies.forget(known)
    return known


def test_what_a_deleted_study_has_left_is_removed_once_somebody_wants_it(reading, wishes):
    study, other, studies = gone(reading), gone(reading, "team/other"), reading.database.studies()
    assert studies.known() == []
    noted = wishes.purge(study.study_id, "jane")
    assert noted[0] == "jane"
    assert wishes.purge(study.study_id, "joe") == noted, "the first one counts"
    (known,) = studies.known(("team", "team/study"))
    assert (known.deletion_policy, known.purged_by) == ("Delete", "jane")
    while studies.remove_reports(known):
        pass
    studies.forget(known)
    assert reading.database.query("SELECT study_id FROM studies") == [(other.study_id,)]
    assert stored(reading) == []
    studies.forget(known)  # as after a crash


def test_a_study_that_exists_is_not_purged(reading, wishes):
    reading.database.running_trial()
    ((study_id,),) = reading.database.query("SELECT study_id FROM studies")
    with pytest.raises(WishRefused, match="its Study has not been deleted"):
        wishes.purge(study_id, "jane")
    with pytest.raises(WishRefused, match="just been deleted"):
        Wishes(reading.pool, "another-cluster").purge(study_id, "jane")
    assert stored(reading) == []


def test_a_study_that_goes_on_with_the_rows_keeps_them_whenever_it_comes(reading, wishes):
    study, studies = gone(reading), reading.database.studies()
    wishes.purge(study.study_id, "jane")
    (known,) = studies.known()
    taken = "UPDATE study_operator.access SET uid = 'another', key_hash = sha256('') WHERE study_id = %s"
    reading.database.query(taken, study.study_id)
    assert not studies.remove_reports(known)
    studies.forget(known)
    assert reading.database.query("SELECT count(*) FROM trials") == [(1,)]
    (now,) = studies.known()
    assert (now.uid, now.deletion_policy, now.purged_by) == ("another", "Retain", "")
    studies.forget(now)
    assert studies.known() == [], "the wish was about the one before"
    assert wishes.purge(study.study_id, "joe")[0] == "joe"
    assert [one.purged_by for one in studies.known()] == ["joe"]

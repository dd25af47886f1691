"""What people wish: noted by the trials API's login, bounded, and answered once by the operator."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from reading import CLUSTER, Reading, reading_database

from study_operator.model.readable import Where
from study_operator.model.wish import Act, WishRefused
from study_operator.storage.database import Database, StorageError
from study_operator.storage.wishes import Wishes
from study_operator.storage.wishing import Wishing


@pytest.fixture(scope="module")
def shared(services) -> Iterator[Reading]:
    with reading_database(services["database_url"]) as opened:
        yield opened


@pytest.fixture
def reading(shared) -> Reading:
    """With one study that has one trial, and without wishes."""
    shared.database.query("TRUNCATE studies, study_operator.wishes CASCADE")
    shared.database.running_trial(study_name="digits")
    return shared


@pytest.fixture
def wishing(reading) -> Wishing:
    return Wishing(reading.pool, CLUSTER)


@pytest.fixture
def wishes(reading) -> Wishes:
    return Wishes(Database(reading.settings().dsn), CLUSTER)


@pytest.fixture
def study_id(reading) -> int:
    study = reading.trials.study(Where(study="digits"))
    assert study is not None
    return study.study_id


def delete(reading: Reading) -> None:
    """The Study, whose rows are kept."""
    studies = reading.database.studies()
    for known in studies.known(("team", "digits")):
        studies.forget(known)


def test_a_wish_is_noted_and_answered(reading, wishing, wishes, study_id):
    number = wishing.note(study_id, Act.STOP, "jane@example.com", 0, {"as": "Pruned"})
    (wish,) = wishes.open_of(study_id)
    assert (wish.wish_id, wish.namespace, wish.study_id, wish.number) == (number, "team", study_id, 0)
    assert (wish.act, wish.content, wish.wished_by) == (Act.STOP, {"as": "Pruned"}, "jane@example.com")
    assert wishing.find(number) == wish
    assert wishes.answer(wish, True, "the trial was ended as pruned") is True
    assert wishes.answer(wish, False, "too late") is False
    assert wishes.open_of(study_id) == []
    found = wishing.find(number)
    assert found is not None
    assert (found.granted, found.answer) == (True, "the trial was ended as pruned")
    assert Wishing(reading.pool, "another cluster").find(number) is None


def test_the_same_wish_is_noted_once(wishing, wishes, study_id):
    """Whoever does not hear the answer asks again; so do many at once."""
    with ThreadPoolExecutor(3) as pool:
        noted = {*pool.map(lambda n: wishing.note(study_id, Act.EXCLUDE, f"user {n}", 0), range(6))}
    assert len(noted) == 1
    (wish,) = wishes.open_of(study_id)
    wishes.answer(wish, True, "excluded")
    assert wishing.note(study_id, Act.EXCLUDE, "user", 0) not in noted


@pytest.mark.parametrize(
    ("act", "number", "words", "missing"),
    [
        (Act.STOP, 7, "the study has no trial 7", True),
        (Act.STOP, None, "stop is of a trial: name it", False),
        (Act.ENQUEUE, 0, "enqueue is of a study, and not of one trial", False),
        (Act.PURGE, None, "the Study exists: what it has stored is removed with it", False),
    ],
)
def test_what_does_not_fit_is_refused_in_words(wishing, wishes, study_id, act, number, words, missing):
    with pytest.raises(WishRefused, match=words) as refused:
        wishing.note(study_id, act, "jane", number)
    assert refused.value.missing is missing
    assert wishes.open_of(study_id) == []


def test_a_study_of_another_cluster_is_not_there(reading, wishing, study_id):
    with pytest.raises(WishRefused, match="no such study") as refused:
        Wishing(reading.pool, "another").note(study_id, Act.ENQUEUE, "jane")
    assert refused.value.missing
    with pytest.raises(WishRefused, match="64 KiB"):
        wishing.note(study_id, Act.ENQUEUE, "jane", content={"x": "y" * 70_000})
    with pytest.raises(StorageError, match="u0000"):
        wishing.note(study_id, Act.ENQUEUE, "jane", content={"x": "\0"})


def test_a_namespace_has_a_bounded_number_of_open_wishes(reading, wishing, wishes, study_id):
    for number in (999, 1):
        reading.database.query(
            "INSERT INTO study_operator.wishes (cluster_id, namespace, study_id, act, content, wished_by)"
            " SELECT %s, 'team', %s, 'enqueue', to_jsonb(n), 'many' FROM generate_series(1, %s) n",
            *(CLUSTER, study_id, number),
        )
        if number == 999:
            assert wishing.note(study_id, Act.ENQUEUE, "jane", content={"x": 1})
    with pytest.raises(WishRefused, match="a thousand wishes"):
        wishing.note(study_id, Act.ENQUEUE, "jane", content={"x": 2})
    assert len(wishes.open_of(study_id)) == 100


def test_a_deleted_study_can_be_purged_and_nothing_else(reading, wishing, wishes, study_id):
    delete(reading)
    with pytest.raises(WishRefused, match="its trials can be purged, and nothing else"):
        wishing.note(study_id, Act.STOP, "jane", 0)
    number = wishing.note(study_id, Act.PURGE, "jane")
    assert wishes.grant_purges() == 1
    found = wishing.find(number)
    assert found is not None
    assert (found.granted, found.answer) == (True, "what the study has stored is being removed")
    delete(reading)
    assert reading.database.query("SELECT study_id FROM studies") == []
    assert wishes.forget() is False
    assert wishing.find(number) is None


def test_a_study_that_has_come_back_is_not_purged(reading, wishing, wishes, study_id):
    delete(reading)
    number = wishing.note(study_id, Act.PURGE, "jane")
    reading.database.running_trial(study_name="digits")  # the Study is there again
    assert wishes.grant_purges() == 1
    found = wishing.find(number)
    assert found is not None
    assert (found.granted, found.answer) == (False, "the Study exists again, and goes on with its rows")
    assert reading.database.query("SELECT deletion_policy FROM study_operator.access") == [("Retain",)]


def test_answers_are_kept_for_a_day(reading, wishing, wishes, study_id):
    kept, old, open_ = (wishing.note(study_id, Act.ENQUEUE, "jane", content={"x": n}) for n in range(3))
    for wish in wishes.open_of(study_id)[:2]:
        wishes.answer(wish, True, "it was enqueued")
    reading.database.query(
        "UPDATE study_operator.wishes SET answered_at = answered_at - interval '25 hours' WHERE wish_id = %s", old
    )
    wishes.forget()
    assert [wishing.find(number) is not None for number in (kept, old, open_)] == [True, False, True]

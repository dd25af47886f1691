"""What changes of the log become for a client that watches some trials, and what a selector asks the database for."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from study_operator.api import events, options
from study_operator.api.accepting import Form
from study_operator.api.feed import Feed
from study_operator.api.selection import Selection, select
from study_operator.api.shapes import Shape
from study_operator.model.readable import (
    Change,
    ChangeKind,
    Changes,
    Key,
    Page,
    ReadableStudy,
    ReadableTrial,
    ShownState,
    Where,
)

RUNNING, COMPLETE = ShownState.RUNNING, ShownState.COMPLETE
STUDY = ReadableStudy(1, "team", "digits", "1b9d6bcd-bbfd", False)
SHAPE = Shape(Form.OBJECT)


def trial(number: int, state: ShownState = COMPLETE, study: ReadableStudy = STUDY) -> ReadableTrial:
    return ReadableTrial(study, number, number, state, None, None, (), {}, {}, {}, {}, 0, None, 0, None, None)


def change(number: int, of: int, was: ShownState | None = None, made: bool = False) -> Change:
    return Change(number, ChangeKind.TRIAL, 1, "team", "digits", STUDY.uid, False, of, of, was, made)


class Rows:
    """Trials as the database has them."""

    def __init__(self, *trials: ReadableTrial) -> None:
        self.found, self.log, self.asked = list(trials), [], 0

    async def trials(self, keys: Sequence[Key]) -> list[ReadableTrial]:
        return [one for one in self.found if Key(one.study.study_id, one.number) in keys]

    async def page(self, where: Where, size: int, after: Key) -> Page:
        found = [one for one in self.found if one.study.deleted == where.deleted and one.number > after.number]
        return Page(found[:1], Key(1, found[0].number) if len(found) > 1 else None, 9)

    async def number(self) -> int:
        return self.log[-1].number if self.log else 0

    async def changes(self, since: int, limit: int) -> Changes:
        self.asked += 1
        found = [one for one in self.log if one.number > since]
        return Changes(found[:limit], found[:limit][-1].number if found else since, len(found) > limit)


def selection(**query: str) -> Selection:
    return select(options.parse(query), "team")


async def told(rows: Rows, watched: Selection, *changes: Change) -> list[tuple[str, str, int]]:
    """Type, name and version of the events."""
    news = await events.batch(rows, Changes(list(changes), changes[-1].number, False))
    lines = [line for entry in news.entries async for line in events.told(rows, entry, watched, SHAPE)]
    found = [json.loads(line) for line in lines]
    return [
        (e["type"], e["object"]["metadata"]["name"], int(e["object"]["metadata"]["resourceVersion"])) for e in found
    ]


async def test_a_new_trial_and_one_that_has_changed():
    rows = Rows(trial(0), trial(1))
    assert await told(rows, selection(), change(5, 0, made=True), change(6, 1)) == [
        ("ADDED", "digits-0", 5),
        ("MODIFIED", "digits-1", 6),
    ]


async def test_several_changes_of_a_trial_are_one_event():
    """A client is shown the trial as it is now. It was not there before the first change, so it is new."""
    rows = Rows(trial(0), trial(1))
    changes = change(5, 0, made=True), change(6, 1), change(7, 0, was=RUNNING)
    assert await told(rows, selection(), *changes) == [("MODIFIED", "digits-1", 6), ("ADDED", "digits-0", 7)]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"fieldSelector": "status.state=Complete"}, [("ADDED", "digits-0", 6)]),
        ({"fieldSelector": "status.state=Running"}, [("DELETED", "digits-0", 6)]),
        ({"fieldSelector": "status.state=Failed"}, []),
        ({"fieldSelector": "status.state!=Failed"}, [("MODIFIED", "digits-0", 6)]),
        ({"labelSelector": "study-operator.io/trial=0"}, [("MODIFIED", "digits-0", 6)]),
        ({"labelSelector": "study-operator.io/trial=1"}, []),
        ({"labelSelector": "study-operator.io/deleted=true"}, []),
        ({"fieldSelector": "metadata.name=digits-0"}, [("MODIFIED", "digits-0", 6)]),
    ],
)
async def test_a_trial_comes_and_goes_as_its_state_changes(query, found):
    """Also if another change of it, not of its state, was read along with that one."""
    rows = Rows(trial(0, COMPLETE))
    assert await told(rows, selection(**query), change(5, 0), change(6, 0, was=RUNNING)) == found


async def test_trials_that_are_deleted_are_told_by_name_and_a_cut_in_between_loses_none():
    gone = Change(7, ChangeKind.TRIALS_DELETED, 1, "team", "digits", STUDY.uid, False, 2, 4)
    found = await told(Rows(), selection(), gone)
    assert found == [("DELETED", "digits-2", 6), ("DELETED", "digits-3", 6), ("DELETED", "digits-4", 7)]
    assert await told(Rows(), selection(labelSelector="study-operator.io/study=other"), gone) == []
    assert await told(Rows(), selection(fieldSelector="status.state=Running"), gone) == found, "it may have been that"


async def test_a_study_that_is_deleted_goes_under_one_name_and_comes_under_another():
    kept = ReadableStudy(1, "team", "digits", STUDY.uid, True)
    rows = Rows(trial(0, study=kept), trial(1, study=kept))
    change = Change(7, ChangeKind.STUDY, 1, "team", "digits", STUDY.uid, False, 0, 1)
    assert [found[:2] for found in await told(rows, selection(), change)] == [
        ("DELETED", "digits-0"),
        ("DELETED", "digits-1"),
    ]
    query = {"labelSelector": "study-operator.io/deleted=true"}
    assert await told(rows, selection(**query), change) == [
        ("ADDED", "digits-0-1b9d6bcd", 6),
        ("ADDED", "digits-1-1b9d6bcd", 7),
    ]


async def test_a_watch_is_told_all_that_happens_once():
    """What happened before it began, and then what the log says, without a gap and without a repetition."""
    rows = Rows(*(trial(number) for number in range(6)))
    rows.log = [change(number + 10, number, made=True) for number in range(3)]
    feed = Feed(rows)
    seen: list[int] = []
    async for news in feed.since(9):
        seen += [entry.number for entry in news.entries]
        if len(rows.log) == 3:
            rows.log += [change(number + 10, number, made=True) for number in range(3, 6)]
        if len(seen) == 6:
            break
    assert seen == list(range(10, 16))
    feed.close()


async def test_nobody_asks_the_database_while_nobody_watches():
    rows = Rows()
    feed = Feed(rows)
    feed.close()
    assert [news async for news in feed.since(0)] == []
    assert rows.asked == 0


@pytest.mark.parametrize(
    ("query", "where"),
    [
        ({}, Where("team")),
        ({"labelSelector": "study-operator.io/study=a"}, Where("team", "a")),
        ({"labelSelector": "study-operator.io/study in (a,b)"}, Where("team")),
        ({"fieldSelector": "spec.study=a", "labelSelector": "study-operator.io/trial=7"}, Where("team", "a", number=7)),
        ({"fieldSelector": "status.state=Running"}, Where("team", states=frozenset({RUNNING}))),
        ({"fieldSelector": "metadata.name=a-7"}, Where("team", "a", number=7)),
        ({"labelSelector": "study-operator.io/deleted=true"}, Where("team", deleted=True)),
        ({"labelSelector": "study-operator.io/deleted"}, Where("team", deleted=True)),
        ({"labelSelector": "!study-operator.io/deleted"}, Where("team")),
        ({"labelSelector": "study-operator.io/deleted!=true"}, Where("team")),
    ],
)
def test_what_the_database_is_asked_for(query, where):
    found = selection(**query)
    assert (found.where, found.nothing) == (where, False)


@pytest.mark.parametrize(
    "query",
    [
        {"labelSelector": "study-operator.io/study=a,study-operator.io/study=b"},
        {"fieldSelector": "status.state=Sleeping"},
        {"fieldSelector": "metadata.namespace=other"},
        {"fieldSelector": "metadata.name=nothing"},
        {"labelSelector": "study-operator.io/trial=x"},
    ],
)
def test_what_no_trial_can_be(query):
    assert selection(**query).nothing

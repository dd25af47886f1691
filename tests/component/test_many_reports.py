"""Very many reports: what one look reads and shows is bounded, the rest comes in the next looks; nothing is lost."""

from __future__ import annotations

import resource
import time

import pytest
from database import TestDatabase
from world import World

from study_operator import looks
from study_operator.model.study import StudyKey
from study_operator.model.thinning import MOST_STEPS, Thinned
from study_operator.model.trial import TrialState
from study_operator.reconcile import study_trials
from study_operator.storage import history, studies

THRESHOLD = {"name": "Threshold", "options": {"lower": -1}}


def report(database: TestDatabase, trial_ids: list[int], count: int, value: str = "0.5") -> None:
    """Reports of some trials, as many of each, stored in turns. `value` is computed from `step`."""
    database.query(
        "INSERT INTO trial_intermediate_values (trial_id, step, intermediate_value, intermediate_value_type)"
        f" SELECT trial_id, step, {value} AS value, 'FINITE'"
        " FROM generate_series(0, %s - 1) step, unnest(%s::int[]) trial_id"
        " ORDER BY step, trial_id RETURNING 1",
        count,
        trial_ids,
    )


def trial_of(world: World, number: int = 0) -> int:
    ((trial_id,),) = world.database.query("SELECT trial_id FROM trials WHERE number = %s", number)
    return trial_id


@pytest.mark.parametrize("most", [7, 100, 1000, 100_000])
def test_reports_come_in_the_order_in_which_they_were_stored_however_few_are_read_at_once(database, most):
    trial_ids = [database.running_trial() for _ in range(3)]
    report(database, trial_ids[:2], 300)
    report(database, trial_ids[2:], 40)
    stored = [row[0] for row in database.query("SELECT trial_intermediate_value_id FROM trial_intermediate_values")]
    cursors, read = dict.fromkeys(trial_ids, 0), []
    while True:
        some, more = database.trials().reports(cursors, most)
        assert len(some) <= max(most, 3 * 20)
        read += some
        cursors |= {one.trial_id: one.report_id for one in some}
        assert more == {one for one in trial_ids if len(some) and cursors[one] < last_of(database, one)}
        if not more:
            break
    assert [one.report_id for one in read] == sorted(stored)


def last_of(database: TestDatabase, trial_id: int) -> int:
    text = "SELECT max(trial_intermediate_value_id) FROM trial_intermediate_values WHERE trial_id = %s"
    return database.query(text, trial_id)[0][0]


@pytest.mark.parametrize("count", [1, MOST_STEPS, MOST_STEPS + 1, 2 * MOST_STEPS + 500])
def test_a_history_has_as_many_reports_as_were_in_memory_before(database, count):
    trial_id = database.running_trial()
    report(database, [trial_id], count, "(step * 7 %% 1000) / 1000.0")
    database.tell(trial_id, TrialState.COMPLETE, [0.5])
    thinned = Thinned()
    for step in range(count):
        thinned.add(step, step * 7 % 1000 / 1000)
    ((study_id,),) = database.query("SELECT study_id FROM trials")
    (compared,) = history.load(database.trials()._database, study_id).trials
    assert compared.reports == thinned.whole()
    (alone,) = history.load(database.trials()._database, study_id, compared=False).trials
    assert alone.reports == {count - 1: thinned.whole()[count - 1]}


async def test_a_trial_ends_when_the_pruner_has_seen_all_its_reports_look_by_look(world, monkeypatch):
    monkeypatch.setattr(study_trials, "LONGEST_SHOW_SECONDS", 0.0)
    monkeypatch.setattr(study_trials, "REPORTS_READ", 400)
    await world.apply(pruner=THRESHOLD, parallelism=1, maxTrials=2)
    await world.settle()
    report(world.database, [trial_of(world)], 1000)
    await world.finish(0, 0.5)
    await world.end_job(0)
    count = 0
    while True:
        result, count = await world.look(), count + 1
        if world.reconciler._live[StudyKey(world.namespace, "study")].trials.behind:
            assert result.again == 0.0, "the next look comes at once"
        else:
            break
    ended = world.database.query("SELECT state::text FROM trials WHERE number = 0")
    assert ended == [("COMPLETE",)]
    assert count == 10, "a hundred a look"


async def test_a_report_in_the_middle_of_many_is_seen_and_the_others_are_not_read(world):
    await world.apply(pruner=THRESHOLD, parallelism=1, maxTrials=1)
    await world.settle()
    report(world.database, [trial_of(world)], 20_000, "CASE step WHEN 1500 THEN -2 ELSE step END")
    await world.look()
    await world.look()
    assert world.database.query("SELECT state::text, value FROM trials JOIN trial_values USING (trial_id)") == [
        ("PRUNED", 19_999.0)
    ]


async def test_after_a_restart_the_same_is_decided(world, monkeypatch):
    monkeypatch.setattr(study_trials, "LONGEST_SHOW_SECONDS", 0.0)
    await world.apply(pruner={"name": "SuccessiveHalving", "options": {"min_resource": 10}}, parallelism=2, maxTrials=2)
    await world.settle()
    report(world.database, [trial_of(world, 0), trial_of(world, 1)], 500, "step * 0.001 * (1 + trial_id %% 2)")
    for _ in range(4):
        await world.look()
    world.start_operator()
    for _ in range(12):
        await world.look()
    states = world.database.query("SELECT state::text FROM trials ORDER BY number")
    assert sorted(states) == [("PRUNED",), ("RUNNING",)]


async def test_a_look_ends_between_two_pieces(world, monkeypatch):
    await world.apply(pruner=THRESHOLD, parallelism=1)
    await world.settle()
    report(world.database, [trial_of(world)], 5000)
    look, shown = looks.Look(), []
    show = study_trials.StudyTrials._show_some

    def show_and_end(self, *given):
        shown.append(1)
        look.end("the Study is deleted")
        return show(self, *given)

    monkeypatch.setattr(study_trials.StudyTrials, "_show_some", show_and_end)
    with looks.under(look), pytest.raises(looks.Ended, match="the Study is deleted"):
        await world.reconciler.reconcile(StudyKey(world.namespace, "study"), time.monotonic())
    assert len(shown) == 1
    monkeypatch.undo()
    while (await world.look()).again == 0.0:
        pass
    assert await world.active() == [0]


async def test_what_a_deleted_study_has_stored_is_removed_piece_by_piece(world, monkeypatch):
    monkeypatch.setattr(studies, "REMOVED_AT_ONCE", 1000)
    await world.apply(deletionPolicy="Delete", parallelism=1)
    await world.settle()
    report(world.database, [trial_of(world)], 3500)
    removed, remove = [], studies.Studies.remove_reports

    def remembering(self, study):
        more = remove(self, study)
        removed.append(world.database.query("SELECT count(*) FROM trial_intermediate_values")[0][0])
        return more

    monkeypatch.setattr(studies.Studies, "remove_reports", remembering)
    await world.delete_study()
    await world.look()
    assert removed == [2500, 1500, 500, 0]
    assert world.database.query("SELECT 1 FROM studies") == []


PRUNERS = [
    THRESHOLD,
    {"name": "Median"},
    {"name": "Percentile", "options": {"percentile": 25.0}},
    {"name": "SuccessiveHalving", "options": {"min_resource": 10}},
    {"name": "Hyperband", "options": {"max_resource": 200_000}},
    {"name": "Patient", "options": {"patience": 3000}},
    {"name": "Wilcoxon"},
]


@pytest.mark.faults
@pytest.mark.parametrize("pruner", PRUNERS, ids=lambda pruner: pruner["name"])
@pytest.mark.parametrize("trials", [1, 5])
async def test_hundreds_of_thousands_of_reports_of_a_trial(world, pruner, trials, record_property):
    """200,000 of each trial, and a million of one study: memory and the longest look are bounded."""
    await world.apply(pruner=pruner, parallelism=trials, maxTrials=trials)
    await world.settle()
    report(world.database, [trial_of(world, number) for number in range(trials)], 200_000, "0.5 + step %% 7 * 0.01")
    before, longest, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0.0, time.monotonic()
    while True:
        at = time.monotonic()
        result = await world.look()
        longest = max(longest, time.monotonic() - at)
        if result.again != 0.0:
            break
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    seen = f"longest look {longest:.1f} s, in all {time.monotonic() - begun:.0f} s, {grown} MiB more"
    record_property("many_reports", seen)
    print(pruner["name"], trials, seen)
    assert grown < 64
    assert longest < 20, "a second, and what is under way then; machines that test are busy"

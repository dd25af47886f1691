"""What other programs do to a study's rows: deleted in optuna-dashboard, trials told by a notebook."""

from __future__ import annotations

import logging

import optuna
import pytest
from optuna.trial import TrialState
from world import World, counted

from study_operator import fence


async def _delete_study(world: World) -> None:
    """As optuna-dashboard, `optuna delete-study` and a notebook do it."""
    name = (await world.study())["status"]["studyName"]
    url = world.database.url.replace("postgresql:", "postgresql+psycopg2:")
    storage = optuna.storages.RDBStorage(url)
    optuna.delete_study(study_name=name, storage=storage)
    storage.engine.dispose()


@pytest.mark.parametrize("ended", [False, True], ids=["running", "ended"])
async def test_a_study_that_is_deleted_in_optuna(world, ended, caplog):
    """It says so, no Job is touched, and what has ended stays as it was, also after a restart."""
    await world.apply()
    if ended:
        await world.run_trials(lambda number: number / 10)
    else:
        await world.settle()
    before, jobs = (await world.study())["status"], await world.jobs()
    await _delete_study(world)
    for _ in range(2):
        await world.settle()
        world.start_operator()
    assert [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR] == []
    status = (await world.study())["status"]
    conditions = {one["type"]: one for one in status["conditions"]}
    assert conditions["StorageReady"]["reason"] == "RowsMissing"
    assert "optuna delete-study" in conditions["StorageReady"]["message"]
    assert (await world.events())["StorageUnavailable"]["message"] == conditions["StorageReady"]["message"]
    assert (await world.jobs(), world.rows()) == (jobs, [])
    assert status["trials"] == before["trials"]
    if ended:
        assert (status["phase"], conditions["Finished"]["status"]) == ("Succeeded", "True")
        assert conditions["Progressing"]["message"] == "4 of 4 trials have ended"
        assert status["bestTrial"] == before["bestTrial"]
    else:
        assert (status["phase"], conditions["Progressing"]["reason"]) == ("Waiting", "RowsMissing")


@pytest.mark.parametrize("held", [False, True], ids=["alone", "of several replicas"])
async def test_rows_that_go_while_they_are_being_looked_at(world, held, monkeypatch, caplog):
    """Between the first question and the next: no Job is taken for that of a trial that has ended."""
    await world.apply()
    await world.settle()
    jobs, compare = await world.jobs(), world.reconciler._marks.compare

    async def compared(manifest):
        found = await compare(manifest)
        await _delete_study(world)
        monkeypatch.setattr(world.reconciler._marks, "compare", compare)
        return found

    monkeypatch.setattr(world.reconciler._marks, "compare", compared)
    if held:
        world.database.query("UPDATE study_operator.access SET holder = 1")
        lease = fence.Lease()
        lease.confirm(float("inf"))
        with fence.under(fence.Hold(1, lease)):
            look = await world.look()
    else:
        look = await world.look()
    assert look.failed
    ready = await world.condition("StorageReady")
    assert "rows have just been deleted" in ready["message"]
    await world.settle()
    assert (await world.condition("StorageReady"))["reason"] == "RowsMissing"
    assert await world.jobs() == jobs
    assert [record for record in caplog.records if record.exc_info] == []


@pytest.mark.parametrize(
    ("state", "values", "ended"),
    [(TrialState.COMPLETE, 0.9, "complete"), (TrialState.FAIL, None, "failed"), (TrialState.PRUNED, None, "pruned")],
)
async def test_a_trial_that_a_notebook_tells(world, state, values, ended):
    """It has ended as any other: it counts, and its slot is free once its pod has gone."""
    await world.apply()
    await world.settle()
    with world.database.optuna_study((await world.study())["status"]["studyName"]) as notebook:
        notebook.tell(0, values, state=state)
    # A notebook stores its local time, here that of another time zone.
    world.database.query("UPDATE trials SET datetime_complete = now() + interval '8 hours' WHERE number = 0")
    await world.settle()
    status = (await world.study())["status"]
    assert counted(status)[ended] == 1
    assert world.remembered() == world.rows(), "the sampler knows"
    if state is TrialState.COMPLETE:
        assert status["bestTrial"]["number"] == 0
        assert 0 in await world.active(), "it may be saving its model"
        await world.end_job(0, "BackoffLimitExceeded")  # its own final value was refused
    else:
        assert "deletionTimestamp" in (await world.job(0))["metadata"], "nobody waits for its program"
    if state is TrialState.FAIL:
        assert [(one["trial"], one["reason"]) for one in status["recentFailures"]] == [(0, "ToldElsewhere")]
        assert status["failures"]["program"] == 1
        message = (await world.events())["TrialToldElsewhere"]["message"]
        assert message == "trial 0: another program, such as a notebook, has told that the trial has failed"
    await world.remove_finalizers()
    await world.run_trials(lambda number: number / 10)
    status = (await world.study())["status"]
    assert (status["phase"], status["progress"]) == ("Succeeded", "4/4")
    assert counted(status)[ended] >= 1
    assert (0, state.name) in world.rows()


def _delete_trial(world: World, number: int) -> None:
    """As somebody with SQL does it: Optuna itself deletes studies only."""
    for table in ("params", "values", "intermediate_values", "system_attributes", "user_attributes"):
        world.database.query(
            f"DELETE FROM trial_{table} WHERE trial_id IN (SELECT trial_id FROM trials WHERE number = %s)", number
        )
    world.database.query("DELETE FROM trials WHERE number = %s", number)


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_trial_that_is_deleted_while_the_study_runs(world, restarted, caplog):
    """No trial is started, because two would have one number; those that run go on, and their values are kept."""
    await world.apply(maxTrials=6)
    await world.settle()
    await world.finish(0, 0.5)
    await world.end_job(0)
    await world.settle()
    _delete_trial(world, 0)
    if restarted:
        world.start_operator()
    await world.settle()
    accepted = await world.condition("Accepted")
    assert (accepted["status"], accepted["reason"]) == ("False", "TrialsDeleted")
    assert "trial 0 was deleted from the database" in accepted["message"]
    assert (await world.study())["status"]["phase"] == "Refused"
    assert await world.active() == [1, 2]
    for number in (1, 2):
        await world.finish(number, 0.5)
        await world.end_job(number)
    await world.settle()
    assert world.rows() == [(1, "COMPLETE"), (2, "COMPLETE")]
    assert [record for record in caplog.records if record.exc_info] == []


async def test_a_trial_that_is_deleted_after_the_end(world, caplog):
    await world.apply()
    await world.run_trials(lambda number: number / 10)
    _delete_trial(world, 1)
    world.start_operator()
    await world.settle()
    status = (await world.study())["status"]
    assert (status["phase"], (await world.condition("Finished"))["status"]) == ("Succeeded", "True")
    assert (await world.condition("Accepted"))["reason"] == "TrialsDeleted"
    assert (await world.active(), len(world.rows())) == ([], 3)
    assert [record for record in caplog.records if record.exc_info] == []

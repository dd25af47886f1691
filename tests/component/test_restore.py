"""A database that is restored from a dump while trials run: what a dump does not know is nobody's fault, and nobody's.

The dump is made by pg_dump and restored by psql, as docs/backup.md says.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from logserver import LogServer
from restoring import complete, dump, end, incidents, jobs_of_rows, pod_of, restore, run_to_the_end
from world import container_status, has_ended, number_of

from study_operator.podlogs import follower


@pytest.mark.parametrize("new_process", [True, False], ids=["scaled to 0", "running on"])
async def test_a_restore_while_trials_run(world, new_process):
    await world.apply(maxTrials=8, parallelism=4)
    await world.settle()
    await end(world, "study-0", 0.1)
    (await pod_of(world, "study-3")).call("report", 1, 0.3)
    await world.settle()
    text = dump(world.database)
    assert world.rows() == [(0, "COMPLETE"), *((n, "RUNNING") for n in (1, 2, 3, 4))]

    # What the dump does not know: 1 and 3 end, 5 and 6 begin, 5 ends. 3's Job is removed. 2, 4 and 6 run on.
    await end(world, "study-1", 0.11)
    await end(world, "study-3", 0.13)
    await world.settle()
    await world.delete_job(3)
    await end(world, "study-5", 0.15)
    stale = await pod_of(world, "study-5")
    uids = {job["metadata"]["name"]: job["metadata"]["uid"] for job in await world.jobs()}
    restore(world.database, text)
    if new_process:
        world.start_operator()
    for _ in range(3):
        await world.look()

    # The pods of 6 are gone before another trial can get its id.
    assert [number for number, _ in world.rows()] == [0, 1, 2, 3, 4]
    jobs = {job["metadata"]["name"]: job for job in await world.jobs()}
    assert "deletionTimestamp" in jobs["study-6"]["metadata"]
    assert all("deletionTimestamp" not in jobs[name]["metadata"] for name in ("study-2", "study-4"))
    assert {name: jobs[name]["metadata"]["uid"] for name in ("study-2", "study-4")} == {
        name: uids[name] for name in ("study-2", "study-4")
    }
    await world.remove_finalizers()
    await world.settle()

    rows = jobs_of_rows(world)
    assert (rows[1], rows[2], rows[3], rows[4]) == ("study-1-r1", "study-2", "study-3-r1", "study-4")
    assert incidents(world) == [(n, "Infrastructure", "DatabaseRestored") for n in (1, 3)]
    # A new trial 5 has the id of the old one. It has another Job, and its pods alone may report.
    await end(world, "study-2", 0.12)
    await world.settle()
    rows = jobs_of_rows(world)
    assert rows[5] == "study-5-r1"
    await end(world, "study-4", 0.14)  # the slot that 5 had is 6's, because 5 had to be given another Job's name
    await world.settle()
    assert stale.refusal("finish", [0.15]) == "SO002"
    assert replace(stale, job="study-5-r1").trial_id == (await pod_of(world, "study-5-r1")).trial_id

    await run_to_the_end(world)
    assert world.rows() == [(number, "COMPLETE") for number in range(8)]
    status = (await world.study())["status"]
    assert (status["phase"], status["trials"]["failed"], status["failures"]["program"]) == ("Succeeded", 0, 0)
    assert {kind for _, kind, _ in incidents(world)} == {"Infrastructure"}


async def test_a_job_that_is_being_deleted_is_not_adopted(world):
    """The old trial's Job is still going when the new one's is to be created."""
    await world.apply(maxTrials=2, parallelism=1)
    await world.settle()
    await end(world, "study-0", 0.1)
    world.start_operator()
    text = dump(world.database)
    await world.settle()
    assert [number_of(job) for job in await world.jobs() if not has_ended(job)] == [1]
    restore(world.database, text)
    world.start_operator()
    for _ in range(4):
        await world.look()
    assert [number for number, _ in world.rows()] == [0]
    await world.remove_finalizers()
    await run_to_the_end(world)
    assert world.rows() == [(0, "COMPLETE"), (1, "COMPLETE")]
    assert all(kind == "Infrastructure" for _, kind, _ in incidents(world))


async def test_a_program_that_failed_while_the_database_was_away_is_not_blamed(world):
    await world.apply(maxTrials=2, parallelism=2)
    await world.settle()
    text = dump(world.database)
    await complete(world, "study-0", failed="BackoffLimitExceeded")
    restore(world.database, text)
    world.start_operator()
    await world.settle()
    assert incidents(world) == [(0, "Infrastructure", "DatabaseRestored")]
    # What fails later is the program's own failure.
    await complete(world, "study-0-r1", failed="BackoffLimitExceeded")
    await world.settle()
    assert (0, "Program", "Error") in incidents(world)


async def test_what_trials_have_printed_is_read_again(world, monkeypatch):
    """The result was stored from the output, and the output is still there: nothing runs again."""
    monkeypatch.setattr(follower, "_PAUSE_SECONDS", 0.01)
    logs = LogServer()
    await logs.start()
    try:
        world.logs_from = logs.url
        world.start_operator()
        await world.apply(maxTrials=1, parallelism=1, metrics={"from": "Stdout"})
        await world.settle()
        text = dump(world.database)
        over = container_status({"terminated": {"exitCode": 0, "reason": "Completed"}})
        pod = await world.start_pod(0, {"phase": "Succeeded", "containerStatuses": [over]})
        logs.starts(pod)
        await logs.prints(pod, "score=0.7")
        await logs.ends(pod)
        await world.end_job(0)
        for _ in range(3):
            await world.look()
            await world.logs_are_read()
        assert world.rows() == [(0, "COMPLETE")]
        restore(world.database, text)
        world.start_operator()
        for _ in range(3):
            await world.look()
            await world.logs_are_read()
        assert world.rows() == [(0, "COMPLETE")]
        assert incidents(world) == []
    finally:
        await logs.stop()


async def test_a_study_that_is_younger_than_the_dump(world):
    """All its rows are lost: its Jobs run on until somebody decides."""
    text = dump(world.database)
    await world.apply()
    await world.settle()
    jobs = await world.jobs()
    restore(world.database, text)
    world.start_operator()
    await world.settle()
    assert await world.jobs() == jobs
    assert (await world.condition("StorageReady"))["reason"] == "RowsMissing"

"""How long the Job of a pruned trial may go on: as its template asks, if its program has been told to stop."""

from __future__ import annotations

from datetime import timedelta

import pytest
from world import World, has_ended, job_template

from study_operator.model.plan import PRUNED_GRACE

PRUNES_ALL = {"pruner": {"name": "Threshold", "options": {"upper": 0.0}}, "parallelism": 1, "maxTrials": 2}

AT_ONCE = timedelta(seconds=-20)  # a clock that differs by more is taken for that of another time zone


def template(grace: int) -> dict:
    made = job_template()
    made["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = grace
    return made


async def prune(world: World) -> None:
    """A study with a pruned trial whose Job runs; its program does not know yet."""
    await world.apply(jobTemplate=template(120), **PRUNES_ALL)
    await world.settle()
    assert (await world.pod(0)).call("report", 0, 1.0) is False
    await world.look()
    assert world.rows() == [(0, "PRUNED")]


async def goes_on(world: World, pruned_for: timedelta) -> bool:
    """Whether the Job is left alone when the trial was pruned so long ago, however slow this machine is."""
    world.database.query(
        "UPDATE trials SET datetime_complete = now() AT TIME ZONE 'UTC' - make_interval(secs => %s) WHERE number = 0",
        pruned_for.total_seconds(),
    )
    await world.look()
    return "deletionTimestamp" not in (await world.job(0))["metadata"]


async def let_pass(world: World, seconds: int) -> None:
    """So much time passes since the trial's program was told to stop."""
    world.database.query("UPDATE study_operator.stops SET told_at = told_at - make_interval(secs => %s)", seconds)


@pytest.mark.parametrize("call", [("report", 1, 1.0), ("should_stop",)], ids=["report", "question"])
async def test_a_program_that_was_told_has_the_time_of_its_template(world, call):
    """Also if the operator ends before or after its program is told. The slot is free once the program has ended."""
    await prune(world)
    world.start_operator()
    assert await goes_on(world, AT_ONCE)
    assert (await world.pod(0)).call(*call) is True
    world.start_operator()
    assert await goes_on(world, timedelta(seconds=60)), "it may be saving something"
    assert world.rows() == [(0, "PRUNED")], "its pod holds the slot"
    await world.end_job(0)
    await world.look()
    assert world.rows() == [(0, "PRUNED"), (1, "RUNNING")]
    assert has_ended(await world.job(0))


async def test_the_time_of_the_template_ends(world):
    await prune(world)
    (await world.pod(0)).call("report", 1, 1.0)
    assert await goes_on(world, timedelta(seconds=60))
    assert not await goes_on(world, timedelta(seconds=120))


async def test_a_program_that_was_not_told_has_four_seconds(world):
    await prune(world)
    assert not await goes_on(world, PRUNED_GRACE)


async def test_a_program_that_goes_on_has_four_seconds(world):
    """It was told, and reports again."""
    await prune(world)
    pod = await world.pod(0)
    assert pod.call("report", 1, 1.0) is True
    assert await goes_on(world, PRUNED_GRACE)
    await let_pass(world, 2)
    assert pod.call("should_stop") is True
    assert await goes_on(world, PRUNED_GRACE), "a question is no report"
    assert pod.call("report", 4, 1.0) is True
    assert not await goes_on(world, PRUNED_GRACE)

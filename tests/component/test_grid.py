"""A grid ends when every cell has run once, and stays ended."""

from __future__ import annotations

CELLS = [{"name": "n", "int": {"low": 1, "high": 5}}]


async def test_every_cell_of_a_grid_runs_once_and_the_study_stays_ended(world):
    await world.apply(sampler={"name": "Grid"}, parameters=CELLS, maxTrials=20, parallelism=3)
    await world.run_trials(float)
    expected = [(number, "COMPLETE") for number in range(5)]
    for _ in range(2):
        await world.settle()
        assert world.rows() == expected
        complete = await world.condition("Complete")
        assert (complete["status"], complete["reason"]) == ("True", "SearchSpaceExhausted")
        assert (await world.study())["status"]["phase"] == "Succeeded"
        world.start_operator()
    values = world.database.query("SELECT count(DISTINCT param_value) FROM trial_params")
    assert values == [(5,)]

"""A finite search space ends when every combination has run once, and stays ended."""

from __future__ import annotations

from typing import Any

import pytest
from world import environment_of, params_of

CELLS = [{"name": "n", "int": {"low": 1, "high": 5}}]
TREE = [
    {"name": "kind", "categorical": {"choices": ["plain", None]}},
    {"name": "n", "int": {"low": 1, "high": 2}, "when": {"parameter": "kind", "in": ["plain"]}},
    {"name": "deep", "categorical": {"choices": [True, False]}, "when": {"parameter": "n", "in": [2]}},
]
COMBINATIONS: list[dict[str, Any]] = [
    {"kind": None},
    {"kind": "plain", "n": 1},
    {"kind": "plain", "n": 2, "deep": True},
    {"kind": "plain", "n": 2, "deep": False},
]


@pytest.mark.parametrize("sampler", ["Grid", "BruteForce"])
@pytest.mark.parametrize(
    ("parameters", "combinations"), [(CELLS, [{"n": n} for n in range(1, 6)]), (TREE, COMBINATIONS)]
)
async def test_every_combination_runs_once_and_the_study_stays_ended(world, sampler, parameters, combinations):
    await world.apply(sampler={"name": sampler}, parameters=parameters, maxTrials=20, parallelism=3)
    await world.run_trials(float)
    expected = [(number, "COMPLETE") for number in range(len(combinations))]
    for _ in range(2):
        await world.settle()
        assert world.rows() == expected
        complete = await world.condition("Complete")
        assert (complete["status"], complete["reason"]) == ("True", "SearchSpaceExhausted")
        assert (await world.study())["status"]["phase"] == "Succeeded"
        world.start_operator()
    jobs = await world.jobs()
    assert sorted(str(params_of(job)) for job in jobs) == sorted(map(str, combinations))
    for job in jobs:  # a parameter that is not active is nowhere
        variables = {name for name in environment_of(job) if name.startswith("PARAM_")}
        assert {name for name in variables if not name.endswith("_FLAG")} == {
            f"PARAM_{name}" for name in params_of(job)
        }
    stored = world.database.query("SELECT count(*) FROM trial_params")
    assert stored == [(sum(map(len, combinations)),)]

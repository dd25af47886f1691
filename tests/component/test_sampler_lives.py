"""Samplers over what the database gives back: conditions, types and several objectives, across restarts."""

from __future__ import annotations

import pytest
from world import World, params_of

from study_operator.model.study import TRIAL_LABEL

TREE = [
    {"name": "model", "categorical": {"choices": ["linear", "net"]}},
    {"name": "layers", "int": {"low": 1, "high": 3}, "when": {"parameter": "model", "in": ["net"]}},
    {"name": "rate", "float": {"low": 0.0, "high": 0.5}, "when": {"parameter": "layers", "in": [2, 3]}},
    {"name": "scale", "categorical": {"choices": [True, None, 3, "3"]}},
]
TWO = [{"name": "loss", "direction": "Minimize"}, {"name": "accuracy", "direction": "Maximize"}]
SMALL = {"TPE": {"n_startup_trials": 3}, "NSGAII": {"population_size": 3}, "NSGAIII": {"population_size": 3}}


async def run(world: World, values: int, restart_every: int = 3) -> None:
    """Ends every trial, the operator being started anew again and again."""
    for turn in range(100):
        await world.settle()
        active = await world.active()
        if not active:
            return
        for number in active:
            await world.finish(number, *[float(number % 5)] * values)
            await world.end_job(number)
        if turn % restart_every == 0:
            world.start_operator()
    raise AssertionError("the study does not end")


@pytest.mark.parametrize("objectives", [TWO[:1], TWO])
@pytest.mark.parametrize("sampler", ["TPE", "Random", "NSGAII", "NSGAIII"])
async def test_a_conditional_study_goes_on_across_restarts(world, sampler, objectives):
    await world.apply(
        sampler={"name": sampler, "options": SMALL.get(sampler, {})},
        parameters=TREE,
        objectives=objectives,
        maxTrials=12,
        parallelism=3,
    )
    await run(world, len(objectives))
    assert world.rows() == [(number, "COMPLETE") for number in range(12)]
    name = (await world.study())["status"]["studyName"]
    given = {job["metadata"]["labels"][TRIAL_LABEL]: params_of(job) for job in await world.jobs()}
    with world.database.optuna_study(name) as known:
        trials, notes = known.trials, known._storage.get_study_system_attrs(known._study_id)
    for trial in trials:
        assert repr(given[str(trial.number)]) == repr(trial.params)
        assert ("layers" in trial.params) is (trial.params["model"] == "net")
        assert ("rate" in trial.params) is (trial.params.get("layers", 1) > 1)
    if sampler.startswith("NSGA"):  # what the sampler noted is what Optuna's own finds again
        parents = {trial_id for key, ids in notes.items() if ":parent:" in key for trial_id in ids}
        assert parents
        assert parents <= {trial._trial_id for trial in trials}


async def test_a_study_ends_when_it_does_not_improve_any_more_and_stays_ended(world):
    convergence = {"options": {"max_stagnation_trials": 2}, "minTrials": 3}
    await world.apply(convergence=convergence, maxTrials=50, parallelism=1)
    await world.run_trials(lambda number: [1.0, 3.0, 2.0, 3.0, 1.0][number])
    for _ in range(2):
        await world.settle()
        assert world.rows() == [(number, "COMPLETE") for number in range(5)]
        complete = await world.condition("Complete")
        assert (complete["status"], complete["reason"]) == ("True", "Converged")
        world.start_operator()


@pytest.mark.parametrize(
    ("spec", "reason", "words"),
    [
        ({"sampler": {"name": "GP"}}, "SamplerNotInstalled", "operator.image.variant: gp"),
        ({"convergence": {"evaluator": "EMMR"}}, "SamplerNotInstalled", "or use BestValueStagnation"),
        (
            {"convergence": {"options": {"patience": 3}}},
            "InvalidConvergenceOptions",
            "evaluator BestValueStagnation has no option 'patience'",
        ),
        (
            {"sampler": {"name": "PartialFixed", "options": {"fixed_params": {"lr": 1}}}},
            "InvalidSamplerOptions",
            "fixed_params: there is no parameter 'lr'",
        ),
        (
            {"pruner": {"name": "Patient", "options": {"patience": 2, "wrapped_pruner": {"name": "ASHA"}}}},
            "UnknownPruner",
            "there is no pruner 'ASHA'",
        ),
        (
            {"parameters": [{"name": "x", "categorical": {"choices": [1, True]}}]},
            "InvalidSearchSpace",
            "parameter 'x': the choices 1 and true are the same to Optuna",
        ),
        (
            {"parameters": [TREE[0], {**TREE[1], "when": {"parameter": "model", "in": ["forest"]}}]},
            "InvalidSearchSpace",
            'when names the value "forest" of model, which is "linear" or "net"',
        ),
    ],
)
async def test_what_the_schema_cannot_judge_is_refused_with_the_reason(world, spec, reason, words):
    await world.apply(**spec)
    await world.settle()
    accepted = await world.condition("Accepted")
    assert (accepted["status"], accepted["reason"]) == ("False", reason)
    assert words in accepted["message"]
    assert world.rows() == []

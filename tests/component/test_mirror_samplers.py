"""Every sampler over the mirror of a real database, held against the same sampler over Optuna's storage in memory."""

from __future__ import annotations

import random
import warnings
from typing import Any

import optuna
import pytest
from building import study
from database import TestDatabase
from optuna.exceptions import ExperimentalWarning
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from spaces import suggest_all

from study_operator.model.study import Study
from study_operator.optimizer.samplers import NAMES, build_sampler

FLAT = [
    {"name": "lr", "float": {"low": 1e-5, "high": 0.1, "log": True}},
    {"name": "dropout", "float": {"low": 0, "high": 0.5, "step": 0.1}},
    {"name": "layers", "int": {"low": 1, "high": 4}},
    {"name": "kind", "categorical": {"choices": ["a", None, True, 3]}},
]
TREE = [
    {"name": "model", "categorical": {"choices": ["linear", "net"]}},
    {"name": "layers", "int": {"low": 1, "high": 3}, "when": {"parameter": "model", "in": ["net"]}},
    {"name": "rate", "float": {"low": 0.0, "high": 0.5}, "when": {"parameter": "layers", "in": [2, 3]}},
    {"name": "scale", "categorical": {"choices": [True, None, 3]}},
]
NUMBERS = [{"name": "x", "float": {"low": 0, "high": 1}}, {"name": "y", "float": {"low": -1, "high": 1}}]
CELLS = [{"name": "n", "int": {"low": 1, "high": 5}}, {"name": "x", "float": {"low": 0, "high": 0.5, "step": 0.1}}]
FINITE_TREE = [*TREE[:2], {"name": "scale", "categorical": {"choices": [True, None, 3, 4, 5, 6, 7, 8]}}]
ONE = [{"name": "loss", "direction": "Minimize"}]
TWO = [*ONE, {"name": "accuracy", "direction": "Maximize"}]
SMALL: dict[str, dict[str, Any]] = {
    "TPE": {"n_startup_trials": 4},
    "CmaES": {"n_startup_trials": 2, "popsize": 4},
    "NSGAII": {"population_size": 4},
    "NSGAIII": {"population_size": 4},
    "QMC": {"scramble": True},
}
SPACES: dict[str, list] = {
    "Grid": [CELLS, FINITE_TREE],
    "BruteForce": [CELLS, FINITE_TREE],
    "CmaES": [NUMBERS],
    "QMC": [FLAT],
}
CASES = [
    (name, parameters, objectives)
    for name in NAMES
    if name != "GP"  # needs PyTorch
    for parameters in SPACES.get(name, [FLAT, TREE])
    for objectives in ([ONE] if name == "CmaES" else [ONE, TWO])
]


def study_of(name: str, parameters: list, objectives: list) -> Study:
    options = SMALL.get(name, {})
    if name == "PartialFixed":
        options = {
            "fixed_params": {parameters[-1]["name"]: 3},
            "base_sampler": {"name": "TPE", "options": SMALL["TPE"]},
        }
    sampler = {"name": name, "seed": 7, "options": options}
    return study(objectives=objectives, parameters=parameters, sampler=sampler)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize(("name", "parameters", "objectives"), CASES)
def test_the_same_seed_suggests_the_same_as_in_memory(empty_database: TestDatabase, name, parameters, objectives):
    of, chance = study_of(name, parameters, objectives), random.Random(3)
    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
        samplers = [build_sampler(of, 0) for _ in range(2)]
    study_id = empty_database.studies().ensure(of.optuna_name, of.directions, "team", "study", "uid", "Retain", b"hash")
    mirror, memory = empty_database.mirror(study_id), InMemoryStorage()
    memory.create_new_study([StudyDirection[direction] for direction in of.directions], of.optuna_name)
    ours, theirs = (
        optuna.Study(of.optuna_name, storage, sampler)
        for storage, sampler in zip((mirror, memory), samplers, strict=True)
    )
    running: list[int] = []
    wishes = {0: {parameters[0]["name"]: ours_first(of)}, 7: {}}
    for turn in range(24):
        while len(running) < 3:
            number = len(theirs.trials)
            if number in wishes and name not in ("Grid", "BruteForce"):
                for each in (ours, theirs):
                    each.enqueue_trial(wishes[number])
                del wishes[number]
            with mirror.batch():
                trial = ours.ask()
                suggest_all(of.space, trial)
            expected = theirs.ask()
            suggest_all(of.space, expected)
            assert (trial.number, repr(trial.params)) == (expected.number, repr(expected.params))
            running.append(trial.number)
        number = running.pop(chance.randrange(3))
        end(ours, theirs, number, turn, chance, len(objectives), mirror)
    for mine, expected in zip(ours.trials, theirs.trials, strict=True):
        assert (mine.state, mine.values, repr(mine.params)) == (expected.state, expected.values, repr(expected.params))
        assert mine.intermediate_values == expected.intermediate_values
    if not any(":parent:" in key for key in memory.get_study_system_attrs(0)):  # which are ids
        assert mirror.get_study_system_attrs(study_id) == memory.get_study_system_attrs(0)
    with empty_database.optuna_study(of.optuna_name) as stock:
        assert whole(stock.trials) == whole(ours.trials)
        # What is loaded anew is the same as what was kept in step.
        assert whole(empty_database.mirror(study_id).get_all_trials(study_id)) == whole(ours.trials)


def whole(trials: list[FrozenTrial]) -> list[str]:
    """All that there is of trials, NaN being like NaN. In which order PostgreSQL returns rows, nobody promises."""
    unordered = ("_user_attrs", "_system_attrs", "intermediate_values")
    return [
        repr({name: sorted(value.items()) if name in unordered else value for name, value in vars(trial).items()})
        for trial in trials
    ]


def ours_first(of: Study) -> Any:
    distribution = next(iter(of.distributions.values()))
    return distribution.choices[0] if hasattr(distribution, "choices") else distribution.low


def end(
    ours: optuna.Study,
    theirs: optuna.Study,
    number: int,
    turn: int,
    chance: random.Random,
    objectives: int,
    mirror: Any,
) -> None:
    """Ends a trial in both studies: most complete, with a constraint; some are pruned after a report, some fail."""
    state = chance.choice([TrialState.COMPLETE] * 4 + [TrialState.PRUNED, TrialState.FAIL])
    params = theirs.trials[number].params
    value = sum((float(v) if isinstance(v, int | float) else len(str(v)) for v in params.values()), 0.0)
    for each in (ours, theirs):
        trial = optuna.Trial(each, each._storage.get_trial_id_from_study_id_trial_number(each._study_id, number))
        if objectives == 1 and state is TrialState.PRUNED:
            each._storage.set_trial_intermediate_value(trial._trial_id, turn, value)
        if state is TrialState.COMPLETE:
            each._storage.set_trial_system_attr(trial._trial_id, "constraints:ms", value - 5.0)
        values = [value, -value][:objectives] if state is TrialState.COMPLETE else None
        each.tell(number, values, state)

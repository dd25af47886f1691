"""The operator's TPE suggests what Optuna's own does, to the last bit."""

from __future__ import annotations

import random
import warnings
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import PartialFixedSampler, TPESampler
from optuna.trial import TrialState, create_trial

from study_operator.optimizer.tpe import TPE

SPACE: dict[str, BaseDistribution] = {
    "lr": FloatDistribution(1e-5, 1e-1, log=True),
    "momentum": FloatDistribution(0.0, 0.9, step=0.1),
    "layers": IntDistribution(1, 64, log=True),
    "width": IntDistribution(8, 512, step=8),
    "optimizer": CategoricalDistribution(("adam", "sgd", None)),
}
CHOICES: dict[str, BaseDistribution] = {name: CategoricalDistribution(("a", "b", "c")) for name in ("one", "two")}


def play(
    sampler: Any,
    space: dict[str, BaseDistribution],
    trials: int = 50,
    directions: tuple[str, ...] = ("minimize",),
    conditional: bool = False,
) -> list[dict[str, Any]]:
    """Runs a study whose trials overlap, are pruned, fail and break constraints. Returns all parameters suggested."""
    dice = random.Random(3)
    study = optuna.create_study(sampler=sampler, directions=list(directions))
    study.add_trial(create_trial(params={}, values=[0.5] * len(directions)))  # has none of the parameters
    study.add_trial(
        create_trial(
            params={name: kind.to_external_repr(1) for name, kind in list(space.items())[-1:]},
            distributions=dict(list(space.items())[-1:]),
            state=TrialState.RUNNING,  # of somebody else's, and not all asked for yet
        )
    )
    running: list[optuna.Trial] = []
    for _ in range(trials):
        trial = study.ask()
        for name, kind in space.items():
            if not (conditional and name == "momentum" and trial.params.get("layers", 0) > 8):
                trial._suggest(name, kind)
        running.append(trial)
        if len(running) < 5:
            continue
        ended = running.pop(dice.randrange(5))
        fate = dice.random()
        if fate < 0.15:
            study.tell(ended, state=TrialState.FAIL)
        elif fate < 0.35 and len(directions) == 1:
            for step in range(dice.randrange(4)):
                ended.report(dice.choice([dice.random(), float("nan")]), step)
            study.tell(ended, state=TrialState.PRUNED)
        else:
            if fate > 0.8:
                ended.set_constraint("memory", dice.uniform(-1, 1))
            study.tell(ended, [dice.choice([0.25, dice.random(), float("inf")]) for _ in directions])
    return [trial.params for trial in study.get_trials(states=None)]


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize(
    "options",
    [
        {"multivariate": True, "constant_liar": True},
        {"multivariate": True, "constant_liar": False},
        {"multivariate": False, "constant_liar": True},
        {"multivariate": True, "constant_liar": True, "group": True},
        {"multivariate": True, "constant_liar": True, "gamma": lambda n: n // 2, "n_startup_trials": 1},
        {"multivariate": True, "constant_liar": True, "gamma": lambda n: n},
        {"multivariate": True, "constant_liar": True, "gamma": lambda n: 0, "n_startup_trials": 0},
    ],
    ids=["as-the-operator-sets-it", "no-liar", "univariate", "group", "half-below", "all-below", "none-below"],
)
@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_the_same_seed_suggests_the_same(options, direction):
    ours, theirs = (play(cls(seed=5, **options), SPACE, directions=(direction,)) for cls in (TPE, TPESampler))
    assert ours == theirs
    assert len({str(params) for params in ours}) > 30


def test_with_conditional_parameters():
    options = {"multivariate": True, "constant_liar": True, "group": True, "seed": 5}
    assert play(TPE(**options), SPACE, conditional=True) == play(TPESampler(**options), SPACE, conditional=True)


def test_with_choices_alone():
    options = {"multivariate": True, "constant_liar": True, "seed": 5}
    assert play(TPE(**options), CHOICES) == play(TPESampler(**options), CHOICES)


@pytest.mark.parametrize("multivariate", [True, False])
def test_with_several_objectives(multivariate):
    options = {"multivariate": multivariate, "constant_liar": True, "seed": 5}
    both = ("minimize", "maximize")
    assert play(TPE(**options), SPACE, directions=both) == play(TPESampler(**options), SPACE, directions=both)


def test_within_partial_fixed():
    options = {"multivariate": True, "constant_liar": True, "seed": 5}
    ours, theirs = (play(PartialFixedSampler({"layers": 4}, cls(**options)), SPACE) for cls in (TPE, TPESampler))
    assert ours == theirs

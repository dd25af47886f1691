"""When a study has converged: Optuna's terminator, and what a Study may say about it."""

from __future__ import annotations

import importlib.util
import warnings
from typing import Any

import optuna
import pytest
from building import FAIL, PRUNED, study
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.terminator import BestValueStagnationEvaluator, EMMREvaluator, RegretBoundEvaluator, Terminator
from optuna.trial import FrozenTrial, create_trial

from study_operator.model.study import Refused
from study_operator.optimizer.convergence import build_convergence_test
from study_operator.optimizer.option_checks import valid_options

TORCH = importlib.util.find_spec("torch") is not None


def trials_of(*values: float | None, **constraints: list[float]) -> list[FrozenTrial]:
    """COMPLETE trials with these values, a FAIL for None."""
    found = []
    for number, value in enumerate(values):
        trial = create_trial(state=FAIL) if value is None else create_trial(value=value)
        trial.number = number
        trial.system_attrs = {f"constraints:{name}": broken[number] for name, broken in constraints.items()}
        found.append(trial)
    return found


def judge_of(**convergence: Any) -> Any:
    return build_convergence_test(study(convergence=convergence))


def refusal(**convergence: Any) -> tuple[str, str]:
    with pytest.raises(Refused) as refused:
        judge_of(**convergence)
    return refused.value.reason, refused.value.message


def test_a_study_is_not_judged_unless_it_says_so():
    assert build_convergence_test(study()) is None


@pytest.mark.parametrize("direction", [StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE])
def test_stagnation_is_judged_as_optunas_terminator_does(direction):
    values = [3.0, 2.0, 4.0, 1.0, 1.0, 2.0, 5.0, 1.5, 3.0, 3.0, 0.5]
    judge = judge_of(options={"max_stagnation_trials": 2}, minTrials=3)
    with warnings.catch_warnings(action="ignore"):
        theirs = Terminator(BestValueStagnationEvaluator(2), min_n_trials=3)
    known = optuna.create_study(storage=InMemoryStorage(), direction=direction.name.lower())
    decisions = set()
    for number, value in enumerate(values):
        known.add_trial(create_trial(value=value))
        assert judge(known.trials, direction) == theirs.should_terminate(known), number
        decisions.add(judge(known.trials, direction))
    assert decisions == {True, False}


def test_nothing_is_judged_before_enough_trials_are_complete():
    stagnant = trials_of(1.0, *[2.0] * 8, None, None)
    assert judge_of(options={"max_stagnation_trials": 2}, minTrials=9)(stagnant, StudyDirection.MINIMIZE)
    assert not judge_of(options={"max_stagnation_trials": 2}, minTrials=10)(stagnant, StudyDirection.MINIMIZE)


def test_trials_that_are_not_complete_say_nothing():
    judge = judge_of(options={"max_stagnation_trials": 2}, minTrials=1)
    pruned = create_trial(state=PRUNED, value=0.0)
    assert not judge([*trials_of(1.0, 2.0, 2.0, None), *[pruned] * 5], StudyDirection.MINIMIZE)
    assert judge([*trials_of(1.0, 2.0, 2.0, 2.0), *[pruned] * 5], StudyDirection.MINIMIZE)


def test_a_trial_of_infinite_loss_is_one_that_did_not_improve():
    judge = judge_of(options={"max_stagnation_trials": 2}, minTrials=1)
    assert judge(trials_of(1.0, *[float("inf")] * 3), StudyDirection.MINIMIZE)


def test_an_infeasible_trial_is_not_the_best_one():
    judge = judge_of(options={"max_stagnation_trials": 1}, minTrials=1)
    values, broken = (0.0, 4.0, 3.0, 2.0), [1.0, 0.0, -1.0, 0.0]
    assert judge(trials_of(*values), StudyDirection.MINIMIZE)
    assert not judge(trials_of(*values, latency=broken), StudyDirection.MINIMIZE)


@pytest.mark.parametrize(
    ("cls", "known"),
    [
        (BestValueStagnationEvaluator, {"max_stagnation_trials"}),
        (RegretBoundEvaluator, {"top_trials_ratio", "min_n_trials"}),
        (EMMREvaluator, {"deterministic_objective", "delta", "min_n_trials"}),
    ],
)
def test_every_option_is_known_to_these_tests(cls, known):
    assert set(valid_options(cls, ("seed",))) == known


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"patience": 3},
            "evaluator BestValueStagnation has no option 'patience'; its options are max_stagnation_trials",
        ),
        ({"max_stagnation_trials": 1.5}, "is 1.5; it must be a whole number"),
        ({"max_stagnation_trials": -1}, "must not be negative"),  # Optuna's own words
    ],
)
def test_a_bad_option_is_explained(options, words):
    reason, message = refusal(options=options)
    assert reason == "InvalidConvergenceOptions"
    assert message.startswith("spec.convergence: ")
    assert words in message


def test_an_unknown_evaluator_is_told_which_there_are():
    reason, message = refusal(evaluator="Stagnation")
    assert reason == "UnknownEvaluator"
    assert message == "there is no evaluator 'Stagnation'; write one of BestValueStagnation, RegretBound, EMMR"


@pytest.mark.parametrize("evaluator", ["RegretBound", "EMMR"])
@pytest.mark.skipif(TORCH, reason="PyTorch is installed")
def test_without_torch_an_evaluator_that_needs_it_is_refused(evaluator):
    error = {"error": 0.1} if evaluator == "RegretBound" else {}
    reason, message = refusal(evaluator=evaluator, **error)
    assert reason == "SamplerNotInstalled"
    assert message == (
        f"spec.convergence: the evaluator {evaluator} needs PyTorch, which this operator's image does not have: ask "
        "whoever runs the operator to install its chart with operator.image.variant: gp, or use BestValueStagnation"
    )


@pytest.mark.parametrize("evaluator", ["RegretBound", "EMMR"])
@pytest.mark.skipif(not TORCH, reason="PyTorch is not installed")
def test_a_study_that_has_found_its_optimum_converges(evaluator):
    spec = {"evaluator": "RegretBound", "error": 100.0} if evaluator == "RegretBound" else {"evaluator": evaluator}
    judge = judge_of(**spec)
    known = optuna.create_study(storage=InMemoryStorage(), sampler=optuna.samplers.TPESampler(seed=1))
    known.optimize(lambda trial: trial.suggest_float("x", 0, 1) ** 2, n_trials=40)
    known.tell(known.ask({"x": known.trials[0].distributions["x"]}), float("inf"))
    assert isinstance(judge(known.trials, StudyDirection.MINIMIZE), bool)
    if evaluator == "RegretBound":
        assert judge(known.trials, StudyDirection.MINIMIZE)

"""Very many reports: the time is linear, up to 2,000 of a trial pruners decide as in Optuna, and it does not matter in
which pieces the reports come."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from typing import Any

import optuna
import pytest
from building import study
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState, create_trial
from sampled import COMPLETE, ask, frozen, sampling_of, tell, trial_id

from study_operator.model import thinning
from study_operator.model.study import Study
from study_operator.model.trial import Report
from study_operator.optimizer.pruners import build_pruner
from study_operator.optimizer.sampling import Sampling

# Instead of 2,000: Optuna's own pruners take minutes for that many.
MOST_STEPS = 60
PRUNERS: list[dict[str, Any]] = [
    {"name": "Median", "options": {"n_startup_trials": 1}},
    {"name": "Percentile", "options": {"percentile": 25.0, "n_startup_trials": 1, "interval_steps": 7}},
    {"name": "SuccessiveHalving", "options": {"min_resource": 2, "reduction_factor": 2}},
    {"name": "Hyperband", "options": {"max_resource": 60}},
    {"name": "Threshold", "options": {"lower": 0.02}},
    {"name": "Patient", "options": {"patience": 10, "min_delta": 0.01}},
    {"name": "Wilcoxon", "options": {"p_threshold": 0.01}},
]
each_pruner = pytest.mark.parametrize("pruner", PRUNERS, ids=lambda pruner: pruner["name"])
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::optuna.exceptions.ExperimentalWarning")


@pytest.fixture(autouse=True)
def fewer_steps(monkeypatch):
    monkeypatch.setattr(thinning, "MOST_STEPS", MOST_STEPS)


def study_with(pruner: dict[str, Any]) -> Study:
    x = {"name": "x", "float": {"low": 0, "high": 1}}
    return study(parameters=[x], sampler={"name": "Random"}, pruner=pruner, maxTrials=10)


def values_of(count: int, number: int) -> list[float]:
    """What a trial reports: noise around a curve of its own."""
    noise = random.Random(number)
    return [1 - 1 / (2 + step / 5) + 0.1 * number / (1 + step) + noise.gauss(0, 0.02) for step in range(count)]


def optunas(of: Study, earlier: Iterable[list[float]], values: list[float]) -> list[bool]:
    """What Optuna itself says to each report of a trial, after earlier trials that are complete."""
    theirs = optuna.create_study(study_name=of.optuna_name, direction="maximize", pruner=build_pruner(of))
    for known in earlier:
        theirs.add_trial(
            create_trial(state=TrialState.COMPLETE, value=known[-1], intermediate_values=dict(enumerate(known)))
        )
    trial = theirs.ask()
    said = []
    for step, value in enumerate(values):
        trial.report(value, step)
        said.append(trial.should_prune())
    return said


def ours_with(of: Study, earlier: Iterable[list[float]]) -> Sampling:
    """Our sampling after the same trials, which have ended; the next one runs."""
    known = [
        create_trial(state=TrialState.COMPLETE, value=values[-1], intermediate_values=dict(enumerate(values)))
        for values in earlier
    ]
    for number, trial in enumerate(known):
        trial.number, trial._trial_id = number, trial_id(number)
    sampling = sampling_of(of, known)
    ask(sampling)
    return sampling


@each_pruner
def test_as_long_as_there_are_few_reports_a_pruner_decides_as_in_optuna(pruner):
    of = study_with(pruner)
    earlier, values = [values_of(MOST_STEPS, 0), values_of(MOST_STEPS, 1)], values_of(MOST_STEPS, 2)
    sampling = ours_with(of, earlier)
    said = [sampling.feed(Report(10_000 + step, trial_id(2), step, value)) for step, value in enumerate(values)]
    assert said == optunas(of, earlier, values)


@each_pruner
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_pruner_decides_as_in_optuna_whatever_is_reported(pruner, data):
    number = st.one_of(st.floats(0, 1), st.sampled_from([float("nan"), float("inf"), -float("inf")]))
    lists = st.lists(st.lists(number, min_size=1, max_size=30), min_size=1, max_size=4)
    *earlier, values = data.draw(lists)
    earlier = [[*known, 0.5] for known in earlier]  # a final value is finite
    of = study_with(pruner)
    sampling = ours_with(of, earlier)
    said = [
        sampling.feed(Report(10_000 + step, trial_id(len(earlier)), step, value)) for step, value in enumerate(values)
    ]
    assert said == optunas(of, earlier, values)


@each_pruner
def test_of_more_reports_a_pruner_is_shown_as_many_after_a_restart(pruner):
    """With the same trials beside it, what is decided is the same as well."""
    of, count = study_with(pruner), 3 * MOST_STEPS
    earlier, values = [values_of(count, 0), values_of(count, 1)], values_of(count, 2)
    sampling = ours_with(of, earlier)
    for step, value in enumerate(values):
        last = sampling.feed(Report(10_000 + step, trial_id(2), step, value))
    shown = sampling.memory.peek(trial_id(2)).intermediate_values
    assert MOST_STEPS / 2 <= len(shown) <= MOST_STEPS
    again = sampling_of(of, frozen(sampling), replay=[trial_id(2)])
    for step, value in enumerate(values):
        after = again.feed(Report(10_000 + step, trial_id(2), step, value), step == count - 1)
    assert again.memory.peek(trial_id(2)).intermediate_values == shown
    if pruner["name"] not in ("Median", "Percentile", "Wilcoxon"):  # they judge the last report that they are shown
        assert after == last


def work(pruner: dict[str, Any], count: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many values a pruner is shown in all, of a trial with so many reports."""
    sampling = ours_with(study_with(pruner), [values_of(10, 0)])
    shown: list[int] = []
    monkeypatch.setattr(sampling._pruner, "prune", lambda _, trial: shown.append(len(trial.intermediate_values)))
    for step in range(count):
        sampling.feed(Report(10_000 + step, trial_id(1), step, 0.5))
    return sum(shown)


@each_pruner
def test_four_times_as_many_reports_are_not_even_four_times_the_work(pruner, monkeypatch):
    """Each doubling costs the pruner as many decisions: the work grows with the logarithm."""
    assert work(pruner, 16 * MOST_STEPS, monkeypatch) < 3 * work(pruner, 4 * MOST_STEPS, monkeypatch)


def test_to_take_note_of_reports_takes_a_time_that_is_linear_in_their_number():
    def seconds(count: int) -> float:
        sampling = ours_with(study_with(PRUNERS[4]), [values_of(10, 0)])
        reports = [Report(10_000 + step, trial_id(1), step, 0.5) for step in range(count)]
        begun = time.process_time()
        for report in reports:
            sampling.see(report)
        return time.process_time() - begun

    few, many = min(seconds(5_000) for _ in range(3)), min(seconds(40_000) for _ in range(2))
    assert many < 16 * few


def test_a_pruned_trial_has_the_value_of_its_highest_step():
    sampling = ours_with(study_with(PRUNERS[4]), [values_of(10, 0)])
    for step in range(2 * MOST_STEPS):
        sampling.feed(Report(10_000 + step, trial_id(1), step, step / 10_000))
    tell(sampling, 1, TrialState.PRUNED)
    (_, ended) = frozen(sampling)
    assert ended.values == [(2 * MOST_STEPS - 1) / 10_000]
    assert ended.last_step == 2 * MOST_STEPS - 1


def test_a_complete_trial_is_as_long_as_it_was():
    """Successive halving estimates its rungs from the last step of complete trials."""
    sampling = ours_with(study_with(PRUNERS[4]), [values_of(10, 0)])
    for step in range(2 * MOST_STEPS):
        sampling.feed(Report(10_000 + step, trial_id(1), step, 0.5))
    tell(sampling, 1, COMPLETE, [0.5])
    assert frozen(sampling)[1].last_step == 2 * MOST_STEPS - 1

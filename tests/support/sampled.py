"""A study's sampling with the trials that the database would have."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from standalone import Standalone

from study_operator.model.batch import Batch, Stored
from study_operator.model.study import Study
from study_operator.optimizer.convergence import build_convergence_test
from study_operator.optimizer.pruners import build_pruner
from study_operator.optimizer.randomness import Randomness
from study_operator.optimizer.samplers import build_sampler
from study_operator.optimizer.sampling import Sampling, ancestors

# Optuna's own states: samplers see nothing else.
RUNNING, WAITING = TrialState.RUNNING, TrialState.WAITING
COMPLETE, PRUNED, FAIL = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL
# What the database makes of trial numbers: ids of its own, with gaps.
FIRST_ID = 1000


def trial_id(number: int) -> int:
    return FIRST_ID + 7 * number


class Rows(Standalone):
    """The study's rows: each batch as it was stored."""

    def __init__(self, of: Study, *given: Any) -> None:
        super().__init__(1, of.optuna_name, [StudyDirection[direction] for direction in of.directions], *given)
        self.stored: list[Batch] = []

    def store(self, batch: Batch) -> Stored:
        self.stored.append(batch)
        ids = [trial_id(change.number) for change in batch.trials.values() if change.new]
        return Stored(super().store(batch).at, ids)


@dataclass(frozen=True)
class Suggestion:
    """What was stored of one: `waiting` is the id of the trial that waited for it, None for a new one; `study_attrs`
    are what the sampler noted in the study."""

    number: int
    params: Mapping[str, Any]
    distributions: Mapping[str, BaseDistribution]
    system_attrs: Mapping[str, Any]
    study_attrs: Mapping[str, Any]
    waiting: int | None


def sampling_of(of: Study, trials: Iterable[FrozenTrial] = (), **given: Any) -> Sampling:
    trials = list(trials)
    sampler, pruner = build_sampler(of, len(trials)), build_pruner(of)
    return sampling_with(sampler, of, trials, pruner=pruner, **given)


def sampling_with(sampler: Any, of: Study, trials: Iterable[FrozenTrial] = (), **given: Any) -> Sampling:
    rows = Rows(of, trials, given.get("attrs", {}))
    rows.put_first(ancestors(sampler, given.get("warm", ())))
    return Sampling(of, sampler, given.get("pruner"), rows, given.get("replay", ()), build_convergence_test(of))


def ask(sampling: Sampling) -> Suggestion:
    """The next suggestion, stored."""
    with sampling.memory.batch() as stored:
        (asked,) = sampling.suggest(1)
    trial = sampling.memory.get_trial(stored.ids.get(asked, asked))
    sampling.notice([trial])
    batch = sampling.memory.stored[-1]
    (change,) = batch.trials.values()
    return Suggestion(
        change.number,
        trial.params,
        trial.distributions,
        trial.system_attrs,
        batch.system_attrs,
        None if change.new else change.trial_id,
    )


def tell(
    sampling: Sampling,
    number: int,
    state: TrialState,
    values: Iterable[float] | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> None:
    """Ends a trial; a pruned one without values has that of its last report."""
    told = trial_id(number)
    with sampling.memory.batch():
        for name, value in (attrs or {}).items():
            sampling.memory.set_trial_system_attr(told, name, value)
        if state is TrialState.PRUNED and values is None:
            values = sampling.last_value(told)
        sampling.tell(told, state, None if values is None else list(values))


def frozen(of: Sampling) -> list[FrozenTrial]:
    """The trials as the database would hand them out again."""
    trials = copy.deepcopy(of._study.trials[of.memory.first :])
    for number, trial in enumerate(trials):
        trial.number = number
    return trials


def with_our_numbers(of: Study, stock: optuna.Study) -> optuna.Study:
    """A stock study whose sampler draws each trial's random numbers from seed and number, as ours does."""
    randomness, stock_ask = Randomness(of, stock.sampler), stock.ask

    def ask(*given: Any) -> optuna.Trial:
        waiting = stock.get_trials(deepcopy=False, states=(WAITING,))
        randomness.set(waiting[0].number if waiting else len(stock.get_trials(deepcopy=False)))
        return stock_ask(*given)

    stock.ask = ask  # type: ignore[method-assign]
    return stock


def waiting_trial(number: int, of: Study, **fixed: Any) -> FrozenTrial:
    """What `enqueue_trial` stores."""
    trial = create_trial(state=WAITING, system_attrs={"fixed_params": fixed})
    trial.number, trial._trial_id = number, trial_id(number)
    return trial

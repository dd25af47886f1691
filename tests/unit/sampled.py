"""A study's sampling with the trials that the database would have."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from building import WAITING
from optuna.trial import FrozenTrial, create_trial

from study_operator.model.convergence import build_judge
from study_operator.model.pruners import build_pruner
from study_operator.model.samplers import build_sampler
from study_operator.model.sampling import Sampling
from study_operator.model.study import Study
from study_operator.model.trial import Suggestion

# What the database makes of trial numbers: ids of its own, with gaps.
FIRST_ID = 1000


def trial_id(number: int) -> int:
    return FIRST_ID + 7 * number


def sampling_of(of: Study, trials: Iterable[FrozenTrial] = (), **given: Any) -> Sampling:
    trials = list(trials)
    attrs, replay = given.get("attrs", {}), given.get("replay", ())
    sampler, pruner = build_sampler(of, len(trials)), build_pruner(of)
    return Sampling(of, sampler, pruner, trials, attrs, replay, given.get("warm", ()), build_judge(of))


def ask(sampling: Sampling, of: Study) -> Suggestion:
    """The next suggestion, stored."""
    suggestion = sampling.ask()
    sampling.confirm(suggestion, trial_id(suggestion.number))
    return suggestion


def frozen(of: Sampling) -> list[FrozenTrial]:
    """The trials as the database would hand them out again."""
    trials = copy.deepcopy(of._study.trials[of._first :])
    for number, trial in enumerate(trials):
        trial.number, trial._trial_id = number, trial_id(number)
    return trials


def waiting_trial(number: int, of: Study, **fixed: Any) -> FrozenTrial:
    """What `enqueue_trial` stores."""
    trial = create_trial(state=WAITING, system_attrs={"fixed_params": fixed})
    trial.number, trial._trial_id = number, trial_id(number)
    return trial

"""One study's sampler and pruner over its history, held in memory.

Optuna's samplers read the whole history again and again: from memory that takes microseconds, from a database
most of the time of a suggestion. So a study's trials are loaded once, and what the operator writes to the database
it writes here too. Nothing in here is the truth: on any doubt it is dropped and loaded anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, GridSampler
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from study_operator.model.trial import Report, Suggestion


class Sampling:
    """Not thread-safe: one caller at a time.

    Args:
        name: the study's name in Optuna; Hyperband draws brackets from it.
        direction: MINIMIZE or MAXIMIZE.
        trials: every trial of the study, in order of number.
        study_attrs: the study's system attributes.
        replay: trial_ids whose reports will be given to `feed` from the first one on.
    """

    def __init__(
        self,
        name: str,
        direction: str,
        sampler: BaseSampler,
        pruner: BasePruner | None,
        trials: Iterable[FrozenTrial],
        study_attrs: Mapping[str, Any],
        replay: Iterable[int] = (),
    ) -> None:
        self._storage = InMemoryStorage()
        self._storage.create_new_study([StudyDirection[direction]], name)
        self._study = optuna.Study(name, self._storage, sampler, pruner or NopPruner())
        self._pruner = pruner
        for key, value in study_attrs.items():
            self._storage.set_study_system_attr(self._study._study_id, key, value)
        self._numbers: dict[int, int] = {}  # by the database's trial_id; in memory a trial's id is its number
        self._seen: dict[int, int] = {}  # the last report_id, by trial_id
        self._replay = set(replay)
        for trial in trials:
            self._numbers[trial._trial_id] = len(self._numbers)
            if trial._trial_id in self._replay:
                trial.intermediate_values = {}
            self._storage.create_new_trial(self._study._study_id, trial)

    @property
    def size(self) -> int:
        """How many trials it knows, waiting ones included."""
        return len(self._numbers)

    def knows(self, trial_id: int) -> bool:
        return trial_id in self._numbers

    @property
    def exhausted(self) -> bool:
        """Whether every cell of a grid has been given out and no trial waits; False for samplers that have no end.

        Optuna's own `is_exhausted` becomes true when every cell has ended: until then it gives out again what runs.
        """
        sampler = self._study.sampler
        if not isinstance(sampler, GridSampler):
            return False
        trials = self._study.get_trials(deepcopy=False)
        if any(trial.state is TrialState.WAITING for trial in trials):
            return False
        given_out = {trial.system_attrs["grid_id"] for trial in trials if "grid_id" in trial.system_attrs}
        return len(given_out) >= len(sampler._all_grids)

    def ask(self, distributions: Mapping[str, BaseDistribution]) -> Suggestion:
        """The sampler's next suggestion; trials waiting in the queue of `enqueue_trial` come first.

        The caller stores it and calls `confirm`, or drops this object.
        """
        study_attrs = dict(self._storage.get_study_system_attrs(self._study._study_id))
        trial = self._study.ask(dict(distributions))
        frozen = self._storage.get_trial(trial._trial_id)
        waiting = next((i for i, number in self._numbers.items() if number == frozen.number), None)
        changed = self._storage.get_study_system_attrs(self._study._study_id)
        return Suggestion(
            number=frozen.number,
            params=frozen.params,
            distributions=frozen.distributions,
            system_attrs=frozen.system_attrs,
            study_attrs={key: value for key, value in changed.items() if study_attrs.get(key) != value},
            waiting=waiting,
        )

    def confirm(self, suggestion: Suggestion, trial_id: int) -> None:
        """The suggestion is stored under this trial_id."""
        self._numbers[trial_id] = suggestion.number

    def cursors(self, trial_ids: Iterable[int]) -> dict[int, int]:
        """For each trial the last report_id that `feed` has seen, 0 for none; empty when nothing prunes."""
        if self._pruner is None:
            return {}
        return {trial_id: self.seen(trial_id) for trial_id in trial_ids if self.knows(trial_id)}

    def seen(self, trial_id: int) -> int:
        """The last report_id that `see` or `feed` has seen of a trial, 0 for none."""
        return self._seen.get(trial_id, 0)

    def see(self, report: Report) -> None:
        """Takes note of one report, for samplers that learn from those of pruned trials."""
        self._seen[report.trial_id] = max(report.report_id, self.seen(report.trial_id))
        self._storage.set_trial_intermediate_value(self._numbers[report.trial_id], report.step, report.value)

    def feed(self, report: Report, latest: bool = True) -> bool:
        """Shows the pruner one report. Each must be shown, in order: ASHA books a rung for the report that reached
        it, and skipping reports changes whom a trial competes with.

        Args:
            latest: whether it is the trial's last one so far.

        Returns:
            Whether the trial is to be pruned.
        """
        assert self._pruner is not None
        self.see(report)
        given_up = self._pruner.prune(self._study, self._storage.get_trial(self._numbers[report.trial_id]))
        if report.trial_id in self._replay and isinstance(self._pruner, MedianPruner):
            # It keeps no book: a report of long ago would be compared with trials that have ended since.
            given_up = given_up and latest
        if latest:
            self._replay.discard(report.trial_id)
        return given_up

    def system_attrs(self, trial_id: int) -> dict[str, Any]:
        """A trial's system attributes as they are now, the pruner's among them."""
        return dict(self._storage.get_trial_system_attrs(self._numbers[trial_id]))

    def tell(self, trial_id: int, state: TrialState, values: Iterable[float] | None) -> None:
        """Ends a trial here as it was ended in the database."""
        number = self._numbers[trial_id]
        self._seen.pop(trial_id, None)
        if not self._storage.get_trial(number).state.is_finished():
            told = None if values is None or state is not TrialState.COMPLETE else list(values)
            self._study.tell(number, told, state)

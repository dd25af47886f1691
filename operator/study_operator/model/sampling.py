"""One study's sampler and pruner over its history, held in memory.

Optuna's samplers read the whole history again and again: from memory that takes microseconds, from a database
most of the time of a suggestion. So a study's trials are loaded once, and what the operator writes to the database
it writes here too. Nothing in here is the truth: on any doubt it is dropped and loaded anew.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import optuna
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseGASampler, BaseSampler
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from study_operator.model.convergence import Judge
from study_operator.model.exhaustive import BruteForce, Grid
from study_operator.model.pruners import OwnTrials, compares
from study_operator.model.study import Study
from study_operator.model.trial import Report, Suggestion
from study_operator.model.wishes import WISH_ATTR

# Optuna's genetic samplers note in the study which trials are a generation's parents, by id.
_PARENTS = ":parent:"


class Sampling:
    """Not thread-safe: one caller at a time.

    Args:
        trials: every trial of the study, in order of number.
        study_attrs: the study's system attributes.
        replay: trial_ids whose reports will be given to `feed` from the first one on.
        warm: finished trials of other studies, from which the sampler learns and of which nothing else knows. They are
            as trials of this study would be, and of system attributes have those of its constraints alone.
        judge: says whether the study has converged, None when nothing asks.
    """

    def __init__(
        self,
        study: Study,
        sampler: BaseSampler,
        pruner: BasePruner | None,
        trials: Iterable[FrozenTrial],
        study_attrs: Mapping[str, Any],
        replay: Iterable[int] = (),
        warm: Sequence[FrozenTrial] = (),
        judge: Judge | None = None,
    ) -> None:
        name, directions = study.optuna_name, [StudyDirection[direction] for direction in study.directions]
        self._space = study.space
        self._storage = InMemoryStorage()
        self._storage.create_new_study(directions, name)
        self._study = optuna.Study(name, self._storage, sampler, pruner or NopPruner())
        self._pruner, self._judge = pruner, judge
        self._finite = sampler if isinstance(sampler, Grid | BruteForce) else None
        self._given_out: set[Hashable] = set()  # cells of a finite space
        # In memory a trial's id is its place, and warm trials come first. Both ways, by the database's trial_id:
        self._first = len(warm)
        self._own = OwnTrials(self._study, self._first) if warm else self._study  # what the pruner sees
        self._places: dict[int, int] = {}
        self._ids: dict[int, int] = {}
        self._waiting = 0
        self._seen: dict[int, int] = {}  # the last report_id, by trial_id
        self._replay = set(replay)
        self._completed, self._judged, self._converged = 0, -1, False
        for trial in warm:
            self._add(self._ancestor(trial))
        for place, trial in enumerate(trials, self._first):
            self._places[trial._trial_id], self._ids[place] = place, trial._trial_id
            self._waiting += trial.state is TrialState.WAITING
            self._completed += trial.state is TrialState.COMPLETE
            if trial._trial_id in self._replay:
                trial.intermediate_values = {}
            self._add(self._possible_wish(trial))
        known = self._places | {-1 - place: place for place in range(self._first)}  # as `_stored` has them
        for key, value in study_attrs.items():
            own = [known[trial_id] for trial_id in value if trial_id in known] if _PARENTS in key else value
            self._storage.set_study_system_attr(self._study._study_id, key, own)

    @property
    def size(self) -> int:
        """How many trials it knows, waiting ones included and warm ones not."""
        return len(self._places)

    def knows(self, trial_id: int) -> bool:
        return trial_id in self._places

    @property
    def exhausted(self) -> bool:
        """Whether every cell of a finite search space has been given out and no trial waits; False for samplers that
        have no end. What is given out counts, whether it has ended or not and however: Optuna's own `is_exhausted`
        becomes true when every cell has ended; until then it gives out again what runs."""
        return self._finite is not None and not self._waiting and len(self._given_out) >= self._finite.size

    @property
    def converged(self) -> bool:
        """Whether more trials are not expected to help, as the judge says of the trials that are complete now."""
        if self._judge is not None and self._judged != self._completed:
            self._judged = self._completed
            self._converged = self._judge(self._study.get_trials(deepcopy=False)[self._first :], self._study.direction)
        return self._converged

    def ask(self) -> Suggestion:
        """The sampler's next suggestion; trials waiting in the queue of `enqueue_trial` come first.

        The caller stores it and calls `confirm`, or drops this object.
        """
        study_attrs = dict(self._storage.get_study_system_attrs(self._study._study_id))
        trial = self._study.ask()
        self._space.choose(trial._suggest)  # what `Study.ask` calls for each of a list of parameters
        frozen = self._storage.get_trial(trial._trial_id)
        waiting = self._ids.get(frozen.number)
        self._waiting -= waiting is not None
        self._give_out(frozen)
        changed = self._storage.get_study_system_attrs(self._study._study_id)
        return Suggestion(
            number=frozen.number - self._first,
            params=frozen.params,
            distributions=frozen.distributions,
            system_attrs=frozen.system_attrs,
            study_attrs={k: self._stored(k, v) for k, v in changed.items() if study_attrs.get(k) != v},
            waiting=waiting,
        )

    def confirm(self, suggestion: Suggestion, trial_id: int) -> None:
        """The suggestion is stored under this trial_id."""
        place = suggestion.number + self._first
        self._places[trial_id], self._ids[place] = place, trial_id

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
        self._storage.set_trial_intermediate_value(self._places[report.trial_id], report.step, report.value)

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
        given_up = bool(self._pruner.prune(self._own, self._storage.get_trial(self._places[report.trial_id])))
        if report.trial_id in self._replay and compares(self._pruner):
            # It keeps no book: a report of long ago would be compared with trials that have ended since.
            given_up = given_up and latest
        if latest:
            self._replay.discard(report.trial_id)
        return given_up

    def system_attrs(self, trial_id: int) -> dict[str, Any]:
        """A trial's system attributes as they are now, the pruner's among them."""
        return dict(self._storage.get_trial_system_attrs(self._places[trial_id]))

    def tell(
        self,
        trial_id: int,
        state: TrialState,
        values: Iterable[float] | None,
        system_attrs: Mapping[str, Any] | None = None,
    ) -> None:
        """Ends a trial here as it was ended in the database.

        Args:
            system_attrs: what was stored with its end: the values of its constraints.
        """
        place = self._places[trial_id]
        self._seen.pop(trial_id, None)
        if not self._storage.get_trial(place).state.is_finished():
            for key, value in (system_attrs or {}).items():
                self._storage.set_trial_system_attr(place, key, value)
            told = None if values is None or state is not TrialState.COMPLETE else list(values)
            self._study.tell(place, told, state)
            self._completed += state is TrialState.COMPLETE

    def _add(self, trial: FrozenTrial) -> None:
        place = self._storage.create_new_trial(self._study._study_id, trial)
        self._give_out(self._storage.get_trial(place))

    def _give_out(self, trial: FrozenTrial) -> None:
        cell = None if self._finite is None else self._finite.cell(trial)
        if cell is not None:
            self._given_out.add(cell)

    def _ancestor(self, trial: FrozenTrial) -> FrozenTrial:
        """A trial of another study, in the first generation of a genetic sampler, which overlooks those of none."""
        sampler = getattr(self._study.sampler, "_base_sampler", self._study.sampler)  # PartialFixed has one
        if not isinstance(sampler, BaseGASampler):
            return trial
        own = copy.copy(trial)
        own.system_attrs = {**trial.system_attrs, sampler._get_generation_key(): 0}
        return own

    def _possible_wish(self, trial: FrozenTrial) -> FrozenTrial:
        """A trial that waits, less what it wishes for and cannot have; Optuna would end with an exception on it."""
        wishes = trial.system_attrs.get(WISH_ATTR)
        if trial.state is not TrialState.WAITING or not wishes:
            return trial
        own = copy.copy(trial)
        own.system_attrs = {**trial.system_attrs, WISH_ATTR: self._space.possible(wishes)}
        return own

    def _stored(self, key: str, value: Any) -> Any:
        """A note of the sampler as the database has it: parents by the database's trial_id, as Optuna would find them
        again; a warm trial, which the database does not have, by a negative number."""
        return [self._ids.get(place, -1 - place) for place in value] if _PARENTS in key else value

"""One study's sampler, pruner and convergence test over its trials in memory."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import optuna
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseGASampler, BaseSampler
from optuna.trial import FrozenTrial, TrialState

from study_operator.model.pruners import compares
from study_operator.model.study import Study
from study_operator.model.trial import Report
from study_operator.optimizer.convergence import ConvergenceTest
from study_operator.optimizer.distributions import optuna_distributions
from study_operator.optimizer.exhaustive import BruteForce, Grid
from study_operator.optimizer.memory import Memory
from study_operator.optimizer.pruners import OwnTrials
from study_operator.optimizer.randomness import Randomness


class Sampling:
    """Not thread-safe: one caller at a time.

    Args:
        memory: the study's trials.
        replay: trial_ids whose reports will be given to `feed` from the first one on.
        convergence: the convergence test; None without one.
    """

    def __init__(
        self,
        study: Study,
        sampler: BaseSampler,
        pruner: BasePruner | None,
        memory: Memory,
        replay: Iterable[int] = (),
        convergence: ConvergenceTest | None = None,
    ) -> None:
        self.memory, self._space = memory, study.space
        self._distributions = optuna_distributions(study.space)
        self._study = optuna.Study(study.optuna_name, memory, sampler, pruner or NopPruner())
        self._pruner, self._compares, self._convergence = pruner, compares(study), convergence
        self._own = OwnTrials(self._study, memory.first) if memory.first else self._study  # what the pruner sees
        self._finite = sampler if isinstance(sampler, Grid | BruteForce) else None
        self._randomness = Randomness(study, sampler)
        self._given_out: set[Hashable] = set()  # cells of a finite space
        self._seen: dict[int, int] = {}  # the last report_id, by trial_id
        self._replay = set(replay)
        self._judged, self._converged = -1, False
        for trial_id in self._replay:
            memory.clear_reports(trial_id)
        self.notice(memory.get_all_trials(memory.study_id, deepcopy=False))

    def notice(self, trials: Iterable[FrozenTrial]) -> None:
        """Take account of trials that are new here, or that another program has changed."""
        for trial in trials if self._finite is not None else ():
            self._give_out(trial)

    @property
    def exhausted(self) -> bool:
        """Whether every cell of a finite search space has been suggested and no trial waits; False for samplers without
        an end.

        Suggested cells count whether or not their trials have ended. Optuna's own `is_exhausted` becomes true only
        when every cell has ended, and until then suggests again the cells that run.
        """
        if self._finite is None or len(self._given_out) < self._finite.size:
            return False
        return not self.memory.get_n_trials(self.memory.study_id, TrialState.WAITING)

    @property
    def converged(self) -> bool:
        """Whether more trials are not expected to help, as the convergence test says of the trials that are complete
        now."""
        completed = self.memory.get_n_trials(self.memory.study_id, TrialState.COMPLETE)
        if self._convergence is not None and self._judged != completed:
            self._judged = completed
            trials = self._study.get_trials(deepcopy=False)[self.memory.first :]
            self._converged = self._convergence(trials, self._study.direction)
        return self._converged

    def suggest(self, count: int, attrs: Callable[[int], Mapping[str, Any]] = lambda number: {}) -> list[int]:
        """Ask the sampler for trials, one after the other, RUNNING, inside the memory's open batch. Trials waiting in
        the queue of `enqueue_trial` come first.

        Args:
            count: how many; of a finite space one at a time.
            attrs: system attributes that are stored with a trial, for its number.

        Returns:
            Their trial_ids; those of new trials are provisional until the batch is stored. Then give them to `notice`.
        """
        asked = []
        for _ in range(count if self._finite is None else 1):
            self._randomness.set(self._next())
            trial = self._study.ask()
            self._choose(trial)
            for name, value in attrs(trial.number - self.memory.first).items():
                self.memory.set_trial_system_attr(trial._trial_id, name, value)
            asked.append(trial._trial_id)
        return asked

    def _choose(self, trial: optuna.Trial) -> None:
        # `_suggest` is what `Study.ask` calls for each of a list of parameters.
        self._space.choose(lambda name, _: trial._suggest(name, self._distributions[name]))

    def _next(self) -> int:
        """Return the number of the trial that will be suggested next: the first that waits, or a new one's."""
        waiting = self.memory.get_all_trials(self.memory.study_id, deepcopy=False, states=(TrialState.WAITING,))
        return waiting[0].number - self.memory.first if waiting else self.memory.size

    def cursors(self, trial_ids: Iterable[int]) -> dict[int, int]:
        """Return for each trial the last report_id that `feed` has seen, 0 for none; empty when nothing prunes."""
        if self._pruner is None:
            return {}
        return {trial_id: self.seen(trial_id) for trial_id in trial_ids if self.memory.is_open(trial_id)}

    def seen(self, trial_id: int) -> int:
        """Return the last report_id that `see` or `feed` has seen of a trial, 0 for none."""
        return self._seen.get(trial_id, 0)

    def see(self, report: Report) -> bool:
        """Take note of one report, for samplers that learn from those of pruned trials. Return whether it is one of
        those that a pruner is shown."""
        self._seen[report.trial_id] = max(report.report_id, self.seen(report.trial_id))
        return self.memory.add_report(report.trial_id, report.step, report.value)

    def feed(self, report: Report, latest: bool = True) -> bool:
        """Show the pruner one report, unless its trial has so many that this one is passed over (model/thinning.py).

        Every report must be given, in order: ASHA notes a rung for the report that reached it, so skipping reports
        changes which trials a trial competes with. What the pruner notes is deferred.

        Args:
            latest: whether it is the trial's last one so far.

        Returns:
            Whether the trial is to be pruned.
        """
        assert self._pruner is not None
        shown = self.see(report)
        if report.trial_id in self._replay:
            if self._compares:
                # This pruner stores no notes, so it would compare an old report with trials that have ended since. Its
                # word about the last report that it is shown may have been lost.
                shown = latest
            if latest:
                self._replay.discard(report.trial_id)
        if not shown:
            return False
        with self.memory.deferring():
            return bool(self._pruner.prune(self._own, self.memory.peek(report.trial_id)))

    def last_value(self, trial_id: int) -> list[float] | None:
        """Return the value reported for the highest step, which Optuna takes as a pruned trial's own; None if there is
        no report, or it is NaN."""
        value = self.memory.last_report(trial_id)
        return None if value is None or math.isnan(value) else [value]

    def tell(self, trial_id: int, state: TrialState, values: Sequence[float] | None) -> None:
        """End a trial inside the memory's open batch, as `Study.tell` does. A waiting trial can be ended too."""
        self._seen.pop(trial_id, None)
        trial = self.memory.get_trial(trial_id)
        told = None if values is None else list(values)
        try:
            if trial.state is TrialState.RUNNING:
                study = optuna.pruners._filter_study(self._study, trial)
                study.sampler.after_trial(study, trial, state, told)
        finally:
            self.memory.set_trial_state_values(trial_id, state, told)

    def _give_out(self, trial: FrozenTrial) -> None:
        cell = None if self._finite is None else self._finite.cell(trial)
        if cell is not None:
            self._given_out.add(cell)


def ancestors(sampler: BaseSampler, trials: Sequence[FrozenTrial]) -> Sequence[FrozenTrial]:
    """Return trials of earlier studies in the form in which a sampler learns from them. A genetic sampler overlooks
    trials without a generation, so for it they belong to the first one."""
    base = getattr(sampler, "_base_sampler", sampler)  # PartialFixed has one
    if not isinstance(base, BaseGASampler):
        return trials
    found = [copy.copy(trial) for trial in trials]
    for trial in found:
        trial.system_attrs = {**trial.system_attrs, base._get_generation_key(): 0}
    return found

"""The optimizer's door: one study's suggestions, pruning and outlook, in plain values.

What the optimizer decides takes two steps, because it does no I/O. `suggest`, `tell`, `run_again` and `judge` return a
batch of changes and remember it. The caller stores the batch and calls `commit`, or `rollback` if it is not stored.
Nothing in memory is the truth: when it is not known whether a batch was stored, drop the optimizer and load it anew.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from study_operator.model import trial as plain
from study_operator.model.actions import RunAgain, Tell
from study_operator.model.batch import Batch, StaleHistory, Stored
from study_operator.model.history import Changes, History, Outlook, StoredStudy, StoredTrial, Verdicts
from study_operator.model.initial_trials import WISH_ATTR
from study_operator.model.search_space import Space
from study_operator.model.study import Study
from study_operator.model.trial import FAILURE_ATTR, JOB_ATTR, Report, TrialRow, constraint_attrs
from study_operator.optimizer.convergence import build_convergence_test
from study_operator.optimizer.frozen_trials import Distributions, frozen
from study_operator.optimizer.memory import Memory
from study_operator.optimizer.pruners import build_pruner
from study_operator.optimizer.samplers import build_sampler
from study_operator.optimizer.sampling import Sampling, ancestors


def check(study: Study, sampler_classes: Collection[str]) -> None:
    """Build the Study's sampler, pruner and convergence test, to find out whether that can be done.

    Args:
        sampler_classes: those, as package.module:Class, that Studies may name. They are imported here.

    Raises:
        Refused: when it cannot.
    """
    build_sampler(study, 0, sampler_classes)
    build_pruner(study)
    build_convergence_test(study)


class Loading:
    """Trials that come in pieces, each of which is small, until an optimizer can be built of them."""

    def __init__(self) -> None:
        self.trials: list[FrozenTrial] = []
        self.earlier: list[FrozenTrial] = []
        self._known = Distributions()

    def add(self, trials: Iterable[StoredTrial], earlier: bool = False) -> None:
        """Add some of the study's own trials, or of those of earlier studies, in order."""
        (self.earlier if earlier else self.trials).extend(frozen(trials, self._known))


class StudyOptimizer:
    """One study in memory. Not thread-safe: one caller at a time.

    Args:
        study_id: Optuna's, in the database.
        stored: what the study has besides its trials.
        loaded: the study's trials, and finished trials of earlier studies, which the sampler learns from as well.
        sampler_classes: those that Studies may name.

    Raises:
        Refused: when the Study's sampler, pruner or convergence test cannot be built.
    """

    def __init__(
        self, study: Study, study_id: int, stored: StoredStudy, loaded: Loading, sampler_classes: Collection[str]
    ) -> None:
        self._job_name, self._space = study.job_name, study.space
        trials = loaded.trials
        sampler, pruner = build_sampler(study, len(trials), sampler_classes), build_pruner(study)
        self._memory = Memory(
            study_id,
            stored.name,
            [StudyDirection[direction] for direction in stored.directions],
            trials,
            stored.system_attrs,
            stored.user_attrs,
        )
        self._memory.put_first(ancestors(sampler, loaded.earlier))
        # The pruner sees the reports of our running trials again, in order; other trials keep what they have.
        replay = [t._trial_id for t in trials if t.state is TrialState.RUNNING and JOB_ATTR in t.system_attrs]
        self._sampling = Sampling(study, sampler, pruner, self._memory, replay, build_convergence_test(study))
        self._asked: list[int] = []
        self._impossible = _impossible(self._memory, self._space)

    @classmethod
    def of(
        cls, study: Study, history: History, earlier: Iterable[StoredTrial], sampler_classes: Collection[str]
    ) -> StudyOptimizer:
        """Build an optimizer of a history that is whole. Raises as the constructor does."""
        loaded = Loading()
        loaded.add(history.trials)
        loaded.add(earlier, earlier=True)
        return cls(study, history.study_id, history.study, loaded, sampler_classes)

    @property
    def size(self) -> int:
        """How many trials the study has, waiting ones included."""
        return self._memory.size

    def outlook(self) -> Outlook:
        """Return what is to be expected of more trials."""
        return Outlook(self._sampling.exhausted, self._sampling.converged, self._impossible)

    def knows(self, trial_ids: Iterable[int]) -> bool:
        """Return whether the study has all these trials."""
        return all(map(self._memory.knows, trial_ids))

    # What others have written

    def update(self, changes: Changes) -> None:
        """Take over what other programs have changed.

        Raises:
            StaleHistory: the changes do not follow what is known. Drop this and load it anew.
        """
        if changes.study is not None:
            self._memory.put_attrs(changes.study.system_attrs, changes.study.user_attrs)
        trials = frozen(changes.trials)
        for trial in trials:
            ours = trial.state is TrialState.RUNNING and JOB_ATTR in trial.system_attrs
            if ours and self._memory.knows(trial._trial_id):
                # The pruner is shown the reports of our trials one by one, as they came.
                trial.intermediate_values = self._memory.peek(trial._trial_id).intermediate_values
            self._memory.put(trial)
        self._sampling.notice(self._memory.get_trial(trial._trial_id) for trial in trials)
        self._impossible = _impossible(self._memory, self._space)

    def last_reports(self, trial_ids: Iterable[int]) -> dict[int, int]:
        """Return for each unfinished trial the last report_id that `judge` has been given, 0 for none. Empty if the
        Study has no pruner: then reports need not be read."""
        return self._sampling.cursors(trial_ids)

    def see(self, reports: Iterable[Report]) -> None:
        """Take note of reports, oldest first, without a decision: samplers learn from those of pruned trials."""
        for report in reports:
            self._sampling.see(report)

    # What is decided; each batch needs `commit` or `rollback`

    def judge(
        self, reports: Sequence[Report], running: Collection[int], unread: Collection[int] = frozenset()
    ) -> Verdicts:
        """Show the pruner reports, oldest first.

        Args:
            running: trial_ids of the running trials.
            unread: trial_ids of the trials that have stored more reports than these.

        Returns:
            Which trials are to be pruned. If it has notes, they are a batch.
        """
        latest = {report.trial_id: report.report_id for report in reports}
        prune: set[int] = set()
        for report in reports:
            last = report.report_id == latest[report.trial_id] and report.trial_id not in unread
            if report.trial_id not in prune and self._sampling.feed(report, last):
                prune.add(report.trial_id)
        notes = self._memory.begin()
        # What leads to an end is stored with the end.
        self._memory.write_deferred(trial_id for trial_id in running if trial_id not in prune)
        if notes:
            return Verdicts(frozenset(prune), notes)
        self._memory.rollback()
        return Verdicts(frozenset(prune))

    def suggest(self, count: int, most: int) -> Batch:
        """Suggest trials.

        Args:
            count: how many are wanted; a finite search space gives one at a time.
            most: how many trials may have been started, these included.

        Raises:
            Exception: the sampler's own. Nothing has changed then.
        """
        batch = self._memory.begin(most)
        try:
            self._asked = self._sampling.suggest(count, lambda number: {JOB_ATTR: self._job_name(number)})
        except BaseException:
            self._memory.rollback()
            raise
        return batch

    def tell(self, tells: Sequence[Tell]) -> Batch:
        """End trials.

        Raises:
            StaleHistory: one of them has ended already. Nothing has changed then.
            Exception: the sampler's own. Nothing has changed then.
        """
        batch = self._memory.begin()
        try:
            for told in tells:
                self._tell(batch, told)
        except BaseException:
            self._memory.rollback()
            raise
        return batch

    def _tell(self, batch: Batch, told: Tell) -> None:
        trial_id = told.row.trial_id
        if self._memory.get_trial(trial_id).state.is_finished():
            raise StaleHistory(f"trial {told.row.number} has ended")
        for name, violation in constraint_attrs(told.constraints).items():
            self._memory.set_trial_system_attr(trial_id, name, violation)
        if told.failure is not None:
            self._memory.set_trial_user_attr(trial_id, FAILURE_ATTR, told.failure.attribute())
        values = self._sampling.last_value(trial_id) if told.by_last_report else told.values
        self._sampling.tell(trial_id, TrialState(told.state.value), values)
        change = batch.trials[trial_id]
        change.failure, change.unless_result = told.failure, not told.row.has_final

    def run_again(self, again: RunAgain, job: str) -> Batch:
        """Give a trial another Job.

        Args:
            job: the Job's name.

        Raises:
            StaleHistory: the trial has ended. Nothing has changed then.
        """
        trial_id = again.row.trial_id
        if self._memory.get_trial(trial_id).state.is_finished():
            raise StaleHistory(f"trial {again.row.number} has ended")
        batch = self._memory.begin()
        self._memory.set_trial_system_attr(trial_id, JOB_ATTR, job)
        change = batch.trials[trial_id]
        # A provisional result was read from the output of the Job that failed.
        change.failure, change.unless_result, change.forget_result = again.failure, True, True
        return batch

    def commit(self, stored: Stored) -> list[TrialRow]:
        """Say that the last batch has been stored.

        Returns:
            The trials that it has started.
        """
        ids = self._memory.commit(stored)
        asked, self._asked = self._asked, []
        started = [self._memory.get_trial(ids.get(trial_id, trial_id)) for trial_id in asked]
        self._sampling.notice(started)
        return [self._row(trial) for trial in started]

    def rollback(self) -> None:
        """Say that the last batch has not been stored, and will not be."""
        self._asked = []
        self._memory.rollback()

    def _row(self, trial: FrozenTrial) -> TrialRow:
        number = trial.number - self._memory.first
        return TrialRow(trial._trial_id, number, plain.TrialState.RUNNING, dict(trial.params), self._job_name(number))


def _impossible(memory: Memory, space: Space) -> tuple[tuple[TrialRow, str], ...]:
    """Return the waiting trials whose parameters the Study does not allow, each with the reason."""
    found: list[tuple[TrialRow, str]] = []
    for trial in memory.get_all_trials(memory.study_id, deepcopy=False, states=(TrialState.WAITING,)):
        wanted: Mapping[str, object] | None = trial.system_attrs.get(WISH_ATTR)
        if wanted is None:
            continue
        try:
            space.check(wanted)
        except ValueError as error:
            number = trial.number - memory.first
            found.append((TrialRow(trial._trial_id, number, plain.TrialState.WAITING, {}, None), str(error)))
    return tuple(found)

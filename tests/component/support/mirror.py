"""A study of the database as an Optuna storage, made of the operator's own parts: history, memory and batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from standalone import Standalone

from study_operator.model.batch import Batch, NotStored, StaleHistory, Stored
from study_operator.model.trial import JOB_ATTR
from study_operator.optimizer.frozen_trials import frozen
from study_operator.storage import history
from study_operator.storage.batch_writer import store
from study_operator.storage.database import Database

T = TypeVar("T")


class Mirror(Standalone):
    """A write is one round trip and one commit, and so is a `batch`."""

    def __init__(self, database: Database, study_id: int) -> None:
        self._database = database
        read = history.load(database, study_id)
        directions = [StudyDirection[direction] for direction in read.study.directions]
        attrs = read.study.system_attrs, read.study.user_attrs
        super().__init__(study_id, read.study.name, directions, frozen(read.trials), *attrs)

    def catch_up(self) -> list[FrozenTrial]:
        """Reads what others have changed since the last time. Returns the trials that are new or others than before.

        Raises:
            StaleHistory: what is here does not go with what the database has; load it anew.
        """
        with self._lock:
            doubtful, self.doubtful = self.doubtful, True
            changes = history.take_changes(self._database, self.study_id)
            if changes.study is not None:
                self.put_attrs(changes.study.system_attrs, changes.study.user_attrs)
            changed = frozen(changes.trials)
            for trial in changed:
                ours = trial.state is TrialState.RUNNING and JOB_ATTR in trial.system_attrs
                if ours and self.knows(trial._trial_id):
                    trial.intermediate_values = self.get_trial(trial._trial_id).intermediate_values
                self.put(trial)
            self.doubtful = doubtful
            return [self.get_trial(trial._trial_id) for trial in changed]

    def store(self, batch: Batch) -> Stored:
        return store(self._database, self.study_id, batch)

    def _alone(self, call: Callable[[], T]) -> T:
        for _ in range(5):
            try:
                return super()._alone(call)
            except NotStored:
                self.catch_up()  # what was to be written may be possible still, or the call says now why it is not
        raise StaleHistory("other programs keep writing to this study")

"""A study's rows in memory, kept in step.

The operator is a study's only writer but for notebooks. So its rows are loaded once, what the operator writes goes
through, and of the rest only what somebody else has changed is read again: triggers note that down (mirror.sql).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from optuna.trial import FrozenTrial

from study_operator.model.batch import Batch, NotStored, StaleHistory, Stored
from study_operator.model.trial import JOB_ATTR, TrialState
from study_operator.optimizer.memory import Memory
from study_operator.storage import history
from study_operator.storage.batch_writer import store
from study_operator.storage.database import Database

T = TypeVar("T")

_TAKE = (
    "WITH taken AS (DELETE FROM study_operator.changes WHERE study_id = %s RETURNING trial_id)"
    " SELECT coalesce(array_agg(DISTINCT trial_id), '{}') FROM taken"
)


class Mirror(Memory):
    """One study of the database as an Optuna storage. A write is one round trip and one commit, and so is a `batch`.

    Raises:
        KeyError: the study is not there.
        StorageUnavailable, StorageError: as their names say.
    """

    def __init__(self, database: Database, study_id: int) -> None:
        self._database = database
        with database.transaction() as cursor:
            cursor.execute("SELECT FROM study_operator.changes WHERE study_id = %s LIMIT 1", (study_id,))
            changed = cursor.fetchone() is not None
        if changed:
            forget_changes(database, study_id)  # before the rows are read: what comes in between is not missed then
        with database.transaction() as cursor:
            row = history.study(cursor, study_id)
            trials = history.trials(cursor, study_id)
        super().__init__(study_id, row.name, row.directions, trials, row.system_attrs, row.user_attrs)

    def catch_up(self) -> list[FrozenTrial]:
        """Reads what others have changed since the last time.

        Returns:
            The trials that are new or others than before.

        Raises:
            StaleHistory: what is here does not go with what the database has; load it anew.
            StorageUnavailable, StorageError: likewise, for some changes may have been lost on the way.
        """
        with self._lock:
            doubtful, self.doubtful = self.doubtful, True
            changed = forget_changes(self._database, self.study_id)
            if changed:
                with self._database.transaction() as cursor:
                    if 0 in changed:
                        row = history.study(cursor, self.study_id)
                        self._system_attrs, self._user_attrs = row.system_attrs, row.user_attrs
                    trials = history.trials(cursor, self.study_id, changed)
                for trial in trials:
                    self._take(trial)
            self.doubtful = doubtful
            return [self.get_trial(trial_id) for trial_id in changed if self.knows(trial_id)]

    def _take(self, trial: FrozenTrial) -> None:
        if self.knows(trial._trial_id) and trial.state is TrialState.RUNNING and JOB_ATTR in trial.system_attrs:
            # Reports of a trial of ours are shown to the pruner one by one, as they came.
            trial.intermediate_values = self.get_trial(trial._trial_id).intermediate_values
        self.take(trial)

    def _store(self, batch: Batch) -> Stored:
        return store(self._database, self.study_id, batch)

    def _alone(self, call: Callable[[], T]) -> T:
        for _ in range(5):
            try:
                return super()._alone(call)
            except NotStored:
                self.catch_up()  # what was to be written may be possible still, or the call says now why it is not
        raise StaleHistory("other programs keep writing to this study")


def forget_changes(database: Database, study_id: int) -> list[int]:
    """Which trials others have changed since this was last called; 0 stands for the study's own attributes."""
    (trial_ids,) = database.write(study_id, _TAKE, (study_id,))
    return sorted(trial_ids)

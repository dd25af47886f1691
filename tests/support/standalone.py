"""A study's trials in memory as a whole Optuna storage: a batch stores itself, and so does a write outside of one.

The operator's own code stores each batch between two steps of the optimizer. For Optuna's own cases, and for samplers
that are asked directly, both steps are one here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TypeVar

from study_operator.model.batch import PROVISIONAL, Batch, NotStored, Stored
from study_operator.optimizer.memory import Memory

T = TypeVar("T")


class Standalone(Memory):
    """`store` says where batches go. Here that is nowhere, and ids are made up.

    Attributes:
        doubtful: a batch may or may not have been stored. Then this is of no use any more: load it anew.
    """

    doubtful = False

    @contextmanager
    def batch(self, most: int | None = None) -> Iterator[Batch]:
        """Everything that is written inside is stored in one piece at the end. An exception inside leaves all as it
        was, and nothing is stored. The batch has `ids` once it is stored: those of new trials, by their provisional
        ones."""
        with self._lock:
            if self.doubtful:
                raise RuntimeError("it is not known what the database has of this study: load it again")
            batch = self.begin(most)
            batch.ids = {}
            stored = False
            try:
                yield batch
                if batch:
                    self.doubtful = True  # until there is an answer
                    answer = self.store(batch)
                    self.doubtful = False
                    batch.ids = self.commit(answer)
                else:
                    self.rollback()
                stored = True
            except NotStored:
                self.doubtful = False
                raise
            finally:
                if not stored:
                    self.rollback()

    def store(self, batch: Batch) -> Stored:
        """Stores a batch, whole or not at all.

        Raises:
            NotStored: it is not stored.
            Exception: any other one: it may be stored.
        """
        last = max((trial_id for trial_id in self._places if 0 <= trial_id < PROVISIONAL), default=-1)
        new = sum(change.new for change in batch.trials.values())
        return Stored(datetime.now(UTC).replace(tzinfo=None), range(last + 1, last + 1 + new))

    def _alone(self, call: Callable[[], T]) -> T:
        with self.batch() as batch:
            result = call()
        return batch.ids.get(result, result)  # what `create_new_trial` answers with was provisional

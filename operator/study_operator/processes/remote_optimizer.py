"""One study's optimizer as its owner has it: a name for what is in an optimizer process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from study_operator.model.actions import RunAgain, Tell
from study_operator.model.batch import Batch, Stored
from study_operator.model.history import Changes, Outlook, Verdicts
from study_operator.model.study import Study
from study_operator.model.trial import Report, TrialRow, TrialState
from study_operator.processes import records, wire
from study_operator.processes.checks import WrongAnswer, check_batch, check_ids
from study_operator.processes.errors import SamplerFailed
from study_operator.processes.records import EndRecord, OutlookRecord

WRONG_SECONDS = 60.0  # until the next attempt when an answer cannot be used

log = logging.getLogger(__name__)


class RemoteOptimizer:
    """One study's optimizer, in an optimizer process. Its methods are those of `optimizer.StudyOptimizer`.

    Each may raise OptimizerUnavailable. Then drop this: it is of no use any more, and neither is a batch that is open.

    Args:
        call: lets the process answer a call, as `Optimizers.call` does for this optimizer.
        drop: lets the process forget it.
        trial_ids: of the study's trials.
        outlook: as far as it is known without a question.
    """

    def __init__(
        self,
        call: Callable[..., Any],
        drop: Callable[[], None],
        study: Study,
        trial_ids: Iterable[int],
        outlook: OutlookRecord | None,
    ) -> None:
        self._call, self._drop, self._study = call, drop, study
        self._ids = set(trial_ids)
        self._outlook = None if outlook is None else outlook.plain()
        self._batch = Batch()

    def close(self) -> None:
        """Let the process forget this study."""
        self._drop()

    @property
    def size(self) -> int:
        """How many trials the study has, waiting ones included."""
        return len(self._ids)

    def knows(self, trial_ids: Iterable[int]) -> bool:
        """Return whether the study has all these trials."""
        return self._ids.issuperset(trial_ids)

    def outlook(self) -> Outlook:
        """Return what is to be expected of more trials."""
        if self._outlook is None:
            self._outlook = self._call("outlook", (), OutlookRecord).plain()
        return self._outlook

    def update(self, changes: Changes) -> None:
        """Take over what other programs have changed.

        Raises:
            StaleHistory: the changes do not follow what is known. Drop this and load it anew.
        """
        study = None if changes.study is None else records.StudyRecord.of(changes.study)
        for piece in records.pieces(changes.trials) if changes.trials else [wire.encode([])]:
            self._heard(self._call("update", (study, msgspec.Raw(piece)), OutlookRecord | None))
            study = None
        self._ids.update(trial.trial_id for trial in changes.trials)

    def last_reports(self, trial_ids: Iterable[int]) -> dict[int, int]:
        """Return for each unfinished trial the last report_id that `judge` has been given, 0 for none. Empty if the
        Study has no pruner: then reports need not be read."""
        wanted = list(trial_ids)
        if self._study.pruner is None or not wanted:
            return {}
        found: dict[int, int] = self._call("last_reports", (wanted,), dict[int, int])
        with self._checking():
            check_ids(found, wanted)
        return found

    def see(self, reports: Iterable[Report]) -> None:
        """Take note of reports, oldest first, without a decision: samplers learn from those of pruned trials."""
        if sent := records.reports_out(reports):
            self._call("see", (sent,))

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
        if self._study.pruner is None:
            return Verdicts(frozenset())
        sent = records.reports_out(reports), list(running), list(unread)
        found = self._call("judge", sent, records.VerdictsRecord, held=True)
        with self._checking():
            check_ids(found.prune, running)
        if found.notes is None:
            return Verdicts(frozenset(found.prune))
        return Verdicts(frozenset(found.prune), self._opened(found.notes))

    def suggest(self, count: int, most: int) -> Batch:
        """Suggest trials.

        Args:
            count: how many are wanted; a finite search space gives one at a time.
            most: how many trials may have been started, these included.

        Raises:
            OptimizerError: the sampler's own. Nothing has changed then.
        """
        made = self._call("suggest", (count, most), records.BatchRecord, held=True)
        return self._opened(made, count)

    def tell(self, tells: Sequence[Tell]) -> Batch:
        """End trials.

        Raises:
            StaleHistory: one of them has ended already. Nothing has changed then.
            OptimizerError: the sampler's own. Nothing has changed then.
        """
        ends = [EndRecord.told(told) for told in tells]
        return self._opened(self._call("tell", (ends,), records.BatchRecord, held=True))

    def run_again(self, again: RunAgain, job: str) -> Batch:
        """Give a trial another Job.

        Args:
            job: the Job's name.

        Raises:
            StaleHistory: the trial has ended. Nothing has changed then.
        """
        arguments = EndRecord.again(again), job
        return self._opened(self._call("run_again", arguments, records.BatchRecord, held=True))

    def commit(self, stored: Stored) -> list[TrialRow]:
        """Say that the last batch has been stored.

        Returns:
            The trials that it has started.
        """
        found = self._call("commit", (Stored(stored.at, list(stored.ids)),), records.StartedRecord, must=True)
        self._ids.update(stored.ids)
        self._heard(found.outlook)
        batch = {change.trial_id for change in self._batch.trials.values() if not change.new}
        with self._checking():
            check_ids((row.trial_id for row in found.rows), batch | set(stored.ids))
            return [row.plain(TrialState.RUNNING, self._study.job_name(row.number)) for row in found.rows]

    def rollback(self) -> None:
        """Say that the last batch has not been stored, and will not be."""
        self._call("rollback", (), must=True)

    def _opened(self, made: records.BatchRecord, most_new: int = 0) -> Batch:
        with self._checking():
            self._batch = made.plain()
            check_batch(self._batch, self._study, self._ids, most_new)
        return self._batch

    @contextmanager
    def _checking(self) -> Iterator[None]:
        try:
            yield
        except (WrongAnswer, wire.WireError) as error:
            log.error("a sampler has answered what nobody may answer: %s", error)
            words = f"sampler {self._study.sampler.name} has given an answer that cannot be used: {error}"
            raise SamplerFailed(words, WRONG_SECONDS) from None

    def _heard(self, outlook: OutlookRecord | None) -> None:
        self._outlook = None if outlook is None else outlook.plain()

"""What a reconciliation reads of a study's rows, and the writes to studies that are not in memory.

Optuna's own RDBStorage reads and writes the same tables. The statements here, in history.py and in mirror.sql follow
its storage code (optuna/storages/_rdb, schema v3.2.0.a); migrate.py refuses any other schema. Stock Optuna sees these
trials as its own.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence

from study_operator.model.actions import RunAgain, Tell
from study_operator.model.batch import Batch, Change
from study_operator.model.trial import (
    FAILURE_ATTR,
    JOB_ATTR,
    BestTrial,
    Clock,
    FailureClass,
    Report,
    Rows,
    TrialState,
    constraint_attrs,
)
from study_operator.storage import trial_queries
from study_operator.storage.batch_writer import store, store_most
from study_operator.storage.database import Database

_OPEN = frozenset({TrialState.RUNNING, TrialState.WAITING})


class Trials:
    """The trials of all studies in one database.

    Every method blocks, so call it from the blocking pool. Every method raises StorageUnavailable when the database
    does not answer, and StorageError when the database refuses the statement.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._best: dict[int, trial_queries.Best] = {}  # by study_id

    def observe(
        self,
        study_id: int,
        with_jobs: Sequence[int] = (),
        attributes: Sequence[str] = (),
        reports: bool = False,
    ) -> Rows:
        """Read counts by state, the best trial, and the open trials.

        Args:
            with_jobs: numbers of the trials that have a Job. They are read although they may have ended, and without
                their parameters.
            attributes: names of the user attributes that are wanted of the best trial.
            reports: whether it is wanted of every open trial whether it has reported.
        """
        with self._database.transaction() as cursor:
            counts = trial_queries.counts_of(cursor, study_id)
            rows = trial_queries.open_rows_of(cursor, study_id, with_jobs, reports)
            facts = trial_queries.facts_of(cursor, study_id)
            # Ended trials do not change, so the best trial changes only when one more is complete.
            seen = counts.get(TrialState.COMPLETE, 0), facts.incidents.get(FailureClass.INFEASIBLE, 0)
            known = self._best.get(study_id)
            if known is None or known.seen != seen:
                known = self._best[study_id] = trial_queries.best_of(cursor, study_id, seen, known, attributes)
            return Rows(
                counts,
                rows,
                best=known.trial,
                recent_failures=trial_queries.recent_failures_of(cursor, study_id) if facts.incidents else (),
                incidents=facts.incidents,
                broken=facts.broken,
                clock=facts.clock,
                bad_reports=facts.bad_reports,
                last_bad_report=facts.last_bad_report,
                changed=facts.changed,
            )

    def forget(self, study_id: int) -> None:
        """Hold nothing in memory of a study any more. Does not block."""
        self._best.pop(study_id, None)

    def clock(self, study_id: int) -> Clock:
        """Read for how long the study has been active."""
        with self._database.transaction() as cursor:
            return trial_queries.facts_of(cursor, study_id).clock

    def points(self, study_id: int) -> dict[int, list[float]]:
        """Read the final values of every feasible COMPLETE trial, by trial_id, in order of number."""
        with self._database.transaction() as cursor:
            return trial_queries.points_of(cursor, study_id)

    def complete_trials(self, ids: list[int], attributes: Sequence[str] = ()) -> list[BestTrial]:
        """Read some COMPLETE trials whole, in the order of `ids`, with user attributes of some names."""
        with self._database.transaction() as cursor:
            return trial_queries.complete_trials(cursor, ids, attributes)

    def reports(self, after: Mapping[int, int], most: int) -> tuple[list[Report], frozenset[int]]:
        """Read the next reports of some trials, oldest first.

        Args:
            after: for each trial_id the highest `report_id` that is known already, 0 for none. Each trial has a cursor
                of its own, because ids of different pods may become visible out of order.
            most: how many to return, roughly.

        Returns:
            The reports, and the trial_ids of the trials that have more.
        """
        if not after:
            return [], frozenset()
        with self._database.transaction() as cursor:
            return trial_queries.reports_of(cursor, after, most)

    def last_reports(self, trial_ids: Sequence[int]) -> list[Report]:
        """Read of each of some trials the report with the highest step. A trial without a report is missing."""
        if not trial_ids:
            return []
        with self._database.transaction() as cursor:
            return trial_queries.last_reports_of(cursor, list(trial_ids))

    def last_printed(self, trial_ids: Sequence[int]) -> dict[int, dict[str, float]]:
        """Read what some trials have printed last, by key (model/final_values.py). One that has not is missing."""
        if not trial_ids:
            return {}
        with self._database.transaction() as cursor:
            return trial_queries.last_printed_of(cursor, list(trial_ids))

    def run_again(self, study_id: int, again: RunAgain, job: str) -> bool:
        """Let a running trial run again under another Job.

        Args:
            job: the name of that Job.

        Returns:
            False, and nothing is changed, when the trial has ended already, or when a result has arrived.

        Raises:
            StorageUnavailable: it may be stored, or not.
            StorageError: the database refuses it.
        """
        change = Change(again.row.trial_id, 0, _OPEN, system_attrs={JOB_ATTR: job}, failure=again.failure)
        # A provisional result was read from the output of the Job that failed.
        change.unless_result = change.forget_result = True
        return store_most([change], functools.partial(self._write, study_id)) == [True]

    def tell(self, study_id: int, tells: Sequence[Tell]) -> list[bool]:
        """End trials of a study that is not in memory; `StudyOptimizer.tell` does it for one that is.

        Returns:
            For each trial whether it was ended. It is left as it was if it had ended already, or if a result has
            arrived that the caller had not seen: a decision that was made before never costs a final value.
        """
        return store_most([self._end(told) for told in tells], functools.partial(self._write, study_id))

    def _end(self, told: Tell) -> Change:
        values: Sequence[float] | None = told.values
        if told.by_last_report and (last := self._last_value(told.row.trial_id)) is not None:
            values = (last,)
        change = Change(told.row.trial_id, told.row.number, _OPEN, told.state, values=values, failure=told.failure)
        change.unless_result = not told.row.has_final
        change.system_attrs = constraint_attrs(told.constraints)
        if told.failure is not None:
            change.user_attrs = {FAILURE_ATTR: told.failure.attribute()}
        return change

    def _write(self, study_id: int, changes: Sequence[Change]) -> None:
        store(self._database, study_id, Batch({change.trial_id: change for change in changes}))

    def _last_value(self, trial_id: int) -> float | None:
        """Read the value reported for the highest step, which Optuna takes as a pruned trial's own. None if there is
        none, or it is NaN."""
        found = self.last_reports([trial_id])
        return None if not found or math.isnan(found[0].value) else found[0].value

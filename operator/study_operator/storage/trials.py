"""A study's rows in Optuna's tables: read in a few statements, written in one transaction each.

Optuna's own RDBStorage reads and writes the same tables; it takes 53 statements in 16 commits to store a suggestion
of ten parameters. The statements here follow its storage code (optuna/storages/_rdb, schema v3.2.0.a); migrate.py
refuses any other schema. Stock Optuna sees these trials as its own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from optuna.distributions import distribution_to_json
from optuna.trial import FrozenTrial, TrialState
from psycopg2.extensions import cursor
from psycopg2.extras import execute_values

from study_operator.model.trial import BestTrial, Clock, Failure, FailureClass, Report, Rows, Suggestion
from study_operator.storage import reading
from study_operator.storage.database import Database
from study_operator.storage.reading import FAILURE_ATTR, JOB_ATTR

_NOW = "timezone('utc', clock_timestamp())"  # Optuna keeps naive UTC


class StaleHistory(Exception):
    """Somebody else has added trials since the sampler's history was loaded; load it again and ask anew."""


class Trials:
    """The trials of all studies in one database. Every method blocks; call from the storage threads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._best: dict[int, reading.Best] = {}  # by study_id

    def observe(self, study_id: int, with_jobs: Sequence[int] = ()) -> Rows:
        """Counts by state, the best trial, and RUNNING trials and those numbered in `with_jobs`, the latter without
        their parameters."""
        with self._database.transaction() as cursor:
            counts = reading.counts_of(cursor, study_id)
            rows = reading.open_rows_of(cursor, study_id, with_jobs)
            facts = reading.facts_of(cursor, study_id)
            # What has ended stays as it is, so the best trial changes only when one more is complete.
            seen = counts.get(TrialState.COMPLETE, 0), facts.incidents.get(FailureClass.INFEASIBLE, 0)
            known = self._best.get(study_id)
            if known is None or known.seen != seen:
                known = self._best[study_id] = reading.best_of(cursor, study_id, seen, known)
            return Rows(
                counts,
                rows,
                best=known.trial,
                recent_failures=reading.recent_failures_of(cursor, study_id) if facts.incidents else (),
                incidents=facts.incidents,
                broken=facts.broken,
                clock=facts.clock,
                bad_reports=facts.bad_reports,
                last_bad_report=facts.last_bad_report,
            )

    def clock(self, study_id: int) -> Clock:
        """For how long the study has been active."""
        with self._database.transaction() as cursor:
            return reading.facts_of(cursor, study_id).clock

    def points(self, study_id: int) -> dict[int, list[float]]:
        """The final values of every feasible COMPLETE trial, by trial_id, in order of number."""
        with self._database.transaction() as cursor:
            return reading.points_of(cursor, study_id)

    def complete_trials(self, ids: list[int]) -> list[BestTrial]:
        """Some COMPLETE trials whole, in the order of `ids`."""
        with self._database.transaction() as cursor:
            return reading.complete_trials(cursor, ids)

    def history(self, study_id: int) -> tuple[list[FrozenTrial], dict[str, Any]]:
        """Every trial of a study as Optuna's own, in order of number, and the study's system attributes."""
        with self._database.transaction() as cursor:
            cursor.execute("SELECT key, value_json FROM study_system_attributes WHERE study_id = %s", (study_id,))
            study_attrs = {key: json.loads(value) for key, value in cursor.fetchall()}
            cursor.execute(
                "SELECT trial_id, number, state::text, datetime_start, datetime_complete FROM trials"
                " WHERE study_id = %s ORDER BY number, trial_id",
                (study_id,),
            )
            found = cursor.fetchall()
            ids = [row[0] for row in found]
            params = reading.params_of(cursor, ids)
            values = reading.values_of(cursor, ids)
            user = reading.attributes_of(cursor, "trial_user_attributes", ids)
            system = reading.attributes_of(cursor, "trial_system_attributes", ids)
            reports: dict[int, dict[int, float]] = {trial_id: {} for trial_id in ids}
            for report in reading.reports_of(cursor, [(trial_id, 0) for trial_id in ids]):
                reports[report.trial_id][report.step] = report.value
        trials = []
        for trial_id, number, state, started, completed in found:
            finals = values.get(trial_id)
            trials.append(
                FrozenTrial(
                    number=number,
                    state=TrialState[state],
                    value=None,
                    values=finals,
                    datetime_start=started,
                    datetime_complete=completed,
                    params=params[trial_id][0],
                    distributions=params[trial_id][1],
                    user_attrs=user[trial_id],
                    system_attrs=system[trial_id],
                    intermediate_values=reports[trial_id],
                    trial_id=trial_id,
                )
            )
        return trials, study_attrs

    def reports(self, after: Mapping[int, int]) -> list[Report]:
        """The reports of some trials, oldest first.

        Args:
            after: for each trial_id the highest `report_id` known already, 0 for none. A cursor for each trial, because
                ids of different pods may become visible out of order.
        """
        if not after:
            return []
        with self._database.transaction() as cursor:
            return reading.reports_of(cursor, list(after.items()))

    def start(self, study_id: int, suggestion: Suggestion, max_trials: int) -> int | None:
        """Stores a suggestion as a RUNNING trial, whole or not at all: a new one, or the one that waits for it.

        Args:
            max_trials: how many trials may have been started, this one included.

        Returns:
            Its trial_id; None when `max_trials` have been started already.

        Raises:
            StaleHistory: when the next number is another one, or the waiting trial waits no more.
        """
        with self._database.transaction(study_id) as cursor:
            # Optuna takes the same lock to number trials.
            cursor.execute("SELECT 1 FROM studies WHERE study_id = %s FOR UPDATE", (study_id,))
            if cursor.fetchone() is None:
                raise StaleHistory(f"study {study_id} is not in the database any more")
            cursor.execute(
                "SELECT count(*), count(*) FILTER (WHERE state <> 'WAITING') FROM trials WHERE study_id = %s",
                (study_id,),
            )
            existing, started = cursor.fetchone()
            if started >= max_trials:
                return None
            if suggestion.waiting is not None:
                cursor.execute(
                    f"UPDATE trials SET state = 'RUNNING', datetime_start = {_NOW}"
                    " WHERE trial_id = %s AND state = 'WAITING' RETURNING trial_id",
                    (suggestion.waiting,),
                )
            elif existing == suggestion.number:
                cursor.execute(
                    "INSERT INTO trials (number, study_id, state, datetime_start)"
                    f" VALUES (%s, %s, 'RUNNING', {_NOW}) RETURNING trial_id",
                    (suggestion.number, study_id),
                )
            else:
                raise StaleHistory(f"the next trial's number is {existing}, not {suggestion.number}")
            stored = cursor.fetchone()
            if stored is None:
                raise StaleHistory(f"trial {suggestion.number} is not waiting any more")
            (trial_id,) = stored
            execute_values(
                cursor,
                "INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json) VALUES %s",
                [
                    (trial_id, name, distribution.to_internal_repr(value), distribution_to_json(distribution))
                    for name, value in suggestion.params.items()
                    for distribution in [suggestion.distributions[name]]
                ],
            )
            _set_attributes(cursor, "trial_system_attributes", "trial_id", trial_id, suggestion.system_attrs)
            _set_attributes(cursor, "study_system_attributes", "study_id", study_id, suggestion.study_attrs)
            return trial_id

    def requeue(self, trial_id: int, job: str, failure: Failure | None) -> bool:
        """Lets a running trial run again under another Job.

        Args:
            job: the name of that Job.
            failure: the infrastructure's; None when nothing failed.

        Returns:
            False, and nothing is changed, when the trial has ended already, or when a result has arrived.
        """
        with self._database.transaction(trial_id=trial_id) as cursor:
            if (locked := _lock_running(cursor, trial_id, despite_result=False)) is None:
                return False
            if failure is not None:
                _add_incident(cursor, *locked, trial_id, failure)
            _set_attributes(cursor, "trial_system_attributes", "trial_id", trial_id, {JOB_ATTR: job})
            # What somebody else had read off the output of the Job that failed is not the next one's.
            cursor.execute("DELETE FROM study_operator.results WHERE trial_id = %s", (trial_id,))
            return True

    def tell(
        self,
        trial_id: int,
        state: TrialState,
        values: Sequence[float] | None,
        failure: Failure | None = None,
        system_attrs: Mapping[str, Any] | None = None,
        despite_result: bool = False,
    ) -> bool:
        """Ends a trial.

        Args:
            failure: why it has no value, or why its values do not count.
            despite_result: end it although its pod has stored final values; False unless these are being told.

        Returns:
            False, and nothing is changed, when it has ended already, or when a result has arrived that the caller had
            not seen: a finished value is never lost to a decision made before it.
        """
        with self._database.transaction(trial_id=trial_id) as cursor:
            if (locked := _lock_running(cursor, trial_id, despite_result)) is None:
                return False
            if values is not None:
                rows = [(trial_id, i, *_stored(value)) for i, value in enumerate(values)]
                execute_values(
                    cursor,
                    "INSERT INTO trial_values (trial_id, objective, value, value_type) VALUES %s",
                    rows,
                    template="(%s, %s, %s, %s::trialvaluetype)",
                )
            if failure is not None:
                _add_incident(cursor, *locked, trial_id, failure)
                _set_attributes(cursor, "trial_user_attributes", "trial_id", trial_id, {FAILURE_ATTR: asdict(failure)})
            _set_attributes(cursor, "trial_system_attributes", "trial_id", trial_id, system_attrs or {})
            cursor.execute(
                f"UPDATE trials SET state = %s, datetime_complete = {_NOW} WHERE trial_id = %s",
                (state.name, trial_id),
            )
            return True

    def last_value(self, trial_id: int) -> float | None:
        """The value reported for the highest step, which Optuna takes as a pruned trial's own; None if none or NaN."""
        with self._database.transaction() as cursor:
            cursor.execute(
                "SELECT intermediate_value, intermediate_value_type::text FROM trial_intermediate_values"
                " WHERE trial_id = %s ORDER BY step DESC LIMIT 1",
                (trial_id,),
            )
            found = cursor.fetchone()
            value = None if found is None else reading.INFINITIES.get(found[1], found[0])
            return None if value is None or math.isnan(value) else value

    def set_system_attrs(self, trial_id: int, attrs: Mapping[str, Any]) -> None:
        """Sets system attributes of a trial: the rungs that a pruner has booked for it."""
        with self._database.transaction(trial_id=trial_id) as cursor:
            _set_attributes(cursor, "trial_system_attributes", "trial_id", trial_id, attrs)


def _lock_running(cursor: cursor, trial_id: int, despite_result: bool) -> tuple[int, str] | None:
    """Locks a trial that has not ended. Returns its study_id and the name of its Job; None when it has ended, or when
    a result that holds has arrived that the caller had not seen."""
    cursor.execute(
        "SELECT t.state::text, t.study_id, a.value_json FROM trials t"
        " LEFT JOIN trial_system_attributes a ON a.trial_id = t.trial_id AND a.key = %s"
        " WHERE t.trial_id = %s FOR UPDATE OF t",
        (JOB_ATTR, trial_id),
    )
    found = cursor.fetchone()
    if found is None or found[0] not in ("RUNNING", "WAITING"):
        return None
    if not despite_result:
        cursor.execute("SELECT 1 FROM study_operator.results WHERE trial_id = %s AND NOT provisional", (trial_id,))
        if cursor.fetchone() is not None:
            return None
    return found[1], json.loads(found[2]) if found[2] else ""


def _add_incident(cursor: cursor, study_id: int, source: str, trial_id: int, failure: Failure) -> None:
    cursor.execute(
        "INSERT INTO study_operator.incidents"
        " (study_id, trial_id, source, kind, reason, message, exit_code, last_log_line)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
        (
            study_id,
            trial_id,
            source,
            str(failure.kind),
            failure.reason,
            failure.message,
            failure.exit_code,
            failure.last_log_line,
        ),
    )


def _set_attributes(cursor: cursor, table: str, owner: str, owner_id: int, attrs: Mapping[str, Any]) -> None:
    if attrs:
        execute_values(
            cursor,
            f"INSERT INTO {table} ({owner}, key, value_json) VALUES %s"
            f" ON CONFLICT ({owner}, key) DO UPDATE SET value_json = excluded.value_json",
            [(owner_id, key, json.dumps(value)) for key, value in attrs.items()],
        )


def _stored(value: float) -> tuple[float | None, str]:
    for kind in ("INF_POS", "INF_NEG"):
        if value == reading.INFINITIES[kind]:
            return None, kind
    return value, "FINITE"

"""A study's rows in Optuna's tables: read in a few statements, written in one transaction each.

Optuna's own RDBStorage reads and writes the same tables; it takes 53 statements in 16 commits to store a suggestion
of ten parameters. The statements here follow its storage code (optuna/storages/_rdb, schema v3.2.0.a); migrate.py
refuses any other schema. Stock Optuna sees these trials as its own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.trial import FrozenTrial, TrialState
from psycopg2.extensions import cursor
from psycopg2.extras import execute_values

from study_operator.model.trial import BestTrial, Failure, Report, Result, Rows, TrialRow
from study_operator.storage.database import Database

JOB_ATTR = "study_operator:job"
FAILURE_ATTR = "study_operator:failure"

_INFINITIES = {"INF_POS": float("inf"), "INF_NEG": float("-inf"), "NAN": float("nan")}
_NOW = "timezone('utc', clock_timestamp())"  # Optuna keeps naive UTC


class StaleHistory(Exception):
    """Somebody else has added trials since the sampler's history was loaded; load it again and ask anew."""


class Trials:
    """The trials of all studies in one database. Every method blocks; call from the storage threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def observe(self, study_id: int, with_jobs: Sequence[int] = ()) -> Rows:
        """Counts by state, the best trial, and whole rows of RUNNING trials and of those numbered in `with_jobs`."""
        with self._database.transaction() as cursor:
            cursor.execute("SELECT state::text, count(*) FROM trials WHERE study_id = %s GROUP BY 1", (study_id,))
            counts = {TrialState[state]: count for state, count in cursor.fetchall()}
            cursor.execute(
                "SELECT t.trial_id, t.number, t.state::text, t.datetime_complete, a.value_json, r.vals, r.pruned,"
                " EXISTS (SELECT FROM trial_intermediate_values v WHERE v.trial_id = t.trial_id)"
                " FROM trials t LEFT JOIN study_operator.results r USING (trial_id)"
                " LEFT JOIN trial_system_attributes a ON a.trial_id = t.trial_id AND a.key = %s"
                " WHERE t.study_id = %s AND (t.state = 'RUNNING' OR t.number = ANY(%s)) ORDER BY t.number",
                (JOB_ATTR, study_id, list(with_jobs)),
            )
            found = cursor.fetchall()
            params = _params(cursor, [row[0] for row in found])
            rows = {
                number: TrialRow(
                    trial_id=trial_id,
                    number=number,
                    state=TrialState[state],
                    params=params[trial_id][0],
                    job=json.loads(job) if job else None,
                    completed_at=completed and completed.replace(tzinfo=UTC),
                    result=None if values is None else Result(tuple(values), pruned),
                    reports=reports,
                )
                for trial_id, number, state, completed, job, values, pruned, reports in found
            }
            return Rows(counts, rows, _best(cursor, study_id), _recent_failures(cursor, study_id))

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
            params = _params(cursor, ids)
            values = _values(cursor, ids)
            user = _attributes(cursor, "trial_user_attributes", ids)
            system = _attributes(cursor, "trial_system_attributes", ids)
            reports: dict[int, dict[int, float]] = {trial_id: {} for trial_id in ids}
            for report in _reports(cursor, [(trial_id, 0) for trial_id in ids]):
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
            return _reports(cursor, list(after.items()))

    def create(
        self,
        study_id: int,
        number: int,
        params: Mapping[str, Any],
        distributions: Mapping[str, BaseDistribution],
        system_attrs: Mapping[str, Any],
        study_attrs: Mapping[str, Any],
        max_trials: int,
    ) -> int | None:
        """Stores a suggestion as a RUNNING trial, whole or not at all.

        Args:
            number: the trial's number, which is how many trials there are before it.
            study_attrs: the study's system attributes that the sampler has changed.
            max_trials: how many trials may have been started, this one included.

        Returns:
            Its trial_id; None when `max_trials` have been started already.

        Raises:
            StaleHistory: when the next number is another one.
        """
        with self._database.transaction() as cursor:
            # Optuna takes the same lock to number trials.
            cursor.execute("SELECT 1 FROM studies WHERE study_id = %s FOR UPDATE", (study_id,))
            if cursor.fetchone() is None:
                raise StaleHistory(f"study {study_id} is not in the database any more")
            if not _may_start(cursor, study_id, max_trials):
                return None
            cursor.execute("SELECT count(*) FROM trials WHERE study_id = %s", (study_id,))
            (existing,) = cursor.fetchone()
            if existing != number:
                raise StaleHistory(f"the next trial's number is {existing}, not {number}")
            cursor.execute(
                "INSERT INTO trials (number, study_id, state, datetime_start)"
                f" VALUES (%s, %s, 'RUNNING', {_NOW}) RETURNING trial_id",
                (number, study_id),
            )
            (trial_id,) = cursor.fetchone()
            _store_suggestion(cursor, trial_id, params, distributions, system_attrs)
            _set_attributes(cursor, "study_system_attributes", "study_id", study_id, study_attrs)
            return trial_id

    def start_waiting(
        self,
        study_id: int,
        trial_id: int,
        params: Mapping[str, Any],
        distributions: Mapping[str, BaseDistribution],
        system_attrs: Mapping[str, Any],
        study_attrs: Mapping[str, Any],
        max_trials: int,
    ) -> int | None:
        """As `create`, for a trial that `enqueue_trial` put into the queue: it becomes RUNNING with all parameters.

        Raises:
            StaleHistory: when it waits no more.
        """
        with self._database.transaction() as cursor:
            cursor.execute("SELECT 1 FROM studies WHERE study_id = %s FOR UPDATE", (study_id,))
            if not _may_start(cursor, study_id, max_trials):
                return None
            cursor.execute(
                f"UPDATE trials SET state = 'RUNNING', datetime_start = {_NOW}"
                " WHERE trial_id = %s AND state = 'WAITING'",
                (trial_id,),
            )
            if cursor.rowcount != 1:
                raise StaleHistory(f"trial {trial_id} is not waiting any more")
            _store_suggestion(cursor, trial_id, params, distributions, system_attrs)
            _set_attributes(cursor, "study_system_attributes", "study_id", study_id, study_attrs)
            return trial_id

    def tell(
        self,
        trial_id: int,
        state: TrialState,
        values: Sequence[float] | None,
        user_attrs: Mapping[str, Any] | None = None,
        system_attrs: Mapping[str, Any] | None = None,
        despite_result: bool = False,
    ) -> bool:
        """Ends a trial.

        Args:
            despite_result: end it although its pod has stored final values; False unless these are being told.

        Returns:
            False, and nothing is changed, when it has ended already, or when a result has arrived that the caller had
            not seen: a finished value is never lost to a decision made before it.
        """
        with self._database.transaction() as cursor:
            cursor.execute("SELECT state::text FROM trials WHERE trial_id = %s FOR UPDATE", (trial_id,))
            found = cursor.fetchone()
            if found is None or found[0] not in ("RUNNING", "WAITING"):
                return False
            if not despite_result:
                cursor.execute("SELECT 1 FROM study_operator.results WHERE trial_id = %s", (trial_id,))
                if cursor.fetchone() is not None:
                    return False
            if values is not None:
                rows = [(trial_id, i, *_stored(value)) for i, value in enumerate(values)]
                execute_values(
                    cursor,
                    "INSERT INTO trial_values (trial_id, objective, value, value_type) VALUES %s",
                    rows,
                    template="(%s, %s, %s, %s::trialvaluetype)",
                )
            _set_attributes(cursor, "trial_user_attributes", "trial_id", trial_id, user_attrs or {})
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
            value = None if found is None else _INFINITIES.get(found[1], found[0])
            return None if value is None or math.isnan(value) else value

    def set_system_attrs(self, trial_id: int, attrs: Mapping[str, Any]) -> None:
        """Sets system attributes of a trial: the rungs that a pruner has booked for it."""
        with self._database.transaction() as cursor:
            _set_attributes(cursor, "trial_system_attributes", "trial_id", trial_id, attrs)


def _may_start(cursor: cursor, study_id: int, max_trials: int) -> bool:
    cursor.execute("SELECT count(*) FROM trials WHERE study_id = %s AND state <> 'WAITING'", (study_id,))
    (started,) = cursor.fetchone()
    return started < max_trials


def _store_suggestion(
    cursor: cursor,
    trial_id: int,
    params: Mapping[str, Any],
    distributions: Mapping[str, BaseDistribution],
    system_attrs: Mapping[str, Any],
) -> None:
    execute_values(
        cursor,
        "INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json) VALUES %s",
        [
            (trial_id, name, distributions[name].to_internal_repr(value), distribution_to_json(distributions[name]))
            for name, value in params.items()
        ],
    )
    _set_attributes(cursor, "trial_system_attributes", "trial_id", trial_id, system_attrs)


def _set_attributes(cursor: cursor, table: str, owner: str, owner_id: int, attrs: Mapping[str, Any]) -> None:
    if attrs:
        execute_values(
            cursor,
            f"INSERT INTO {table} ({owner}, key, value_json) VALUES %s"
            f" ON CONFLICT ({owner}, key) DO UPDATE SET value_json = excluded.value_json",
            [(owner_id, key, json.dumps(value)) for key, value in attrs.items()],
        )


def _params(cursor: cursor, ids: list[int]) -> dict[int, tuple[dict[str, Any], dict[str, BaseDistribution]]]:
    """Parameters and their distributions by trial_id, in the order in which they were suggested."""
    cursor.execute(
        "SELECT trial_id, param_name, param_value, distribution_json FROM trial_params"
        " WHERE trial_id = ANY(%s) ORDER BY param_id",
        (ids,),
    )
    parsed: dict[str, BaseDistribution] = {}  # a study has few distinct ones; parsing is the slow part
    found: dict[int, tuple[dict[str, Any], dict[str, BaseDistribution]]] = {i: ({}, {}) for i in ids}
    for trial_id, name, value, text in cursor.fetchall():
        distribution = parsed.get(text) or parsed.setdefault(text, json_to_distribution(text))
        found[trial_id][0][name] = distribution.to_external_repr(value)
        found[trial_id][1][name] = distribution
    return found


def _values(cursor: cursor, ids: list[int]) -> dict[int, list[float]]:
    cursor.execute(
        "SELECT trial_id, value, value_type::text FROM trial_values WHERE trial_id = ANY(%s) ORDER BY objective", (ids,)
    )
    found: dict[int, list[float]] = {}
    for trial_id, value, kind in cursor.fetchall():
        found.setdefault(trial_id, []).append(_INFINITIES.get(kind, value))
    return found


def _attributes(cursor: cursor, table: str, ids: list[int]) -> dict[int, dict[str, Any]]:
    cursor.execute(f"SELECT trial_id, key, value_json FROM {table} WHERE trial_id = ANY(%s)", (ids,))
    found: dict[int, dict[str, Any]] = {trial_id: {} for trial_id in ids}
    for trial_id, key, value in cursor.fetchall():
        found[trial_id][key] = json.loads(value)
    return found


def _reports(cursor: cursor, after: list[tuple[int, int]]) -> list[Report]:
    cursor.execute(
        "SELECT v.trial_intermediate_value_id, v.trial_id, v.step, v.intermediate_value,"
        " v.intermediate_value_type::text"
        " FROM unnest(%s::int[], %s::int[]) AS known (trial_id, report_id)"
        " JOIN trial_intermediate_values v"
        " ON v.trial_id = known.trial_id AND v.trial_intermediate_value_id > known.report_id"
        " ORDER BY v.trial_intermediate_value_id",
        ([trial_id for trial_id, _ in after], [report_id for _, report_id in after]),
    )
    return [
        Report(report_id, trial_id, step, _INFINITIES.get(kind, value))
        for report_id, trial_id, step, value, kind in cursor.fetchall()
    ]


def _best(cursor: cursor, study_id: int) -> BestTrial | None:
    """The best COMPLETE trial by the first objective; of equals the earliest, as in Optuna."""
    cursor.execute(
        "SELECT direction::text FROM study_directions WHERE study_id = %s ORDER BY objective LIMIT 1", (study_id,)
    )
    found = cursor.fetchone()
    if found is None:
        return None
    order = "DESC" if found[0] == "MAXIMIZE" else "ASC"
    cursor.execute(
        "SELECT t.trial_id, t.number, a.value_json FROM trials t"
        " JOIN trial_values v ON v.trial_id = t.trial_id AND v.objective = 0"
        " LEFT JOIN trial_system_attributes a ON a.trial_id = t.trial_id AND a.key = %s"
        " WHERE t.study_id = %s AND t.state = 'COMPLETE'"
        " ORDER BY CASE v.value_type::text WHEN 'INF_NEG' THEN '-Infinity' WHEN 'INF_POS' THEN 'Infinity'"
        f" ELSE v.value END {order}, t.number LIMIT 1",
        (JOB_ATTR, study_id),
    )
    row = cursor.fetchone()
    if row is None:
        return None
    trial_id, number, job = row
    return BestTrial(
        number=number,
        values=tuple(_values(cursor, [trial_id])[trial_id]),
        params=_params(cursor, [trial_id])[trial_id][0],
        job=json.loads(job) if job else None,
    )


def _recent_failures(cursor: cursor, study_id: int, most: int = 5) -> tuple[tuple[int, Failure], ...]:
    cursor.execute(
        "SELECT t.number, a.value_json FROM trials t JOIN trial_user_attributes a USING (trial_id)"
        " WHERE t.study_id = %s AND t.state = 'FAIL' AND a.key = %s ORDER BY t.datetime_complete DESC LIMIT %s",
        (study_id, FAILURE_ATTR, most),
    )
    return tuple((number, Failure(**json.loads(text))) for number, text in cursor.fetchall())


def _stored(value: float) -> tuple[float | None, str]:
    for kind in ("INF_POS", "INF_NEG"):
        if value == _INFINITIES[kind]:
            return None, kind
    return value, "FINITE"

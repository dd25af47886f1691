"""The statements that read trials from Optuna's tables, for whoever has a cursor."""

from __future__ import annotations

import json
from datetime import UTC
from typing import Any

from optuna.distributions import BaseDistribution, json_to_distribution
from psycopg2.extensions import cursor

from study_operator.model.trial import BestTrial, Clock, Failure, FailureClass, Report

JOB_ATTR = "study_operator:job"
FAILURE_ATTR = "study_operator:failure"
# What Optuna stores as NULL and a word, PostgreSQL's own infinities and NaN being unknown to other databases.
INFINITIES = {"INF_POS": float("inf"), "INF_NEG": float("-inf"), "NAN": float("nan")}


def params_of(cursor: cursor, ids: list[int]) -> dict[int, tuple[dict[str, Any], dict[str, BaseDistribution]]]:
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


def values_of(cursor: cursor, ids: list[int]) -> dict[int, list[float]]:
    cursor.execute(
        "SELECT trial_id, value, value_type::text FROM trial_values WHERE trial_id = ANY(%s) ORDER BY objective", (ids,)
    )
    found: dict[int, list[float]] = {}
    for trial_id, value, kind in cursor.fetchall():
        found.setdefault(trial_id, []).append(INFINITIES.get(kind, value))
    return found


def attributes_of(cursor: cursor, table: str, ids: list[int]) -> dict[int, dict[str, Any]]:
    cursor.execute(f"SELECT trial_id, key, value_json FROM {table} WHERE trial_id = ANY(%s)", (ids,))
    found: dict[int, dict[str, Any]] = {trial_id: {} for trial_id in ids}
    for trial_id, key, value in cursor.fetchall():
        found[trial_id][key] = json.loads(value)
    return found


def reports_of(cursor: cursor, after: list[tuple[int, int]]) -> list[Report]:
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
        Report(report_id, trial_id, step, INFINITIES.get(kind, value))
        for report_id, trial_id, step, value, kind in cursor.fetchall()
    ]


# Trials that end with values but break a constraint are noted down as infeasible.
_FEASIBLE = (
    "NOT EXISTS (SELECT FROM study_operator.incidents i WHERE i.trial_id = t.trial_id AND i.kind = 'Infeasible')"
)


def best_of(cursor: cursor, study_id: int) -> BestTrial | None:
    """The best feasible COMPLETE trial by the first objective; of equals the earliest, as in Optuna."""
    cursor.execute(
        "SELECT direction::text FROM study_directions WHERE study_id = %s ORDER BY objective LIMIT 1", (study_id,)
    )
    found = cursor.fetchone()
    if found is None:
        return None
    order = "DESC" if found[0] == "MAXIMIZE" else "ASC"
    cursor.execute(
        "SELECT t.trial_id FROM trials t JOIN trial_values v ON v.trial_id = t.trial_id AND v.objective = 0"
        f" WHERE t.study_id = %s AND t.state = 'COMPLETE' AND {_FEASIBLE}"
        " ORDER BY CASE v.value_type::text WHEN 'INF_NEG' THEN '-Infinity' WHEN 'INF_POS' THEN 'Infinity'"
        f" ELSE v.value END {order}, t.number LIMIT 1",
        (study_id,),
    )
    row = cursor.fetchone()
    return None if row is None else complete_trials(cursor, [row[0]])[0]


def points_of(cursor: cursor, study_id: int) -> dict[int, list[float]]:
    """The final values of every feasible COMPLETE trial, by trial_id, in order of number."""
    cursor.execute(
        "SELECT t.trial_id, v.value, v.value_type::text FROM trials t JOIN trial_values v USING (trial_id)"
        f" WHERE t.study_id = %s AND t.state = 'COMPLETE' AND {_FEASIBLE} ORDER BY t.number, v.objective",
        (study_id,),
    )
    found: dict[int, list[float]] = {}
    for trial_id, value, kind in cursor.fetchall():
        found.setdefault(trial_id, []).append(INFINITIES.get(kind, value))
    return found


def complete_trials(cursor: cursor, ids: list[int]) -> list[BestTrial]:
    """Some COMPLETE trials whole, in the order of `ids`."""
    cursor.execute(
        "SELECT t.trial_id, t.number, a.value_json FROM trials t"
        " LEFT JOIN trial_system_attributes a ON a.trial_id = t.trial_id AND a.key = %s"
        " WHERE t.trial_id = ANY(%s)",
        (JOB_ATTR, ids),
    )
    found = {trial_id: (number, json.loads(job) if job else None) for trial_id, number, job in cursor.fetchall()}
    values, params = values_of(cursor, ids), params_of(cursor, ids)
    return [BestTrial(number=found[i][0], values=tuple(values[i]), params=params[i][0], job=found[i][1]) for i in ids]


def incidents_of(cursor: cursor, study_id: int) -> tuple[dict[FailureClass, int], int]:
    """How many incidents there are by class, and how many of them are COMPLETE trials that broke a constraint."""
    cursor.execute(
        "SELECT kind, count(*), count(*) FILTER (WHERE reason = 'ConstraintViolated')"
        " FROM study_operator.incidents WHERE study_id = %s GROUP BY kind",
        (study_id,),
    )
    found = cursor.fetchall()
    return {FailureClass(kind): count for kind, count, _ in found}, sum(broken for _, _, broken in found)


def recent_failures_of(cursor: cursor, study_id: int, most: int = 5) -> tuple[tuple[int, Failure], ...]:
    """The latest incidents that people may have to see to, the latest first."""
    cursor.execute(
        "SELECT t.number, i.reason, i.message, i.exit_code, i.last_log_line, i.kind"
        " FROM study_operator.incidents i JOIN trials t USING (trial_id)"
        " WHERE i.study_id = %s AND i.kind <> 'Terminated' AND i.reason <> 'ConstraintViolated'"
        " ORDER BY i.incident_id DESC LIMIT %s",
        (study_id, most),
    )
    return tuple((number, Failure(*rest, kind=FailureClass(kind))) for number, *rest, kind in cursor.fetchall())


def clock_of(cursor: cursor, study_id: int) -> Clock:
    cursor.execute(
        # Of our own first trial: what a notebook runs itself has the times of its own time zone.
        "SELECT (SELECT t.datetime_start FROM trials t JOIN trial_system_attributes j USING (trial_id)"
        " WHERE t.study_id = a.study_id AND j.key = %s ORDER BY t.number LIMIT 1), a.paused_at, a.paused_seconds"
        " FROM study_operator.access a WHERE a.study_id = %s",
        (JOB_ATTR, study_id),
    )
    row = cursor.fetchone()
    if row is None:
        return Clock()
    started, paused, seconds = row
    return Clock(started and started.replace(tzinfo=UTC), paused, seconds)


def bad_reports_of(cursor: cursor, study_id: int) -> tuple[int, str]:
    """How many lines could not be read as a report, and the latest of them."""
    cursor.execute(
        "SELECT coalesce(sum(count), 0)::bigint, (array_agg(last ORDER BY reported_at DESC))[1]"
        " FROM study_operator.bad_reports WHERE study_id = %s",
        (study_id,),
    )
    count, last = cursor.fetchone()
    return count, last or ""

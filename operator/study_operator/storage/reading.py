"""The statements that read trials from Optuna's tables, for whoever has a cursor."""

from __future__ import annotations

import json
from typing import Any

from optuna.distributions import BaseDistribution, json_to_distribution
from psycopg2.extensions import cursor

from study_operator.model.trial import BestTrial, Failure, Report

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


def best_of(cursor: cursor, study_id: int) -> BestTrial | None:
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
        values=tuple(values_of(cursor, [trial_id])[trial_id]),
        params=params_of(cursor, [trial_id])[trial_id][0],
        job=json.loads(job) if job else None,
    )


def recent_failures_of(cursor: cursor, study_id: int, most: int = 5) -> tuple[tuple[int, Failure], ...]:
    cursor.execute(
        "SELECT t.number, a.value_json FROM trials t JOIN trial_user_attributes a USING (trial_id)"
        " WHERE t.study_id = %s AND t.state = 'FAIL' AND a.key = %s ORDER BY t.datetime_complete DESC LIMIT %s",
        (study_id, FAILURE_ATTR, most),
    )
    return tuple((number, Failure(**json.loads(text))) for number, text in cursor.fetchall())

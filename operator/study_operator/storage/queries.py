"""The statements that read trials from Optuna's tables, for whoever has a cursor."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC
from typing import Any

from optuna.distributions import BaseDistribution, json_to_distribution
from psycopg2.extensions import cursor

from study_operator.model.trial import (
    JOB_ATTR,
    BestTrial,
    Clock,
    Failure,
    FailureClass,
    Report,
    Result,
    TrialRow,
    TrialState,
)

# What Optuna stores as NULL and a word, PostgreSQL's own infinities and NaN being unknown to other databases.
INFINITIES = {"INF_POS": float("inf"), "INF_NEG": float("-inf"), "NAN": float("nan")}


def counts_of(cursor: cursor, study_id: int) -> dict[TrialState, int]:
    """How many trials there are by state."""
    cursor.execute("SELECT state::text, count(*) FROM trials WHERE study_id = %s GROUP BY 1", (study_id,))
    return {TrialState[state]: count for state, count in cursor.fetchall()}


def open_rows_of(cursor: cursor, study_id: int, with_jobs: Sequence[int]) -> dict[int, TrialRow]:
    """RUNNING trials, and those numbered in `with_jobs`, by number.

    Parameters and reports are read of those alone that are not in `with_jobs`: only a trial without a Job is judged by
    them, or gets one, and a thousand running trials have ten thousand of each.
    """
    cursor.execute(
        "SELECT t.trial_id, t.number, t.state::text, t.datetime_complete, a.value_json,"
        " (SELECT count(*) FROM study_operator.incidents i"
        " WHERE i.trial_id = t.trial_id AND i.kind = 'Infrastructure'),"
        " r.vals, r.pruned, r.constraint_values, r.infeasible, r.provisional"
        " FROM trials t LEFT JOIN study_operator.results r USING (trial_id)"
        " LEFT JOIN trial_system_attributes a ON a.trial_id = t.trial_id AND a.key = %s"
        " WHERE t.study_id = %s AND (t.state = 'RUNNING' OR t.number = ANY(%s)) ORDER BY t.number",
        (JOB_ATTR, study_id, list(with_jobs)),
    )
    found, jobs = cursor.fetchall(), set(with_jobs)
    without = [row[0] for row in found if row[1] not in jobs]
    params, reported = {}, set()
    if without:
        params = params_of(cursor, without)
        cursor.execute("SELECT DISTINCT trial_id FROM trial_intermediate_values WHERE trial_id = ANY(%s)", (without,))
        reported = {trial_id for (trial_id,) in cursor.fetchall()}
    return {
        number: TrialRow(
            trial_id=trial_id,
            number=number,
            state=TrialState[state],
            params=params[trial_id][0] if trial_id in params else {},
            job=json.loads(job) if job else None,
            completed_at=completed and completed.replace(tzinfo=UTC),
            result=None if values is None else Result(tuple(values), *rest),
            reports=trial_id in reported,
            retries=retries,
        )
        for trial_id, number, state, completed, job, retries, values, *rest in found
    }


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


@dataclass(frozen=True)
class Best:
    """The best trial of a study, None while there is none, when as much had been `seen`: how many trials were COMPLETE,
    and how many of them infeasible."""

    seen: tuple[int, int]
    trial_id: int | None
    trial: BestTrial | None


def best_of(cursor: cursor, study_id: int, seen: tuple[int, int], before: Best | None) -> Best:
    """The best feasible COMPLETE trial by the first objective; of equals the earliest, as in Optuna.

    Args:
        before: what was the best some time ago, which need not be read again if it still is.
    """
    cursor.execute(
        "SELECT t.trial_id FROM trials t JOIN trial_values v ON v.trial_id = t.trial_id AND v.objective = 0"
        " JOIN study_directions d ON d.study_id = t.study_id AND d.objective = 0"
        f" WHERE t.study_id = %s AND t.state = 'COMPLETE' AND {_FEASIBLE}"
        " ORDER BY CASE v.value_type::text WHEN 'INF_NEG' THEN '-Infinity' WHEN 'INF_POS' THEN 'Infinity'"
        " ELSE v.value END * CASE d.direction::text WHEN 'MAXIMIZE' THEN -1 ELSE 1 END, t.number LIMIT 1",
        (study_id,),
    )
    row = cursor.fetchone()
    if row is None:
        return Best(seen, None, None)
    if before is not None and before.trial_id == row[0]:
        return replace(before, seen=seen)
    return Best(seen, row[0], complete_trials(cursor, [row[0]])[0])


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


@dataclass(frozen=True)
class Facts:
    """What is known of a study beside its trials, as `Rows` has it."""

    incidents: Mapping[FailureClass, int]
    broken: int
    clock: Clock
    bad_reports: int
    last_bad_report: str
    changed: bool


def facts_of(cursor: cursor, study_id: int) -> Facts:
    """Incidents by class, and how many of them are COMPLETE trials that broke a constraint; for how long the study has
    been active; how many lines could not be read as a report, and the latest of them; whether somebody else has written
    to it. In one round trip."""
    cursor.execute(
        # The clock starts with our own first trial: what a notebook runs itself has the times of its own time zone.
        "SELECT (SELECT t.datetime_start FROM trials t JOIN trial_system_attributes j USING (trial_id)"
        " WHERE t.study_id = a.study_id AND j.key = %s ORDER BY t.number LIMIT 1), a.paused_at, a.paused_seconds,"
        " (SELECT jsonb_object_agg(i.kind, i.count) FROM"
        " (SELECT kind, count(*) FROM study_operator.incidents WHERE study_id = a.study_id GROUP BY kind) i),"
        " (SELECT count(*) FROM study_operator.incidents"
        " WHERE study_id = a.study_id AND reason = 'ConstraintViolated'),"
        " b.count, b.last, EXISTS (SELECT FROM study_operator.changes WHERE study_id = a.study_id)"
        " FROM study_operator.access a,"
        " LATERAL (SELECT coalesce(sum(count), 0)::bigint AS count,"
        " (array_agg(last ORDER BY reported_at DESC))[1] AS last"
        " FROM study_operator.bad_reports WHERE study_id = a.study_id) b WHERE a.study_id = %s",
        (JOB_ATTR, study_id),
    )
    row = cursor.fetchone()
    if row is None:
        return Facts({}, 0, Clock(), 0, "", False)
    started, paused, seconds, incidents, broken, bad, last, changed = row
    return Facts(
        {FailureClass(kind): count for kind, count in (incidents or {}).items()},
        broken,
        Clock(started and started.replace(tzinfo=UTC), paused, seconds),
        bad,
        last or "",
        changed,
    )


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

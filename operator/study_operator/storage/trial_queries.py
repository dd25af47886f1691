"""The statements that read a study's trials. Each function runs in the transaction of the cursor that it is given."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC
from typing import Any

from psycopg2.extensions import cursor

from study_operator.model import distributions
from study_operator.model.final_values import settled
from study_operator.model.trial import (
    JOB_ATTR,
    BestTrial,
    Clock,
    Failure,
    FailureClass,
    Report,
    Result,
    StopWish,
    TrialRow,
    TrialState,
)
from study_operator.storage.database import DELETED, StorageError

# Reports of each trial that are read at once at least, however many trials there are.
_OF_EACH = 20
_WISH = 9  # the place of a wish's content among the columns of an open row
# Optuna stores these values as NULL and a word, because not every database has infinities and NaN.
INFINITIES = {"INF_POS": float("inf"), "INF_NEG": float("-inf"), "NAN": float("nan")}


def counts_of(cursor: cursor, study_id: int) -> dict[TrialState, int]:
    """Count a study's trials by state. A state without trials is missing."""
    cursor.execute("SELECT state::text, count(*) FROM trials WHERE study_id = %s GROUP BY 1", (study_id,))
    return {TrialState[state]: count for state, count in cursor.fetchall()}


def open_rows_of(cursor: cursor, study_id: int, with_jobs: Sequence[int], reports: bool = False) -> dict[int, TrialRow]:
    """Return the RUNNING trials and those that have a Job, by number.

    Parameters are read only for trials without a Job, because only those are started by them. A thousand running trials
    have ten thousand parameters. Whether a trial has reported is read for the same trials and
    for those that a user has stopped, or for all.

    Args:
        cursor: the transaction.
        study_id: the study.
        with_jobs: numbers of the trials that have a Job.
        reports: whether to read for all of them whether they have reported.
    """
    cursor.execute(
        "SELECT t.trial_id, t.number, t.state::text, t.datetime_start, t.datetime_complete, a.value_json,"
        " (SELECT count(*) FROM study_operator.incidents i"
        " WHERE i.trial_id = t.trial_id AND i.kind = 'Infrastructure'),"
        " b.last, coalesce(NOT s.goes_on, false), w.content, w.wished_by, w.wished_at,"
        " r.vals, r.pruned, r.constraint_values, r.infeasible, r.provisional"
        " FROM trials t LEFT JOIN study_operator.results r USING (trial_id)"
        " LEFT JOIN study_operator.bad_reports b USING (trial_id) LEFT JOIN study_operator.stops s USING (trial_id)"
        " LEFT JOIN study_operator.wishes w ON w.trial_id = t.trial_id AND w.kind = 'Stop'"
        " LEFT JOIN trial_system_attributes a ON a.trial_id = t.trial_id AND a.key = %s"
        " WHERE t.study_id = %s AND (t.state = 'RUNNING' OR t.number = ANY(%s)) ORDER BY t.number",
        (JOB_ATTR, study_id, list(with_jobs)),
    )
    found, jobs = cursor.fetchall(), set(with_jobs)
    without = [row[0] for row in found if row[1] not in jobs]
    params, reported = params_of(cursor, without) if without else {}, set()
    # What a trial that is to be stopped has reported decides how it ends.
    if asked := [row[0] for row in found if reports or row[1] not in jobs or row[_WISH] is not None]:
        cursor.execute(
            "SELECT trial_id FROM unnest(%s::int[]) AS asked (trial_id)"
            " WHERE EXISTS (SELECT FROM trial_intermediate_values v WHERE v.trial_id = asked.trial_id)",
            (asked,),
        )
        reported = {trial_id for (trial_id,) in cursor.fetchall()}
    return {
        number: TrialRow(
            trial_id=trial_id,
            number=number,
            state=TrialState[state],
            params=params.get(trial_id, {}),
            job=json.loads(job) if job else None,
            started_at=started and started.replace(tzinfo=UTC),
            last_bad_report=last_bad or "",
            completed_at=completed and completed.replace(tzinfo=UTC),
            result=None if values is None else Result(tuple(values), *rest),
            reports=trial_id in reported,
            retries=retries,
            stopping=stopping,
            stop=None if wish is None else StopWish(TrialState[wish["as"]], by, at.astimezone(UTC)),
        )
        for trial_id, number, state, started, completed, job, retries, last_bad, stopping, *more in found
        for wish, by, at, values, *rest in [more]
    }


def params_of(cursor: cursor, ids: list[int]) -> dict[int, dict[str, Any]]:
    """Return parameters, by name in the order in which they were suggested, by trial_id."""
    cursor.execute(
        "SELECT trial_id, param_name, param_value, distribution_json FROM trial_params"
        " WHERE trial_id = ANY(%s) ORDER BY param_id",
        (ids,),
    )
    parsed: dict[
        str, distributions.Distribution
    ] = {}  # a study has few distinct distributions, and parsing them is slow
    found: dict[int, dict[str, Any]] = {i: {} for i in ids}
    for trial_id, name, value, text in cursor.fetchall():
        distribution = parsed.get(text) or parsed.setdefault(text, distributions.from_json(text))
        found[trial_id][name] = distribution.to_external(value)
    return found


def values_of(cursor: cursor, ids: list[int]) -> dict[int, list[float]]:
    """Return the final values, one per objective, by trial_id. A trial without values is missing."""
    cursor.execute(
        "SELECT trial_id, value, value_type::text FROM trial_values WHERE trial_id = ANY(%s) ORDER BY objective", (ids,)
    )
    found: dict[int, list[float]] = {}
    for trial_id, value, kind in cursor.fetchall():
        found.setdefault(trial_id, []).append(INFINITIES.get(kind, value))
    return found


def reports_of(cursor: cursor, after: Mapping[int, int], most: int) -> tuple[list[Report], frozenset[int]]:
    """Return the next reports of some trials, in the order in which they were stored.

    The order is that of all reports together, however many are read at once. So what a pruner decides does not depend
    on that number.

    Args:
        cursor: the transaction.
        after: for each trial_id the report_id of the last report that is already known, 0 for none.
        most: how many to return, roughly; some of each trial are read in any case.

    Returns:
        The reports, and the trial_ids of the trials that have more.
    """
    of_each = max(most // len(after), _OF_EACH) if after else 0
    cursor.execute(
        "SELECT v.trial_intermediate_value_id, known.trial_id, v.step, v.intermediate_value,"
        " v.intermediate_value_type::text"
        " FROM unnest(%s::int[], %s::int[]) AS known (trial_id, report_id), LATERAL (SELECT *"
        " FROM trial_intermediate_values i"
        " WHERE i.trial_id = known.trial_id AND i.trial_intermediate_value_id > known.report_id"
        " ORDER BY i.trial_intermediate_value_id LIMIT %s) v ORDER BY v.trial_intermediate_value_id",
        (list(after.keys()), list(after.values()), of_each + 1),  # one more tells whether there are more
    )
    found = [
        Report(report_id, trial_id, step, INFINITIES.get(kind, value))
        for report_id, trial_id, step, value, kind in cursor.fetchall()
    ]
    by_trial: dict[int, list[int]] = {}
    for report in found:
        by_trial.setdefault(report.trial_id, []).append(report.report_id)
    # Reports of other trials that came after those that are not read wait with them.
    horizon = min((ids[of_each - 1] for ids in by_trial.values() if len(ids) > of_each), default=None)
    if horizon is None:
        return found, frozenset()
    more = frozenset(trial_id for trial_id, ids in by_trial.items() if ids[-1] > horizon)
    return [report for report in found if report.report_id <= horizon], more


def last_reports_of(cursor: cursor, ids: list[int]) -> list[Report]:
    """Return of each of some trials the report with the highest step. A trial without a report is missing."""
    cursor.execute(
        "SELECT v.trial_intermediate_value_id, asked.trial_id, v.step, v.intermediate_value,"
        " v.intermediate_value_type::text FROM unnest(%s::int[]) AS asked (trial_id), LATERAL (SELECT *"
        " FROM trial_intermediate_values i WHERE i.trial_id = asked.trial_id ORDER BY step DESC LIMIT 1) v",
        (ids,),
    )
    return [
        Report(report_id, trial_id, step, INFINITIES.get(kind, value))
        for report_id, trial_id, step, value, kind in cursor.fetchall()
    ]


def last_printed_of(cursor: cursor, ids: list[int]) -> dict[int, dict[str, float]]:
    """Return what some trials have printed last, by key, over all pods of each. A trial that has not is missing."""
    cursor.execute(
        "SELECT trial_id, vals FROM study_operator.log_positions WHERE trial_id = ANY(%s) ORDER BY updated_at", (ids,)
    )
    found: dict[int, dict[str, float]] = {}
    for trial_id, vals in cursor.fetchall():
        found.setdefault(trial_id, {}).update((name, float(word)) for name, word in vals.items())
    return {trial_id: settled(values) for trial_id, values in found.items()}


# A trial that ends with values but breaks a constraint has an incident of the kind Infeasible.
_FEASIBLE = (
    "NOT EXISTS (SELECT FROM study_operator.incidents i WHERE i.trial_id = t.trial_id AND i.kind = 'Infeasible')"
)


@dataclass(frozen=True)
class Best:
    """The best trial of a study at some time.

    Attributes:
        seen: how many trials were COMPLETE then, and how many of those were infeasible.
        trial_id: the best trial's, None when there was none.
        trial: the best trial, None when there was none.
    """

    seen: tuple[int, int]
    trial_id: int | None
    trial: BestTrial | None


def best_of(
    cursor: cursor, study_id: int, seen: tuple[int, int], before: Best | None, attributes: Sequence[str] = ()
) -> Best:
    """Return the feasible COMPLETE trial with the best first objective; of equal trials the earliest, as Optuna does.

    Args:
        cursor: the transaction.
        study_id: the study.
        seen: how many trials are COMPLETE now, and how many of those are infeasible.
        before: an earlier result. Its trial is not read again if it is still the best.
        attributes: names of the user attributes that are wanted of it.
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
    return Best(seen, row[0], complete_trials(cursor, [row[0]], attributes)[0])


def points_of(cursor: cursor, study_id: int) -> dict[int, list[float]]:
    """Return the final values of every feasible COMPLETE trial by trial_id, in the order of the trials' numbers."""
    cursor.execute(
        "SELECT t.trial_id, v.value, v.value_type::text FROM trials t JOIN trial_values v USING (trial_id)"
        f" WHERE t.study_id = %s AND t.state = 'COMPLETE' AND {_FEASIBLE} ORDER BY t.number, v.objective",
        (study_id,),
    )
    found: dict[int, list[float]] = {}
    for trial_id, value, kind in cursor.fetchall():
        found.setdefault(trial_id, []).append(INFINITIES.get(kind, value))
    return found


def complete_trials(cursor: cursor, ids: list[int], attributes: Sequence[str] = ()) -> list[BestTrial]:
    """Return whole COMPLETE trials, in the order of their trial_ids in `ids`, with some of their user attributes."""
    cursor.execute(
        "SELECT t.trial_id, t.number, a.value_json FROM trials t"
        " LEFT JOIN trial_system_attributes a ON a.trial_id = t.trial_id AND a.key = %s"
        " WHERE t.trial_id = ANY(%s)",
        (JOB_ATTR, ids),
    )
    found = {trial_id: (number, json.loads(job) if job else None) for trial_id, number, job in cursor.fetchall()}
    values, params = values_of(cursor, ids), params_of(cursor, ids)
    attrs = attributes_of(cursor, ids, attributes)
    return [BestTrial(found[i][0], tuple(values[i]), params[i], found[i][1], attrs.get(i, {})) for i in ids]


def attributes_of(cursor: cursor, ids: list[int], names: Sequence[str]) -> dict[int, dict[str, Any]]:
    """Return user attributes of these names, by trial_id. A trial without any of them is missing."""
    if not names:
        return {}
    cursor.execute(
        "SELECT trial_id, jsonb_object_agg(key, value_json) FROM trial_user_attributes"
        " WHERE trial_id = ANY(%s) AND key = ANY(%s) GROUP BY trial_id",
        (ids, list(names)),
    )
    return {i: {name: json.loads(given[name]) for name in names if name in given} for i, given in cursor.fetchall()}


@dataclass(frozen=True)
class Facts:
    """What the database knows about a study beside its trials.

    Attributes:
        incidents: how many incidents there are, by class.
        broken: how many COMPLETE trials broke a constraint. They are among the infeasible incidents.
        clock: for how long the study has been active.
        bad_reports: how many lines looked like a report and could not be read.
        last_bad_report: the latest of these lines and what is wrong with it, empty when there is none.
        changed: whether another program than the operator has written to the study, which the operator has not read.
    """

    incidents: Mapping[FailureClass, int]
    broken: int
    clock: Clock
    bad_reports: int
    last_bad_report: str
    changed: bool


def facts_of(cursor: cursor, study_id: int) -> Facts:
    """Read the facts about a study, in one round trip.

    Raises:
        StorageError: the study was deleted meanwhile. No trial and no Job of it may be taken for gone.
    """
    cursor.execute(
        # The clock starts with the first trial that has a Job, because Optuna in a notebook stores local times.
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
        raise StorageError(DELETED)
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
    """Return the trial numbers and failures of the latest incidents that may need a user's attention, latest first.

    Args:
        cursor: the transaction.
        study_id: the study.
        most: how many to return at most.
    """
    cursor.execute(
        "SELECT t.number, i.reason, i.message, i.exit_code, i.last_log_line, i.kind"
        " FROM study_operator.incidents i JOIN trials t USING (trial_id)"
        " WHERE i.study_id = %s AND i.kind <> 'Terminated' AND i.reason <> 'ConstraintViolated'"
        " ORDER BY i.incident_id DESC LIMIT %s",
        (study_id, most),
    )
    return tuple(
        (number, Failure(reason, message, exit_code, last_log_line, FailureClass(kind)))
        for number, reason, message, exit_code, last_log_line, kind in cursor.fetchall()
    )

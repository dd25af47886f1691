"""What the database says of a study, read past the operator's own code, and what the status must say then."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from psycopg2.extensions import connection

# Of the status, what is computed here.
COMPARED = ("trials", "failures", "progress", "best", "front")


@dataclass(frozen=True)
class Trial:
    """One row, with what belongs to it: how many parameters, the name of its Job, and its end."""

    trial_id: int
    number: int
    state: str
    params: int
    job: str | None
    ended_at: str | None
    values: tuple[float, ...]
    failure: str | None  # the reason

    @property
    def end(self) -> tuple[Any, ...]:
        return self.number, self.state, self.ended_at, self.values, self.failure


@dataclass
class Records:
    """The rows of one Study object. `incidents` are trial_id, kind and reason; `reports`: its pods may report."""

    study_id: int
    uid: str
    reports: bool
    trials: list[Trial] = field(default_factory=list)
    incidents: list[tuple[int, str, str]] = field(default_factory=list)

    def states(self) -> dict[int, str]:
        return {trial.number: trial.state for trial in self.trials}

    def started(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.state != "WAITING"]

    def feasible(self) -> list[Trial]:
        """COMPLETE trials that kept every constraint."""
        broken = {trial_id for trial_id, kind, _ in self.incidents if kind == "Infeasible"}
        return [trial for trial in self.trials if trial.state == "COMPLETE" and trial.trial_id not in broken]


def read(opened: connection, namespace: str, name: str) -> dict[str, Records]:
    """The records of all Study objects that have or had this name, by their UIDs."""
    with opened.cursor() as cursor:
        cursor.execute(
            "SELECT study_id, uid, key_hash IS NOT NULL FROM study_operator.access"
            " WHERE namespace = %s AND name = %s ORDER BY study_id",
            (namespace, name),
        )
        found = {study_id: Records(study_id, uid, reports) for study_id, uid, reports in cursor.fetchall()}
        cursor.execute(
            "SELECT t.study_id, t.trial_id, t.number, t.state::text,"
            " (SELECT count(*) FROM trial_params p WHERE p.trial_id = t.trial_id),"
            " (SELECT value_json FROM trial_system_attributes a WHERE a.trial_id = t.trial_id"
            "  AND a.key = 'study_operator:job'), t.datetime_complete::text,"
            " (SELECT array_agg(v.value ORDER BY v.objective) FROM trial_values v WHERE v.trial_id = t.trial_id),"
            " (SELECT value_json FROM trial_user_attributes a WHERE a.trial_id = t.trial_id"
            "  AND a.key = 'study_operator:failure')"
            " FROM trials t WHERE t.study_id = ANY(%s) ORDER BY t.number, t.trial_id",
            (list(found),),
        )
        for study_id, trial_id, number, state, params, job, ended_at, values, failure in cursor.fetchall():
            reason = failure and json.loads(failure)["reason"]
            job = job and json.loads(job)
            found[study_id].trials.append(
                Trial(trial_id, number, state, params, job, ended_at, tuple(values or ()), reason)
            )
        cursor.execute(
            "SELECT study_id, trial_id, kind, reason FROM study_operator.incidents WHERE study_id = ANY(%s)"
            " ORDER BY incident_id",
            (list(found),),
        )
        for study_id, *incident in cursor.fetchall():
            found[study_id].incidents.append(tuple(incident))
    return {records.uid: records for records in found.values()}


def left_overs(opened: connection) -> dict[str, int]:
    """Rows, by table, that belong to no study of the database."""
    found = {}
    with opened.cursor() as cursor:
        for table, key, parent in (
            ("trials", "study_id", "studies"),
            ("study_directions", "study_id", "studies"),
            ("study_system_attributes", "study_id", "studies"),
            ("study_operator.access", "study_id", "studies"),
            ("study_operator.incidents", "study_id", "studies"),
            ("study_operator.bad_reports", "study_id", "studies"),
            *(
                (table, "trial_id", "trials")
                for table in (
                    "trial_params",
                    "trial_values",
                    "trial_intermediate_values",
                    "trial_system_attributes",
                    "trial_user_attributes",
                    "study_operator.results",
                    "study_operator.incidents",
                    "study_operator.log_positions",
                    "study_operator.bad_reports",
                    "study_operator.stops",
                )
            ),
        ):
            cursor.execute(
                f"SELECT count(*) FROM {table} c WHERE NOT EXISTS (SELECT FROM {parent} p WHERE p.{key} = c.{key})"
            )
            (count,) = cursor.fetchone()
            if count:
                found[table] = count
    return found


def expected_status(records: Records, spec: Mapping[str, Any]) -> dict[str, Any]:
    """What the status of a study of which nothing runs must say, from the rows alone."""
    states = Counter(trial.state for trial in records.trials)
    kinds = Counter(kind for _, kind, _ in records.incidents)
    broken = sum(reason == "ConstraintViolated" for *_, reason in records.incidents)
    called = kinds["Infeasible"] - broken
    ended = states["COMPLETE"] + states["PRUNED"] + states["FAIL"]
    trials = {
        "total": len(records.started()),
        "running": 0,
        "queued": 0,
        "complete": states["COMPLETE"] - broken,
        "pruned": states["PRUNED"] - called,
        "failed": states["FAIL"] - kinds["Terminated"],
        "infeasible": kinds["Infeasible"],
        "terminated": kinds["Terminated"],
    }
    signs = [1 if objective["direction"] == "Maximize" else -1 for objective in spec["objectives"]]
    feasible, best, front = records.feasible(), None, None
    if len(signs) == 1:
        best = max(feasible, key=lambda trial: (signs[0] * trial.values[0], -trial.number), default=None)
    else:
        front = {t.number for t in feasible if not any(_dominates(o.values, t.values, signs) for o in feasible)}
    return {
        "trials": trials,
        "failures": {kind.lower(): kinds[kind] for kind in ("Program", "Infrastructure", "Infeasible")},
        "progress": f"{ended}/{spec['maxTrials']}",
        "best": best and (best.number, [repr(value) for value in best.values], best.job),
        "front": front,
    }


def shown_status(status: Mapping[str, Any], spec: Mapping[str, Any]) -> dict[str, Any]:
    """What a status says, in the terms of `expected_status`."""
    best = status.get("bestTrial")
    return {
        "trials": status["trials"],
        "failures": status["failures"],
        "progress": status["progress"],
        "best": best and (best["number"], best["values"], best.get("jobName")),
        "front": {trial["number"] for trial in status["paretoFront"]} if len(spec["objectives"]) > 1 else None,
    }


def _dominates(one: Sequence[float], other: Sequence[float], signs: Sequence[int]) -> bool:
    pairs = [(sign * a, sign * b) for a, b, sign in zip(one, other, signs, strict=True)]
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)

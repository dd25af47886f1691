"""A Study's status, computed from what was observed. All of it can be computed again; nothing in it is the truth.

It has the same size at ten trials and at a hundred thousand: counts, the best trial, the last few failures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from optuna.trial import TrialState

from study_operator.model.plan import Observed, Outcome
from study_operator.model.search_space import as_text
from study_operator.model.study import Study
from study_operator.model.trial import BestTrial, JobPhase, Rows

_MESSAGE, _FAILURE_MESSAGE, _PARAMETER, _REASON = 2048, 256, 128, 64  # bounds of the CRD, in characters
_SIZE = 15_000  # of the whole status as JSON, in bytes: 16 KiB with what the API server adds


@dataclass(frozen=True)
class Condition:
    """One condition: True, False or Unknown, with a reason in CamelCase and a sentence."""

    type: str
    status: bool | None
    reason: str
    message: str


@dataclass(frozen=True)
class Situation:
    """What the status is computed from.

    `observed` is None when nothing could be observed: the Study cannot be understood, or the database does not answer.
    `pending` says why a trial's pod does not run, `troubles` what went wrong while acting, in sentences.
    """

    accepted: Condition
    storage: Condition | None = None
    observed: Observed | None = None
    outcome: Outcome | None = None
    pending: str | None = None
    troubles: tuple[str, ...] = ()


def accepted() -> Condition:
    return Condition("Accepted", True, "Accepted", "the Study can be run as it is written")


def refused(reason: str, message: str) -> Condition:
    return Condition("Accepted", False, reason, message)


def storage_ready() -> Condition:
    return Condition("StorageReady", True, "Connected", "the database answers")


def storage_down(message: str) -> Condition:
    return Condition("StorageReady", False, "Unavailable", f"the database cannot be used: {message}")


def status(manifest: Mapping[str, Any], study: Study | None, situation: Situation, now: datetime) -> dict[str, Any]:
    """The new status of a Study.

    Args:
        manifest: the object as read, with the status it has now.
        study: None when the spec could not be parsed.
        now: aware, UTC.
    """
    old = manifest.get("status") or {}
    new = {**old, "observedGeneration": manifest["metadata"]["generation"]}
    outcome, rows = situation.outcome, situation.observed and situation.observed.rows
    if study is not None:
        new["studyName"] = study.optuna_name
    if rows is not None:
        new.update(_trials(study, rows))
        if rows.total and "startTime" not in old:
            new["startTime"] = _time(now)
        new["phase"] = _phase(rows, outcome)
    elif "phase" not in old:
        new["phase"] = "Pending"
    if outcome is not None:
        new.setdefault("completionTime", _time(now))
    elif rows is not None:
        new["completionTime"] = None  # a merge patch removes it: the study goes on, for example with more trials
    conditions = [situation.accepted, *([situation.storage] if situation.storage else []), _progressing(situation)]
    if rows is not None:
        conditions += _ended(outcome)
    new["conditions"] = _merge(old.get("conditions") or [], conditions, new["observedGeneration"], now)
    return _fit(new)


def _fit(status: dict[str, Any]) -> dict[str, Any]:
    """Shortens messages and parameters until the whole is small enough: a hundred parameters with long values, or
    messages in a script of several bytes a character, would be too much together."""
    most = _MESSAGE
    while len(json.dumps(status, ensure_ascii=False).encode()) > _SIZE and most > 4:
        most //= 2
        for texts in ("conditions", "recentFailures"):
            # New objects: these may be parts of the status as it was read.
            status[texts] = [
                {**item, "message": shorten(item["message"], max(most, 64))} for item in status.get(texts) or ()
            ] or None
        if best := status.get("bestTrial"):
            parameters = {name: shorten(value, most) for name, value in best["parameters"].items()}
            status["bestTrial"] = {**best, "parameters": parameters}
    return status


def _phase(rows: Rows, outcome: Outcome | None) -> str:
    if outcome is not None:
        return "Succeeded" if outcome.succeeded else "Failed"
    return "Running" if rows.total else "Pending"


def _progressing(situation: Situation) -> Condition:
    """What the study does, or what keeps it from doing anything: the answer to "why is nothing happening?"."""
    observed, troubles = situation.observed, situation.troubles
    if situation.storage is not None and situation.storage.status is not True:
        waiting = "waiting for the database; trials that run go on, and report when it is back"
        return Condition("Progressing", False, "WaitingForStorage", waiting)
    if observed is None:
        return Condition("Progressing", False, "NotAccepted", situation.accepted.message)
    if troubles:
        more = f" (and {len(troubles) - 1} more like it)" if len(troubles) > 1 else ""
        return Condition("Progressing", False, "TrialsCannotStart", troubles[0] + more)
    rows, study = observed.rows, observed.study
    running = rows.count(TrialState.RUNNING)
    if situation.outcome is not None:
        return Condition("Progressing", False, "Finished", f"{rows.finished} trials have ended")
    if situation.accepted.status is not True:
        message = f"no new trials are started, {running} still run: {situation.accepted.message}"
        return Condition("Progressing", False, "NotAccepted", message)
    if situation.pending:
        return Condition("Progressing", False, "TrialPending", situation.pending)
    message = f"{running} trials run, {rows.finished} of {study.max_trials} have ended"
    active = [job.name for job in observed.jobs.values() if job.phase is JobPhase.ACTIVE]
    if running == 0 and active:
        message += f"; waiting for the pods of Job {active[0]} to end"
    return Condition("Progressing", True, "TrialsRunning", message)


def _ended(outcome: Outcome | None) -> list[Condition]:
    if outcome is None:
        going_on = ("NotFinished", "the study has not ended")
        return [Condition("Complete", False, *going_on), Condition("Failed", False, *going_on)]
    yes, no = ("Complete", "Failed") if outcome.succeeded else ("Failed", "Complete")
    return [
        Condition(yes, True, outcome.reason, outcome.message),
        Condition(no, False, outcome.reason, outcome.message),
    ]


def _trials(study: Study | None, rows: Rows) -> dict[str, Any]:
    best = rows.best
    found: dict[str, Any] = {
        "trials": {
            "total": rows.total,
            "running": rows.count(TrialState.RUNNING),
            "complete": rows.count(TrialState.COMPLETE),
            "pruned": rows.count(TrialState.PRUNED),
            "failed": rows.count(TrialState.FAIL),
        },
        "recentFailures": [
            {
                "trial": number,
                "class": str(failure.kind),
                "reason": shorten(failure.reason, _REASON),
                "message": shorten(failure.detail(), _FAILURE_MESSAGE),
                **({} if failure.exit_code is None else {"exitCode": failure.exit_code}),
            }
            for number, failure in rows.recent_failures
        ]
        or None,
        "bestTrial": None if best is None else _best(best),
        "bestValue": None if best is None else f"{best.values[0]:.6g}",
    }
    if study is not None:
        found["progress"] = f"{rows.finished}/{study.max_trials}"
    return found


def _best(best: BestTrial) -> dict[str, Any]:
    found: dict[str, Any] = {
        "number": best.number,
        "values": [repr(value) for value in best.values],
        "parameters": {name: shorten(as_text(value), _PARAMETER) for name, value in best.params.items()},
    }
    if best.job:
        found["jobName"] = best.job
    return found


def _merge(
    old: list[Mapping[str, Any]], conditions: list[Condition], generation: int, now: datetime
) -> list[dict[str, Any]]:
    """The conditions as metav1.Condition; a transition time changes only with the condition's status."""
    before = {condition["type"]: condition for condition in old}
    merged = dict(before)
    for condition in conditions:
        text = {True: "True", False: "False", None: "Unknown"}[condition.status]
        previous = before.get(condition.type)
        same = previous is not None and previous["status"] == text
        merged[condition.type] = {
            "type": condition.type,
            "status": text,
            "reason": condition.reason,
            "message": shorten(condition.message, _MESSAGE),
            "observedGeneration": generation,
            "lastTransitionTime": previous["lastTransitionTime"] if same else _time(now),
        }
    return [dict(condition) for condition in merged.values()]


def shorten(text: str, most: int) -> str:
    """The text, or its beginning and an ellipsis, in at most `most` characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The merge patch (RFC 7386) that turns one status into the other; empty when they are the same.

    What is missing or None in `new` is taken away by name: a merge patch would otherwise keep it."""
    patch: dict[str, Any] = {}
    for key in {**new, **old}:
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            if changes := difference(before, after):
                patch[key] = changes
        elif before != after:
            patch[key] = after
    return patch

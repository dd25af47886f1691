"""A Study's status, computed from what was observed. All of it can be computed again; nothing in it is the truth.

It has the same size at ten trials and at a hundred thousand: counts, the best trial, the last few failures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from study_operator.model.plan import Observed, Outcome, over
from study_operator.model.study import Study
from study_operator.model.summary import queued_trials, shorten, summary, time_text, warm_started
from study_operator.model.trial import TrialState
from study_operator.model.warm_start import WarmStarted

_MESSAGE = 2048  # the CRD's bound, in characters
_SIZE = 15_000  # of the whole status as JSON, in bytes: 16 KiB with what the API server adds
# To how many characters parameters and messages are shortened, until all is small enough.
_LENGTHS = (*((most, max(most, 64)) for most in (1024, 512, 256, 128, 64, 32, 16, 8, 4)), (4, 16))


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
    `pending` says why a trial's pod does not run, `troubles` what went wrong while acting, in sentences;
    `warm_started` what came of each earlier study, empty when that was not looked up now.
    """

    accepted: Condition
    storage: Condition | None = None
    observed: Observed | None = None
    outcome: Outcome | None = None
    pending: str | None = None
    troubles: tuple[str, ...] = ()
    warm_started: tuple[WarmStarted, ...] = ()


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
    outcome, observed = situation.outcome, situation.observed
    rows = observed and observed.rows
    if study is not None:
        new["studyName"] = study.optuna_name
    if observed is not None and rows is not None:
        new.update(summary(observed))
        if rows.total and "startTime" not in old:
            new["startTime"] = time_text(now)
        new["phase"] = _phase(observed, outcome)
    elif "phase" not in old:
        new["phase"] = "Pending"
    if situation.warm_started:
        new["warmStart"] = [warm_started(one) for one in situation.warm_started]
    if outcome is not None:
        new.setdefault("completionTime", time_text(now))
    elif rows is not None:
        new["completionTime"] = None  # a merge patch removes it: the study goes on, for example with more trials
    conditions = [situation.accepted, *([situation.storage] if situation.storage else []), _progressing(situation)]
    if observed is not None:
        conditions += [_suspended(observed.study), *_ended(outcome)]
    new["conditions"] = _merge(old.get("conditions") or [], conditions, new["observedGeneration"], now)
    return _fit(new)


def _fit(status: dict[str, Any]) -> dict[str, Any]:
    """Shortens messages and parameters until the whole is small enough: a hundred parameters with long values, or
    messages in a script of several bytes a character, or of control characters with six, would be too much together."""
    for most, message in _LENGTHS:
        if len(json.dumps(status, ensure_ascii=False).encode()) <= _SIZE:
            break
        for texts in ("conditions", "recentFailures", "warmStart"):
            # New objects: these may be parts of the status as it was read.
            status[texts] = [_shortened(item, message) for item in status.get(texts) or ()] or None
        if status.get("paretoFront"):
            keep = ("number", "values")
            status["paretoFront"] = [{name: item[name] for name in keep} for item in status["paretoFront"]]
        if best := status.get("bestTrial"):
            parameters = {name: shorten(value, most) for name, value in best["parameters"].items()}
            status["bestTrial"] = {**best, "parameters": parameters}
    return status


def _shortened(item: Mapping[str, Any], most: int) -> dict[str, Any]:
    texts = {name: shorten(item[name], most) for name in ("message", "lastLogLine") if name in item}
    return {**item, **texts}


def _phase(observed: Observed, outcome: Outcome | None) -> str:
    if outcome is not None:
        return "Succeeded" if outcome.succeeded else "Failed"
    if observed.study.paused:
        return "Suspended"
    return "Running" if observed.rows.total else "Pending"


def _suspended(study: Study) -> Condition:
    if study.suspend:
        return Condition("Suspended", True, "Suspended", "no trials are started until spec.suspend is false")
    if study.parallelism == 0:
        return Condition("Suspended", True, "ScaledToZero", "no trials are started until spec.parallelism is above 0")
    return Condition("Suspended", False, "NotSuspended", "trials may be started")


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
    queued = queued_trials(observed)
    running = rows.count(TrialState.RUNNING) - queued
    if situation.outcome is not None:
        return Condition("Progressing", False, "Finished", f"{rows.finished} trials have ended")
    if situation.accepted.status is not True:
        message = f"no new trials are started, {running} still run: {situation.accepted.message}"
        return Condition("Progressing", False, "NotAccepted", message)
    if study.paused:
        again = f", {queued} will run again" if queued else ""
        return Condition(
            "Progressing", False, "Suspended", f"the study is suspended; {running} trials still run{again}"
        )
    if (ended := over(observed)) is not None:
        return Condition("Progressing", True, "Ending", f"{ended.message}; {running} trials still run")
    if situation.pending:
        return Condition("Progressing", False, "TrialPending", situation.pending)
    message = f"{running} trials run, {rows.finished} of {study.max_trials} have ended"
    if queued:
        message = f"{running} trials run, {queued} are queued, {rows.finished} of {study.max_trials} have ended"
        if running == 0:
            held = "their Jobs are suspended, by a queue manager such as Kueue or by somebody"
            return Condition("Progressing", False, "TrialsQueued", f"{message}; {held}")
    if running == 0 and observed.active:
        message += f"; waiting for the pods of Job {observed.active[0].name} to end"
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
            "lastTransitionTime": previous["lastTransitionTime"] if same else time_text(now),
        }
    return [dict(condition) for condition in merged.values()]


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

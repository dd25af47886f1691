"""Compute a Study's status from what was observed. Nothing in it is the truth: all of it can be computed again.

The status has the same size with ten trials and with a hundred thousand: counts, the best trial, the last few failures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from study_operator.model.ended_programs import still_running
from study_operator.model.observed import Observed
from study_operator.model.study import Study
from study_operator.model.study_outcome import Outcome, over
from study_operator.model.summary import queued_trials, shorten, summary, time_text, warm_started
from study_operator.model.trial import TrialState
from study_operator.model.warm_start import WarmStarted
from study_operator.texts import many

_ENDS = ("Finished", "Complete", "Failed")  # conditions of a study's end
# As a Job's: these are there once they have been true. A reader is not told what the study is not.
_ONCE_TRUE = ("Suspended", "Complete", "Failed")
_MESSAGE = 2048  # the CRD's bound, in characters
_SIZE = 15_000  # of the whole status as JSON, in bytes: 16 KiB with what the API server adds
# Lengths to which parameters and messages are shortened, in characters, one after the other until all is small enough.
_LENGTHS = (*((most, max(most, 64)) for most in (1024, 512, 256, 128, 64, 32, 16, 8, 4)), (4, 16))

_FEWEST_METRICS = 64  # of these lengths; below it the additional metrics are left out

_THROTTLED = (
    "this study takes more than its share of the operator's time, so it waits while others are served: let trials "
    "report more seldom, or run longer or fewer at once"
)
_EGRESS = "its reports wait in the pod; a network policy of the namespace may forbid it, see docs/install.md"


@dataclass(frozen=True)
class Condition:
    """One condition of the status.

    Attributes:
        type: such as Accepted or Progressing.
        status: True, False, or None for Unknown.
        reason: in CamelCase.
        message: a sentence for users.
    """

    type: str
    status: bool | None
    reason: str
    message: str


@dataclass(frozen=True)
class Situation:
    """What the status is computed from.

    Attributes:
        accepted: the Accepted condition.
        storage: the StorageReady condition; None if the database was not asked.
        observed: the study; None if the Study cannot be understood or the database does not answer.
        outcome: how the study has ended; None while it goes on.
        pending: why a trial's pod does not run; None if there is no such pod.
        troubles: what went wrong while acting, in sentences.
        warm_started: what came of each earlier study; empty if that was not read now.
        throttled: whether the study has to wait for others, because it takes more than its share of time.
        sampler_failed: why the sampler is not asked for a while; None if it is.
        unreachable: why a trial's pod cannot reach the database; None if none says so.
    """

    accepted: Condition
    storage: Condition | None = None
    observed: Observed | None = None
    outcome: Outcome | None = None
    pending: str | None = None
    troubles: tuple[str, ...] = ()
    warm_started: tuple[WarmStarted, ...] = ()
    throttled: bool = False
    sampler_failed: str | None = None
    unreachable: str | None = None


def accepted(warnings: Sequence[str] = ()) -> Condition:
    """Return the Accepted condition of a Study that can be run. `warnings` say what may be a mistake in it."""
    words = "".join(f"; but {warning}" for warning in warnings)
    return Condition("Accepted", True, "Accepted", f"the Study can be run as it is written{words}")


def refused(reason: str, message: str) -> Condition:
    """Return the Accepted condition of a Study that cannot be run."""
    return Condition("Accepted", False, reason, message)


def storage_ready() -> Condition:
    """Return the StorageReady condition while the database answers."""
    return Condition("StorageReady", True, "Connected", "the database answers")


def storage_down(message: str) -> Condition:
    """Return the StorageReady condition while the database cannot be used."""
    return Condition("StorageReady", False, "Unavailable", f"the database cannot be used: {message}")


def rows_missing(message: str) -> Condition:
    """Return the StorageReady condition while the database answers, and is not the one that has the study's rows."""
    return Condition("StorageReady", False, "RowsMissing", message)


def status(manifest: Mapping[str, Any], study: Study | None, situation: Situation, now: datetime) -> dict[str, Any]:
    """Return the new status of a Study.

    Args:
        manifest: the object as it was read, with the status that it has now.
        study: the Study; None if it could not be parsed.
        situation: what the status is computed from.
        now: the time, aware, UTC.
    """
    old = manifest.get("status") or {}
    new = {**old, "observedGeneration": manifest["metadata"]["generation"]}
    outcome, observed = situation.outcome, situation.observed
    if study is not None and (study.stored_name is not None or "studyName" not in old):
        new["studyName"] = study.optuna_name
    if observed is not None:
        new.update(summary(observed))
        if observed.rows.total and "startTime" not in old:
            new["startTime"] = time_text(now)
    if situation.warm_started:
        new["warmStart"] = [warm_started(one) for one in situation.warm_started]
    if outcome is not None:
        new.setdefault("completionTime", time_text(now))
    elif observed is not None:
        new["completionTime"] = (
            None  # a merge patch removes it, because the study goes on, for example with more trials
        )
    end = _end_before(old, new["observedGeneration"]) if observed is None else None
    progressing = _progressing(situation) if end is None else Condition("Progressing", False, "Finished", end)
    conditions = [situation.accepted, *([situation.storage] if situation.storage else []), progressing]
    if observed is not None:
        conditions += [_suspended(observed.study, outcome), *_ended(outcome)]
    if end is None:
        new["phase"] = _phase(study, situation, progressing)
    new["conditions"] = _merge(old.get("conditions") or [], conditions, new["observedGeneration"], now)
    return _fit(new)


def _fit(status: dict[str, Any]) -> dict[str, Any]:
    """Shorten messages and parameters until the whole status is small enough.

    A hundred parameters with long values would be too much together. So would messages in a script with several bytes a
    character, or with control characters, which are six bytes each in JSON.
    """
    for most, message in _LENGTHS:
        if len(json.dumps(status, ensure_ascii=False).encode()) <= _SIZE:
            break
        for texts in ("conditions", "recentFailures", "warmStart"):
            # New objects, because these may be parts of the status as it was read.
            status[texts] = [_shortened(item, message) for item in status.get(texts) or ()] or None
        if status.get("paretoFront"):
            keep = ("number", "values")
            status["paretoFront"] = [{name: item[name] for name in keep} for item in status["paretoFront"]]
        if best := status.get("bestTrial"):
            parameters = {name: shorten(value, most) for name, value in best["parameters"].items()}
            status["bestTrial"] = {**best, "parameters": parameters}
            if most < _FEWEST_METRICS:
                status["bestTrial"].pop("metrics", None)
    return status


def _shortened(item: Mapping[str, Any], most: int) -> dict[str, Any]:
    texts = {name: shorten(item[name], most) for name in ("message", "lastLogLine") if name in item}
    return {**item, **texts}


def _end_before(old: Mapping[str, Any], generation: int) -> str | None:
    """Return why the study has ended according to its status; None if it has not, or was edited since.

    The end stays the end while the database is away, and when its rows have been deleted.
    """
    ends = (c for c in old.get("conditions") or () if c["type"] in ("Complete", "Failed") and c["status"] == "True")
    return next((c["message"] for c in ends if c.get("observedGeneration") == generation), None)


def _phase(study: Study | None, situation: Situation, progressing: Condition) -> str:
    if situation.outcome is not None:
        return "Succeeded" if situation.outcome.succeeded else "Failed"
    if situation.accepted.status is False:
        return "Refused"
    if study is not None and study.paused and study.stop is None:
        return "Suspended"
    if progressing.status is False:
        return "Waiting"
    return "Running" if situation.observed is not None and situation.observed.rows.total else "Pending"


def _suspended(study: Study, outcome: Outcome | None) -> Condition:
    if outcome is not None:
        return Condition("Suspended", False, "Finished", "the study has ended")
    if study.suspend:
        return Condition("Suspended", True, "Suspended", "no trials are started until spec.suspend is false")
    if study.parallelism == 0:
        return Condition("Suspended", True, "ScaledToZero", "no trials are started until spec.parallelism is above 0")
    return Condition("Suspended", False, "NotSuspended", "trials may be started")


def _progressing(situation: Situation) -> Condition:
    """Return what the study does, or why it does nothing: the answer to "why is nothing happening?"."""
    observed, troubles = situation.observed, situation.troubles
    if situation.storage is not None and situation.storage.reason == "RowsMissing":
        return Condition(
            "Progressing", False, "RowsMissing", "nothing is done about this study until StorageReady is True"
        )
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
        return Condition("Progressing", False, "Finished", situation.outcome.message)
    still = many(running, "trial still runs", "trials still run")
    if situation.accepted.status is not True:
        message = f"no new trials are started, {still}: {situation.accepted.message}"
        return Condition("Progressing", False, "NotAccepted", message)
    if study.paused and study.stop is None:
        again = f", {queued} will run again" if queued else ""
        return Condition("Progressing", False, "Suspended", f"the study is suspended; {still}{again}")
    if situation.sampler_failed and over(observed) is None:
        return Condition("Progressing", False, "SamplerFailed", situation.sampler_failed)
    left = f"; {words}" if (words := still_running(observed.active)) else ""
    if (ended := over(observed)) is not None:
        waits_for = f"; {situation.pending}" if situation.pending else ""
        return Condition("Progressing", True, "Ending", f"{ended.message}; {still}{left}{waits_for}")
    if situation.pending:
        return Condition("Progressing", False, "TrialPending", situation.pending)
    if situation.unreachable:
        return Condition("Progressing", False, "TrialsCannotReport", f"{situation.unreachable}; {_EGRESS}")
    waits = f"{many(queued, 'is', 'are')} queued, " if queued else ""
    ended_so_far = f"{rows.finished} of {study.max_trials} {'has' if rows.finished == 1 else 'have'} ended"
    message = f"{many(running, 'trial runs', 'trials run')}, {waits}{ended_so_far}"
    if queued and running == 0:
        held = "their Jobs are suspended, by a queue manager such as Kueue or by somebody"
        return Condition("Progressing", False, "TrialsQueued", f"{message}; {held}")
    message += left
    if running == 0 and observed.active and not left:
        message += f"; waiting for the pods of Job {observed.active[0].name} to end"
    if situation.throttled:
        return Condition("Progressing", True, "Throttled", f"{message}; {_THROTTLED}")
    return Condition("Progressing", True, "TrialsRunning", message)


def _ended(outcome: Outcome | None) -> list[Condition]:
    """Return Finished, which is true at every end, and Complete and Failed, of which one is."""
    if outcome is None:
        return [Condition(type_, False, "NotFinished", "the study has not ended") for type_ in _ENDS]
    yes, no = ("Complete", "Failed") if outcome.succeeded else ("Failed", "Complete")
    ends = [Condition(type_, True, outcome.reason, outcome.message) for type_ in ("Finished", yes)]
    words = "the study is complete" if outcome.succeeded else "the study has failed"
    return [*ends, Condition(no, False, yes, words)]


def _merge(
    old: list[Mapping[str, Any]], conditions: list[Condition], generation: int, now: datetime
) -> list[dict[str, Any]]:
    """Return the conditions as metav1.Condition. A transition time changes only with the condition's status."""
    before = {condition["type"]: condition for condition in old}
    merged = dict(before)
    for condition in conditions:
        if condition.status is False and condition.type in _ONCE_TRUE and condition.type not in before:
            continue
        text = {True: "True", False: "False", None: "Unknown"}[condition.status]
        previous = before.get(condition.type)
        since = time_text(now) if previous is None or previous["status"] != text else previous["lastTransitionTime"]
        merged[condition.type] = {
            "type": condition.type,
            "status": text,
            "reason": condition.reason,
            "message": shorten(condition.message, _MESSAGE),
            "observedGeneration": generation,
            "lastTransitionTime": since,
        }
    return [dict(condition) for condition in merged.values()]


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return the merge patch (RFC 7386) that turns one status into another; empty if they are the same.

    A field that is missing or None in `new` is removed by name, because a merge patch would otherwise keep it.
    """
    patch: dict[str, Any] = {}
    for key in {**new, **old}:
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            if changes := difference(before, after):
                patch[key] = changes
        elif not _same(before, after):
            patch[key] = after
    return patch


def _same(before: Any, after: Any) -> bool:
    if isinstance(before, bool) is not isinstance(after, bool):
        return False  # 1 is True to Python
    if isinstance(after, float) and isinstance(before, int):
        return float(before) == after  # the API server answers with -9223372036854776000 for -2.0**63
    return bool(before == after)

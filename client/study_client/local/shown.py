"""Shows local trials as the trials API has them, so that one table serves both."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from study_client.local.session import LocalTrial
from study_client.texts import number_text, one_line, shorten, value_text
from study_client.times import span
from study_client.trials import Trial
from study_operator.model.study import Study
from study_operator.model.trial import FailureClass, TrialState

_STATES = {
    TrialState.RUNNING: "Running",
    TrialState.COMPLETE: "Complete",
    TrialState.PRUNED: "Pruned",
    TrialState.FAIL: "Failed",
}


def as_trial(study: Study, one: LocalTrial) -> Trial:
    """Return a trial as the trials API would give it out."""
    status: dict[str, Any] = {"state": state_of(one), "startTime": _time(one.started)}
    if one.values is not None:
        status["values"] = [repr(float(value)) for value in one.values]
    if one.ended is not None:
        status |= {
            "completionTime": _time(one.ended),
            "durationSeconds": round((one.ended - one.started).total_seconds(), 3),
        }
    if one.failure is not None:
        status["failure"] = {"reason": one.failure.reason, "lastLogLine": one.failure.last_log_line}
    spec = {"study": study.name, "number": one.row.number, "parameters": json.loads(json.dumps(one.row.params))}
    metadata = {"name": study.job_name(one.row.number), "namespace": study.namespace}
    return Trial({"metadata": metadata, "spec": spec, "status": status})


def state_of(one: LocalTrial) -> str:
    """Return a trial's state by the name that the Study's status has."""
    if one.failure is not None and one.failure.kind is FailureClass.INFEASIBLE:
        return "Infeasible"
    if one.failure is not None and one.failure.kind is FailureClass.TERMINATED:
        return "Terminated"
    return _STATES[one.state]


def line(study: Study, one: LocalTrial) -> str:
    """Return what came of a trial, in one line."""
    assert one.ended is not None
    params = ", ".join(f"{name}={value_text(value)}" for name, value in one.row.params.items())
    took = span((one.ended - one.started).total_seconds())
    named = zip(study.objectives, one.values or (), strict=False)
    values = ", ".join(f"{objective.name} {number_text(value)}" for objective, value in named)
    why = one.failure.sentence() if one.failure is not None else ""
    words = shorten("; ".join(part for part in (values, why) if part), 300)
    return one_line(f"trial {one.row.number}: {state_of(one)} after {took}: {words} ({shorten(params, 120)})")


def _time(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")

"""Sum up a study's trials in a few figures: the part of the status that comes from the rows and Jobs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from study_operator.model.observed import Observed
from study_operator.model.search_space import as_text
from study_operator.model.trial import BestTrial, Failure, FailureClass, TrialState
from study_operator.model.warm_start import WarmStarted
from study_operator.texts import one_line

_FAILURE_MESSAGE, _PARAMETER, _REASON = 256, 128, 64  # bounds of the CRD, in characters
# Of a trial's parameters in full, as JSON, in bytes: the rest of a status has to fit beside them.
_PARAMS_SIZE = 4096


def summary(observed: Observed) -> dict[str, Any]:
    """Return fields of the status, by name. None removes a field."""
    rows, study = observed.rows, observed.study
    best, queued = rows.best, queued_trials(observed)
    several = len(study.objectives) > 1
    best_value = None if best is None else f"{best.values[0]:.6g}"
    direction = "max" if study.directions[0] == "MAXIMIZE" else "min"
    found: dict[str, Any] = {
        "trials": {
            "total": rows.total,
            "running": rows.count(TrialState.RUNNING) - queued,
            "queued": queued,
            "complete": rows.feasible,
            "pruned": rows.pruned,
            "failed": rows.failed,
            "infeasible": rows.infeasible,
            "terminated": rows.terminated,
        },
        "failures": {kind.lower(): rows.incidents.get(kind, 0) for kind in _COUNTED},
        "gpus": sum(job.gpus for job in observed.active if not job.suspended),
        "progress": f"{rows.finished}/{study.max_trials}",
        "recentFailures": [_failure(number, failure) for number, failure in rows.recent_failures] or None,
        "bestTrial": None if best is None or several else _best(best),
        "bestValue": f"pareto: {rows.front_size}" if several else best_value,
        "best": f"pareto: {rows.front_size}" if several else best_value and f"{best_value} ({direction})",
        "paretoFront": [_front(trial) for trial in rows.front] if several else None,
        "paretoFrontSize": rows.front_size if several else None,
        "badReports": rows.bad_reports or None,
        "lastBadReport": shorten(rows.last_bad_report, _FAILURE_MESSAGE) or None,
        "deadlineTime": _deadline(observed),
    }
    return found


_COUNTED = (FailureClass.PROGRAM, FailureClass.INFRASTRUCTURE, FailureClass.INFEASIBLE)


def queued_trials(observed: Observed) -> int:
    """Return how many trials have been suggested and wait.

    They wait for a queue manager that has suspended their Job or, without a Job, for a slot or for the study to be
    resumed.
    """
    queued = 0
    for row in observed.rows.open.values():
        if row.state is TrialState.RUNNING and row.job is not None and row.result is None:
            job = observed.jobs.get(row.job)
            queued += job.suspended if job else row.job not in observed.launched
    return queued


def _failure(number: int, failure: Failure) -> dict[str, Any]:
    found: dict[str, Any] = {
        "trial": number,
        "class": str(failure.kind),
        "reason": shorten(failure.reason, _REASON),
        "message": shorten(failure.message, _FAILURE_MESSAGE),
        "lastLogLine": shorten(failure.last_log_line, _FAILURE_MESSAGE),
    }
    if failure.exit_code is not None:
        found["exitCode"] = failure.exit_code
    return {name: value for name, value in found.items() if value != ""}


def _best(best: BestTrial) -> dict[str, Any]:
    found = {**_front(best), **_typed(best.params)}
    if best.job:
        found["jobName"] = best.job
    return found


def _typed(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters in their own types and in full, or why they are not in the status."""
    why = None
    if len(json.dumps(params, ensure_ascii=False).encode(errors="replace")) > _PARAMS_SIZE:
        why = f"they take more than {_PARAMS_SIZE} bytes"
    for name, value in params.items():
        if value is None:
            why = f"{name} is null, which a status cannot hold"
        elif isinstance(value, str) and one_line(value) != value:
            why = f"{name} has characters that cannot be seen"
    if why is None:
        return {"params": dict(params), "paramsLeftOut": None}
    return {"params": None, "paramsLeftOut": shorten(f"{why}: read them in the database", _FAILURE_MESSAGE)}


def _front(trial: BestTrial) -> dict[str, Any]:
    metrics = {one_line(name): shorten(as_text(value), _PARAMETER) for name, value in trial.attributes.items()}
    return {
        **({"metrics": metrics} if metrics else {}),
        "number": trial.number,
        "values": [repr(value) for value in trial.values],
        "parameters": {one_line(name): shorten(as_text(value), _PARAMETER) for name, value in trial.params.items()},
    }


def warm_started(came: WarmStarted) -> dict[str, Any]:
    """Return what came of one earlier study, as a field of the status."""
    found = {"study": came.study, "taken": came.taken, "left": came.left}
    return {**found, "message": shorten(came.message, _FAILURE_MESSAGE)} if came.message else found


def _deadline(observed: Observed) -> str | None:
    deadline, clock = observed.study.active_deadline, observed.rows.clock
    if deadline is None or clock.started_at is None or clock.paused_at is not None or observed.study.paused:
        return None
    return time_text(clock.started_at + timedelta(seconds=clock.paused_seconds + deadline))


def time_text(moment: datetime) -> str:
    """Return a time as Kubernetes writes it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def shorten(text: str, most: int) -> str:
    """Return a text on one line and in at most `most` characters: the whole, or its beginning and an ellipsis."""
    text = one_line(text[: most + 1])  # no character becomes less than one
    return text if len(text) <= most else text[: most - 1] + "…"

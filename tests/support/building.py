"""Small Studies, trials and Jobs for the unit tests, with any field replaced."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from crd_schema import defaulted

from study_operator.model.job_state import JobPhase, JobState
from study_operator.model.observed import Observed
from study_operator.model.study import Study, parse
from study_operator.model.trial import BestTrial, Failure, Result, Rows, TrialRow, TrialState

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
UID = "1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed"

RUNNING, WAITING = TrialState.RUNNING, TrialState.WAITING
COMPLETE, PRUNED, FAIL = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL

PARAMETERS = [
    {"name": "lr", "float": {"low": 1e-5, "high": 0.1, "log": True}},
    {"name": "layers", "int": {"low": 1, "high": 4}},
    {"name": "optimizer", "categorical": {"choices": ["adam", "sgd"]}},
]


def job_template(**container: Any) -> dict[str, Any]:
    """A Job template of one container, with the given fields added to it."""
    return {"spec": {"template": {"spec": {"containers": [{"name": "trial", "image": "trial:1", **container}]}}}}


def manifest(name: str = "digits", namespace: str = "team-a", uid: str = UID, **spec: Any) -> dict[str, Any]:
    """A Study as the API server hands it out, defaults filled in, with the given fields of its spec replaced."""
    return {
        "apiVersion": "study-operator.io/v1alpha1",
        "kind": "Study",
        "metadata": {"name": name, "namespace": namespace, "uid": uid, "generation": 3},
        "spec": defaulted(
            {
                "objectives": [{"name": "accuracy", "direction": "Maximize"}],
                "parameters": PARAMETERS,
                "jobTemplate": job_template(),
                **spec,
            }
        ),
    }


def study(name: str = "digits", namespace: str = "team-a", uid: str = UID, **spec: Any) -> Study:
    """`manifest`, parsed."""
    return parse(manifest(name, namespace, uid, **spec))


def trial_row(number: int, state: TrialState = RUNNING, **fields: Any) -> TrialRow:
    """A trial of this operator; one that has ended did so just now."""
    given = {"trial_id": 100 + number, "params": {}, "job": f"digits-{number}"}
    completed = {"completed_at": NOW if state.is_finished() else None}
    return TrialRow(number=number, state=state, **{**given, **completed, **fields})


def result(*values: float, pruned: bool = False) -> Result:
    return Result(values, pruned)


def job_state(number: int, phase: JobPhase = JobPhase.ACTIVE, **fields: Any) -> JobState:
    """The Job of `trial_row(number)`, created a minute ago."""
    given = {
        "name": f"digits-{number}",
        "uid": f"uid-{number}",
        "trial_id": 100 + number,
        "created_at": NOW - timedelta(minutes=1),
    }
    return JobState(number=number, phase=phase, **{**given, **fields})


def rows_of(
    *rows: TrialRow,
    counts: Mapping[TrialState, int] | None = None,
    best: BestTrial | None = None,
    recent_failures: Iterable[tuple[int, Failure]] = (),
    **fields: Any,
) -> Rows:
    """Rows as a snapshot would have them; `counts` are further trials, which are not open."""
    total = dict(counts or {})
    for row in rows:
        total[row.state] = total.get(row.state, 0) + 1
    return Rows(total, {row.number: row for row in rows}, best, tuple(recent_failures), **fields)


def observe(
    *rows: TrialRow,
    jobs: Iterable[JobState] = (),
    counts: Mapping[TrialState, int] | None = None,
    spec: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Observed:
    """One study at one moment; `spec` replaces fields of its spec, `about` those of its rows."""
    given = {"now": NOW, **fields}
    observed_rows = rows_of(*rows, counts=counts, **(about or {}))
    return Observed(study(**(spec or {})), observed_rows, {job.name: job for job in jobs}, **given)

"""Makes the Tables that kubectl prints: columns, and a row for each trial or study."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from study_operator.api import numbers
from study_operator.api.trial_objects import duration
from study_operator.model.readable import ReadableStudy, ReadableTrial
from study_operator.model.search_space import as_text
from study_operator.model.summary import shorten

_PARAMETERS, _PARAMETER, _REASON = 200, 64, 120  # characters of a cell
Row = tuple[list[Any], Mapping[str, Any]]


def column(
    name: str, description: str, kind: str = "string", wide: bool = False, is_name: bool = False
) -> dict[str, Any]:
    """Return the definition of a column."""
    return {
        "name": name,
        "type": kind,
        "format": "name" if is_name else "",
        "description": description,
        "priority": 1 if wide else 0,
    }


TRIAL_COLUMNS = (
    column("Name", "Study and number of the trial", is_name=True),
    column("Study", "the Study that the trial belongs to"),
    column("State", "Waiting, Running, Complete, Pruned, Failed, Infeasible or Terminated"),
    column("Value", "its final values, or of a running trial its last report"),
    column("Duration", "how long it has run"),
    column("Age", "how long ago it was started", kind="date"),
    column("Parameters", "its parameters", wide=True),
    column("Job", "the Job that runs it, or has run it last", wide=True),
    column("Reason", "why it has failed, or is infeasible", wide=True),
)
SET_COLUMNS = (
    column("Name", "the Study", is_name=True),
    column("Objectives", "what is optimised"),
    column("Deleted", "whether the Study was deleted and its rows were kept"),
)


def table(
    version: str, columns: tuple[dict[str, Any], ...], meta: Mapping[str, Any], rows: list[Row]
) -> dict[str, Any]:
    """Return a Table.

    Args:
        version: of meta.k8s.io: v1 or v1beta1.
        meta: the list's metadata.
        rows: cells and object of each row.
    """
    return head(version, columns, meta) | {"rows": [row(one) for one in rows]}


def head(version: str, columns: tuple[dict[str, Any], ...], meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return a Table without its rows."""
    return {
        "kind": "Table",
        "apiVersion": f"meta.k8s.io/{version}",
        "metadata": meta,
        "columnDefinitions": list(columns),
    }


def row(one: Row) -> dict[str, Any]:
    """Return a row of a Table."""
    return {"cells": one[0], "object": one[1]}


def row_object(include: str, version: str, whole: Mapping[str, Any]) -> Any:
    """Return what a row has of its object.

    Args:
        include: Metadata, Object or None.
        version: of meta.k8s.io.
        whole: the object.
    """
    if include == "None":
        return None
    return numbers.sortable(whole) if include == "Object" else partial(version, whole)


def partial(version: str, whole: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of an object as a PartialObjectMetadata."""
    return {"kind": "PartialObjectMetadata", "apiVersion": f"meta.k8s.io/{version}", "metadata": whole["metadata"]}


def trial_cells(trial: ReadableTrial, name: str, now: datetime) -> list[Any]:
    """Return the cells of a trial.

    Args:
        name: of its object.
        now: aware.
    """
    parameters = ", ".join(f"{key}={_value(value)}" for key, value in trial.params.items())
    return [
        name,
        trial.study.name,
        str(trial.state),
        _values(trial),
        _duration(trial, now),
        "<unknown>" if trial.started_at is None else human(now - trial.started_at),
        shorten(parameters, _PARAMETERS) or "<none>",
        trial.job or "<none>",
        _reason(trial),
    ]


def bare_cells(name: str, study: str, state: str) -> list[Any]:
    """Return the cells of a trial of which no more is known than that it was there."""
    return [name, study, state, *["<unknown>"] * (len(TRIAL_COLUMNS) - 3)]


def set_cells(study: ReadableStudy, name: str) -> list[Any]:
    """Return the cells of a whole study."""
    objectives = ", ".join(f"{one.name} ({one.direction.lower()[:3]})" for one in study.objectives)
    return [name, shorten(objectives, _PARAMETERS), "true" if study.deleted else "false"]


def human(span: Any) -> str:
    """Return a timedelta as kubectl prints ages: 45s, 3m20s, 25m, 2h5m, 3d4h, 20d."""
    seconds = int(span.total_seconds())
    if seconds < 0:
        return "0s" if seconds >= -1 else "<invalid>"
    if seconds < 120:
        return f"{seconds}s"
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if minutes < 10:
        return _two(minutes, "m", seconds % 60, "s")
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return _two(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    return _two(days, "d", hours % 24, "h") if days < 8 else f"{days}d"


def now() -> datetime:
    """Return the time, by which ages are told."""
    return datetime.now(UTC)


def _two(large: int, one: str, small: int, other: str) -> str:
    return f"{large}{one}{small}{other}" if small else f"{large}{one}"


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else shorten(as_text(value), _PARAMETER)


def _values(trial: ReadableTrial) -> str:
    """Return the values in six digits, as the Study's own column has its best."""
    if trial.values:
        return ", ".join(f"{value:.6g}" for value in trial.values)
    if trial.ended_at is None and (last := trial.last_report) is not None:
        return f"{last.value:.6g} (step {last.step})"
    return "<none>"


def _duration(trial: ReadableTrial, at: datetime) -> str:
    if duration(trial) is None and (trial.started_at is None or trial.ended_at is not None):
        return "<none>"
    assert trial.started_at is not None
    return human((trial.ended_at or at) - trial.started_at)


def _reason(trial: ReadableTrial) -> str:
    failure = trial.failure
    if failure is None:
        return "<none>"
    code = "" if failure.exit_code is None else f" (exit code {failure.exit_code})"
    return shorten(f"{failure.reason}{code}", _REASON)

"""Turn rows of the views of reading.sql and wishes.sql into records."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from study_operator.model import distributions
from study_operator.model.distributions import Distribution
from study_operator.model.readable import (
    Change,
    ChangeKind,
    Objective,
    ReadableReport,
    ReadableStudy,
    ReadableTrial,
    ShownState,
)
from study_operator.model.trial import Failure, FailureClass, attempt_of
from study_operator.model.wish import Act, Wish

# The columns of each record, in the order in which the functions below take them.
STUDY_COLUMNS = "study_id, namespace, name, uid, deleted, directions, metric_names"
TRIAL_COLUMNS = (
    "study_id, trial_id, number, state, started, ended, vals, params, constraints, violations, attributes,"
    " attribute_count, last_report, job, failure"
)
CHANGE_COLUMNS = "number, kind, study_id, namespace, name, uid, deleted, first, last, was, made"
WISH_COLUMNS = "wish_id, namespace, study_id, number, act, content, wished_by, at, granted, answer"

# A parameter as a row has it: name, number, and the hash of its distribution.
_Stored = tuple[str, float | None, int]


def study_of(row: Sequence[Any]) -> ReadableStudy:
    """Return the study of a row."""
    study_id, namespace, name, uid, deleted, directions, names = row
    told = _json(names)
    named = told if isinstance(told, list) and len(told) == len(directions) else [""] * len(directions)
    objectives = tuple(Objective(str(one), direction) for one, direction in zip(named, directions, strict=True))
    return ReadableStudy(study_id, namespace, name, uid, deleted, objectives)


def trial_of(
    row: Sequence[Any], studies: Mapping[int, ReadableStudy], known: Mapping[tuple[int, int], Distribution | None]
) -> ReadableTrial:
    """Return the trial of a row.

    Args:
        row: of TRIAL_COLUMNS.
        studies: by study_id.
        known: distributions by study_id and hash. A parameter whose distribution is not among them is left out.
    """
    study_id, trial_id, number, state, started, ended, values, params, constraints, violations, *rest = row
    attributes, count, last, job, failure = rest
    shown = _attributes(attributes or ())
    job = _text(_json(job))
    return ReadableTrial(
        study=studies[study_id],
        trial_id=trial_id,
        number=number,
        state=ShownState(state),
        started_at=_utc(started),
        ended_at=_utc(ended),
        values=tuple(values),
        params=_params(params or (), study_id, known),
        constraints={name: float(value) for name, value in (constraints or {}).items()},
        violations=_numbers(violations or {}),
        attributes=shown,
        attributes_left_out=count - len(shown),
        last_report=None if last is None else ReadableReport(int(last[0]), last[1]),
        attempts=attempt_of(job) + 1 if job else 0,
        job=job or None,
        failure=None if failure is None else _failure(*failure),
    )


def unknown_distributions(rows: Iterable[Sequence[Any]]) -> dict[tuple[int, int], tuple[int, str]]:
    """Return of each distribution that rows of trials have one place: trial_id and parameter, by study_id and hash."""
    found: dict[tuple[int, int], tuple[int, str]] = {}
    for study_id, trial_id, _, _, _, _, _, params, *_ in rows:
        for name, _, hashed in params or ():
            found.setdefault((study_id, hashed), (trial_id, name))
    return found


def distribution_of(text: str) -> Distribution | None:
    """Return a stored distribution; None if a program has written something else in its place."""
    try:
        return distributions.from_json(text)
    except (ValueError, RecursionError, ArithmeticError):
        return None


def change_of(row: Sequence[Any]) -> Change:
    """Return the change of a row."""
    number, kind, study_id, namespace, name, uid, deleted, first, last, was, made = row
    before = None if was is None else ShownState(was)
    return Change(number, ChangeKind(kind), study_id, namespace, name, uid, deleted, first, last, before, made)


def wish_of(row: Sequence[Any]) -> Wish:
    """Return the wish of a row."""
    wish_id, namespace, study_id, number, act, *rest = row
    return Wish(wish_id, namespace, study_id, number, Act(act), *rest)


def _params(
    stored: Iterable[_Stored], study_id: int, known: Mapping[tuple[int, int], Distribution | None]
) -> dict[str, Any]:
    """Return parameters in their own types. Left out is what is no value of its distribution."""
    found: dict[str, Any] = {}
    for name, number, hashed in stored:
        distribution = known.get((study_id, hashed))
        if distribution is not None and number is not None:
            try:
                found[name] = distribution.to_external(float(number))
            except (IndexError, ValueError, OverflowError):
                continue
    return found


def _attributes(stored: Iterable[tuple[str, str | None]]) -> dict[str, Any]:
    """Return the user attributes that are shown. One that is too long comes without its value."""
    found: dict[str, Any] = {}
    for name, text in stored:
        if text is not None:
            try:
                found[name] = json.loads(text)
            except (ValueError, RecursionError):  # no JSON: only a program that writes the tables itself does that
                continue
    return found


def _numbers(stored: Mapping[str, str]) -> dict[str, float]:
    told = {name: _json(text) for name, text in stored.items()}
    return {name: float(value) for name, value in told.items() if isinstance(value, int | float)}


def _failure(kind: str, reason: str, message: str, exit_code: int | None, last_log_line: str) -> Failure:
    return Failure(reason, message, exit_code, last_log_line, FailureClass(kind))


def _json(text: str | None) -> Any:
    """Return what a text of JSON says; None if it is none."""
    try:
        return None if text is None else json.loads(text)
    except (ValueError, RecursionError):
        return None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _utc(moment: datetime | None) -> datetime | None:
    """Return a time as Optuna stores it, naive UTC, as an aware one."""
    return moment and moment.replace(tzinfo=UTC)

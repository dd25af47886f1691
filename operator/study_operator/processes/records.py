"""The plain values that cross the border, as records of msgpack.

They are those of `model`, with two differences. Attributes and parameters may be anything that JSON can express, with
whole numbers of any size, so each travels as its JSON text. And only that goes which the other side needs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, get_type_hints

import msgspec

from study_operator.model import batch, history
from study_operator.model.actions import RunAgain, Tell
from study_operator.model.search_space import search_space
from study_operator.model.study import Study
from study_operator.model.trial import Failure, Report, Result, TrialRow, TrialState
from study_operator.processes.wire import MOST_BYTES, WireError, encode

Texts = dict[str, str]  # JSON texts by name
_PIECE = 512  # trials in one message at the most

# What the optimizer does not need of a Study, or makes itself of the rest.
_LEFT_OUT = ("space", "job_template")
_FIELDS = {name: hint for name, hint in get_type_hints(Study).items() if name not in _LEFT_OUT}


class _Record(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    pass


def texts(values: Mapping[str, Any]) -> Texts:
    """Return values as JSON texts."""
    return {name: json.dumps(value) for name, value in values.items()}


def values(of: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of JSON texts.

    Raises:
        WireError: a text is not JSON.
    """
    try:
        return {name: json.loads(text) for name, text in of.items()}
    except (ValueError, RecursionError) as error:
        raise WireError(f"an attribute is not JSON: {error}") from None


# A Study


def study_text(study: Study) -> str:
    """Return what the optimizer needs of a Study."""
    return json.dumps(msgspec.to_builtins({name: getattr(study, name) for name in _FIELDS}))


def study_of(text: str) -> Study:
    """Return a Study from its text. It has no Job template."""
    given = json.loads(text)
    fields = {name: msgspec.convert(given[name], hint) for name, hint in _FIELDS.items()}
    return Study(**fields, space=search_space(fields["parameters"]), job_template={})


# A history


class StudyRecord(_Record, frozen=True):
    """`StoredStudy`."""

    name: str
    directions: list[str]
    system: Texts
    user: Texts

    @classmethod
    def of(cls, study: history.StoredStudy) -> StudyRecord:
        return cls(study.name, list(study.directions), texts(study.system_attrs), texts(study.user_attrs))

    def plain(self) -> history.StoredStudy:
        return history.StoredStudy(self.name, self.directions, values(self.system), values(self.user))


class TrialRecord(_Record, frozen=True):
    """`StoredTrial`."""

    trial_id: int
    number: int
    state: TrialState
    started_at: datetime | None
    completed_at: datetime | None
    values: list[float] | None
    names: tuple[str, ...]
    params: list[float]
    distributions: tuple[str, ...]
    user: Texts
    system: Texts
    reports: dict[int, float]

    @classmethod
    def of(cls, trial: history.StoredTrial) -> TrialRecord:
        return cls(
            trial.trial_id,
            trial.number,
            trial.state,
            trial.started_at,
            trial.completed_at,
            None if trial.values is None else list(trial.values),
            tuple(trial.names),
            list(trial.params),
            tuple(trial.distributions),
            texts(trial.user_attrs),
            texts(trial.system_attrs),
            dict(trial.reports),
        )

    def plain(self) -> history.StoredTrial:
        return history.StoredTrial(
            self.trial_id,
            self.number,
            self.state,
            self.started_at,
            self.completed_at,
            self.values,
            self.names,
            self.params,
            self.distributions,
            values(self.user),
            values(self.system),
            self.reports,
        )


def pieces(trials: Sequence[history.StoredTrial]) -> Iterator[bytes]:
    """Yield trials as encoded lists of records, each small enough for one message.

    Raises:
        WireError: one trial alone is too large.
    """
    for start in range(0, len(trials), _PIECE):
        yield from _halves([TrialRecord.of(trial) for trial in trials[start : start + _PIECE]])


def _halves(trials: list[TrialRecord]) -> Iterator[bytes]:
    data = encode(trials)
    if len(data) <= MOST_BYTES // 2:
        yield data
    elif len(trials) == 1:
        raise WireError(f"trial {trials[0].number} is too large to be read: it has {len(data)} bytes")
    else:
        half = len(trials) // 2
        yield from _halves(trials[:half])
        yield from _halves(trials[half:])


# What is decided


class ChangeRecord(_Record, frozen=True):
    """`Change`."""

    trial_id: int
    number: int
    was: list[TrialState]
    state: TrialState | None
    times: tuple[datetime | None, datetime | None] | None
    params: dict[str, tuple[float, str]]
    values: list[float] | None
    user: Texts
    system: Texts
    reports: dict[int, float]
    unless_result: bool
    forget_result: bool
    failure: Failure | None

    @classmethod
    def of(cls, change: batch.Change) -> ChangeRecord:
        return cls(
            change.trial_id,
            change.number,
            sorted(change.was),
            change.state,
            change.times,
            change.params,
            None if change.values is None else list(change.values),
            texts(change.user_attrs),
            texts(change.system_attrs),
            change.reports,
            change.unless_result,
            change.forget_result,
            change.failure,
        )

    def plain(self) -> batch.Change:
        return batch.Change(
            self.trial_id,
            self.number,
            frozenset(self.was),
            self.state,
            self.times,
            self.params,
            self.values,
            values(self.user),
            values(self.system),
            self.reports,
            self.unless_result,
            self.forget_result,
            self.failure,
        )


class BatchRecord(_Record, frozen=True):
    """`Batch`."""

    trials: list[ChangeRecord]
    user: Texts
    system: Texts
    most: int | None

    @classmethod
    def of(cls, made: batch.Batch) -> BatchRecord:
        changes = [ChangeRecord.of(change) for change in made.trials.values()]
        return cls(changes, texts(made.user_attrs), texts(made.system_attrs), made.most)

    def plain(self) -> batch.Batch:
        changes = {change.trial_id: change.plain() for change in self.trials}
        return batch.Batch(changes, values(self.user), values(self.system), self.most)


class VerdictsRecord(_Record, frozen=True):
    """`Verdicts`."""

    prune: list[int]
    notes: BatchRecord | None


class RowRecord(_Record, frozen=True):
    """A trial that has been started, or waits."""

    trial_id: int
    number: int
    params: str  # JSON

    @classmethod
    def of(cls, row: TrialRow) -> RowRecord:
        return cls(row.trial_id, row.number, json.dumps(row.params))

    def plain(self, state: TrialState, job: str | None) -> TrialRow:
        return TrialRow(self.trial_id, self.number, state, values({"": self.params})[""], job)


class OutlookRecord(_Record, frozen=True):
    """`Outlook`."""

    exhausted: bool
    converged: bool
    impossible: list[tuple[RowRecord, str]]

    @classmethod
    def of(cls, outlook: history.Outlook) -> OutlookRecord:
        return cls(outlook.exhausted, outlook.converged, [(RowRecord.of(row), why) for row, why in outlook.impossible])

    def plain(self) -> history.Outlook:
        found = tuple((row.plain(TrialState.WAITING, None), why) for row, why in self.impossible)
        return history.Outlook(self.exhausted, self.converged, found)


class StartedRecord(_Record, frozen=True):
    """What `commit` answers: the trials that have been started, and the outlook if it is known."""

    rows: list[RowRecord]
    outlook: OutlookRecord | None


class EndRecord(_Record, frozen=True):
    """`Tell` or `RunAgain`, without what only Kubernetes needs."""

    trial_id: int
    number: int
    final: bool
    state: TrialState | None
    values: list[float] | None
    failure: Failure | None
    constraints: dict[str, float]

    @classmethod
    def told(cls, told: Tell) -> EndRecord:
        given = None if told.values is None else list(told.values)
        row = told.row
        return cls(row.trial_id, row.number, row.has_final, told.state, given, told.failure, dict(told.constraints))

    @classmethod
    def again(cls, again: RunAgain) -> EndRecord:
        return cls(again.row.trial_id, again.row.number, again.row.has_final, None, None, again.failure, {})

    def tell(self) -> Tell:
        given = None if self.values is None else tuple(self.values)
        return Tell(self._row(), self.state or TrialState.FAIL, given, self.failure, None, self.constraints)

    def run_again(self) -> RunAgain:
        return RunAgain(self._row(), self.failure)

    def _row(self) -> TrialRow:
        result = Result(()) if self.final else None
        return TrialRow(self.trial_id, self.number, TrialState.RUNNING, {}, None, result=result)


Reports = list[tuple[int, int, int, float]]


def reports_out(reports: Iterable[Report]) -> Reports:
    """Return reports as they are sent."""
    return [(report.report_id, report.trial_id, report.step, report.value) for report in reports]


def reports_in(sent: Reports) -> list[Report]:
    """Return reports as they were before they were sent."""
    return [Report(*one) for one in sent]


def trials_in(records: Iterable[TrialRecord]) -> list[history.StoredTrial]:
    """Return trials as they were before they were sent."""
    return [record.plain() for record in records]

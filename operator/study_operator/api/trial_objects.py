"""Makes the objects of the trials API from what the database has of a trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from study_operator.api import names, numbers
from study_operator.api.resources import DELETED_LABEL, GROUP_VERSION, REPORTS, TRIALS
from study_operator.model import study as studies
from study_operator.model.readable import ReadableReport, ReadableStudy, ReadableTrial, ShownState
from study_operator.model.study import STUDY_LABEL, TRIAL_LABEL
from study_operator.model.trial import Failure


@dataclass(frozen=True)
class Identity:
    """Which trial it is, as far as selectors and names need it. Also of a trial whose rows are gone.

    Attributes:
        namespace, study, uid: of the Study.
        deleted: whether the Study was deleted.
        number: the trial's.
        state: the trial's; None if it is not known any more.
    """

    namespace: str
    study: str
    uid: str
    deleted: bool
    number: int
    state: ShownState | None = None

    @classmethod
    def of(cls, trial: ReadableTrial) -> Identity:
        """Return the identity of a trial."""
        study = trial.study
        return cls(study.namespace, study.name, study.uid, study.deleted, trial.number, trial.state)

    def before(self, state: ShownState) -> Identity:
        """Return it with a former state."""
        return replace(self, state=state)

    @property
    def name(self) -> str:
        """The name of its object."""
        return names.trial_name(self.study, self.number, self.uid if self.deleted else "")

    def labels(self) -> dict[str, str]:
        """Return the labels of its object."""
        found = {STUDY_LABEL: self.study, TRIAL_LABEL: str(self.number)}
        return found | ({DELETED_LABEL: "true"} if self.deleted else {})

    def fields(self) -> dict[str, str]:
        """Return what a field selector can select by."""
        return {
            "metadata.name": self.name,
            "metadata.namespace": self.namespace,
            "spec.study": self.study,
            "status.state": str(self.state or ""),
        }

    def metadata(self, version: int, created: datetime | None = None) -> dict[str, Any]:
        """Return the metadata of its object.

        Args:
            version: the resource version.
            created: when the trial was started; None if that is not known.
        """
        found: dict[str, Any] = {
            "name": self.name,
            "namespace": self.namespace,
            "uid": names.trial_uid(self.uid, self.number),
            "resourceVersion": str(version),
            "creationTimestamp": numbers.moment(created),
            "labels": self.labels(),
        }
        if not self.deleted:
            found["ownerReferences"] = [_owner(self.study, self.uid)]
        return found

    def bare(self, version: int) -> dict[str, Any]:
        """Return the object of a trial of which no more is known: for the event that it is gone."""
        status = {"state": str(self.state)} if self.state else {}
        spec = {"study": self.study, "number": self.number}
        return _object(TRIALS.kind, self.metadata(version)) | {"spec": spec, "status": status}


def trial_object(trial: ReadableTrial, version: int) -> dict[str, Any]:
    """Return a trial as a StudyTrial.

    Args:
        version: the resource version.
    """
    spec = {"study": trial.study.name, "number": trial.number, "parameters": dict(trial.params)}
    head = _object(TRIALS.kind, Identity.of(trial).metadata(version, trial.started_at))
    return head | {"spec": spec, "status": _status(trial)}


def _status(trial: ReadableTrial) -> dict[str, Any]:
    found: dict[str, Any] = {"state": str(trial.state)}
    if len(trial.values) == 1 and (value := numbers.comparable(trial.values[0])) is not None:
        found["value"] = value
    seconds = duration(trial)
    more = {
        "values": [numbers.text(value) for value in trial.values],
        "startTime": numbers.moment(trial.started_at),
        "completionTime": numbers.moment(trial.ended_at),
        "durationSeconds": None if seconds is None else round(seconds, 3),
        "jobName": trial.job,
        "constraints": _texts(trial.constraints),
        "violations": _texts(trial.violations),
        "attributes": dict(trial.attributes),
        "attributesLeftOut": trial.attributes_left_out,
        "lastReport": _report(trial.last_report),
        "failure": _failure(trial.failure),
    }
    return found | {"attempts": trial.attempts} | {name: value for name, value in more.items() if _has(value)}


def duration(trial: ReadableTrial) -> float | None:
    """Return for how many seconds a trial has run; None while it has not ended."""
    if trial.started_at is None or trial.ended_at is None:
        return None
    return max((trial.ended_at - trial.started_at).total_seconds(), 0.0)


def reports_object(trial: ReadableTrial, reports: list[ReadableReport], version: int) -> dict[str, Any]:
    """Return all reports of a trial: steps, and a value for each."""
    head = _object(REPORTS.kind, Identity.of(trial).metadata(version, trial.started_at))
    steps, values = [one.step for one in reports], [numbers.number(one.value) for one in reports]
    return head | {"steps": steps, "values": values}


def set_metadata(study: ReadableStudy, version: int) -> dict[str, Any]:
    """Return the metadata of a whole study's object."""
    found: dict[str, Any] = {
        "name": names.set_name(study.name, study.uid if study.deleted else ""),
        "namespace": study.namespace,
        "uid": study.uid,
        "resourceVersion": str(version),
        "creationTimestamp": None,
        "labels": {STUDY_LABEL: study.name} | ({DELETED_LABEL: "true"} if study.deleted else {}),
    }
    return found if study.deleted else found | {"ownerReferences": [_owner(study.name, study.uid)]}


def _object(kind: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {"kind": kind, "apiVersion": GROUP_VERSION, "metadata": metadata}


def _owner(name: str, uid: str) -> dict[str, str]:
    return {"apiVersion": f"{studies.GROUP}/{studies.VERSION}", "kind": studies.KIND, "name": name, "uid": uid}


def _report(report: ReadableReport | None) -> dict[str, Any] | None:
    return None if report is None else {"step": report.step, "value": numbers.text(report.value)}


def _failure(failure: Failure | None) -> dict[str, Any] | None:
    if failure is None:
        return None
    found = {
        "reason": failure.reason,
        "class": str(failure.kind),
        "message": failure.message,
        "exitCode": failure.exit_code,
        "lastLogLine": failure.last_log_line,
    }
    return {name: value for name, value in found.items() if value not in ("", None)}


def _texts(values: Mapping[str, float]) -> dict[str, str]:
    return {name: numbers.text(value) for name, value in values.items()}


def _has(value: Any) -> bool:
    """Return whether a field says anything: an empty one is left out."""
    return value is not None and value not in ({}, []) and not (value == 0 and isinstance(value, int))

"""Decodes what the operator reads of Jobs: in a list, in the answer to a creation, and in the events of a watch.

A thousand Jobs are five megabytes of JSON. Most of it is what the API server notes for itself, and the pod template
that all trials share. A decoder that knows the wanted fields skips the rest, which is 20 times as fast as building
objects of everything.
"""

from __future__ import annotations

from typing import Any, TypedDict

import msgspec

Amounts = dict[str, str | int] | None


class _Resources(TypedDict, total=False):
    limits: Amounts
    requests: Amounts


class _Container(TypedDict, total=False):
    resources: _Resources | None


class _Pod(TypedDict):
    containers: list[_Container]


class _Template(TypedDict):
    spec: _Pod


class _Spec(TypedDict, total=False):
    parallelism: int | None
    suspend: bool | None
    template: _Template


class _Metadata(TypedDict, total=False):
    name: str
    uid: str
    labels: dict[str, str] | None
    annotations: dict[str, str] | None
    ownerReferences: list[dict[str, Any]] | None
    creationTimestamp: str
    deletionTimestamp: str


class Job(TypedDict, total=False):
    """A Job with the fields above and no others."""

    metadata: _Metadata
    spec: _Spec
    status: dict[str, Any]


class _Jobs(TypedDict):
    items: list[Job]


class _Condition(TypedDict):
    type: str
    status: str


class _EventStatus(TypedDict, total=False):
    conditions: list[_Condition]


class _EventMetadata(TypedDict, total=False):
    namespace: str
    resourceVersion: str
    labels: dict[str, str]


class EventObject(TypedDict, total=False):
    """A Job in an event. In an ERROR it is a Status, which has a code and a message, and whose status is a word."""

    metadata: _EventMetadata
    status: _EventStatus | str
    code: int
    message: str


class JobEvent(TypedDict):
    """One event of a watch of Jobs: ADDED, MODIFIED, DELETED, BOOKMARK or ERROR."""

    type: str
    object: EventObject


_JOBS, _JOB, _EVENT = msgspec.json.Decoder(_Jobs), msgspec.json.Decoder(Job), msgspec.json.Decoder(JobEvent)


def jobs(text: str) -> list[Job]:
    """Return the Jobs of a JobList."""
    return _JOBS.decode(text)["items"]


def job(text: str) -> Job:
    """Return one Job."""
    return _JOB.decode(text)


def job_event(line: bytes) -> JobEvent:
    """Return one event of a watch of Jobs."""
    return _EVENT.decode(line)


def has_ended(job: EventObject) -> bool:
    """Return whether a Job in an event is complete or has failed."""
    status = job.get("status")
    conditions = status.get("conditions", ()) if isinstance(status, dict) else ()
    return any(one["type"] in ("Complete", "Failed") and one["status"] == "True" for one in conditions)

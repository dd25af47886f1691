"""Decodes what the operator reads of Jobs, pods, claims and Studies.

A thousand Jobs are five megabytes of JSON. Most of it is what the API server notes for itself, and the pod template
that all trials share. A decoder that knows the wanted fields skips the rest, which is 20 times as fast as building
objects of everything. And nothing is kept of what users write beside it, up to a megabyte and a half in each object.

Which Studies there are is read by `metadata.py`, from which nothing in a Study can keep it. One Study alone is read
here, in two steps: its fields are measured before they are decoded.
"""

from __future__ import annotations

from typing import Any, Generic, NotRequired, Required, TypedDict, TypeVar

import msgspec

from study_operator.model import intake
from study_operator.model.intake import Unreadable

T = TypeVar("T")

Amounts = dict[str, str | int] | None


class _Resources(TypedDict, total=False):
    limits: Amounts
    requests: Amounts


class _Container(TypedDict, total=False):
    resources: _Resources | None


class _InitContainer(TypedDict, total=False):
    restartPolicy: str | None
    resources: _Resources | None


class _Pod(TypedDict, total=False):
    containers: Required[list[_Container]]
    initContainers: list[_InitContainer] | None
    restartPolicy: str


class _Template(TypedDict):
    spec: _Pod


class _Spec(TypedDict, total=False):
    parallelism: int | None
    backoffLimit: int | None
    suspend: bool | None
    template: _Template


# Users may add as many as they like.
_Labels = TypedDict(
    "_Labels",
    {"study-operator.io/study": str, "study-operator.io/trial": str, "batch.kubernetes.io/job-name": str},
    total=False,
)
_Annotations = TypedDict(
    "_Annotations",
    {
        "study-operator.io/trial-id": str,
        "study-operator.io/generation": str,
        "study-operator.io/trial-started": str,
        "study-operator.io/incarnation": str,
        "study-operator.io/program": str,
    },
    total=False,
)


class _Owner(TypedDict, total=False):
    kind: str
    name: str
    uid: str
    controller: bool | None


class _Metadata(TypedDict, total=False):
    namespace: str
    name: str
    uid: str
    labels: _Labels | None
    annotations: _Annotations | None
    ownerReferences: list[_Owner] | None
    creationTimestamp: str
    deletionTimestamp: str
    deletionGracePeriodSeconds: int | None


class Job(TypedDict, total=False):
    """A Job with the fields above and no others."""

    metadata: _Metadata
    spec: _Spec
    status: dict[str, Any]


_ListMetadata = TypedDict("_ListMetadata", {"continue": str}, total=False)


class _NamedContainer(TypedDict):
    name: str


class _PodSpec(TypedDict):
    containers: list[_NamedContainer]
    restartPolicy: NotRequired[str]
    terminationGracePeriodSeconds: NotRequired[int | None]


class Pod(TypedDict, total=False):
    """A pod with the fields above, how its containers end, their names, and its status."""

    metadata: _Metadata
    spec: _PodSpec
    status: dict[str, Any] | None


class Claim(TypedDict):
    """A PersistentVolumeClaim, or another object of which only the metadata matter."""

    metadata: _Metadata


class Listed(msgspec.Struct, Generic[T]):
    """A list, or a page of one."""

    items: list[T]
    metadata: _ListMetadata = {}


class _StudyMetadata(TypedDict, total=False):
    namespace: str
    name: str
    uid: str
    generation: int
    resourceVersion: str
    labels: dict[str, str] | None
    annotations: dict[str, str] | None
    finalizers: list[str] | None
    creationTimestamp: str
    deletionTimestamp: str


class _Study(TypedDict, total=False):
    apiVersion: str
    kind: str
    metadata: _StudyMetadata
    spec: dict[str, msgspec.Raw]
    status: dict[str, Any]


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


_JOB, _EVENT = msgspec.json.Decoder(Job), msgspec.json.Decoder(JobEvent)
_JOBS, _PODS = msgspec.json.Decoder(Listed[Job]), msgspec.json.Decoder(Listed[Pod])
_CLAIMS, _CLAIM = msgspec.json.Decoder(Listed[Claim]), msgspec.json.Decoder(Claim)
_STUDY = msgspec.json.Decoder(_Study)

# Each raises ValueError or RecursionError for what it cannot read.
jobs, job, job_event = _JOBS.decode, _JOB.decode, _EVENT.decode
pods, claims, claim = _PODS.decode, _CLAIMS.decode, _CLAIM.decode


def study(text: bytes) -> dict[str, Any]:
    """Return a Study with most of its metadata, its spec and its status.

    Raises:
        Unreadable: it has too much in it, is nested too deeply, or has something that is not JSON to Python.
    """
    try:
        found = _STUDY.decode(text)
        fields = {name: bytes(raw) for name, raw in found.get("spec", {}).items()}
        intake.check_sizes(fields)
        spec = {name: msgspec.json.decode(field) for name, field in fields.items()}
    except RecursionError:
        raise Unreadable("Unreadable", intake.too_deep()) from None
    except ValueError as error:  # also msgspec's own
        raise Unreadable("Unreadable", f"the Study cannot be decoded: {error}") from None
    intake.check_depth(spec)
    return {**found, "spec": spec}


def has_ended(job: EventObject) -> bool:
    """Return whether a Job in an event is complete or has failed."""
    status = job.get("status")
    conditions = status.get("conditions", ()) if isinstance(status, dict) else ()
    return any(one["type"] in ("Complete", "Failed") and one["status"] == "True" for one in conditions)

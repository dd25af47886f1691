"""A trial's pod without a container: what its Job and its Secret give to it, and what it sends to the database.

Tests and benchmarks share it. It knows nothing of the operator's own code but the form of the messages.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import psycopg2
from psycopg2.extensions import connection

from study_trial._messages import Writer

SUBMIT = "SELECT study_operator.submit(%s, %s)"
# Does what the program in a pod does, in a thread of its own. Its Job completes when it returns.
Program = Callable[["PlayedPod"], None]


@dataclass(frozen=True)
class PlayedPod:
    """What the operator has given to one trial.

    Attributes:
        study: the Study's name.
        job: the Job's name.
        number, trial_id: of the trial.
        objectives: how many there are.
        url: libpq's, of the database, with login and password.
        key: the study's.
        at_work: a program that goes on for long sets it once it does what it is there for.
        over: such a program returns when this is set.
    """

    study: str
    job: str
    number: int
    trial_id: int
    objectives: int
    url: str = field(repr=False)
    key: str = field(repr=False)
    at_work: threading.Event = field(repr=False)
    over: threading.Event = field(repr=False)

    def connect(self, **parameters: Any) -> connection:
        """Log in, as study_trial does: each statement is a transaction.

        Args:
            parameters: libpq's, instead of those of the url.
        """
        opened = psycopg2.connect(self.url, **parameters)
        opened.autocommit = True
        return opened

    def connect_with_key(self) -> connection:
        """Log in as pods of version 0.1 do: functions that are called by name find the key in a setting."""
        return self.connect(options=f"-c study_operator.key={self.key}")

    def call(self, on: connection, function: str, **content: Any) -> Any:
        """Call a reporting function. Return its answer."""
        message = {"call": function, "trial": self.trial_id, "job": self.job, **content}
        with on.cursor() as cursor:
            cursor.execute(SUBMIT, Writer(self.key).write(message))
            return cursor.fetchone()[0]

    def finish(self, on: connection, *values: float) -> None:
        """Store the final values."""
        self.call(on, "finish", values=list(values), pruned=False, constraints={}, infeasible=None)

    def value(self) -> float:
        """A value that differs from trial to trial, so that samplers have something to learn."""
        return (self.trial_id * 0.6180339887) % 1.0


def succeeds(pod: PlayedPod) -> None:
    """Log in, store a value for each objective, and end."""
    with closing(pod.connect()) as opened:
        pod.finish(opened, *[pod.value()] * pod.objectives)


def environment(job: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of a Job's first container: their values, or where they come from."""
    variables = job["spec"]["template"]["spec"]["containers"][0]["env"]
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in variables}


def secret_of(job: Mapping[str, Any]) -> str:
    """The name of the Secret that the pods of a Job take address and key from."""
    return environment(job)["STUDY_STORAGE_KEY"]["secretKeyRef"]["name"]


def played_pod(
    job: Mapping[str, Any], secret: Mapping[str, Any], at_work: threading.Event, over: threading.Event
) -> PlayedPod:
    """The pod of a Job, with the Secret that the Job names."""
    given, data, labels = environment(job), secret["data"], job["metadata"]["labels"]
    return PlayedPod(
        labels["study-operator.io/study"],
        job["metadata"]["name"],
        int(labels["study-operator.io/trial"]),
        int(given["STUDY_TRIAL_ID"]),
        len(json.loads(given["STUDY_OBJECTIVES"])),
        base64.b64decode(data["url"]).decode(),
        base64.b64decode(data["key"]).decode(),
        at_work,
        over,
    )

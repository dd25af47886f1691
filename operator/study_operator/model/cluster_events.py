"""What Kubernetes' Events say of a Job that gets no pod, or of a pod that does not start."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from study_operator.texts import one_line

_IMAGE = re.compile(r"\b(?:image|ErrImagePull|ImagePullBackOff|InvalidImageName)\b")


class Told(NamedTuple):
    """The last thing that was told about an object, on one line.

    Attributes:
        reason: in CamelCase, such as FailedCreate or FailedMount.
        message: the controller's or the kubelet's own words.
        warning: whether something is wrong.
    """

    reason: str
    message: str
    warning: bool = True

    @property
    def at_work(self) -> bool:
        """Whether the cluster is at work: it pulls a large image for minutes."""
        return not self.warning and self.reason == "Pulling"


def last_told(events: Iterable[Mapping[str, Any]]) -> Told | None:
    """Return what the Events of one object say: the latest warning, or else the latest Event; None if there is none."""
    found = max(events, key=lambda event: (event.get("type") == "Warning", _time(event)), default=None)
    if found is None:
        return None
    reason = one_line(str(found.get("reason") or "Unknown"))
    message = one_line(str(found.get("message") or "no message"))
    if reason == "Failed":  # the kubelet says so of images and containers alike
        reason = "ErrImagePull" if _IMAGE.search(message) else "ContainerNotStarted"
    return Told(reason, message, found.get("type") == "Warning")


def _time(event: Mapping[str, Any]) -> str:
    """Return when an Event was last seen, in a form whose order is that of time."""
    series = event.get("series") or {}
    times = (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"))
    return next((time for time in times if time), "")

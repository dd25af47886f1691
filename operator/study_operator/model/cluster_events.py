"""What Kubernetes' Events say of a Job that gets no pod, or of a pod that does not start."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from study_operator.texts import one_line

# Such as ErrImagePull, ErrImageNeverPull, ImagePullBackOff. One word of bounded length, because a tenant may write an
# Event about their own pod, as long as an object may be, and a search for Image in it would take minutes.
_ERROR = re.compile(r"Error: (\w{1,64})")
_ABOUT_IMAGE = {"Failed to pull image": "ErrImagePull", "Failed to inspect image": "ImageInspectError"}


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
        reason = _failed(message)
    return Told(reason, message, found.get("type") == "Warning")


def _failed(message: str) -> str:
    """Return the reason, as a container's status would have it, of what the kubelet's Event calls Failed."""
    if (found := _ERROR.fullmatch(message)) is not None and "Image" in found[1]:
        return found[1]
    begins = (reason for words, reason in _ABOUT_IMAGE.items() if message.startswith(words))
    return next(begins, "ContainerNotStarted")


def _time(event: Mapping[str, Any]) -> str:
    """Return when an Event was last seen, in a form whose order is that of time."""
    series = event.get("series") or {}
    times = (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"))
    return next((time for time in times if time), "")

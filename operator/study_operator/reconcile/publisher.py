"""Write what users see: the status, at most once a second for each study, and then the Events that follow from it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from study_operator import metrics
from study_operator.kube.api_server import ApiError
from study_operator.kube.client import Cluster
from study_operator.model import status
from study_operator.model.actions import Tell
from study_operator.model.status import Situation
from study_operator.model.study import Study, StudyKey
from study_operator.model.trial import FOREIGN_REASONS, Failure, FailureClass, TrialRow, TrialState
from study_operator.reconcile.event_recorder import EventRecorder
from study_operator.texts import one_line

# The shortest time between two writes of a status that only update counts, in seconds, while at most so many studies
# change. If more studies change, each is written less often, so that the load of the API server stays the same.
STATUS_INTERVAL_SECONDS, STATUS_STUDIES = 1.0, 20
_LATELY_SECONDS = 60.0  # a study changes if its status was written within this time
# Conditions that get an Event when they become so: the Event's reason, and whether it is a warning.
_NEWS = {
    ("Complete", "True"): ("Completed", False),
    ("Failed", "True"): ("Failed", True),
    ("Accepted", "False"): ("Refused", True),
    ("StorageReady", "False"): ("StorageUnavailable", True),
    ("Suspended", "True"): ("Suspended", False),
}

# Reasons of Progressing that get one when trials stop for them.
_STOPS = ("TrialPending", "TrialsCannotStart", "TrialsCannotReport")


class Publisher:
    """Writes status and Events: at most one status in each reconciliation, and Events only after it."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._events = EventRecorder(cluster)
        self._written: dict[StudyKey, float] = {}
        self._counted = float("-inf"), 0  # when studies that change were last counted, and how many there were

    def interval(self) -> float:
        """Return the shortest time between two writes of one study's status that only update counts, in seconds."""
        now = time.monotonic()
        if now - self._counted[0] > STATUS_INTERVAL_SECONDS:  # this is called for each report of a thousand pods
            lately = itertools.takewhile(lambda at: at > now - _LATELY_SECONDS, reversed(self._written.values()))
            self._counted = now, sum(1 for _ in lately)
        return STATUS_INTERVAL_SECONDS * max(1.0, self._counted[1] / STATUS_STUDIES)

    def forget(self, key: StudyKey) -> None:
        """Drop time stamps and gauges of a Study that is gone or served elsewhere."""
        self._written.pop(key, None)
        metrics.REFUSED_STUDIES.reasons.pop(key, None)
        for state in ("running", "queued", "complete", "pruned", "failed", "infeasible", "terminated"):
            try:
                metrics.TRIALS.remove(*key, state)
            except KeyError:
                return

    async def publish(
        self,
        manifest: dict[str, Any],
        study: Study | None,
        situation: Situation,
        now: datetime,
        failures: Sequence[tuple[TrialRow, Failure]] = (),
        stopped: Sequence[Tell] = (),
    ) -> float | None:
        """Update status and Events to the situation.

        Args:
            manifest: the Study as it was read.
            study: the Study; None if it could not be parsed.
            situation: what the status is computed from.
            now: the time, aware, UTC.
            failures: trials that have just failed or are infeasible, for Events.
            stopped: ends of trials that users have just stopped, likewise.

        Returns:
            In how many seconds to reconcile again, because this write of the status would have come too soon; None if
            all is written.

        Raises:
            ApiError: the API server refuses the status, or cannot be reached.
        """
        meta, old = manifest["metadata"], manifest.get("status") or {}
        key = StudyKey(meta["namespace"], meta["name"])
        if situation.accepted.status is False:
            metrics.REFUSED_STUDIES.reasons[key] = situation.accepted.reason
        else:
            metrics.REFUSED_STUDIES.reasons.pop(key, None)
        new = status.status(manifest, study, situation, now)
        for state, count in (new.get("trials") or {}).items():
            if state != "total":
                metrics.TRIALS.labels(*key, state).set(count)
        wait = await self._write(key, manifest, old, new, now)
        for (reason, infeasible), some in _by_reason(failures).items():
            row, failure = some[-1]
            message = f"trial {row.number} {_ended(study, row, failure)}: {failure.sentence()}"
            await self._events.record(manifest, f"Trial{reason}", message, now, not infeasible, times=len(some))
        if stopped:
            await self._events.record(manifest, "TrialStopped", _stopped(stopped[-1]), now, times=len(stopped))
        return wait

    async def _write(
        self, key: StudyKey, manifest: dict[str, Any], old: dict[str, Any], new: dict[str, Any], now: datetime
    ) -> float | None:
        patch = status.difference(old, new)
        if not patch:
            return None
        wait = self._written.get(key, float("-inf")) + self.interval() - time.monotonic()
        if wait > 0 and not _urgent(old, new):
            return wait
        try:
            await self._cluster.patch_status(manifest, patch)
        except ApiError as error:
            if error.status == 404:
                return None  # deleted meanwhile
            raise
        self._written.pop(key, None)  # so that the latest is the last in order
        self._written[key] = time.monotonic()
        await self._tell_news(manifest, old, new, now)
        return None

    async def _tell_news(
        self, manifest: dict[str, Any], old: dict[str, Any], new: dict[str, Any], now: datetime
    ) -> None:
        best, before, ended = new.get("bestTrial"), old.get("bestTrial") or {}, bool(new.get("completionTime"))
        shown = f"trial {best['number']} is the best: {', '.join(best['values'])}" if best else ""
        if best and best["number"] != before.get("number") and not ended:
            await self._events.record(manifest, "NewBest", f"so far {shown}", now)
        for failure in new.get("recentFailures") or ():
            if failure["reason"] in FOREIGN_REASONS and failure not in (old.get("recentFailures") or ()):
                message = f"trial {failure['trial']}: {failure['message']}"
                await self._events.record(manifest, f"Trial{failure['reason']}", message, now, warning=True)
        before_conditions = {(c["type"], c["status"]) for c in old.get("conditions") or ()}
        for condition in new["conditions"]:
            state = (condition["type"], condition["status"])
            if state in _NEWS and state not in before_conditions:
                reason, warning = _NEWS[state]
                message = condition["message"] + (f"; {shown}" if state == ("Complete", "True") and best else "")
                await self._events.record(manifest, reason, message, now, warning=warning)
        was = {(c["type"], c["reason"]) for c in old.get("conditions") or ()}
        for condition in new["conditions"]:
            if (reason := condition["reason"]) in _STOPS and (condition["type"], reason) not in was:
                await self._events.record(manifest, reason, condition["message"], now, warning=True)


def _by_reason(
    failures: Sequence[tuple[TrialRow, Failure]],
) -> dict[tuple[str, bool], list[tuple[TrialRow, Failure]]]:
    """Return failures by reason, and by whether they are those of infeasible trials.

    A thousand trials that fail at once are one Event, and one call of the API server.
    """
    found: dict[tuple[str, bool], list[tuple[TrialRow, Failure]]] = {}
    for row, failure in failures:
        found.setdefault((failure.reason, failure.kind is FailureClass.INFEASIBLE), []).append((row, failure))
    return found


def _stopped(told: Tell) -> str:
    """Return who has stopped a trial, when, and how it has ended."""
    wish = told.row.stop
    assert wish is not None
    how = "pruned with its last report" if told.state is TrialState.PRUNED else "ended without a value"
    return f"trial {told.row.number} was stopped by {one_line(wish.by)} at {wish.at:%Y-%m-%dT%H:%M:%SZ}, and {how}"


def _ended(study: Study | None, row: TrialRow, failure: Failure) -> str:
    if failure.kind is FailureClass.INFEASIBLE:
        return "is infeasible"
    again = failure.kind is FailureClass.INFRASTRUCTURE and study and row.retries < study.infrastructure_retries
    return "failed and runs again" if again else "failed"


def _urgent(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Return whether users or `kubectl wait` wait for this change: all but counts, the best trial and messages."""
    flags = {(c["type"], c["status"], c["reason"]) for c in old.get("conditions") or ()}
    return (
        old.get("phase") != new.get("phase")
        or old.get("observedGeneration") != new["observedGeneration"]
        or any((c["type"], c["status"], c["reason"]) not in flags for c in new["conditions"])
    )

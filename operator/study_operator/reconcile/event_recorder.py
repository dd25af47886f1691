"""Record Events on a Study: one object for each reason, whose count and message are updated."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from study_operator.kube.api_server import ApiError
from study_operator.kube.client import Cluster
from study_operator.model.study import GROUP, KIND, VERSION
from study_operator.model.summary import shorten

_MESSAGE = 1024  # the API's bound, in characters
_MOST_COUNTS = 10_000  # Events whose counts are held in memory: a study has some ten, and is forgotten by nobody else

log = logging.getLogger(__name__)


class EventRecorder:
    """Records Events. An Event that cannot be written is logged, because nothing depends on it."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._counts: dict[str, int] = {}

    async def record(
        self,
        manifest: Mapping[str, Any],
        reason: str,
        message: str,
        now: datetime,
        warning: bool = False,
        times: int = 1,
    ) -> None:
        """Record that something happened to a Study, or to another object.

        Args:
            manifest: the object, a Study unless it says what it is. Its `metadata` has namespace, name and uid.
            reason: in CamelCase. Events with one reason become one object.
            message: a sentence for users.
            now: the time, aware, UTC.
            warning: whether the Event is a Warning; otherwise it is Normal.
            times: how often it has happened, the last time as `message` says.
        """
        meta = manifest["metadata"]
        name = f"{meta['name']}.{hashlib.sha256((meta['uid'] + reason).encode()).hexdigest()[:16]}"
        time = now.strftime("%Y-%m-%dT%H:%M:%SZ")
        news = {"message": shorten(message, _MESSAGE), "lastTimestamp": time}
        if len(self._counts) > _MOST_COUNTS:
            self._counts.clear()  # they are read again, as after a restart
        try:
            if name not in self._counts:
                created = await self._cluster.create_event(
                    {
                        "apiVersion": "v1",
                        "kind": "Event",
                        "metadata": {"name": name, "namespace": meta["namespace"]},
                        "involvedObject": {
                            "apiVersion": manifest.get("apiVersion", f"{GROUP}/{VERSION}"),
                            "kind": manifest.get("kind", KIND),
                            "namespace": meta["namespace"],
                            "name": meta["name"],
                            "uid": meta["uid"],
                        },
                        "type": "Warning" if warning else "Normal",
                        "reason": reason,
                        "source": {"component": "study-operator"},
                        "firstTimestamp": time,
                        "count": times,
                        **news,
                    }
                )
                if created:
                    self._counts[name] = times
                    return
                # An earlier process has left it. Its count is in the answer to a patch that does not change the count.
                found = await self._cluster.patch_event(meta["namespace"], name, news)
                self._counts[name] = found.get("count") or 1
            self._counts[name] += times
            await self._cluster.patch_event(meta["namespace"], name, {**news, "count": self._counts[name]})
        except ApiError as error:
            self._counts.pop(name, None)  # the Event has expired after an hour, or was never written
            log.warning("Event %s could not be recorded: %s", reason, error)

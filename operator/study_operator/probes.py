"""Serves /metrics, /healthz and /readyz, from a thread of its own: they answer even if the event loop does not."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial

from prometheus_client import make_wsgi_app

from study_operator import metrics
from study_operator.httpd import Answer, Server, Slow

# The event loop shows a sign of life every second; one reconciliation never takes minutes.
LOOP_LIMIT_SECONDS, WORK_LIMIT_SECONDS = 30.0, 300.0


class Health:
    """Whether the operator is alive (its loop and its work make progress) and ready (the database answers).

    Args:
        longest_work: returns for how many seconds the oldest piece of work has been going on.
        clock: seconds, monotonic.

    Attributes:
        not_ready: why the operator is not ready; None while it is.
    """

    def __init__(self, longest_work: Callable[[], float], clock: Callable[[], float] = time.monotonic) -> None:
        self._longest_work, self._clock = longest_work, clock
        self._progress = clock()
        self.not_ready: str | None = "starting"

    def progress(self) -> None:
        """Note that the event loop is alive; to be called from inside it."""
        self._progress = self._clock()
        metrics.LAST_PROGRESS.set_to_current_time()

    def not_alive(self) -> str | None:
        """Return why the process should be restarted; None while it is well."""
        silent = self._clock() - self._progress
        if silent > LOOP_LIMIT_SECONDS:
            return f"the event loop has made no progress for {silent:.0f} s"
        if (working := self._longest_work()) > WORK_LIMIT_SECONDS:
            return f"one study has been worked on for {working:.0f} s"
        return None


def serve(health: Health, port: int) -> Server:
    """Start serving in a thread. `close` of the result ends it.

    Args:
        health: what /healthz and /readyz tell.
        port: TCP port on all addresses; 0 for any free one.

    Raises:
        OSError: the port is taken, or may not be used.
    """

    def answer(target: str, headers: Mapping[str, str]) -> Answer | Slow:
        path, _, query = target.partition("?")
        if path == "/metrics":
            return partial(_metrics, query, headers)
        if target not in ("/healthz", "/readyz"):
            return Answer(404, b"there are /metrics, /healthz and /readyz\n")
        trouble = health.not_alive() if path == "/healthz" else health.not_ready
        return Answer(503 if trouble else 200, (trouble or "ok").encode() + b"\n")

    return Server(answer, port)


_render = make_wsgi_app()


def _metrics(query: str, headers: Mapping[str, str]) -> Answer:
    """Return the metrics as Prometheus asks for them: text or OpenMetrics, compressed, some of them."""
    asked = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/metrics",
        "QUERY_STRING": query,
        "HTTP_ACCEPT": headers.get("accept", ""),
        "HTTP_ACCEPT_ENCODING": headers.get("accept-encoding", ""),
    }
    found: dict[str, str] = {}
    body = b"".join(_render(asked, lambda _, given: found.update(given)))
    return Answer(200, body, found)

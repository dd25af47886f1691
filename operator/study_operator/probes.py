"""Serves /metrics, /healthz and /readyz, from a thread of its own: they answer even if the event loop does not."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial

from prometheus_client import make_wsgi_app

from study_operator import metrics
from study_operator.httpd import Answer, Server, Slow

# The event loop shows a sign of life every second. A watch shows one whenever something comes or it begins anew, and it
# begins anew after 90 s of silence.
LOOP_LIMIT_SECONDS, WATCH_LIMIT_SECONDS = 30.0, 300.0


class Health:
    """Whether the operator is alive (its loop and its watches make progress) and ready (the database answers).

    How long one study takes does not matter here: a restart would not end that, and would stop all other studies.

    Args:
        clock: seconds, monotonic.

    Attributes:
        not_ready: why the operator is not ready; None while it is.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._progress = clock()
        self._watches: dict[str, float] = {}
        self.not_ready: str | None = "starting"

    def progress(self) -> None:
        """Note that the event loop is alive; to be called from inside it."""
        self._progress = self._clock()
        metrics.LAST_PROGRESS.set_to_current_time()

    def watching(self, what: str) -> None:
        """Note that a watch is alive, by the plural of what it watches. Any thread may call this."""
        self._watches[what] = self._clock()

    def not_alive(self) -> str | None:
        """Return why the process should be restarted; None while it is well."""
        silent = self._clock() - self._progress
        if silent > LOOP_LIMIT_SECONDS:
            return f"the event loop has made no progress for {silent:.0f} s"
        for what, at in list(self._watches.items()):
            if (silent := self._clock() - at) > WATCH_LIMIT_SECONDS:
                return f"the watch of {what} has made no progress for {silent:.0f} s"
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

"""Serves /metrics, /healthz and /readyz from a thread of its own, so that they answer even when the event loop does not."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from urllib.parse import urlsplit

from prometheus_client import MetricsHandler

from study_operator import metrics

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


def serve(health: Health, port: int) -> ThreadingHTTPServer:
    """Start serving in a thread. `shutdown` and `server_close` of the result end it.

    Args:
        health: what /healthz and /readyz tell.
        port: TCP port on all addresses; 0 for any free one.
    """

    class Handler(MetricsHandler):
        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            if path == "/metrics":
                super().do_GET()
            elif self.path in ("/healthz", "/readyz"):
                trouble = health.not_alive() if path == "/healthz" else health.not_ready
                self._answer(503 if trouble else 200, (trouble or "ok").encode() + b"\n", "text/plain; charset=utf-8")
            else:
                self._answer(404, b"there are /metrics, /healthz and /readyz\n", "text/plain")

        def _answer(self, status: int, body: bytes, content_type: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        # An IPv6 socket takes IPv4 addresses too, and a cluster may have no IPv4.
        address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET

        def server_bind(self) -> None:
            if self.address_family is socket.AF_INET6:
                self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            super().server_bind()

    server = Server(("", port), Handler)
    threading.Thread(target=server.serve_forever, name="probes", daemon=True).start()
    return server

"""How one sees that a daemon works: each probe returns, or raises with the reason."""

from __future__ import annotations

import socket
import ssl
import urllib.request
from collections.abc import Callable
from pathlib import Path

_SECONDS = 2.0
# Environment proxies are for the outside world; all of these are on this machine.
_DIRECT = urllib.request.ProxyHandler({})


def http(url: str, ca: Path | None = None) -> Callable[[], None]:
    """Asks a URL for 200. Without `ca`, the certificate of an https URL is not checked (self-signed)."""

    def probe() -> None:
        context = ssl.create_default_context(cafile=str(ca) if ca else None)
        if ca is None:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        opener = urllib.request.build_opener(_DIRECT, urllib.request.HTTPSHandler(context=context))
        with opener.open(url, timeout=_SECONDS):
            pass

    return probe


def unix(path: Path) -> Callable[[], None]:
    """Connects to a Unix socket."""

    def probe() -> None:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_SECONDS)
            connection.connect(str(path))

    return probe


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def is_free(port: int) -> bool:
    """Whether nobody listens on this TCP port of 127.0.0.1."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True

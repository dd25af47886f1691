"""Ports for servers that tests start."""

from __future__ import annotations

import random
import socket
from contextlib import suppress

# Below the ports that the kernel gives to clients, for a client could take a port between the choice and its use.
_PORTS = range(15000, 30000)


def free_port() -> int:
    """A TCP port that nobody uses."""
    while True:
        port = random.choice(_PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("", port))
            return port

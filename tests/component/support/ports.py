"""Ports for the servers of tests."""

from __future__ import annotations

import random
import socket
from pathlib import Path

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """Return a port that nobody listens on, from below those that the kernel gives to outgoing connections.

    A connection of another test may take one of those before the server that it was meant for.
    """
    lowest = int(_RANGE.read_text().split()[0])
    chance = random.SystemRandom()  # Hypothesis seeds the common one alike in all test processes
    while True:
        port = chance.randrange(max(1024, lowest - 10000), lowest)
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port

"""The probes' server."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest

pytestmark = [pytest.mark.neighbours, pytest.mark.asyncio(loop_scope="session")]

CONNECTIONS = 1_000


async def test_idle_connections_to_the_probes(canary_street, record_property):
    opened: list[socket.socket] = []

    def connect() -> None:
        for number in range(CONNECTIONS):
            with contextlib.suppress(OSError):  # it takes no more: that is its right
                one = socket.create_connection(("127.0.0.1", canary_street.operator.port), timeout=1)
                opened.append(one)
                if number % 2:
                    one.sendall(b"GET /metrics HTTP/1.1\r\n")

    async def come() -> None:
        await asyncio.to_thread(connect)
        assert await canary_street.operator.ready(), "its probes do not answer beside so many connections"

    async def go() -> None:
        for one in opened:
            one.close()

    waits = await canary_street.undisturbed("a thousand connections to the probes", come, go)
    record_property("neighbours", f"a thousand connections to the probes: {waits}")

"""The probes' server, and what tenants' text does to the operator's log."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest
from hostile_pods import FORGED

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


async def test_text_that_forges_a_line_of_the_log(canary_street, record_property):
    record_property("neighbours", f"{FORGED}: {await canary_street.leaves_alone(FORGED)}")
    log = canary_street.operator.logs()
    assert "FORGED" in log
    assert not [line for line in log.splitlines() if line.startswith("FORGED")]
    assert not set(log) & set("\x00\x07\x1b\x85\u202e\u2028"), "control characters, and such as turn text around"

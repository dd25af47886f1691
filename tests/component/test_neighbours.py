"""The canary itself: a harmless neighbour is let be, and whoever stands still is named."""

from __future__ import annotations

import os
import signal

import canary
import pytest
from neighbours import HARMLESS

pytestmark = [pytest.mark.neighbours, pytest.mark.asyncio(loop_scope="session")]


async def test_a_harmless_neighbour(canary_street, record_property):
    record_property("neighbours", f"an idle operator: {canary_street.idle}")
    record_property("neighbours", f"{HARMLESS.name}: {await canary_street.leaves_alone(HARMLESS)}")


async def test_an_operator_that_stands_still_is_noticed(canary_street, monkeypatch):
    async def freeze() -> None:
        os.kill(canary_street.operator.pid, signal.SIGSTOP)

    monkeypatch.setattr(canary, "PATIENCE_SECONDS", 3.0)
    with pytest.raises(AssertionError, match=r"stood still for 3 s|no operator that serves a new Study"):
        await canary_street.undisturbed("somebody who stops it", freeze)


async def test_an_operator_that_ends_is_noticed_and_started_again(canary_street):
    async def kill() -> None:
        os.kill(canary_street.operator.pid, signal.SIGKILL)

    with pytest.raises(AssertionError, match=r"the operator was killed .* after \d+ s: .*trial \d+ "):
        await canary_street.undisturbed("somebody who kills it", kill)
    await canary_street.served()

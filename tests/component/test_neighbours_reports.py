"""More reports than a look has time for, and locks that it must wait for."""

from __future__ import annotations

import pytest
from hostile_pods import LOCKS, REPORTS

pytestmark = [pytest.mark.neighbours, pytest.mark.asyncio(loop_scope="session")]


@pytest.mark.parametrize("neighbour", [*REPORTS, *LOCKS], ids=str)
async def test_the_canary_is_left_alone(canary_street, neighbour, record_property):
    record_property("neighbours", f"{neighbour}: {await canary_street.leaves_alone(neighbour)}")

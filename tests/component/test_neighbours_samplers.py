"""Samplers that would take all memory, or compute for ever."""

from __future__ import annotations

import pytest
from hostile_studies import GRIDS, OPTIONS

pytestmark = [pytest.mark.neighbours, pytest.mark.asyncio(loop_scope="session")]


@pytest.mark.parametrize("neighbour", [*OPTIONS, *GRIDS], ids=str)
async def test_the_canary_is_left_alone(canary_street, neighbour, record_property):
    record_property("neighbours", f"{neighbour}: {await canary_street.leaves_alone(neighbour)}")

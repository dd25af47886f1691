"""The canary itself: nobody delays it, or it says who does."""

from __future__ import annotations

import pytest
from neighbours import HARMLESS

pytestmark = [pytest.mark.neighbours, pytest.mark.asyncio(loop_scope="session")]


async def test_a_harmless_neighbour(canary_street, record_property):
    record_property("neighbours", f"an idle operator: {canary_street.idle}")
    record_property("neighbours", f"{HARMLESS.name}: {await canary_street.leaves_alone(HARMLESS)}")

"""What a pod does with its login."""

from __future__ import annotations

import pytest
from hostile_pods import LOGIN

pytestmark = [pytest.mark.neighbours, pytest.mark.asyncio(loop_scope="session")]


@pytest.mark.parametrize("neighbour", [*LOGIN], ids=str)
async def test_the_canary_is_left_alone(canary_street, neighbour, record_property):
    record_property("neighbours", f"{neighbour}: {await canary_street.leaves_alone(neighbour)}")

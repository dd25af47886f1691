"""Whatever Studies say, the canary beside them is served as ever, and nothing that one of them says is a traceback."""

from __future__ import annotations

import os
from functools import partial

import pytest
from hostile_json import hostile_studies
from neighbours import Neighbour

pytestmark = [pytest.mark.neighbours, pytest.mark.asyncio(loop_scope="session")]

ALL = os.environ.get("FAULTS") == "all"
SEED = int(os.environ.get("SEED") or 1) if ALL else 1
ROUNDS, COUNT = (100, 40) if ALL else (1, 30)


@pytest.mark.parametrize("seed", range(SEED, SEED + ROUNDS))
async def test_whatever_studies_say_the_canary_is_left_alone(canary_street, seed, record_property):
    neighbour = Neighbour(f"{COUNT} hostile Studies, seed {seed}", partial(hostile_studies, seed, COUNT))
    record_property("neighbours", f"{neighbour.name}: {await canary_street.leaves_alone(neighbour)}")
    assert "Traceback" not in canary_street.operator.logs()

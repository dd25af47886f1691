"""The order of a grid's cells."""

from __future__ import annotations

import numpy as np
import pytest

from study_operator.model.search_space import search_space
from study_operator.optimizer.cells import cells
from study_operator.optimizer.exhaustive import Grid


@pytest.mark.parametrize("choices", [1, 2, 5, 40])
@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
def test_the_cells_of_a_conditional_grid_keep_the_order_of_earlier_versions(choices, seed):
    """A trial stores the place of its cell: in another order an upgraded operator would take other cells for tried."""
    space = search_space(
        [
            {"name": "kind", "categorical": {"choices": ["a", "b"]}},
            {"name": "n", "int": {"low": 1, "high": choices}, "when": {"parameter": "kind", "in": ["a"]}},
        ]
    )
    earlier = cells(space)
    np.random.RandomState(seed).shuffle(earlier)
    assert Grid(space, seed)._all_grids == earlier

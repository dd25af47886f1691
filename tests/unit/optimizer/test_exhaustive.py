"""The order of a grid's cells."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from optuna.samplers import GridSampler

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
    grid = Grid(space, seed)
    assert [grid.values(cell) for cell in range(grid.size)] == earlier


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
def test_the_cells_of_a_grid_have_optunas_order(seed):
    space = search_space([{"name": name, "int": {"low": 1, "high": high}} for name, high in (("y", 3), ("x", 40))])
    optunas = GridSampler({"y": range(1, 4), "x": range(1, 41)}, seed)
    grid = Grid(space, seed)
    assert [grid.values(cell) for cell in range(grid.size)] == optunas._all_grids


def test_a_grid_of_a_million_cells_takes_little_time_and_memory():
    # Optuna's class takes seconds, and 100 MB: sixteen such studies waited for each other for minutes.
    space = search_space([{"name": name, "int": {"low": 1, "high": 1000}} for name in "xy"])
    tracemalloc.start()
    assert Grid(space, 1).size == 1_000_000
    assert tracemalloc.get_traced_memory()[1] < 40 * 2**20
    tracemalloc.stop()

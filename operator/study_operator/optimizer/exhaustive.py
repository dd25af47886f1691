"""The samplers that try every cell of a finite search space once.

They are Optuna's, for conditional search spaces too, and they know how many cells there are.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any, Protocol

from optuna.distributions import BaseDistribution
from optuna.samplers import BruteForceSampler, GridSampler
from optuna.samplers._brute_force import _TreeNode
from optuna.study import Study
from optuna.trial import FrozenTrial

from study_operator.model.grid import count
from study_operator.model.initial_trials import WISH_ATTR
from study_operator.model.search_space import Space
from study_operator.optimizer.cells import axes, cell_of, cells
from study_operator.optimizer.distributions import optuna_distributions


class Grid(GridSampler):
    """Suggest all cells in random order, as Optuna's GridSampler does, with four differences.

    - The list of cells has each combination of active parameters once.
    - The cells are not held in memory, unless the space is conditional.
    - A cell that a trial has is not given out again as long as there are others.
    - Nothing ends `optimize` after the last cell. Optuna's code for that fails for trials made by `enqueue_trial`.

    Args:
        space: the search space.
        seed: decides the order of the cells. It must stay the same, because trials store the place of their cell.

    Attributes:
        size: how many cells there are.

    Raises:
        ValueError: when a parameter has infinitely many values, or there are too many cells.
    """

    def __init__(self, space: Space, seed: int | None = None) -> None:
        super().__init__({}, seed)
        self._search_space = dict(sorted(axes(space).items()))
        self._param_names = list(space.distributions if space.conditional else self._search_space)
        self._cells = cells(space) if space.conditional else _Product(list(self._search_space.values()))
        self.size = len(self._cells)
        # The order in which Optuna shuffles a list of this length: rows of running studies depend on it.
        self._order = self._rng.rng.permutation(self.size)

    def values(self, cell: int) -> tuple[Any, ...]:
        """Return the values of a cell by its number: ABSENT for a parameter that is not active in it."""
        return self._cells[int(self._order[cell])]

    def cell(self, trial: FrozenTrial) -> Hashable:
        """Return the number of the trial's cell, None for a trial that a user has enqueued."""
        return trial.system_attrs.get("grid_id")

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Give the trial the first cell that no trial has. Repeat a cell when all have been given out."""
        if WISH_ATTR in trial.system_attrs:
            return
        given_out = {self.cell(other) for other in study._storage.get_all_trials(study._study_id, deepcopy=False)}
        grid_id = next((cell for cell in range(self.size) if cell not in given_out), trial.number % self.size)
        study._storage.set_trial_system_attr(trial._trial_id, "search_space", self._search_space)
        study._storage.set_trial_system_attr(trial._trial_id, "grid_id", grid_id)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return the parameter's value in the trial's cell."""
        if "grid_id" in trial.system_attrs:
            return self.values(trial.system_attrs["grid_id"])[self._param_names.index(param_name)]
        values = self._search_space[param_name]  # the trial was enqueued without this parameter
        return values[self._rng.rng.randint(len(values))]

    def after_trial(self, *_: Any) -> None:
        """Do nothing, where Optuna's class would end `optimize`."""


class _Product(Sequence[tuple[Any, ...]]):
    """All combinations of values, as itertools.product has them, computed when they are asked for: a million tuples
    take seconds and 100 MB."""

    def __init__(self, values: list[list[Any]]) -> None:
        self._values = values

    def __len__(self) -> int:
        return math.prod(map(len, self._values))

    def __getitem__(self, place: Any) -> Any:
        cell = []
        for values in reversed(self._values):
            place, rest = divmod(place, len(values))
            cell.append(values[rest])
        return tuple(reversed(cell))


class _PopulateTree(Protocol):
    """The signature of Optuna's `BruteForceSampler._populate_tree`."""

    def __call__(self, tree: _TreeNode, trials: list[FrozenTrial], params: dict[str, Any]) -> None: ...


class BruteForce(BruteForceSampler):
    """Suggest each cell once, as Optuna's BruteForceSampler does: it finds out from the trials which have been tried.

    There are two differences. Trials that do not fit the search space are ignored, such as a notebook's with other
    parameters; Optuna's class raises an exception because of them. And nothing ends `optimize` after the last cell.

    Args:
        space: the search space.
        seed: decides the order of the cells.
        avoid_premature_stop: as Optuna's.

    Attributes:
        size: how many cells there are.

    Raises:
        ValueError: when a parameter has infinitely many values, or there are too many cells to hold in memory.
    """

    # Optuna's static method, which needs the search space here. Optuna calls it on `self`, so an attribute replaces it.
    _populate_tree: _PopulateTree

    def __init__(self, space: Space, seed: int | None = None, avoid_premature_stop: bool = False) -> None:
        super().__init__(seed, avoid_premature_stop)
        axes(space)
        self._space, self._distributions = space, optuna_distributions(space)
        self._cells: dict[int, Hashable] = {}  # by number, of trials whose parameters will not change
        self._populate_tree = self._populate_tree_of_space
        self.size = count(space)

    def cell(self, trial: FrozenTrial) -> Hashable:
        """Return the cell that a trial tries, None when the trial does not fit the search space."""
        if trial.number in self._cells:
            return self._cells[trial.number]
        cell = cell_of(self._space, self._distributions, trial.params, trial.distributions)
        if cell is not None or trial.state.is_finished():
            self._cells[trial.number] = cell
        return cell

    def _populate_tree_of_space(self, tree: _TreeNode, trials: list[FrozenTrial], params: dict[str, Any]) -> None:
        """Do what Optuna's `_populate_tree` does, without the trials that do not fit the search space."""
        BruteForceSampler._populate_tree(tree, [trial for trial in trials if self.cell(trial) is not None], params)

    def after_trial(self, *_: Any) -> None:
        """Do nothing, where Optuna's class would end `optimize`."""

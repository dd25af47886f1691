"""The samplers that try every combination once: Optuna's own, over conditional search spaces and with a known end."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BruteForceSampler, GridSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from study_operator.model.initial_trials import WISH_ATTR
from study_operator.model.search_space import Space
from study_operator.optimizer.cells import axes, cell_of, cells, count


class Grid(GridSampler):
    """Optuna's, which goes through a list of cells in random order, with three differences: the list has each
    combination of active parameters once, a cell is never given out again while another trial has it, and nothing ends
    `optimize` after the last cell (that fails for trials made by `enqueue_trial`).

    Raises:
        ValueError: when the space has no end or too many cells.
    """

    def __init__(self, space: Space, seed: int | None = None) -> None:
        values = axes(space)
        if not space.conditional:
            super().__init__(values, seed)
        else:
            super().__init__({}, seed)
            self._search_space = dict(sorted(values.items()))
            self._param_names = list(space.distributions)
            self._all_grids = cells(space)
            self._n_min_trials = len(self._all_grids)
            self._rng.rng.shuffle(self._all_grids)
        self.size = len(self._all_grids)

    def cell(self, trial: FrozenTrial) -> Hashable:
        """What a trial takes of the grid; None for one that somebody has enqueued."""
        return trial.system_attrs.get("grid_id")

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        if WISH_ATTR in trial.system_attrs:
            return
        given_out = {self.cell(other) for other in study._storage.get_all_trials(study._study_id, deepcopy=False)}
        grid_id = next((cell for cell in range(self.size) if cell not in given_out), trial.number % self.size)
        study._storage.set_trial_system_attr(trial._trial_id, "search_space", self._search_space)
        study._storage.set_trial_system_attr(trial._trial_id, "grid_id", grid_id)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if "grid_id" in trial.system_attrs:
            return super().sample_independent(study, trial, param_name, param_distribution)
        values = self._search_space[param_name]  # somebody has enqueued a trial and left this one open
        return values[self._rng.rng.randint(len(values))]

    def after_trial(self, *_: Any) -> None:
        pass


class BruteForce(BruteForceSampler):
    """Optuna's, which finds in the trials what has been tried. Trials that are none of this space, such as one that a
    notebook added with other parameters, are overlooked; Optuna's own ends with an exception on them. Nothing ends
    `optimize` after the last cell.

    Raises:
        ValueError: when the space has no end or too many cells: it holds them in memory, more or less.
    """

    def __init__(self, space: Space, seed: int | None = None, avoid_premature_stop: bool = False) -> None:
        super().__init__(seed, avoid_premature_stop)
        axes(space)
        self._space = space
        self._cells: dict[int, Hashable] = {}  # by number, of trials whose parameters do not change any more
        self.size = count(space)

    def cell(self, trial: FrozenTrial) -> Hashable:
        """The combination that a trial tries; None when it is not one of this space."""
        if trial.number in self._cells:
            return self._cells[trial.number]
        cell = cell_of(self._space, trial.params, trial.distributions)
        if cell is not None or trial.state.is_finished():
            self._cells[trial.number] = cell
        return cell

    def _populate_tree(self, tree: Any, trials: list[FrozenTrial], params: dict[str, Any]) -> None:
        super()._populate_tree(tree, [trial for trial in trials if self.cell(trial) is not None], params)

    def after_trial(self, *_: Any) -> None:
        pass

"""Any number of studies of one database behind Optuna's storage interface: for Optuna's own cases over mirrors."""

from __future__ import annotations

import threading
from collections.abc import Container, Sequence
from typing import Any

from mirror import Mirror
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

from study_operator.storage.database import Database, StorageError


class Mirrors(BaseStorage):
    """Studies are made, listed and deleted by Optuna's RDBStorage, and each is otherwise served by a mirror of its own.
    A pickled one loads everything again.

    Args:
        url: of the database, with the login that owns the tables.
    """

    def __init__(self, url: str) -> None:
        self._url, self._database = url, Database(url)
        self._stock = RDBStorage(url.replace("postgresql:", "postgresql+psycopg2:"), skip_table_creation=True)
        self._mirrors: dict[int, Mirror] = {}
        self._lock = threading.RLock()

    def __reduce__(self) -> tuple[type[Mirrors], tuple[str]]:
        return Mirrors, (self._url,)

    def close(self) -> None:
        self._stock.engine.dispose()

    def mirror(self, study_id: int) -> Mirror:
        with self._lock:
            if study_id not in self._mirrors:
                try:
                    self._mirrors[study_id] = Mirror(self._database, study_id)
                except StorageError as error:  # of a study that is not there, for which Optuna's cases want a KeyError
                    raise KeyError(study_id) from error
            return self._mirrors[study_id]

    def _of(self, trial_id: int) -> Mirror:
        for mirror in self._mirrors.values():
            if mirror.knows(trial_id):
                return mirror
        raise KeyError(trial_id)

    # Studies

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        return self._stock.create_new_study(directions, study_name)

    def delete_study(self, study_id: int) -> None:
        self._stock.delete_study(study_id)
        self._mirrors.pop(study_id, None)

    def get_all_studies(self) -> list[FrozenStudy]:
        return [
            found for study in self._stock.get_all_studies() for found in self.mirror(study._study_id).get_all_studies()
        ]

    def get_study_id_from_name(self, study_name: str) -> int:
        return self._stock.get_study_id_from_name(study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        return self.mirror(study_id).get_study_name_from_id(study_id)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return self.mirror(study_id).get_study_directions(study_id)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return self.mirror(study_id).get_study_user_attrs(study_id)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self.mirror(study_id).get_study_system_attrs(study_id)

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        self.mirror(study_id).set_study_user_attr(study_id, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self.mirror(study_id).set_study_system_attr(study_id, key, value)

    # Trials

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        return self.mirror(study_id).create_new_trial(study_id, template_trial)

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        return self.mirror(study_id).get_trial_id_from_study_id_trial_number(study_id, trial_number)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        return self.mirror(study_id).get_all_trials(study_id, deepcopy, states)

    def get_n_trials(self, study_id: int, state: tuple[TrialState, ...] | TrialState | None = None) -> int:
        return self.mirror(study_id).get_n_trials(study_id, state)

    def get_best_trial(self, study_id: int) -> FrozenTrial:
        return self.mirror(study_id).get_best_trial(study_id)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return self._of(trial_id).get_trial(trial_id)

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        self._of(trial_id).set_trial_param(trial_id, param_name, param_value_internal, distribution)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        return self._of(trial_id).set_trial_state_values(trial_id, state, values)

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        self._of(trial_id).set_trial_intermediate_value(trial_id, step, intermediate_value)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._of(trial_id).set_trial_user_attr(trial_id, key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._of(trial_id).set_trial_system_attr(trial_id, key, value)

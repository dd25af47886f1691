"""The study of a trial, as callbacks of Optuna's ecosystem read it: `trial.study`."""

from __future__ import annotations

import enum
import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

from study_trial._errors import SetupError, SeveralObjectivesError, UnsupportedError


class StudyDirection(enum.IntEnum):
    """Whether an objective is minimised or maximised. Stands in for `optuna.study.StudyDirection` without Optuna.

    Members are equal to Optuna's of the same name, because both are integers of the same value.
    """

    MINIMIZE = 1
    MAXIMIZE = 2

    def __str__(self) -> str:
        """Return the name, which scripts look at: from Python 3.11 on, an IntEnum's text would be its number."""
        return f"StudyDirection.{self.name}"


DIRECTIONS = tuple(direction.name.lower() for direction in StudyDirection)

_SET_BY_OPERATOR = (
    "In a trial's pod the operator sets it from version 0.2 on: upgrade the operator; Jobs that it creates after that "
    "have it"
)
_SEES_ONE_TRIAL = (
    "a trial's pod sees its own trial and no other. Read the study outside the pod, with optuna.load_study and a login "
    "to the database of your own, or in the Study's status"
)
_NO_STORAGE = (
    "a trial's pod has no Optuna storage: it reports by functions of the database, and may do nothing else there. "
    "Report with trial.report, and store what is to be kept with trial.set_user_attr. A callback that needs Optuna's "
    "RDBStorage, as Lightning's under DDP does, does not work here: call trial.report and trial.should_prune in the "
    'process of rank 0 instead (docs/training-script.md, "Callbacks")'
)
_OPERATOR_RUNS_IT = (
    "the operator asks for trials and ends them; a trial's pod runs one. Use study_trial.run(objective), and the "
    "Study's spec for the rest"
)
_KEEPS_ATTRIBUTES = "a trial's pod may store attributes of its own trial only: use trial.set_user_attr"

_STUDY = {
    **dict.fromkeys(
        ("trials", "get_trials", "best_trial", "best_trials", "best_value", "best_params", "trials_dataframe"),
        _SEES_ONE_TRIAL,
    ),
    **dict.fromkeys(("_storage", "_study_id"), _NO_STORAGE),
    **dict.fromkeys(
        ("optimize", "ask", "tell", "enqueue_trial", "add_trial", "add_trials", "set_metric_names"), _OPERATOR_RUNS_IT
    ),
    **dict.fromkeys(("user_attrs", "set_user_attr", "system_attrs", "set_system_attr"), _KEEPS_ATTRIBUTES),
    "stop": "a trial's pod cannot end its study: give the Study a goal, a deadline or convergence (docs/ends.md)",
    "sampler": "the operator samples, as the Study's spec.sampler says",
    "pruner": "the operator prunes, as the Study's spec.pruner says: ask trial.should_prune()",
}
_TRIAL = {
    **dict.fromkeys(("storage", "_storage"), _NO_STORAGE),
    "_trial_id": f"use trial.number; {_NO_STORAGE}",
    "relative_params": "all parameters of this trial are in trial.params, however they were sampled",
    **dict.fromkeys(
        ("system_attrs", "set_system_attr"), "system attributes are the operator's: use trial.set_user_attr"
    ),
}


class Study:
    """The study that the trial belongs to. Get it as `trial.study`.

    It answers what the pod knows. Any other attribute of `optuna.Study` raises UnsupportedError, an AttributeError.

    Args:
        name: the study's name in Optuna; None when the operator did not pass it on.
        objectives: the objectives' names, in order; empty when they are not known.
        directions: "minimize" or "maximize" for each objective, in order; empty when they are not known.
    """

    def __init__(self, name: str | None, objectives: Sequence[str] = (), directions: Sequence[str] = ()) -> None:
        self._name = name
        self._objectives = tuple(objectives)
        self._directions = tuple(directions)

    @property
    def study_name(self) -> str:
        """The study's name in Optuna, with which `optuna.load_study` finds it; "local" outside a cluster.

        Raises:
            SetupError: the operator that created this pod's Job did not pass the name on.
        """
        if self._name is None:
            raise SetupError(
                "the study's name in Optuna is not known here, because STUDY_OPTUNA_NAME is not set. "
                f"{_SET_BY_OPERATOR}"
            )
        return self._name

    @property
    def directions(self) -> list[Any]:
        """The direction of each objective: members of `optuna.study.StudyDirection`, or where Optuna cannot be
        imported, of an enumeration that is equal to it.

        Raises:
            SetupError: the directions are not known.
        """
        if not self._directions:
            raise SetupError(
                "the directions of the objectives are not known here, because STUDY_DIRECTIONS is not set. In a local "
                f"run set it, for example STUDY_DIRECTIONS='[\"maximize\"]'. {_SET_BY_OPERATOR}"
            )
        optuna = import_optuna("study")
        enumeration = StudyDirection if optuna is None else optuna.StudyDirection
        return [enumeration[direction.upper()] for direction in self._directions]

    @property
    def direction(self) -> Any:
        """The direction of the only objective. See `directions`.

        Raises:
            SetupError: the direction is not known.
            SeveralObjectivesError: the study has several objectives.
        """
        directions = self.directions
        if len(directions) > 1:
            raise SeveralObjectivesError(
                f"the study has {len(directions)} objectives, and so no single direction: use study.directions"
            )
        return directions[0]

    @property
    def metric_names(self) -> list[str] | None:
        """The objectives' names, in order; None when they are not known."""
        return list(self._objectives) or None

    if not TYPE_CHECKING:  # a type checker must go on to find names that do not exist

        def __getattr__(self, name: str) -> NoReturn:
            raise unsupported("trial.study", name, _STUDY)


def unsupported_of_trial(name: str) -> UnsupportedError:
    """Return the error for an attribute that `Trial` does not have."""
    return unsupported("trial", name, _TRIAL)


def unsupported(where: str, name: str, instead: dict[str, str]) -> UnsupportedError:
    """Return the error for an attribute that an object does not have.

    Args:
        where: how a script writes the object.
        instead: for attributes of Optuna's own object, what to do instead.
    """
    if name in instead:
        return UnsupportedError(f"{where}.{name} is not available: {instead[name]}")
    return UnsupportedError(f"{where} has no attribute {name!r}")


def import_optuna(module: str) -> ModuleType | None:
    """Return a module of Optuna, or None where it cannot be imported.

    Call it only when a script asks for one of Optuna's objects, because importing Optuna takes a second.
    """
    try:
        return importlib.import_module(f"optuna.{module}")
    except ImportError:
        return None

"""Everything `study_trial` raises. All but `TrialPruned` and `Terminated` derive from `StudyTrialError`."""

from __future__ import annotations

import sys


class StudyTrialError(Exception):
    """Base of the errors of this package; the message says what was wrong and what to do."""


class SetupError(StudyTrialError):
    """The environment is not that of a trial's pod, nor is it empty as outside a cluster."""


class UnknownParameterError(StudyTrialError, KeyError):
    """The study (or, outside a cluster, the command line) has no parameter of this name."""

    __str__ = Exception.__str__  # KeyError's own would print the sentence in quotes


class InactiveParameterError(UnknownParameterError):
    """The study has the parameter, but not in this trial: its `when` is not fulfilled."""


class SearchSpaceError(StudyTrialError, ValueError):
    """A suggest call does not fit the study's search space, or a given value does not fit the call."""


class InvalidValueError(StudyTrialError, ValueError):
    """A value, step or attribute that cannot be reported. Nothing was sent."""


class RefusedError(StudyTrialError):
    """The database refused a call for a reason that no retry can change."""


class WrongKeyError(RefusedError):
    """STUDY_STORAGE_KEY is not the key of this trial's study, or there is no such trial (SQLSTATE SO001)."""


class TrialFinishedError(RefusedError):
    """The trial has ended already, so nothing more can be stored for it (SQLSTATE SO002)."""


class SeveralObjectivesError(RefusedError, NotImplementedError):
    """Optuna has no pruning in a study of several objectives, so there are no reports either (SQLSTATE SO004).

    A NotImplementedError too, as Optuna raises it.
    """


class UndeliveredError(StudyTrialError):
    """A final value could not be delivered in the time allowed. The message holds the value."""


class TrialPruned(Exception):  # Optuna's name, so that an objective works unchanged
    """Raise it in an objective to end the trial early, as `optuna.TrialPruned`."""


class Terminated(SystemExit):
    """The pod is being ended (SIGTERM): raised in the main thread, wherever that is, so that the script can save.

    `except Exception` does not catch it; uncaught it ends the process with exit code 143 and no traceback.
    """

    def __init__(self) -> None:
        super().__init__(143)  # 128 + SIGTERM, as a shell has it


def is_pruned(error: BaseException) -> bool:
    """Whether an objective ended itself by this package's `TrialPruned` or by Optuna's.

    Optuna is looked up, never imported: it is slow to import, and if nobody did, nobody raised its exception.
    """
    optuna = sys.modules.get("optuna.exceptions")
    return isinstance(error, TrialPruned) or (optuna is not None and isinstance(error, optuna.TrialPruned))

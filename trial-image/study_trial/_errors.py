"""The errors that `study_trial` raises. All but `TrialPruned` and `Terminated` derive from `StudyTrialError`."""

from __future__ import annotations

import sys


class StudyTrialError(Exception):
    """Base of this package's errors. The message says what was wrong and what to do."""


class SetupError(StudyTrialError):
    """The environment is incomplete or wrong, or it lacks something that the script asks for."""


class UnknownParameterError(StudyTrialError, KeyError):
    """The study (or, outside a cluster, the command line) has no parameter of this name."""

    __str__ = Exception.__str__  # KeyError's own would print the sentence in quotes


class InactiveParameterError(UnknownParameterError):
    """The study has the parameter, but this trial does not, because its `when` is not fulfilled."""


class SearchSpaceError(StudyTrialError, ValueError):
    """A suggest call does not fit the study's search space, or a given value does not fit the call."""


class InvalidValueError(StudyTrialError, ValueError):
    """A value, step or attribute cannot be reported. Nothing was sent."""


class UnsupportedError(StudyTrialError, AttributeError):
    """Optuna's object has this attribute, but a trial's pod cannot provide it. The message says what to do instead.

    It is an AttributeError, so that `hasattr` and `getattr` with a default work.
    """


class RefusedError(StudyTrialError):
    """The database refused a call. A retry would be refused, too."""


class WrongKeyError(RefusedError):
    """STUDY_STORAGE_KEY is not the key of this trial's study, or there is no such trial (SQLSTATE SO001)."""


class TrialFinishedError(RefusedError):
    """The trial has ended already, so nothing more can be stored for it (SQLSTATE SO002)."""


class LimitReachedError(RefusedError):
    """The trial or its study has stored as much as it may (SQLSTATE SO006). The message says of what."""


class SeveralObjectivesError(RefusedError, NotImplementedError):
    """The call is for studies of one objective, and this study has several (SQLSTATE SO004).

    Optuna has no pruning with several objectives, so there are no reports, and no single direction. The error is a
    NotImplementedError, and so a RuntimeError, because Optuna raises these.
    """


class UndeliveredError(StudyTrialError):
    """A final value could not be delivered in the time allowed. The message holds the value."""


class TrialPruned(Exception):  # Optuna's name, so that an objective works unchanged
    """End the trial early: raise this in an objective, as `optuna.TrialPruned`."""


class Terminated(SystemExit):
    """The pod is being ended (SIGTERM). Raised in the main thread, at any line, so that the script can save its state.

    `except Exception` does not catch it. Uncaught, it ends the process with exit code 143 and no traceback.
    """

    def __init__(self) -> None:
        super().__init__(143)  # 128 + SIGTERM, as in a shell


def is_pruned(error: BaseException) -> bool:
    """Return whether this is `TrialPruned`, of this package or of Optuna.

    Optuna is not imported for it, because the import is slow: if the script has not imported Optuna, it cannot have
    raised Optuna's exception.
    """
    optuna = sys.modules.get("optuna.exceptions")
    return isinstance(error, TrialPruned) or (optuna is not None and isinstance(error, optuna.TrialPruned))

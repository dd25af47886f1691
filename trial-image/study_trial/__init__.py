"""Makes a training script a trial of a Study: parameters in, reports out. Needs psycopg2 and nothing else.

This module is the whole public interface. The modules whose names begin with an underscore may change at any time.

    import study_trial

    def objective(trial):                                   # an Optuna objective, unchanged
        lr = trial.suggest_float("lr", 1e-5, 1e-1, log=True)
        for epoch in range(30):
            accuracy = ...
            trial.report(accuracy, epoch)
            if trial.should_prune():
                raise study_trial.TrialPruned
        return accuracy

    study_trial.run(objective)

Outside a cluster the same script runs with given or default parameters and prints its reports.
docs/training-script.md is the guide.
"""

from study_trial._errors import (
    InactiveParameterError,
    InvalidValueError,
    LimitReachedError,
    RefusedError,
    SearchSpaceError,
    SetupError,
    SeveralObjectivesError,
    StudyTrialError,
    Terminated,
    TrialFinishedError,
    TrialPruned,
    UndeliveredError,
    UnknownParameterError,
    UnsupportedError,
    WrongKeyError,
)
from study_trial._search_space import Params
from study_trial._trial import Trial, checkpoint_dir, current, run

__all__ = [
    "InactiveParameterError",
    "InvalidValueError",
    "LimitReachedError",
    "Params",
    "RefusedError",
    "SearchSpaceError",
    "SetupError",
    "SeveralObjectivesError",
    "StudyTrialError",
    "Terminated",
    "Trial",
    "TrialFinishedError",
    "TrialPruned",
    "UndeliveredError",
    "UnknownParameterError",
    "UnsupportedError",
    "WrongKeyError",
    "checkpoint_dir",
    "current",
    "run",
]

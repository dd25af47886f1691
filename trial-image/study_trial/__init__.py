"""Lets a training script be a trial of a Study: parameters in, reports out. Needs psycopg2 and nothing else.

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
"""

from study_trial._errors import (
    InactiveParameterError,
    InvalidValueError,
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
    WrongKeyError,
)
from study_trial._search_space import Params
from study_trial._trial import Trial, checkpoint_dir, current, run

__all__ = [
    "InactiveParameterError",
    "InvalidValueError",
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
    "WrongKeyError",
    "checkpoint_dir",
    "current",
    "run",
]

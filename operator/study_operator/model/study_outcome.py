"""Decide whether a study is over, and how it has ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from study_operator.model.observed import Observed
from study_operator.model.study import Study
from study_operator.model.trial import Rows, TrialState
from study_operator.texts import many


@dataclass(frozen=True)
class Outcome:
    """How a study has ended: `reason` in CamelCase and `message` are those of the Complete or Failed condition."""

    succeeded: bool
    reason: str
    message: str


def too_many_failed(study: Study, rows: Rows, more: int = 0) -> bool:
    """Return whether more trials than maxFailedTrials have failed, once `more` have failed too."""
    return rows.failed + more > study.max_failed_trials


def is_goal(study: Study, values: Sequence[float] | None) -> bool:
    """Return whether a trial with these final values reaches the goal of the first objective."""
    objective = study.objectives[0]
    if objective.goal is None or not values:
        return False
    return values[0] >= objective.goal if objective.direction == "MAXIMIZE" else values[0] <= objective.goal


def over(observed: Observed) -> Outcome | None:
    """Return why the study is over although trials run or are left to start; None while it goes on."""
    study, rows = observed.study, observed.rows
    if too_many_failed(study, rows):
        message = f"{many(rows.failed, 'trial', 'trials')} failed, maxFailedTrials is {study.max_failed_trials}"
        return Outcome(False, "MaxFailedTrialsExceeded", f"{message}; fix the cause and raise maxFailedTrials to go on")
    best = rows.best
    if best is not None and is_goal(study, best.values):
        message = f"trial {best.number} has {best.values[0]:.6g}, the goal is {study.objectives[0].goal:g}"
        return Outcome(True, "GoalReached", message)
    deadline, finished = study.active_deadline, many(rows.finished, "trial", "trials")
    if deadline is not None and rows.active_seconds(observed.now) >= deadline:
        message = f"activeDeadlineSeconds of {deadline} have passed after {finished}"
        return Outcome(rows.feasible > 0, "DeadlineExceeded", f"{message}; raise it to go on")
    if observed.converged:
        message = f"{study.convergence.evaluator} expects no better value" if study.convergence else ""
        return Outcome(True, "Converged", f"{message} after {finished}")
    return None


def outcome(observed: Observed) -> Outcome | None:
    """Return how the study has ended; None while it goes on.

    It has ended when no trial runs, none is left to start, and none of its pods holds a GPU any more.
    """
    rows, study = observed.rows, observed.study
    if any(row.state is TrialState.RUNNING and row.job for row in rows.open.values()) or observed.active:
        return None
    if (ended := over(observed)) is not None:
        return ended
    if not observed.exhausted and rows.total < study.max_trials:
        return None
    trials = many(rows.total, "trial", "trials")
    if rows.feasible == 0:
        others = [
            (rows.failed, f"{rows.failed} failed"),
            (rows.pruned, f"{many(rows.pruned, 'was', 'were')} pruned"),
            (rows.infeasible, f"{many(rows.infeasible, 'was', 'were')} infeasible"),
        ]
        words = [f"none of {trials} completed", *(said for count, said in others if count)]
        return Outcome(False, "NoTrialSucceeded", ", ".join(words))
    if rows.total < study.max_trials:
        return Outcome(True, "SearchSpaceExhausted", f"every point of the search space was tried: {trials}")
    have = many(study.max_trials, "trial has", "trials have")
    return Outcome(True, "MaxTrialsReached", f"{rows.finished} of {have} ended")

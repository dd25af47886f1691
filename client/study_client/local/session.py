"""A study in memory: the operator's sampler and pruner, and what trials have reported.

Not thread-safe by itself: whoever calls holds `lock`.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from study_operator.model import missing_value
from study_operator.model.actions import Tell
from study_operator.model.batch import Batch, Stored
from study_operator.model.history import History, StoredStudy, StoredTrial
from study_operator.model.initial_trials import WISH_ATTR, initial_trials
from study_operator.model.study import Study
from study_operator.model.study_outcome import is_goal
from study_operator.model.trial import Failure, FailureClass, Report, Result, TrialRow, TrialState
from study_operator.model.trial_rules import tell_result
from study_operator.optimizer import StudyOptimizer


@dataclass
class LocalTrial:
    """One trial of this machine.

    Attributes:
        row: as the operator would have it.
        started, ended: aware; `ended` is None while it runs.
        state: its state by Optuna's names.
        values: the final ones; None without.
        failure: why it failed or is infeasible; None if neither.
        reports: values by step.
        result: what its program has sent in the end.
        attributes: its user attributes.
        bad: the last thing of its output that could not be read.
    """

    row: TrialRow
    started: datetime
    ended: datetime | None = None
    state: TrialState = TrialState.RUNNING
    values: Sequence[float] | None = None
    failure: Failure | None = None
    reports: dict[int, float] = field(default_factory=dict)
    result: Result | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    bad: str = ""

    @property
    def told(self) -> bool:
        """Whether its end is told. Its program may still run."""
        return self.state is not TrialState.RUNNING


class Session:
    """The study's trials, and what is decided about them.

    Args:
        study: the Study.
        most: how many trials are started in all.

    Raises:
        Refused: its sampler or pruner cannot be built here.
    """

    def __init__(self, study: Study, most: int) -> None:
        self.study, self.lock = study, threading.RLock()
        self.trials: dict[int, LocalTrial] = {}
        self._most, self._ids, self._report_ids = min(most, study.max_trials), itertools.count(1), itertools.count(1)
        waiting = [_waiting(next(self._ids), number, wish) for number, wish in enumerate(initial_trials(study))]
        history = History(1, StoredStudy(study.optuna_name, study.directions, {}, {}), waiting)
        # The class is the user's own, on the user's own machine.
        classes = (study.sampler.cls,) if study.sampler.cls else ()
        self._optimizer = StudyOptimizer.of(study, history, [], classes)

    def start(self) -> LocalTrial | None:
        """Suggest a trial; None if no more are to be started."""
        if self.over() or len(self.trials) >= self._most:
            return None
        (row,) = self._store(self._optimizer.suggest(1, self._most))
        found = self.trials[row.trial_id] = LocalTrial(row, datetime.now(UTC))
        return found

    def over(self) -> str:
        """Return why the study has ended before all its trials have been started, in words; "" if it goes on."""
        study, outlook = self.study, self._optimizer.outlook()
        failed = sum(
            one.state is TrialState.FAIL and one.failure is not None and one.failure.kind is FailureClass.PROGRAM
            for one in self.trials.values()
        )
        if failed > study.max_failed_trials:
            return f"{failed} trials failed, maxFailedTrials is {study.max_failed_trials}"
        for one in self.trials.values():
            if one.state is TrialState.COMPLETE and one.failure is None and is_goal(study, one.values):
                return f"trial {one.row.number} has reached the goal"
        if outlook.exhausted:
            return "every point of the search space was tried"
        return "the study has converged" if outlook.converged else ""

    def report(self, trial_id: int, step: int, value: float) -> bool:
        """Store a report, and show it to the pruner. Return whether the trial is pruned. The first value of a step
        stands."""
        trial = self.trials[trial_id]
        if trial.told or step in trial.reports:
            return trial.state is TrialState.PRUNED
        trial.reports[step] = value
        report = Report(next(self._report_ids), trial_id, step, value)
        if self.study.pruner is None:
            self._optimizer.see([report])
            return False
        running = {one.row.trial_id for one in self.trials.values() if not one.told}
        verdicts = self._optimizer.judge([report], running)
        if verdicts.notes is not None:
            self._store(verdicts.notes)
        if trial_id in verdicts.prune:
            self._tell(trial, Tell(trial.row, TrialState.PRUNED))
        return trial_id in verdicts.prune

    def finish(self, trial_id: int, result: Result) -> bool:
        """Store a result, and tell it unless it is provisional. Return whether the trial had been pruned before."""
        trial = self.trials[trial_id]
        if trial.told:
            return True
        trial.result = result
        if not result.provisional:
            self._tell(trial, tell_result(replace(trial.row, result=result), self.study.constraints))
        return False

    def ended(self, trial_id: int, code: int, last_line: str, too_long: bool) -> None:
        """Tell the end of a trial whose program has ended, unless it is told already.

        Args:
            code: its exit code; of a signal as a shell has it.
            last_line: the last line of its log.
            too_long: whether it was ended because of activeDeadlineSeconds.
        """
        trial = self.trials[trial_id]
        if trial.told:
            return
        if code == 0 and trial.result is not None:
            result = replace(trial.result, provisional=False)
            self._tell(trial, tell_result(replace(trial.row, result=result), self.study.constraints))
            return
        self._tell(trial, self._failed(trial, code, last_line, too_long))

    def _failed(self, trial: LocalTrial, code: int, last_line: str, too_long: bool) -> Tell:
        study = self.study
        if too_long:
            message = f"activeDeadlineSeconds of {study.trial_deadline} have passed"
            failure = Failure("DeadlineExceeded", message, last_log_line=last_line)
        elif code in study.infeasible_exit_codes:
            failure = Failure("Infeasible", "infeasibleExitCodes", code, last_line, FailureClass.INFEASIBLE)
            return Tell(trial.row, TrialState.PRUNED, failure=failure)
        elif code:
            failure = Failure("Error", exit_code=code, last_log_line=last_line)
        else:
            metrics = [objective.metric for objective in study.objectives]
            failure = Failure("MetricMissing", missing_value.message(study, metrics, trial.bad), 0, last_line)
        return Tell(trial.row, TrialState.FAIL, failure=failure)

    def give_up(self, trial_id: int) -> None:
        """End a trial because the user has ended all, or the study is over."""
        trial = self.trials[trial_id]
        if not trial.told:
            failure = Failure("StudyEnded", "the study ended before the trial did", kind=FailureClass.TERMINATED)
            self._tell(trial, Tell(trial.row, TrialState.FAIL, failure=failure))

    def _tell(self, trial: LocalTrial, told: Tell) -> None:
        values: Sequence[float] | None = told.values
        if told.by_last_report and trial.reports:
            last = trial.reports[max(trial.reports)]
            values = None if math.isnan(last) else [last]
        self._store(self._optimizer.tell([told]))
        trial.state, trial.values, trial.failure = told.state, values, told.failure
        trial.ended = datetime.now(UTC)

    def _store(self, batch: Batch) -> list[TrialRow]:
        new = sum(change.new for change in batch.trials.values())
        at = datetime.now(UTC).replace(tzinfo=None)
        return self._optimizer.commit(Stored(at, [next(self._ids) for _ in range(new)]))


def _waiting(trial_id: int, number: int, wish: dict[str, Any]) -> StoredTrial:
    """Return an initial trial, as it waits in Optuna's queue."""
    attrs = {WISH_ATTR: wish}
    return StoredTrial(trial_id, number, TrialState.WAITING, None, None, None, (), (), (), {}, attrs, {})

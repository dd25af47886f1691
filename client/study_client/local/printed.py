"""Reads reports and final values off what a program prints (spec.metrics.from: Stdout), with the operator's reader."""

from __future__ import annotations

from study_client.local.session import Session
from study_operator.model import log_lines
from study_operator.model.final_values import joined, key, keyed, settled
from study_operator.model.numerals import Steps
from study_operator.model.printed_lines import LONGEST_LINE, Known, shortened
from study_operator.model.study import Study
from study_operator.model.trial import Result


class Printed:
    """The output of one trial.

    Args:
        study: the Study, whose metrics come from standard output.
        session: where reports go to.
        trial_id: whose output it is.
    """

    def __init__(self, study: Study, session: Session, trial_id: int) -> None:
        lines = log_lines.build(study)
        assert lines is not None
        self._lines, self._study, self._session, self._trial_id = lines, study, session, trial_id
        self._objective = study.objectives[0].metric if len(study.objectives) == 1 else None
        self._steps, self._known, self._kept = Steps(), Known(), dict[str, float]()
        self._rest = b""

    def add(self, chunk: bytes) -> None:
        """Read a piece of the output."""
        *whole, rest = (self._rest + chunk).split(b"\n")
        self._rest = rest if len(rest) <= 2 * LONGEST_LINE else shortened(rest, self._lines.says, 2 * LONGEST_LINE)
        for line in whole:
            self._take(line)

    def end(self) -> None:
        """Read the line that was never ended, and store the final values as provisional ones."""
        if self._rest:
            self._take(self._rest)
        final = settled(self._kept)
        objectives, constraints = self._study.objectives, self._study.constraints
        if all(key(one) in final for one in objectives):
            limited = {one.name: final[one.metric] for one in constraints if one.metric in final}
            result = Result(tuple(final[key(one)] for one in objectives), constraints=limited, provisional=True)
            with self._session.lock:
                self._session.finish(self._trial_id, result)

    def _take(self, line: bytes) -> None:
        said = self._lines.read(line)
        if said is None:
            return
        values = self._known.values(said)
        self._kept = joined(self._kept, keyed(values, self._study.objectives, said.unmarked))
        with self._session.lock:
            trial = self._session.trials[self._trial_id]
            if (bad := self._known.bad(said)) is not None:
                trial.bad = bad
            trial.attributes |= {name: values[name] for name in self._study.metrics.additional if name in values}
            name = self._objective
            if name is not None and name in values and self._known.reports(said, name):
                step = self._steps.at(values[name], said.step, said.lost)
                if step is not None:
                    self._session.report(self._trial_id, step, values[name])

"""What is known about one study at one moment: all that decisions are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from study_operator.model.job_state import JobState
from study_operator.model.study import Study
from study_operator.model.trial import Failure, Rows, TrialRow


@dataclass(frozen=True)
class Stuck:
    """Why a Job's pod has not started.

    Attributes:
        failure: the reason, in the scheduler's or the kubelet's words.
        counts: whether this counts as a failure of the infrastructure. It does not if the user may have corrected the
            reason since.
    """

    failure: Failure
    counts: bool = True


@dataclass(frozen=True)
class Observed:
    """One study at one moment. Jobs are listed before rows are read: a finished Job has its result in the rows, if
    there is one.

    Attributes:
        study: the Study as it is written now.
        rows: the study's trials.
        jobs: the study's Jobs, by name.
        now: the time of the database's clock, aware, UTC.
        launched: names of the Jobs that this process has created or seen.
        prune: numbers of the trials that the pruner has given up.
        behind: numbers of the trials that have stored more reports than the pruner has been shown.
        exhausted: whether the sampler has nothing more to suggest.
        converged: whether more trials are not expected to help.
        launching: whether new trials may be started.
        ended: the reason with which the study has ended, as its status has it; None if it has not.
        drained: the Jobs whose output has been read to its end, by name, where trials report by what they print. The
            value says why a part could not be read; it is empty if all was read.
        impossible: waiting trials that cannot be run, each with the reason.
        stuck: the Jobs whose pods have waited too long, by name.
        incarnation: that of the database, which a restore changes.
        restored_at: when this operator or an earlier one found that the database had been restored, by the database's
            clock, aware, UTC; None if it never has been.
    """

    study: Study
    rows: Rows
    jobs: Mapping[str, JobState]
    now: datetime
    launched: frozenset[str] = frozenset()
    prune: frozenset[int] = frozenset()
    behind: frozenset[int] = frozenset()
    exhausted: bool = False
    converged: bool = False
    launching: bool = True
    ended: str | None = None
    drained: Mapping[str, str] = field(default_factory=dict)
    impossible: tuple[tuple[TrialRow, str], ...] = ()
    stuck: Mapping[str, Stuck] = field(default_factory=dict)
    incarnation: str = ""
    restored_at: datetime | None = None

    @property
    def strays(self) -> list[JobState]:
        """The active Jobs that are of no trial: a restore, or somebody, has taken their trials away.

        Their pods still have the ids of these trials, and other trials may get the same ids.
        """
        return [job for job in self.active if not job.is_of(self.rows.open.get(job.number))]

    @property
    def active(self) -> list[JobState]:
        """The Jobs whose pods may hold GPUs."""
        return [job for job in self.jobs.values() if job.busy]

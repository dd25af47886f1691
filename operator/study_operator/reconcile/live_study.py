"""What this replica holds in memory of one study that it serves. It may be dropped at any time, and is made anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from study_operator.manifests.job import Reporting
from study_operator.model.status import Condition, accepted
from study_operator.model.study import Study
from study_operator.reconcile.ended_programs import EndedPrograms
from study_operator.reconcile.silent_pods import SilentPods
from study_operator.reconcile.stuck_jobs import StuckJobs
from study_operator.reconcile.study_trials import StudyTrials


@dataclass
class KnownObjects:
    """What this process knows to exist in Kubernetes for one study, so that it need not ask again.

    Attributes:
        launched: names of the Jobs that this process has created or seen.
        active: names of the Jobs that were active at the last reconciliation.
        secret: digest of what this process has written into the Secret of the study's pods; empty if nothing.
        limit_ranges: the items of the namespace's LimitRanges; None if they are not known, or not needed.
        service: whether the Service that the pods' subdomain needs exists, as far as this generation needs one.
        accepted_generation: the generation of the spec whose Job template the API server has accepted.
        accepted: the condition with which it was accepted.
        predecessors_ended: whether the rows of deleted Studies of the same name have been ended.
        claims_cleared: when claims that are not kept were last deleted: generation, number of ended trials, and the
            trials that had ended and still had an active Job.
    """

    launched: set[str] = field(default_factory=set)
    active: set[str] = field(default_factory=set)
    secret: str = ""
    limit_ranges: Sequence[Mapping[str, Any]] | None = None
    service: bool = False
    accepted_generation: int | None = None
    accepted: Condition = field(default_factory=accepted)
    predecessors_ended: bool = False
    claims_cleared: tuple[int, int, frozenset[int]] | None = None


class LiveStudy:
    """One study that is being served.

    Attributes:
        study: the Study as it was last read.
        reporting: where its pods report to, and with which key.
        known: what exists in Kubernetes.
        stuck_jobs: what is known of Jobs that get no pod, and of pods that do not start.
        silent_pods: what is known of pods from which nothing has come.
        trials: its rows, and the optimizer over them.
        incarnation: that of the database at the latest reconciliation.
        ended_programs: its Jobs whose programs have ended before their pods.
        restored_at: when the database was last found to have been restored, aware, UTC; None for never.
    """

    def __init__(self, study: Study, reporting: Reporting, trials: StudyTrials) -> None:
        self.study, self.reporting, self.trials = study, reporting, trials
        self.known = KnownObjects()
        self.ended_programs = EndedPrograms()
        self.stuck_jobs = StuckJobs()
        self.silent_pods = SilentPods()
        self.incarnation = ""
        self.restored_at: datetime | None = None

    def update(self, study: Study) -> None:
        """Take over an edit of the Study."""
        if study.generation != self.study.generation:
            self.known.service, self.known.limit_ranges = False, None
        self.study = study
        self.trials.update(study)

"""What the operator holds in memory of a study it serves. Dropped on any doubt, and rebuilt from the rows."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime

from optuna.trial import TrialState

from study_operator.metrics import SUGGEST
from study_operator.model import pareto
from study_operator.model.convergence import build_judge
from study_operator.model.job import Reporting
from study_operator.model.plan import Tell
from study_operator.model.pruners import build_pruner
from study_operator.model.samplers import build_sampler
from study_operator.model.sampling import Sampling
from study_operator.model.study import Study
from study_operator.model.trial import BestTrial, Clock, Failure, FailureClass, Rows, TrialRow
from study_operator.model.warm_start import WarmStarted
from study_operator.model.wishes import impossible
from study_operator.storage.beginnings import Beginnings
from study_operator.storage.reading import JOB_ATTR
from study_operator.storage.studies import Studies
from study_operator.storage.trials import StaleHistory, Trials

log = logging.getLogger(__name__)


# Trials of a Pareto front that the status shows.
FRONT_SHOWN = 20


@dataclass(frozen=True)
class Prospect:
    """Whether the sampler has nothing more to suggest, and whether more trials are not expected to help; trials that
    somebody has enqueued and that cannot be run, with the reason."""

    exhausted: bool = False
    converged: bool = False
    impossible: tuple[tuple[TrialRow, str], ...] = ()


class LiveStudy:
    """One study that is being served. Its methods block: call them from the storage threads, one at a time.

    Attributes:
        launched: names of the Jobs that this process has created or seen.
        active: names of the Jobs that were active when this process last looked.
        prune: numbers of trials that the pruner gave up and that have not been told yet.
        accepted_generation: the generation of the spec whose Job template the API server has accepted.
        predecessors_ended: whether the rows of deleted Studies of the same name have been seen to.
        secret: the name of the Secret that this process has seen to be there.
        served_names: whether the Service that the pods' subdomain needs has been seen to be there.
        cleared: when claims that are not kept were last deleted: generation, ended trials, those still saving.
        warm_started: what came of each earlier study that it begins with, once that is known.
    """

    def __init__(
        self,
        study: Study,
        studies: Studies,
        trials: Trials,
        beginnings: Beginnings,
        sampler_classes: Collection[str],
    ) -> None:
        self.study = study
        self.study_id: int | None = None
        self.launched: set[str] = set()
        self.active: set[str] = set()
        self.prune: set[int] = set()
        self.accepted_generation: int | None = None
        self.predecessors_ended = False
        self.secret: str | None = None
        self.served_names = False
        self.cleared: tuple[int, int, frozenset[int]] | None = None
        self.warm_started: tuple[WarmStarted, ...] = ()
        self._sampler_classes = sampler_classes
        self._studies = studies
        self._trials = trials
        self._beginnings = beginnings
        self._impossible: tuple[tuple[TrialRow, str], ...] = ()
        self._sampling: Sampling | None = None
        self._ensured: tuple[str, bytes] | None = None
        self._front: tuple[int, list[BestTrial], int] = (0, [], 0)  # COMPLETE trials, Pareto front's beginning and size
        self._best: list[int] = []

    def take(self, study: Study) -> None:
        """The Study was edited: what depends on the spec is built anew."""
        if any(
            getattr(study, field) != getattr(self.study, field) for field in ("pruner", "convergence", "initial_trials")
        ):
            self._sampling = None
        if study.generation != self.study.generation:
            self.served_names = False
        self.study = study

    def drop(self) -> None:
        """Forget what came from the database: a write may or may not have happened."""
        self._sampling = None
        self._ensured = None
        self.prune.clear()

    def observe(
        self, reporting: Reporting, jobs: Collection[int], *, launching: bool, end: str | None
    ) -> tuple[Rows, Prospect]:
        """Reads the study's rows and shows the pruner what its pods have reported.

        Args:
            jobs: numbers of the trials whose rows are wanted although they may have ended.
            launching: trials may be started; otherwise the sampler may be one that cannot be built.
            end: the reason with which the study has ended, as the status has it, None if it has not; then no history is
                loaded just to look at it.

        Returns:
            The rows, and what the sampler expects of more trials.

        Raises:
            Refused: the Study names trials to begin with that there are not, or others than before.
        """
        self._ensure(reporting)
        assert self.study_id is not None
        rows = self._with_front(self._trials.observe(self.study_id, list(jobs)))
        running = [row for row in rows.open.values() if row.state is TrialState.RUNNING and row.job]
        # Whether a space is exhausted or the study has converged, only its history can tell.
        must_know = self.study.sampler.name in ("Grid", "BruteForce") or self.study.convergence is not None
        ended = rows.total >= self.study.max_trials or (end is not None and not must_know)
        if not launching or (ended and not running):
            self._sampling = None  # hundreds of finished studies must not keep their histories in memory
            # Without a sampler nobody can tell: what has ended stays so.
            return rows, Prospect(end == "SearchSpaceExhausted", end == "Converged") if not launching else Prospect()
        sampling = self._loaded(rows)
        self._feed(sampling, running)
        prospect = Prospect(sampling.exhausted, sampling.converged, self._impossible)
        if (prospect.exhausted or prospect.converged) and not running:
            self._sampling = None
        return rows, prospect

    def look(self, jobs: Collection[int]) -> Rows:
        """The study's rows as they are now, without a glance at what its pods have reported."""
        assert self.study_id is not None
        return self._with_front(self._trials.observe(self.study_id, list(jobs)))

    def keep_time(self, idle: bool, now: datetime) -> Clock:
        """Stops the study's clock or lets it go on."""
        assert self.study_id is not None
        (self._studies.pause if idle else self._studies.resume)(self.study_id, now)
        return self._trials.clock(self.study_id)

    def start(self) -> TrialRow | None:
        """Asks the sampler for one trial and stores it; None when no more may be started."""
        assert self.study_id is not None
        for _ in range(5):
            sampling = self._sampling or self._load()
            if self._impossible:  # enqueued since the last look; the next one ends it
                raise StaleHistory(f"trial {self._impossible[0][0].number} was enqueued: {self._impossible[0][1]}")
            if sampling.exhausted or sampling.converged:
                return None
            begun = time.perf_counter()
            suggestion = sampling.ask()
            SUGGEST.observe(time.perf_counter() - begun)
            job = self.study.job_name(suggestion.number)
            stored = replace(suggestion, system_attrs={**suggestion.system_attrs, JOB_ATTR: job})
            try:
                trial_id = self._trials.start(self.study_id, stored, self.study.max_trials)
            except StaleHistory as error:
                log.info("loading the study's history again: %s", error)
                self._sampling = None
                continue
            except BaseException:
                self._sampling = None  # it holds a trial that may not be stored
                raise
            if trial_id is None:
                self._sampling = None
                return None
            sampling.confirm(suggestion, trial_id)
            return TrialRow(trial_id, suggestion.number, TrialState.RUNNING, dict(suggestion.params), job)
        raise StaleHistory("other programs keep adding trials to this study; the next attempt comes in a moment")

    def requeue(self, row: TrialRow, failure: Failure | None) -> bool:
        """Lets a trial run again under another Job. False when it had ended already, or a result has just arrived."""
        return self._trials.requeue(row.trial_id, self.study.job_name(row.number, row.attempt + 1), failure)

    def tell(self, told: Tell, failure: Failure | None) -> bool:
        """Ends a trial in the database and in memory. False when it had ended already, or a result has just arrived."""
        row, values = told.row, told.values
        infeasible = failure is not None and failure.kind is FailureClass.INFEASIBLE
        if told.state is TrialState.PRUNED and values is None and not infeasible:
            value = self._trials.last_value(row.trial_id)
            values = None if value is None else (value,)
        known = self._sampling is not None and self._sampling.knows(row.trial_id)
        attrs = {f"constraints:{name}": violation for name, violation in told.constraints.items()}
        if known and self._sampling:
            # The Job's name may have changed since the history was loaded.
            remembered = self._sampling.system_attrs(row.trial_id)
            attrs = {name: value for name, value in remembered.items() if name != JOB_ATTR} | attrs
        done = self._trials.tell(
            row.trial_id,
            told.state,
            values,
            failure,
            system_attrs=attrs,
            despite_result=row.result is not None and not row.result.provisional,
        )
        self.prune.discard(row.number)
        self.launched.discard(row.job or "")
        if row.state is TrialState.WAITING:
            self._sampling = None  # Optuna tells running trials only
        elif done and known and self._sampling:
            if told.state is TrialState.PRUNED:  # where nothing prunes, it has seen none of the reports
                for report in self._trials.reports({row.trial_id: self._sampling.seen(row.trial_id)}):
                    self._sampling.see(report)
            self._sampling.tell(row.trial_id, told.state, values, attrs)
        elif not done:
            self._sampling = None
        return done

    def _ensure(self, reporting: Reporting) -> None:
        """Creates the study's rows, and keeps its key and deletion policy as they should be."""
        wanted = (self.study.deletion_policy, reporting.key_hash)
        if self._ensured != wanted:
            study = self.study
            self.study_id = self._studies.ensure(
                study.optuna_name,
                study.directions,
                study.namespace,
                study.name,
                study.uid,
                *wanted,
                metric_names=[objective.name for objective in study.objectives],
            )
            self._ensured = wanted

    def best(self, rows: Rows) -> list[int]:
        """The numbers of the trials that are best now: one or, with several objectives, the Pareto front."""
        if len(self.study.objectives) == 1:
            return [rows.best.number] if rows.best else []
        return self._best

    def _with_front(self, rows: Rows) -> Rows:
        """With several objectives, the Pareto front, which is computed again when a trial has been added to it."""
        if len(self.study.objectives) == 1:
            return rows
        assert self.study_id is not None
        complete = rows.count(TrialState.COMPLETE)
        if complete != self._front[0]:
            points = self._trials.points(self.study_id)
            front = pareto.front(points.items(), self.study.directions)
            # Whose checkpoints are kept, all of them tell; otherwise only those that are shown are read.
            read = self._trials.complete_trials(front if self.study.checkpoints else front[:FRONT_SHOWN])
            self._front = complete, read[:FRONT_SHOWN], len(front)
            self._best = [trial.number for trial in read]
        _, shown, size = self._front
        return replace(rows, best=None, front=tuple(shown), front_size=size)

    def _loaded(self, rows: Rows) -> Sampling:
        # Another number of trials: somebody has enqueued or added some.
        if self._sampling is None or self._sampling.size != sum(rows.counts.values()):
            return self._load()
        return self._sampling

    def _load(self) -> Sampling:
        assert self.study_id is not None
        self._beginnings.enqueue(self.study, self.study_id)
        warm, self.warm_started = self._beginnings.load(self.study, self.study_id)
        trials, attrs = self._trials.history(self.study_id)
        wrong = impossible(self.study.space, trials)
        self._impossible = tuple(
            (TrialRow(trial._trial_id, trial.number, trial.state, {}, None), wrong[trial._trial_id])
            for trial in trials
            if trial._trial_id in wrong
        )
        # The pruner sees the reports of our running trials again, in order; other trials keep what they have.
        replay = {t._trial_id for t in trials if t.state is TrialState.RUNNING and JOB_ATTR in t.system_attrs}
        sampler, pruner = build_sampler(self.study, len(trials), self._sampler_classes), build_pruner(self.study)
        judge = build_judge(self.study)
        self._sampling = Sampling(self.study, sampler, pruner, trials, attrs, replay, warm, judge)
        return self._sampling

    def _feed(self, sampling: Sampling, running: Collection[TrialRow]) -> None:
        rows = {row.trial_id: row for row in running if row.number not in self.prune}
        before = {trial_id: sampling.system_attrs(trial_id) for trial_id in rows if sampling.knows(trial_id)}
        reports = self._trials.reports(sampling.cursors(rows))
        latest = {report.trial_id: report.report_id for report in reports}
        for report in reports:
            number = rows[report.trial_id].number
            if number not in self.prune and sampling.feed(report, report.report_id == latest[report.trial_id]):
                self.prune.add(number)
        for trial_id, attrs in before.items():
            changed = {k: v for k, v in sampling.system_attrs(trial_id).items() if attrs.get(k) != v}
            if changed and rows[trial_id].number not in self.prune:  # what leads to an end is stored with the end
                self._trials.set_system_attrs(trial_id, changed)

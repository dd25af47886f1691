"""What the operator holds in memory of a study it serves. Dropped on any doubt, and rebuilt from the rows."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import partial

from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial

from study_operator.manifests.job import Reporting
from study_operator.metrics import SUGGEST
from study_operator.model.actions import Tell
from study_operator.model.batch import Full, NotStored, StaleHistory
from study_operator.model.initial_trials import impossible
from study_operator.model.study import Study
from study_operator.model.trial import (
    FAILURE_ATTR,
    JOB_ATTR,
    BestTrial,
    Clock,
    Failure,
    Rows,
    TrialRow,
    TrialState,
    constraint_attrs,
)
from study_operator.model.warm_start import WarmStarted
from study_operator.optimizer import pareto
from study_operator.optimizer.convergence import build_judge
from study_operator.optimizer.memory import Memory
from study_operator.optimizer.pruners import build_pruner
from study_operator.optimizer.samplers import build_sampler
from study_operator.optimizer.sampling import Sampling, ancestors
from study_operator.storage.batch_writer import store_most
from study_operator.storage.database import Database
from study_operator.storage.initial_trials import InitialTrials
from study_operator.storage.mirror import Mirror, forget_changes
from study_operator.storage.studies import Studies
from study_operator.storage.trials import Trials

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
        database: Database,
        studies: Studies,
        trials: Trials,
        beginnings: InitialTrials,
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
        self._database = database
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
        if rows.changed and self._sampling is None:
            forget_changes(self._database, self.study_id)  # so that they do not pile up
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

    def start(self, count: int) -> list[TrialRow]:
        """Asks the sampler for trials and stores them together.

        Args:
            count: how many there are to be at the most.

        Returns:
            Those that were stored, none when no more may be started.

        Raises:
            StaleHistory: others write to the study all the time.
        """
        assert self.study_id is not None
        for _ in range(5):
            sampling = self._kept() or self._load()
            if self._impossible:  # enqueued since the last look; the next one ends it
                raise StaleHistory(f"trial {self._impossible[0][0].number} was enqueued: {self._impossible[0][1]}")
            if sampling.exhausted or sampling.converged:
                return []
            begun = time.perf_counter()
            try:
                trials = sampling.ask(
                    count, self.study.max_trials, lambda number: {JOB_ATTR: self.study.job_name(number)}
                )
            except StaleHistory as error:
                log.info("reading what others have written to the study: %s", error)
                self._catch_up(sampling)
                continue
            except Full:
                return []
            took = (time.perf_counter() - begun) / len(trials)
            for _ in trials:
                SUGGEST.observe(took)
            return [self._begun(trial, trial.number - sampling.memory.first) for trial in trials]
        raise StaleHistory("other programs keep adding trials to this study; the next attempt comes in a moment")

    def _begun(self, trial: FrozenTrial, number: int) -> TrialRow:
        return TrialRow(trial._trial_id, number, TrialState.RUNNING, dict(trial.params), self.study.job_name(number))

    def requeue(self, row: TrialRow, failure: Failure | None) -> bool:
        """Lets a trial run again under another Job. False when it had ended already, or a result has just arrived."""
        assert self.study_id is not None
        job = self.study.job_name(row.number, row.attempt + 1)
        sampling = self._sampling_of([row.trial_id])
        if sampling is None:
            return self._trials.requeue(self.study_id, row.trial_id, job, failure)
        try:
            with sampling.memory.batch() as batch:
                sampling.memory.set_trial_system_attr(row.trial_id, JOB_ATTR, job)
                change = batch.trials[row.trial_id]
                # What somebody else had read off the output of the Job that failed is not the next one's.
                change.failure, change.unless_result, change.forget_result = failure, True, True
        except (NotStored, UpdateFinishedTrialError):
            self._sampling = None
            return False
        return True

    def tell(self, tells: Sequence[Tell]) -> list[bool]:
        """Ends trials, many in one transaction.

        Returns:
            For each whether it was ended; False when it had ended already, or a result has just arrived.
        """
        assert self.study_id is not None
        for told in tells:
            self.prune.discard(told.row.number)
            self.launched.discard(told.row.job or "")
        sampling = self._sampling_of(told.row.trial_id for told in tells)
        if sampling is None:
            return self._trials.tell(self.study_id, tells)
        # Where nothing prunes, it has seen none of the reports.
        pruned = [told.row.trial_id for told in tells if told.state is TrialState.PRUNED]
        for report in self._trials.reports({trial_id: sampling.seen(trial_id) for trial_id in pruned}):
            sampling.see(report)
        done = store_most(tells, partial(self._tell, sampling))
        if not all(done):
            self._sampling = None
        return done

    def _tell(self, sampling: Sampling, tells: Sequence[Tell]) -> None:
        memory = sampling.memory
        with memory.batch() as batch:
            for told in tells:
                trial_id = told.row.trial_id
                if memory.get_trial(trial_id).state.is_finished():
                    raise StaleHistory(f"trial {told.row.number} has ended")
                for name, violation in constraint_attrs(told.constraints).items():
                    memory.set_trial_system_attr(trial_id, name, violation)
                if told.failure is not None:
                    memory.set_trial_user_attr(trial_id, FAILURE_ATTR, asdict(told.failure))
                values = sampling.last_value(trial_id) if told.by_last_report else told.values
                sampling.tell(trial_id, told.state, values)
                change = batch.trials[trial_id]
                change.failure, change.unless_result = told.failure, not told.row.has_final

    def _sampling_of(self, trial_ids: Iterable[int]) -> Sampling | None:
        """What is to be kept in step when these trials are written to."""
        kept = self._kept()
        if kept is not None and not all(map(kept.memory.knows, trial_ids)):
            kept = self._sampling = None
        return kept

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
        if (kept := self._kept()) is not None and rows.changed:
            self._catch_up(kept)
        # Trials that nobody has noted down: the triggers are not there, or were switched off.
        if self._sampling is None or self._sampling.memory.size < sum(rows.counts.values()):
            return self._load()
        return self._sampling

    def _kept(self) -> Sampling | None:
        """What is in memory, if it is of use: a write that was not allowed or got no answer leaves it in doubt."""
        if self._sampling is not None and self._sampling.memory.doubtful:
            self._sampling = None
        return self._sampling

    def _catch_up(self, sampling: Sampling) -> None:
        """Takes account of what others have written to the study."""
        assert isinstance(sampling.memory, Mirror)
        self._sampling = None  # unless it comes to its end
        try:
            trials = sampling.memory.catch_up()
        except StaleHistory as error:
            log.info("loading the study's history again: %s", error)
            return
        sampling.notice(trials)
        self._find_impossible(sampling.memory)
        self._sampling = sampling

    def _load(self) -> Sampling:
        assert self.study_id is not None
        self._beginnings.enqueue(self.study, self.study_id)
        warm, self.warm_started = self._beginnings.load(self.study, self.study_id)
        memory = Mirror(self._database, self.study_id)
        self._find_impossible(memory)
        trials = memory.get_all_trials(self.study_id, deepcopy=False)
        # The pruner sees the reports of our running trials again, in order; other trials keep what they have.
        replay = [t._trial_id for t in trials if t.state is TrialState.RUNNING and JOB_ATTR in t.system_attrs]
        sampler, pruner = build_sampler(self.study, len(trials), self._sampler_classes), build_pruner(self.study)
        memory.precede(ancestors(sampler, warm))
        self._sampling = Sampling(self.study, sampler, pruner, memory, replay, build_judge(self.study))
        return self._sampling

    def _find_impossible(self, memory: Memory) -> None:
        waiting = memory.get_all_trials(memory.study_id, deepcopy=False, states=(TrialState.WAITING,))
        wrong = impossible(self.study.space, waiting)
        self._impossible = tuple(
            (TrialRow(t._trial_id, t.number - memory.first, t.state, {}, None), wrong[t._trial_id])
            for t in waiting
            if t._trial_id in wrong
        )

    def _feed(self, sampling: Sampling, running: Collection[TrialRow]) -> None:
        rows = {row.trial_id: row for row in running if row.number not in self.prune}
        reports = self._trials.reports(sampling.cursors(rows))
        latest = {report.trial_id: report.report_id for report in reports}
        for report in reports:
            number = rows[report.trial_id].number
            if number not in self.prune and sampling.feed(report, report.report_id == latest[report.trial_id]):
                self.prune.add(number)
        # What leads to an end is stored with the end.
        self._released(sampling, [trial_id for trial_id, row in rows.items() if row.number not in self.prune])

    def _released(self, sampling: Sampling, trial_ids: list[int]) -> None:
        try:
            sampling.memory.release(trial_ids)
        except NotStored as error:
            log.info("loading the study's history again: %s", error)
            self._sampling = None

"""One study's trials: its rows in PostgreSQL, and the optimizer over them in memory, kept in step.

The rows are the truth. Whenever it is not known whether memory says the same, the optimizer is dropped, and loaded from
the rows when it is needed again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from study_operator import looks
from study_operator.metrics import SUGGEST
from study_operator.model.actions import RunAgain, Tell
from study_operator.model.batch import Batch, Full, NotStored, StaleHistory
from study_operator.model.history import Outlook
from study_operator.model.mark import Place
from study_operator.model.pareto import pareto_front
from study_operator.model.pruners import compares
from study_operator.model.samplers import is_finite
from study_operator.model.study import Refused, Study
from study_operator.model.trial import BestTrial, Clock, Report, Rows, TrialRow, TrialState
from study_operator.model.warm_start import WarmStarted
from study_operator.processes.client import Optimizers
from study_operator.processes.errors import OptimizerBusy, OptimizerLost, OptimizerUnavailable
from study_operator.processes.remote_optimizer import RemoteOptimizer
from study_operator.storage import history
from study_operator.storage.batch_writer import store, store_most
from study_operator.storage.database import Database
from study_operator.storage.initial_trials import InitialTrials
from study_operator.storage.studies import Studies
from study_operator.storage.trials import Trials

# Reports that are read at once, so that memory holds no more; that are shown to the pruner at once, because a look can
# end only between two pieces and the slowest pruner, Wilcoxon, takes 3 ms for a report; and for how long one look goes
# on with further pieces.
REPORTS_READ, REPORTS_SHOWN, LONGEST_SHOW_SECONDS = 1000, 100, 1.0
FRONT_SHOWN = 20  # trials of a Pareto front that the status shows
_ATTEMPTS = 5  # to store suggestions while other programs write to the study

log = logging.getLogger(__name__)


class StudyTrials:
    """The trials of one Study. Its methods block: call them from the blocking pool, one at a time.

    Args:
        study: as the Study is now; `update` replaces it.
        key_hash: SHA-256 of the key that the study's pods report with.
        optimizers: where the study computes.

    Attributes:
        prune: numbers of the trials that the pruner gave up and whose end has not been told yet.
        behind: numbers of the trials that have stored more reports than the pruner has been shown.
        warm_started: what came of each earlier study that it begins with, once that is known.
        unavailable: why the last `observe` could not ask the optimizer; None if it could.
    """

    def __init__(
        self,
        study: Study,
        key_hash: bytes,
        database: Database,
        studies: Studies,
        trials: Trials,
        initial_trials: InitialTrials,
        optimizers: Optimizers,
    ) -> None:
        self._study, self._key_hash, self._optimizers = study, key_hash, optimizers
        self._database, self._studies, self._rows, self._initial_trials = database, studies, trials, initial_trials
        self.prune: set[int] = set()
        self.behind: frozenset[int] = frozenset()
        self.warm_started: tuple[WarmStarted, ...] = ()
        self.unavailable: OptimizerUnavailable | None = None
        self._study_id: int | None = None
        self._ensured_policy: str | None = None
        self._place: Place | None = None
        self._may_create = True
        self._optimizer: RemoteOptimizer | None = None
        self._front: tuple[int, list[BestTrial], int] = (0, [], 0)  # COMPLETE trials, Pareto front's beginning and size
        self._best: list[int] = []

    @property
    def study_id(self) -> int:
        """Optuna's id of the study. Exists from the first `observe` on."""
        if self._study_id is None:
            raise RuntimeError("the study has no rows yet: observe it first")
        return self._study_id

    @property
    def has_rows(self) -> bool:
        """Whether `study_id` exists."""
        return self._study_id is not None

    def update(self, study: Study) -> None:
        """Take over an edit of the Study. What depends on the spec is built anew when it is needed."""
        before = self._study
        if (study.pruner, study.convergence, study.initial_trials) != (
            before.pruner,
            before.convergence,
            before.initial_trials,
        ):
            self._let_go()
        self._study = study

    def drop(self) -> None:
        """Forget what came from the database: a write may or may not have happened."""
        self._let_go()
        self._ensured_policy = None
        self.prune.clear()

    def ensure(self, place: Place, may_create: bool) -> None:
        """Create the study's rows if they may be created, and keep its key and deletion policy as they should be.

        Args:
            place: the database in which the rows are, or are to be made.
            may_create: whether they may be made: the Study's mark does not say that they are there.

        Raises:
            StorageUnavailable: the database does not answer, or is another one.
            StorageError: the database refuses it.
        """
        if place != self._place:
            self.drop()
        self._place, self._may_create = place, may_create
        self._ensure()
        self._may_create = False

    # Reading

    def observe(self, jobs: Collection[int], *, launching: bool, end: str | None) -> tuple[Rows, Outlook]:
        """Read the study's rows, and show the pruner what its pods have reported.

        Args:
            jobs: numbers of the trials whose rows are wanted although they may have ended.
            launching: whether trials may be started. If not, the sampler may be one that cannot be built.
            end: the reason with which the study has ended, as the status has it, None if it has not. No history is
                loaded just to look at an ended study.

        Raises:
            Refused: the Study names initial trials or earlier studies that do not exist, or other ones than before; or
                somebody has deleted a trial's row.
            StorageUnavailable: the database does not answer.
            StorageError: the database refuses it.
        """
        self._ensure()
        self.unavailable = None
        stopped = self._study.stop is not None  # then what a trial has reported decides how it ends
        rows = self._with_front(
            self._rows.observe(self.study_id, list(jobs), self._study.metrics.additional, reports=stopped)
        )
        if rows.changed and self._optimizer is None:
            history.forget_changes(self._database, self.study_id)  # so that they do not pile up
        running = [row for row in rows.open.values() if row.state is TrialState.RUNNING and row.job]
        # Only the history tells whether a search space is exhausted, or the study has converged.
        must_know = is_finite(self._study.sampler.name) or self._study.convergence is not None
        ended = rows.total >= self._study.max_trials or stopped or (end is not None and not must_know)
        if not launching or (ended and not running):
            self._let_go()  # hundreds of finished studies must not stay in memory
            self.behind = frozenset()
            if launching and not (stopped and must_know):
                return rows, Outlook()
            return rows, _as_it_was(end)
        try:
            optimizer = self._loaded(rows)
            self._show_pruner(optimizer, running)
            outlook = optimizer.outlook()
        except OptimizerUnavailable as error:
            self._unavailable(error)
            self.unavailable = error
            return rows, _as_it_was(end)
        if (outlook.exhausted or outlook.converged) and not running:
            self._let_go()
        return rows, outlook

    def reread(self, jobs: Collection[int]) -> Rows:
        """Read the rows again, without what pods have reported since `observe`."""
        return self._with_front(self._rows.observe(self.study_id, list(jobs), self._study.metrics.additional))

    def best(self, rows: Rows) -> list[int]:
        """Return the numbers of the trials that are best now: one or, with several objectives, the Pareto front."""
        if len(self._study.objectives) == 1:
            return [rows.best.number] if rows.best else []
        return self._best

    def last_values(self, trial_ids: Sequence[int]) -> dict[int, tuple[dict[str, float], float | None]]:
        """Return of some trials what each has printed last, by key, and what it has reported at its highest step."""
        printed = self._rows.last_printed(trial_ids)
        reported = {report.trial_id: report.value for report in self._rows.last_reports(trial_ids)}
        return {trial_id: (printed.get(trial_id, {}), reported.get(trial_id)) for trial_id in trial_ids}

    # Writing

    def keep_time(self, idle: bool, now: datetime) -> Clock:
        """Stop the study's clock, or let it go on."""
        (self._studies.pause if idle else self._studies.resume)(self.study_id, now)
        return self._rows.clock(self.study_id)

    def start(self, count: int) -> list[TrialRow]:
        """Ask the sampler for trials, and store them together.

        Args:
            count: how many at the most.

        Returns:
            Those that were stored; none when no more may be started.

        Raises:
            StaleHistory: other programs write to the study all the time.
            StorageUnavailable, StorageError: as `observe`.
            OptimizerUnavailable: the sampler cannot be asked now. Trials may have been stored.
            Exception: the sampler's own.
        """
        try:
            return self._start(count)
        except OptimizerUnavailable as error:
            self._unavailable(error)
            raise

    def _start(self, count: int) -> list[TrialRow]:
        for _ in range(_ATTEMPTS):
            looks.check("asks the sampler")
            optimizer = self._optimizer or self._load()
            outlook = optimizer.outlook()
            if outlook.impossible:  # enqueued since this reconciliation began; the next one ends it
                row, why = outlook.impossible[0]
                raise StaleHistory(f"trial {row.number} was enqueued: {why}")
            if outlook.exhausted or outlook.converged:
                return []
            begun = time.perf_counter()
            try:
                started = self._store(optimizer, optimizer.suggest(count, self._study.max_trials))
            except StaleHistory as error:
                log.info("reading what others have written to the study: %s", error)
                self._catch_up(optimizer)
                continue
            except Full:
                return []
            if not started:
                raise OptimizerLost("trials have been stored, and their optimizer is lost", 0.0)
            took = (time.perf_counter() - begun) / len(started)
            for _ in started:
                SUGGEST.observe(took)
            return started
        raise StaleHistory("other programs keep adding trials to this study; the next attempt comes in a moment")

    def run_again(self, again: RunAgain) -> bool:
        """Let a trial run again under another Job. Return False if it has ended, or if a result has just arrived."""
        row = again.row
        job = self._study.job_name(row.number, row.attempt + 1)
        optimizer = self._optimizer_of([row.trial_id])
        if optimizer is None:
            return self._rows.run_again(self.study_id, again, job)
        try:
            self._store(optimizer, optimizer.run_again(again, job))
        except NotStored:
            self._let_go()
            return False
        except OptimizerUnavailable:
            self._let_go()
            return self._rows.run_again(self.study_id, again, job)
        return True

    def tell(self, tells: Sequence[Tell]) -> list[bool]:
        """End trials, many in one transaction.

        Returns:
            For each whether it was ended; False when it had ended already, or when a result has just arrived.
        """
        for told in tells:
            self.prune.discard(told.row.number)
        optimizer = self._optimizer_of(told.row.trial_id for told in tells)
        if optimizer is None:
            return self._rows.tell(self.study_id, tells)
        # Without a pruner, none of the reports has been read. Samplers learn from the last one alone.
        pruned = [told.row.trial_id for told in tells if told.state is TrialState.PRUNED]
        try:
            optimizer.see(self._rows.last_reports(pruned))
            done = store_most(tells, lambda some: self._store(optimizer, optimizer.tell(some)))
        except OptimizerUnavailable:  # an end does not wait for a sampler
            self._let_go()
            return self._rows.tell(self.study_id, tells)
        if not all(done):
            self._let_go()
        return done

    def _store(self, optimizer: RemoteOptimizer, batch: Batch) -> list[TrialRow]:
        """Store a batch of the optimizer's. Return the trials that it has started; none if the optimizer was lost
        meanwhile: what is stored is stored.

        Raises:
            NotStored: nothing has changed, in the database and in memory.
        """
        try:
            stored = store(self._database, self.study_id, batch)
        except NotStored:
            try:
                optimizer.rollback()
            except OptimizerUnavailable:
                self._let_go()
            raise
        except BaseException:
            self._let_go()  # it may be stored, or not
            raise
        try:
            started = optimizer.commit(stored)
        except OptimizerUnavailable as error:
            log.info("loading the study's history again: %s", error)
            self._let_go()
            return []
        return [replace(row, started_at=stored.at.replace(tzinfo=UTC)) for row in started]

    # The optimizer in its process

    def _let_go(self) -> None:
        """Drop the optimizer."""
        if self._optimizer is not None:
            self._optimizer.close()
        self._optimizer = None

    def _unavailable(self, error: OptimizerUnavailable) -> None:
        """Drop the optimizer unless it is as it was, and only has to wait."""
        if not isinstance(error, OptimizerBusy):
            self._let_go()

    def _optimizer_of(self, trial_ids: Iterable[int]) -> RemoteOptimizer | None:
        """Return the optimizer if there is one that knows these trials; it has to be kept in step with the rows."""
        if self._optimizer is not None and not self._optimizer.knows(trial_ids):
            self._let_go()
        return self._optimizer

    def _loaded(self, rows: Rows) -> RemoteOptimizer:
        if self._optimizer is not None and rows.changed:
            self._catch_up(self._optimizer)
        # Trials that no trigger has noted down: they were deleted, or the triggers do not exist or were switched off.
        if self._optimizer is None or self._optimizer.size != sum(rows.counts.values()):
            return self._load()
        return self._optimizer

    def _catch_up(self, optimizer: RemoteOptimizer) -> None:
        """Take account of what other programs have written to the study."""
        self._optimizer = None  # unless this comes to its end
        try:
            optimizer.update(history.take_changes(self._database, self.study_id, compares(self._study)))
        except StaleHistory as error:
            log.info("loading the study's history again: %s", error)
            return
        self._optimizer = optimizer

    def _load(self) -> RemoteOptimizer:
        self._initial_trials.enqueue(self._study, self.study_id)
        earlier, self.warm_started = self._initial_trials.load(self._study, self.study_id)
        looks.check("reads the study's history")
        rows = history.load(self._database, self.study_id, compares(self._study))
        gap = next((number for number, trial in enumerate(rows.trials) if trial.number != number), None)
        if gap is not None:
            raise Refused(
                "TrialsDeleted",
                f"trial {gap} was deleted from the database, and Optuna numbers trials without gaps, so no trial can "
                "be started: restore its row, or create another Study whose warmStart names this one",
            )
        self._optimizer = self._optimizers.load(self._study, rows, earlier)
        return self._optimizer

    def _show_pruner(self, optimizer: RemoteOptimizer, running: Collection[TrialRow]) -> None:
        """Show the pruner what is new, piece by piece, for LONGEST_SHOW_SECONDS at most. The next look goes on."""
        numbers = {row.trial_id: row.number for row in running if row.number not in self.prune}
        begun, self.behind = time.monotonic(), frozenset[int]()
        while True:
            looks.check("reads what trials have reported")
            reports, unread = self._rows.reports(optimizer.last_reports(numbers), REPORTS_READ)
            for start in range(0, len(reports), REPORTS_SHOWN) or (0,):
                some, later = reports[start : start + REPORTS_SHOWN], reports[start + REPORTS_SHOWN :]
                looks.check("shows the pruner what trials have reported")
                unshown = unread | {report.trial_id for report in later}
                if not self._show_some(optimizer, some, numbers, unshown):
                    return
                self.behind = frozenset(numbers[trial_id] for trial_id in unshown if trial_id in numbers)
                if time.monotonic() - begun > LONGEST_SHOW_SECONDS:
                    return
            if not self.behind:
                return

    def _show_some(
        self, optimizer: RemoteOptimizer, reports: Sequence[Report], numbers: dict[int, int], unshown: Collection[int]
    ) -> bool:
        """Show the pruner some reports, and store what it notes. Return False if the history has to be loaded anew.

        Args:
            numbers: those of the trials that it may still give up, by trial_id. The others are taken out.
            unshown: trial_ids of the trials that have stored more reports.
        """
        try:
            verdicts = optimizer.judge([r for r in reports if r.trial_id in numbers], list(numbers), unshown)
        except OptimizerBusy:
            raise
        except BaseException:
            self._let_go()  # it has seen some of the reports, and what it said to them is lost
            raise
        self.prune.update(numbers.pop(trial_id) for trial_id in verdicts.prune)
        if verdicts.notes is not None:
            try:
                self._store(optimizer, verdicts.notes)
            except NotStored as error:
                log.info("loading the study's history again: %s", error)
                self._let_go()
                return False
        return True

    # Rows

    def _ensure(self) -> None:
        """Create the study's rows, and keep its key and deletion policy as they should be."""
        study = self._study
        if self._ensured_policy != study.deletion_policy:
            self._study_id = self._studies.ensure(
                study.optuna_name,
                study.directions,
                study.namespace,
                study.name,
                study.uid,
                study.deletion_policy,
                self._key_hash,
                metric_names=[objective.name for objective in study.objectives],
                at=self._place,
                may_create=self._may_create,
            )
            self._ensured_policy = study.deletion_policy

    def _with_front(self, rows: Rows) -> Rows:
        """Add the Pareto front of a study with several objectives. It is computed anew when a trial has completed."""
        if len(self._study.objectives) == 1:
            return rows
        complete = rows.count(TrialState.COMPLETE)
        if complete != self._front[0]:
            points = self._rows.points(self.study_id)
            front = pareto_front(points.items(), self._study.directions)
            # Checkpoints of all trials of the front may have to be kept; otherwise only those that are shown are read.
            read = self._rows.complete_trials(
                front if self._study.checkpoints else front[:FRONT_SHOWN], self._study.metrics.additional
            )
            self._front = complete, read[:FRONT_SHOWN], len(front)
            self._best = [trial.number for trial in read]
        _, shown, size = self._front
        return replace(rows, best=None, front=tuple(shown), front_size=size)


def _as_it_was(end: str | None) -> Outlook:
    """Return the outlook without a sampler: nothing new can be found out, and an ended study stays as it is."""
    return Outlook(end == "SearchSpaceExhausted", end == "Converged")

"""Plans carried out one after another in a world of rows and Jobs, through crashes and restarts, up to an outcome."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta

from building import FAIL, NOW, PRUNED, RUNNING, WAITING, job_state, study, trial_row
from hypothesis import given, settings
from hypothesis import strategies as st

from study_operator.model.actions import (
    Ask,
    CreateJob,
    FindCause,
    RemoveFinishedJob,
    RunAgain,
    StopJob,
    Tell,
)
from study_operator.model.job_state import JobPhase, JobState
from study_operator.model.observed import Observed
from study_operator.model.plan import plan
from study_operator.model.study import Study
from study_operator.model.study_outcome import Outcome, outcome
from study_operator.model.trial import Failure, FailureClass, Result, Rows, TrialRow
from study_operator.model.trial_rules import verdict

LOST = Failure("Evicted", kind=FailureClass.INFRASTRUCTURE)


@dataclass
class PlayWorld:
    """Database and cluster in the simplest form that keeps the promises `plan` relies on.

    `cells` is how many trials the sampler has to suggest. Chance decides what pods do, where the operator is cut off
    and when it starts anew; `chaos` is how likely each misfortune is.
    """

    chance: random.Random
    max_trials: int
    parallelism: int
    max_failed: int
    cells: int
    chaos: float
    rows: dict[int, TrialRow] = field(default_factory=dict)
    jobs: dict[str, JobState] = field(default_factory=dict)
    launched: set[str] = field(default_factory=set)
    prune: set[int] = field(default_factory=set)
    seconds: float = 0.0
    suspended: bool = False
    stop: str | None = None
    terminated: int = 0
    jobs_created: list[int] = field(default_factory=list)
    told: list[int] = field(default_factory=list)

    def happens(self, likelihood: float) -> bool:
        return self.chance.random() < likelihood

    # What the operator does

    def observe(self) -> Observed:
        """Jobs first; then something may happen; then the rows."""
        jobs = dict(self.jobs)
        self.pods_go_on()
        counts = dict.fromkeys((RUNNING, WAITING), 0)
        for row in self.rows.values():
            counts[row.state] = counts.get(row.state, 0) + 1
        active = {job.number for job in jobs.values() if job.phase is JobPhase.ACTIVE}
        opened = {n: row for n, row in self.rows.items() if row.state is RUNNING or n in active}
        self.launched |= {job.name for job in jobs.values() if job.number in opened}
        return Observed(
            self.study(),
            Rows(counts, opened, incidents={FailureClass.TERMINATED: self.terminated}),
            jobs,
            NOW + timedelta(seconds=self.seconds),
            launched=frozenset(self.launched),
            prune=frozenset(self.prune),
            exhausted=len(self.rows) >= self.cells,
        )

    def study(self) -> Study:
        return study(
            maxTrials=self.max_trials,
            parallelism=self.parallelism,
            maxFailedTrials=self.max_failed,
            infrastructureRetries=2,
            suspend=self.suspended,
            suspendPolicy="Terminate",
            stop=self.stop,
            successfulJobsHistoryLimit=1,
        )

    def look(self) -> Outcome | None:
        """One look of the operator, which may be cut off before any write."""
        for write in self.writes(self.observe()):
            if self.happens(self.chaos / 10):
                self.restart()
                return None
            write()
        return outcome(self.observe())

    def writes(self, observed: Observed) -> Iterator:
        for action in plan(observed).actions:
            match action:
                case Tell():
                    yield lambda told=action: self.tell(told)
                case FindCause():
                    yield lambda judged=action: self.judge(judged)
                case RunAgain():
                    yield lambda row=action.row, failure=action.failure: self.requeue(row, failure)
                case StopJob():
                    yield lambda job=action.job: self.delete(job.name)
                case RemoveFinishedJob():
                    yield lambda job=action.job: self.jobs.pop(job.name)
                case CreateJob():
                    yield lambda number=action.row.number: self.create_job(number)
                case Ask():
                    for _ in range(min(action.count, self.cells - len(self.rows))):
                        number = len(self.rows)
                        yield lambda number=number: self.rows.__setitem__(number, trial_row(number))
                        yield lambda number=number: self.create_job(number)

    def tell(self, told: Tell) -> None:
        number, row = told.row.number, self.rows[told.row.number]
        if row.state is not RUNNING or (row.result and not told.row.result):
            return  # the database refuses: the trial has ended, or a result has just arrived
        self.told.append(number)
        self.terminated += told.failure is not None and told.failure.kind is FailureClass.TERMINATED
        self.prune.discard(number)
        self.launched.discard(row.job)
        now = NOW + timedelta(seconds=self.seconds)
        self.rows[number] = replace(row, state=told.state, completed_at=now)

    def judge(self, judged: FindCause) -> None:
        failure = self.chance.choice((LOST, Failure("Error", exit_code=1)))
        ruling = verdict(self.study(), judged.row, judged.job, failure)
        if isinstance(ruling, Tell):
            self.tell(ruling)
        else:
            self.requeue(ruling.row, ruling.failure)

    def requeue(self, row: TrialRow, failure: Failure | None) -> None:
        now = self.rows[row.number]
        if now.state is RUNNING and now.result is None:
            job = self.study().job_name(row.number, now.attempt + 1)
            self.rows[row.number] = replace(now, job=job, retries=now.retries + (failure is not None))

    def create_job(self, number: int) -> None:
        row = self.rows[number]
        if row.job not in self.jobs:  # otherwise the API server says AlreadyExists, and it is this trial's
            # A second Job of one name only where nothing is left of the first: deleted before a report, and the
            # operator restarted. Never two pods of one trial.
            assert row.state is RUNNING
            assert not row.reports or row.attempt
            assert not [j for j in self.jobs.values() if j.number == number and j.phase is JobPhase.ACTIVE]
            self.jobs_created.append(number)
            self.jobs[row.job] = job_state(number, name=row.job)
        self.launched.add(row.job)

    def delete(self, name: str) -> None:
        if name in self.jobs:
            self.jobs[name] = replace(self.jobs[name], deleting=True)

    def restart(self) -> None:
        self.launched.clear()
        self.prune.clear()

    # What happens meanwhile

    def pods_go_on(self) -> None:
        self.seconds += self.chance.choice((0, 1, 3))
        self.suspended = self.happens(self.chaos / 10)
        self.stop = self.chance.choice(("Drain", "Terminate")) if self.happens(self.chaos / 10) else None
        for name, job in list(self.jobs.items()):
            number, row = job.number, self.rows[job.number]
            if job.deleting:
                if self.happens(0.5):
                    del self.jobs[name]
            elif job.phase is not JobPhase.ACTIVE:
                continue
            elif self.happens(self.chaos / 5):
                self.delete(name)  # by a user
            elif row.state is RUNNING and row.result is None and self.happens(0.3):
                values = (self.chance.choice((0.5, float("inf"), float("nan"))),)
                self.rows[number] = replace(row, result=Result(values, pruned=self.happens(0.1)), reports=True)
            elif (row.result or row.state is PRUNED) and self.happens(0.5):
                self.jobs[name] = replace(job, phase=JobPhase.COMPLETE)
            elif self.happens(self.chaos / 5):
                phase = self.chance.choice((JobPhase.FAILED, JobPhase.COMPLETE))
                self.jobs[name] = replace(job, phase=phase)
            elif row.state is RUNNING and self.happens(0.3):
                self.rows[number] = replace(row, reports=True)
                if self.happens(0.3):
                    self.prune.add(number)
        if self.happens(self.chaos / 5):
            self.restart()


@given(
    seed=st.integers(0, 2**32),
    max_trials=st.integers(1, 12),
    parallelism=st.integers(1, 5),
    max_failed=st.integers(0, 12),
    cells=st.sampled_from([3, 1000]),
    chaos=st.sampled_from([0.0, 0.2, 1.0]),
)
@settings(max_examples=150)
def test_every_study_reaches_its_end_and_breaks_no_rule_on_the_way(
    seed, max_trials, parallelism, max_failed, cells, chaos
):
    world = PlayWorld(random.Random(seed), max_trials, parallelism, max_failed, cells, chaos)
    for _ in range(3000):
        results = {number for number, row in world.rows.items() if row.result and row.state is RUNNING}
        end = world.look()
        holding = {job.number for job in world.jobs.values() if job.phase is JobPhase.ACTIVE}
        assert len(holding) <= parallelism
        assert len(world.rows) <= min(max_trials, cells)
        for number in results:  # a finished value is told as it is, never as another end
            row = world.rows[number]
            invalid = row.result.values[0] != row.result.values[0] and not row.result.pruned
            assert row.state is RUNNING or (row.state is FAIL) == invalid
        if end is not None and end.reason == "Stopped":
            assert all(row.state is not RUNNING for row in world.rows.values())
        elif end is not None:
            break
    else:
        raise AssertionError("the study never ended")
    assert len(set(world.told)) == len(world.told)
    assert sorted(world.told) == sorted(world.rows)
    failed = sum(row.state is FAIL for row in world.rows.values()) - world.terminated
    assert (end.reason == "MaxFailedTrialsExceeded") == (failed > max_failed)
    if end.reason != "MaxFailedTrialsExceeded":
        assert len(world.rows) == min(max_trials, cells)
    assert all(row.retries <= 2 for row in world.rows.values())
    if chaos == 0 and failed <= max_failed:
        assert world.jobs_created == list(range(len(world.rows)))

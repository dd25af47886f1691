"""Users, pods, crashes and bad answers in any order: Hypothesis makes up the lives of studies, and watches them.

After every step holds what watcher.py says; at the end of each life all that is in the way is taken away, and the study
must come to its proper end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any

import psycopg2
import pytest
from faults import Faults, Wrong
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from play import DISRUPTED, Play, Pod, Scenario, runs_for_ever
from world import Manifest, World, has_ended, job_template, number_of

from study_operator.kube.api_server import ApiError
from study_operator.model.plan import PRUNED_GRACE
from study_operator.model.study import TRIAL_ID_ANNOTATION
from study_operator.reconcile import publisher

ALL = os.environ.get("FAULTS") == "all"
SPACE = [{"name": "x", "float": {"low": 0, "high": 1}}, {"name": "kind", "categorical": {"choices": ["a", "b"]}}]
PRUNERS = [
    {"name": "SuccessiveHalving", "options": {"min_resource": 1, "reduction_factor": 2}},
    {"name": "Median", "options": {"n_startup_trials": 1}},
    {"name": "Threshold", "options": {"lower": 0.3}},
    None,
]
VALUES = st.sampled_from([0.1, 0.5, 0.9])
LOOKS = st.integers(0, 2)
REASONS = st.sampled_from([None, "BackoffLimitExceeded", "PodFailurePolicy"])


class Lives(RuleBasedStateMachine):
    """A Study and all that may befall it. `world` and `runner` are set by the test."""

    world: World
    runner: asyncio.Runner
    count = 0

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(coroutine)

    @initialize(
        parallelism=st.integers(1, 3),
        most=st.integers(3, 6),
        policy=st.sampled_from(["Retain", "Delete"]),
        pruner=st.sampled_from(PRUNERS),
        terminate=st.booleans(),
    )
    def begin(self, parallelism: int, most: int, policy: str, pruner: Any, terminate: bool) -> None:
        type(self).count += 1
        spec = {"parameters": SPACE, "parallelism": parallelism, "maxTrials": most, "deletionPolicy": policy}
        spec |= {"pruner": pruner} if pruner else {}
        spec |= {"suspendPolicy": "Terminate" if terminate else "Drain", "pendingDeadlineSeconds": 60}
        self.operator = World(
            self.world._configuration, self.world.cluster_id, self.world.database, self.world.namespace
        )
        self.play = Play(self.operator, Scenario(spec, {}, ends=None), f"study{self.count}")
        self.next: Wrong | None = None
        self.unreadable = False
        self._run(self._begin())

    async def _begin(self) -> None:
        await self.play.apply()
        self._start()

    def _start(self) -> None:
        self.play._faults = self._faults
        self.play._again = True
        self.play._start(self._faults())

    def _faults(self) -> Faults:
        def go_wrong(*_: object) -> Wrong | None:
            wrong, self.next = self.next, None
            return wrong

        def read_fails() -> bool:
            unreadable, self.unreadable = self.unreadable, False
            return unreadable

        return Faults(go_wrong, read_fails)

    @property
    def _is_there(self) -> bool:
        return not self.play._watcher.deleted

    # The operator

    @rule(times=st.integers(1, 3))
    def looks(self, times: int) -> None:
        self._run(self._look(times))

    async def _look(self, times: int) -> list[Manifest]:
        for _ in range(times):
            await self.play._look()
            jobs = await self.operator.jobs(self.play.name)
            self.play._check(jobs)
        return await self.operator.jobs(self.play.name)

    @rule(wrong=st.sampled_from(Wrong), times=st.integers(1, 2))
    def looks_while_a_write_goes_wrong(self, wrong: Wrong, times: int) -> None:
        self.next = wrong
        self._run(self._look(times))

    @rule()
    def looks_while_a_read_goes_wrong(self) -> None:
        self.unreadable = True
        self._run(self._look(1))

    @rule(wrong=st.sampled_from(Wrong))
    def the_next_write_will_go_wrong(self, wrong: Wrong) -> None:
        self.next = wrong

    @rule()
    def the_operator_is_restarted(self) -> None:
        self._start()

    @rule()
    def late_writes_arrive(self) -> None:
        self._run(self.operator.late_writes_arrive())

    @rule(seconds=st.sampled_from([1, 5, 61, 3600]))
    def time_passes(self, seconds: int) -> None:
        self.operator.ahead += timedelta(seconds=seconds)

    # Users

    async def _edit(self, looks: int, **spec: Any) -> None:
        await self.operator.late_writes_arrive()
        try:
            await self.play.edit(**spec)
        except ApiError as error:
            if error.status != 422:  # it contradicts itself
                raise
        await self._look(looks)

    @precondition(lambda self: self._is_there)
    @rule(parallelism=st.integers(0, 4), looks=LOOKS)
    def parallelism_is_changed(self, parallelism: int, looks: int) -> None:
        self._run(self._edit(looks, parallelism=parallelism))

    @precondition(lambda self: self._is_there)
    @rule(most=st.integers(1, 8), looks=LOOKS)
    def max_trials_is_changed(self, most: int, looks: int) -> None:
        self._run(self._edit(looks, maxTrials=most))

    @precondition(lambda self: self._is_there)
    @rule(suspend=st.booleans(), policy=st.sampled_from(["Drain", "Terminate"]), looks=LOOKS)
    def it_is_suspended_or_resumed(self, suspend: bool, policy: str, looks: int) -> None:
        self._run(self._edit(looks, suspend=suspend, suspendPolicy=policy))

    @precondition(lambda self: self._is_there)
    @rule(stop=st.sampled_from([None, "Drain", "Terminate"]), looks=LOOKS)
    def it_is_stopped_or_may_go_on(self, stop: str | None, looks: int) -> None:
        self._run(self._edit(looks, stop=stop))

    @precondition(lambda self: self._is_there)
    @rule(image=st.sampled_from(["trial:1", "trial:2", ""]), looks=LOOKS)
    def the_template_is_changed(self, image: str, looks: int) -> None:
        self._run(self._edit(looks, jobTemplate=job_template(image=image)))

    @precondition(lambda self: self._is_there)
    @rule(pruner=st.sampled_from(PRUNERS), looks=LOOKS)
    def the_pruner_is_changed(self, pruner: Any, looks: int) -> None:
        self._run(self._edit(0, pruner=None))  # a merge patch would keep the options of the one before
        self._run(self._edit(looks, pruner=pruner))

    @precondition(lambda self: self._is_there)
    @rule(
        limit=st.sampled_from(
            [
                {"maxFailedTrials": 0},
                {"maxFailedTrials": 10},
                {"activeDeadlineSeconds": 600},
                {"activeDeadlineSeconds": None},
                {"infrastructureRetries": 0},
                {"infrastructureRetries": 5},
                {"activeTrialsPolicy": "Wait"},
                {"activeTrialsPolicy": "Terminate"},
                {"deletionPolicy": "Retain"},
                {"deletionPolicy": "Delete"},
            ]
        ),
        looks=LOOKS,
    )
    def a_limit_is_changed(self, limit: dict[str, Any], looks: int) -> None:
        self._run(self._edit(looks, **limit))

    @precondition(lambda self: self._is_there)
    @rule(wish=st.sampled_from([{"x": 0.25}, {"x": 7.0}, {}]))
    def a_notebook_enqueues_a_trial(self, wish: dict[str, float]) -> None:
        if name := self._run(self.play.status()).get("studyName"):
            with self.world.database.optuna_study(name) as study:
                study.enqueue_trial(wish)

    @precondition(lambda self: self._is_there)
    @rule(again=st.booleans(), collected=st.booleans(), looks=LOOKS)
    def it_is_deleted(self, again: bool, collected: bool, looks: int) -> None:
        async def delete() -> None:
            await self.play.delete()
            if collected:
                await self.operator.collect_garbage(self.play.name)
            if again:
                await self.operator.late_writes_arrive()
                await self.play.apply()
            await self._look(looks)

        self._run(delete())

    @precondition(lambda self: not self._is_there)
    @rule(looks=LOOKS)
    def it_is_made_again(self, looks: int) -> None:
        async def make() -> None:
            await self.operator.late_writes_arrive()
            await self.play.apply()
            await self._look(looks)

        self._run(make())

    # Pods, and what the cluster does with them

    async def _jobs(self) -> list[Manifest]:
        """The Jobs whose pods may run, of the Study there is."""
        jobs = await self.operator.jobs(self.play.name) if self._is_there else []
        return [
            job
            for job in sorted(jobs, key=lambda job: job["metadata"]["name"])
            if not has_ended(job)
            and "deletionTimestamp" not in job["metadata"]
            and job["metadata"]["ownerReferences"][0]["uid"] == self.play.uid
        ]

    def _pod(self, job: Manifest) -> Pod:
        life, uid = self.play.lives[-1], job["metadata"]["uid"]
        if uid not in life.pods:
            trial_id = int(job["metadata"]["annotations"][TRIAL_ID_ANNOTATION])
            life.pods[uid] = Pod(self.play, life.reporter, trial_id, runs_for_ever)
        return life.pods[uid]

    @rule(which=st.integers(0, 3), steps=st.integers(1, 4), value=VALUES, obeys=st.booleans(), looks=LOOKS)
    def a_pod_reports(self, which: int, steps: int, value: float, obeys: bool, looks: int) -> None:
        async def report() -> None:
            if jobs := await self._jobs():
                job = jobs[which % len(jobs)]
                try:
                    stop = [self._pod(job).report(step, value) for step in range(1, steps + 1)][-1]
                except psycopg2.Error:
                    return  # its trial has ended, or its Study is gone
                if stop and obeys:
                    await self._end(job, None)
            await self._look(looks)

        self._run(report())

    @rule(which=st.integers(0, 3), value=VALUES, ends=st.sampled_from(["well", "badly", "not yet"]), looks=LOOKS)
    def a_pod_finishes(self, which: int, value: float, ends: str, looks: int) -> None:
        async def finish() -> None:
            if jobs := await self._jobs():
                job = jobs[which % len(jobs)]
                try:
                    self._pod(job).finish(value)
                except psycopg2.Error:
                    return
                if ends != "not yet":
                    await self._end(job, "BackoffLimitExceeded" if ends == "badly" else None)
            await self._look(looks)

        self._run(finish())

    @rule(which=st.integers(0, 3), reason=REASONS, looks=LOOKS)
    def a_job_ends(self, which: int, reason: str | None, looks: int) -> None:
        """With or without a result, by its program's fault or by the cluster's."""

        async def end() -> None:
            if jobs := await self._jobs():
                await self._end(jobs[which % len(jobs)], reason)
            await self._look(looks)

        self._run(end())

    async def _end(self, job: Manifest, reason: str | None) -> None:
        message = DISRUPTED if reason == "PodFailurePolicy" else ""
        await self.operator.end_job(number_of(job), reason, message, study=self.play.name)

    @rule(which=st.integers(0, 3), looks=LOOKS)
    def a_user_deletes_a_job(self, which: int, looks: int) -> None:
        async def delete() -> None:
            if jobs := await self._jobs():
                job = jobs[which % len(jobs)]
                await self.operator.delete_job(number_of(job), self.play.name)
                self.play._watcher.job_deleted(job["metadata"]["name"])
            await self._look(looks)

        self._run(delete())

    @rule(which=st.integers(0, 3))
    def the_job_controller_begins_and_no_pod_comes(self, which: int) -> None:
        async def begin() -> None:
            if jobs := [job for job in await self._jobs() if "startTime" not in (job.get("status") or {})]:
                await self.operator.begin_job(number_of(jobs[which % len(jobs)]), self.play.name)

        self._run(begin())

    @rule()
    def garbage_is_collected(self) -> None:
        self._run(self.operator.collect_garbage(self.play.name))

    # The end

    def teardown(self) -> None:
        if not hasattr(self, "play"):
            return
        try:
            self._run(self._come_to_an_end())
        finally:
            self.play._admin.close()
            for life in self.play.lives:
                life.reporter.close()
            self._run(self.operator.close())

    async def _come_to_an_end(self) -> None:
        play, self.next, self.unreadable = self.play, None, False
        await self.operator.late_writes_arrive()
        await self.operator.collect_garbage(play.name)
        if self._is_there:
            here = play.records()
            most = max(len(here.started()) if here else 0, 2)
            spec = {"suspend": False, "stop": None, "jobTemplate": job_template(), "activeDeadlineSeconds": None}
            spec |= {"parallelism": 2, "maxTrials": most, "maxFailedTrials": 1000}
            await play.edit(**spec)
        for _ in range(60):
            self.operator.ahead += PRUNED_GRACE
            before = len(play.faults.writes)
            went_well = await play._look()
            jobs = await self.operator.jobs(play.name)
            play._check(jobs)
            if went_well and len(play.faults.writes) == before and all(map(has_ended, jobs)):
                break
            for job in await self._jobs():
                with contextlib.suppress(psycopg2.Error):  # it has another value already
                    self._pod(job).finish(0.5)
                await self._end(job, None)
            await self.operator.collect_garbage(play.name)
        else:
            raise AssertionError(f"the study does not end: {await play.status() if self._is_there else 'deleted'}")
        if self._is_there:
            here = play.records()
            assert here is not None
            good = bool(here.feasible())
            await play.check_end(
                jobs, "Succeeded" if good else "Failed", "MaxTrialsReached" if good else "NoTrialSucceeded"
            )
        else:
            await play.check_end(jobs, "", "")


@pytest.fixture
def lives(kubeconfig_of_studies, database, monkeypatch):
    monkeypatch.setattr(publisher, "STATUS_INTERVAL_SECONDS", 0.0)
    with asyncio.Runner() as runner:
        Lives.runner, Lives.world = runner, runner.run(World.create(kubeconfig_of_studies, database))
        yield Lives
        runner.run(Lives.world.leave())


def test_any_order(lives, record_property):
    """With FAULTS=all for longer, and other lives each time; a failure prints the steps that led to it."""
    examples = int(os.environ.get("EXAMPLES") or (300 if ALL else 12))
    run_state_machine_as_test(
        lives,
        settings=settings(
            max_examples=examples,
            stateful_step_count=60 if ALL else 25,
            derandomize=not ALL,
            print_blob=ALL,
            database=None,
            deadline=None,
            # Making a failure smaller takes minutes: that is for those who look for its cause.
            phases=(Phase.explicit, Phase.generate, *((Phase.shrink,) if ALL else ())),
            suppress_health_check=list(HealthCheck),
        ),
    )
    record_property("crash points", f"any order: {lives.count} lives")

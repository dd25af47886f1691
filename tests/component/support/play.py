"""A whole study with pods and people that follow a script, and an eye on what must never happen meanwhile."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import psycopg2
import records
from faults import Died, Faults
from logserver import LogServer
from psycopg2.extensions import connection
from records import Records
from waiting import until
from watcher import Watcher
from world import Manifest, World, container_status, has_ended, number_of

from study_operator.kube.api_server import ApiError
from study_operator.model.plan import PRUNED_GRACE
from study_operator.model.study import TRIAL_ID_ANNOTATION, StudyKey
from study_operator.model.trial import attempt_of
from study_operator.storage.database import StorageError, StorageUnavailable

# Does one thing between two yields. Returns why its Job fails, or None when that completes.
Script = Callable[["Pod"], Generator[None, None, str | None]]
# Something that a user does at the right moment: returns whether it has been done.
Act = Callable[["Play", list[Manifest]], Awaitable[bool]]

DISRUPTED = "Pod has condition DisruptionTarget matching FailJob rule at index 0"


class Pod:
    """The pod of one Job.

    Attributes:
        finished: the final values that it has stored.
        prints: lines that it prints.
        exit_code: of its container, when it ends.
    """

    def __init__(self, play: Play, reporter: connection, trial_id: int, script: Script) -> None:
        self.play, self._reporter, self.trial_id = play, reporter, trial_id
        self._steps = script(self)
        self.finished: tuple[float, ...] | None = None
        self.prints: list[str] = []
        self.exit_code = 0
        self.waits = ""  # why it does not start, or ""
        self.no_room = False  # whether its Job may not make it
        self.name: str | None = None

    def report(self, step: int, value: float) -> bool:
        return self._call("report(%s, %s, %s)", step, value)

    def finish(self, *values: float, **constraints: float) -> None:
        if not self._call("finish(%s, %s, false, %s)", list(values), json.dumps(constraints)):
            self.finished = values

    def is_infeasible(self, why: str) -> None:
        self._call("finish(%s, '{}', false, NULL, %s)", why)

    def step(self) -> tuple[bool, str | None]:
        """Does the next thing. Returns whether its Job has ended by that, and why it has failed."""
        try:
            next(self._steps)
        except StopIteration as end:
            return True, end.value
        return False, None

    def _call(self, function: str, *arguments: Any) -> bool:
        with self._reporter.cursor() as cursor:
            cursor.execute(f"SELECT study_operator.{function}", (self.trial_id, *arguments))
            return cursor.fetchone()[0]


@dataclass(frozen=True)
class Scenario:
    """A small study that needs certain writes, and what must come of it.

    Attributes:
        spec: fields of the Study's spec.
        scripts: of each trial's Jobs, one after the other; the last one for all further ones.
        acts: what users do, one after the other.
        reason: with which the study ends; empty when it is gone in the end.
        phase: in which it ends.
        ends: the state of each trial; None where that depends on the moment at which something goes wrong.
        pods: whether there are pods in the cluster, and not in the database alone.
        prints: whether trials report by what they print.
        prepare: called before the Study is made; gives more fields of the spec.
    """

    spec: Mapping[str, Any]
    scripts: Mapping[int, Sequence[Script]]
    ends: Mapping[int, str] | None
    acts: Sequence[Act] = ()
    phase: str = "Succeeded"
    reason: str = "MaxTrialsReached"
    pods: bool = False
    prints: bool = False
    prepare: Callable[[Play], Awaitable[Mapping[str, Any]]] | None = None
    check: Callable[[Play, Records | None], Awaitable[None]] | None = None


@dataclass
class _Life:
    """One Study object: its name can be given again."""

    manifest: Manifest
    reporter: connection
    pods: dict[str, Pod] = field(default_factory=dict)

    @property
    def uid(self) -> str:
        return self.manifest["metadata"]["uid"]


class Play:
    """One study, from its creation to its end, whatever goes wrong on the way.

    Args:
        faults: what goes wrong in the first process of the operator, and if `again` in all later ones.
        logs: where what pods print is given out.
    """

    def __init__(
        self,
        world: World,
        scenario: Scenario,
        name: str,
        faults: Callable[[], Faults] = Faults,
        again: bool = False,
        logs: LogServer | None = None,
    ) -> None:
        self.world, self.scenario, self.name, self.logs = world, scenario, name, logs
        self.deaths = 0
        self._faults, self._again = faults, again
        self.faults = faults()
        self.lives: list[_Life] = []
        self.numbers: set[int] = set()  # of the trials that have had a Job
        self._acts = list(scenario.acts)
        self._admin = psycopg2.connect(world.database.url)
        self._admin.autocommit = True
        self._watcher = Watcher()
        self._overtaken = False  # a commit may have happened after the latest look had read the rows

    # What users' scripts may ask and do

    @property
    def uid(self) -> str:
        return self.lives[-1].uid

    async def status(self) -> dict[str, Any]:
        return (await self.world.study(self.name)).get("status") or {}

    def records(self) -> Records | None:
        """Of the Study as it is now; None before its rows are made."""
        return self.all_records().get(self.uid)

    def all_records(self) -> dict[str, Records]:
        return records.read(self._admin, self.world.namespace, self.name)

    async def apply(self, **more: Any) -> None:
        """Makes the Study, or makes it again."""
        limits = {"successfulJobsHistoryLimit": 0, "failedJobsHistoryLimit": 0}
        study = await self.world.apply(self.name, **{**limits, **self.scenario.spec, **more})
        reporter = self.world.database.connect_as_reporter(self.world.reporting(study).key)
        reporter.autocommit = True
        self.lives.append(_Life(study, reporter))
        self._watcher.begin(study)

    async def edit(self, **spec: Any) -> None:
        self._watcher.edited(await self.world.edit(self.name, **spec))

    async def delete(self) -> None:
        await self.world.delete_study(self.name)
        self._watcher.deleted = True

    # The play

    async def run(self) -> None:
        """Plays until the study has ended and another look would write nothing.

        Raises:
            AssertionError: what must never be has been, or the study does not end.
        """
        if self.logs is not None:
            self.world.logs_from = self.logs.url
        more = await self.scenario.prepare(self) if self.scenario.prepare else {}
        await self.apply(**more)
        try:
            self._start(self.faults)
            for _ in range(150):
                before = len(self.faults.writes)
                went_well = await self._look()
                jobs = await self.world.jobs(self.name)
                self._check(jobs)
                if went_well and len(self.faults.writes) == before and await self._nothing_left(jobs):
                    await self.check_end(jobs, self.scenario.phase, self.scenario.reason)
                    return
                await self._let_users_act(jobs)
                await self._let_pods_act(jobs)
                self.world.ahead += PRUNED_GRACE
            raise AssertionError(f"the study does not end: {await self.status()}")
        except AssertionError as error:
            error.add_note(f"went wrong: {self.faults.struck}, after {self.faults.writes}")
            raise
        finally:
            await self.world.late_writes_arrive()
            self._admin.close()
            for life in self.lives:
                life.reporter.close()

    async def _nothing_left(self, jobs: list[Manifest]) -> bool:
        """Whether nobody is about to do anything any more; writes that were on their way arrive."""
        late = await self.world.late_writes_arrive()
        return not late and not self._acts and all(map(has_ended, jobs))

    def _start(self, faults: Faults) -> None:
        self.world.operators_cluster.faults = self.world.operators_database.faults = self.faults = faults
        self.world.start_operator()

    async def _look(self) -> bool:
        """One look. False if it did not come to its end; a dead operator is followed by a new one."""
        database = self.world.operators_database
        landed = database.landed
        try:
            return await self._look_once()
        finally:
            self._overtaken = database.sent > landed

    async def _look_once(self) -> bool:
        try:
            look = await self.world.look(self.name)
            await self.world.logs_are_read(self.name)
            self.faults.check_alive()  # what dies while it reads a log dies alone
            woken, self.world.woken = self.world.woken, []
            return not (look.failed or woken) and look.gone is self._watcher.deleted
        except (ApiError, StorageUnavailable, StorageError):
            return False
        except Died:
            self.deaths += 1
            await until(lambda: self.world.operators_cluster.calls == 0)  # a dead process sends nothing later
            struck = self.faults.struck
            self._start(self._faults() if self._again else Faults())
            self.faults.struck = [*struck, *self.faults.struck]
            return False

    async def _let_users_act(self, jobs: list[Manifest]) -> None:
        if self._acts and await self._acts[0](self, jobs):
            del self._acts[0]

    async def _let_pods_act(self, jobs: list[Manifest]) -> None:
        for job in sorted(jobs, key=number_of):
            if has_ended(job) or "deletionTimestamp" in job["metadata"]:
                continue
            life = next(life for life in self.lives if life.uid == job["metadata"]["ownerReferences"][0]["uid"])
            uid, number, attempt = job["metadata"]["uid"], number_of(job), attempt_of(job["metadata"]["name"])
            if uid not in life.pods:
                trial_id = int(job["metadata"]["annotations"][TRIAL_ID_ANNOTATION])
                scripts = self.scenario.scripts.get(number) or self.scenario.scripts[max(self.scenario.scripts)]
                life.pods[uid] = Pod(self, life.reporter, trial_id, scripts[min(attempt, len(scripts) - 1)])
            self.numbers.add(number)
            await self._let_pod_act(life.pods[uid], job, number)
        deleting = any("deletionTimestamp" in job["metadata"] for job in jobs)
        if deleting or self._watcher.deleted or len(self.lives) > 1 or "checkpoints" in self.scenario.spec:
            await self.world.collect_garbage(self.name)

    async def _let_pod_act(self, pod: Pod, job: Manifest, number: int) -> None:
        if self.uid != job["metadata"]["ownerReferences"][0]["uid"] or self._watcher.deleted:
            return  # the garbage collector ends it
        ended, failed = pod.step()
        if pod.no_room:
            if not (job.get("status") or {}).get("startTime"):
                await self.world.begin_job(number, study=self.name)
            return
        if self.scenario.pods and pod.name is None:
            status: dict[str, Any] = {"phase": "Running", "containerStatuses": [container_status({"running": {}})]}
            if pod.waits:
                condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
                status = {"phase": "Pending", "conditions": [{**condition, "message": pod.waits}]}
            pod.name = await self.world.start_pod(number, status, study=self.name)
        if not ended:
            return
        state = {"terminated": {"exitCode": pod.exit_code, "reason": "Error" if pod.exit_code else "Completed"}}
        over = {"phase": "Failed" if failed else "Succeeded", "containerStatuses": [container_status(state)]}
        if self.scenario.prints:
            assert self.logs is not None
            pod.name = await self.world.start_pod(number, over, study=self.name)
            self.logs.starts(pod.name)
            await self.logs.prints(pod.name, *pod.prints)
            await self.logs.ends(pod.name)
        elif pod.name is not None:
            await self.world.set_pod_status(pod.name, over)
        elif not failed and not pod.finished:  # otherwise the pod was deleted, and the trial runs again
            pod.name = await self.world.start_pod(number, over, study=self.name)
        message = DISRUPTED if failed == "PodFailurePolicy" else ""
        await self.world.end_job(number, failed, message, study=self.name)

    # What must be so

    def _check(self, jobs: list[Manifest]) -> None:
        """What must be so at any moment."""
        known = self.all_records()
        self._watcher.check(known, jobs)
        if (here := known.get(self.uid)) is not None and not self._watcher.deleted and not self._overtaken:
            assert_remembered(self.world.remembered(self.name), here)

    async def check_end(self, jobs: list[Manifest], phase: str, reason: str) -> None:
        """What must be so when the study has ended, in this phase and for this reason, or is gone."""
        scenario, known, here = self.scenario, self.all_records(), self.records()
        assert self._unstored(known) == {}, "no final value is lost"
        assert records.left_overs(self._admin) == {}
        for uid, earlier in known.items():
            if uid != self.uid or self._watcher.deleted:
                assert "RUNNING" not in earlier.states().values(), "nothing is left of a Study that is gone"
                assert not earlier.reports, "nobody reports to a Study that is gone"
        await self._check_objects(jobs, here)
        if not self._watcher.deleted:
            assert here is not None
            await self._check_status(here, phase, reason)
            if scenario.ends is not None:
                assert here.states() == scenario.ends, f"{here.states()}, not {scenario.ends}"
        if scenario.check is not None:
            await scenario.check(self, here)

    def _unstored(self, known: Mapping[str, Records]) -> dict[int, Any]:
        """Final values that a pod has stored, by trial, and that are not those of the row."""
        told = {trial.trial_id: trial.values for here in known.values() for trial in here.trials}
        pods = [pod for life in self.lives for pod in life.pods.values() if life.uid in known]
        return {p.trial_id: p.finished for p in pods if p.finished and told[p.trial_id] != p.finished}

    async def _check_objects(self, jobs: list[Manifest], here: Records | None) -> None:
        gone = self._watcher.deleted
        for kind, found in (await self.world.objects_of(self.name)).items():
            owners = {item["metadata"]["ownerReferences"][0]["uid"] for item in found}
            assert owners <= (set() if gone else {self.uid}), f"{kind} of a Study that is gone"
            if kind == "secrets" and not gone:
                assert len(found) == 1, "one Secret for all trials"
        if here is None or gone:
            return
        expected = records.expected_status(here, self._watcher.spec)
        left = {job["metadata"]["name"] for job in jobs}
        best = expected["best"]
        kept = {best[2]} if best and best[2] else set()
        kept |= {trial.job for trial in here.trials if trial.job and trial.number in (expected["front"] or ())}
        assert kept - self._watcher.deleted_jobs <= left <= kept, "only the best trials' Jobs are left"

    async def _check_status(self, here: Records, phase: str, reason: str) -> None:
        study = await self.world.study(self.name)
        status, spec = study["status"], self._watcher.spec
        shown, expected = records.shown_status(status, spec), records.expected_status(here, spec)
        assert shown == expected, f"the status says {shown}, the rows {expected}"
        assert status["phase"] == phase, f"{status['phase']}, not {phase}"
        conditions = {condition["type"]: condition for condition in status["conditions"]}
        succeeded = str(status["phase"] == "Succeeded")
        never_true = dict.fromkeys(("Suspended", "Complete", "Failed"), "False")
        assert never_true | {type_: condition["status"] for type_, condition in conditions.items()} == {
            "Accepted": "True",
            "StorageReady": "True",
            "Progressing": "False",
            "Suspended": "False",
            "Finished": "True",
            "Complete": succeeded,
            "Failed": str(status["phase"] == "Failed"),
        }
        assert conditions["Finished"]["reason"] == reason
        for condition in conditions.values():
            assert condition["observedGeneration"] == study["metadata"]["generation"]


def assert_remembered(remembered: list[tuple[int, str]] | None, here: Records) -> None:
    """What the operator remembers is what the database has, but for what somebody has enqueued since."""
    if remembered is not None:
        states = [(trial.number, trial.state) for trial in here.trials]
        assert remembered == states[: len(remembered)]
        assert {state for _, state in states[len(remembered) :]} <= {"WAITING"}


# Scripts of pods


def succeeds(*values: float, reports: Mapping[int, float] | None = None, **constraints: float) -> Script:
    """Reports, stores its final values, and ends a moment after that."""

    def script(pod: Pod) -> Generator[None, None, None]:
        for step, intermediate in (reports or {}).items():
            pod.report(step, intermediate)
        yield
        pod.finish(*values, **constraints)
        yield

    return script


def waits_for(condition: Callable[[Play], bool], then: Script) -> Script:
    def script(pod: Pod) -> Generator[None, None, str | None]:
        while not condition(pod.play):
            yield
        return (yield from then(pod))

    return script


def is_hopeless(pod: Pod) -> Generator[None, None, None]:
    """Reports the same bad value for ever, and takes no notice when it is pruned."""
    for step in itertools.count(1):
        pod.report(step, 0.1)
        yield


def runs_for_ever(_: Pod) -> Generator[None, None, None]:
    while True:
        yield


def reports_for_ever(reports: Mapping[int, float]) -> Script:
    """Reports, and goes on."""

    def script(pod: Pod) -> Generator[None, None, None]:
        for step, value in reports.items():
            pod.report(step, value)
        yield from runs_for_ever(pod)

    return script


def crashes(pod: Pod) -> Generator[None, None, str]:
    yield
    pod.exit_code = 1
    return "BackoffLimitExceeded"


def ends_without_value(pod: Pod) -> Generator[None, None, None]:
    yield


def is_evicted(pod: Pod) -> Generator[None, None, str]:
    pod.report(1, 0.9)
    yield
    return "PodFailurePolicy"


def exits_with(code: int) -> Script:
    def script(pod: Pod) -> Generator[None, None, str]:
        yield
        pod.exit_code = code
        return "BackoffLimitExceeded"

    return script


def calls_itself_infeasible(pod: Pod) -> Generator[None, None, None]:
    yield
    pod.is_infeasible("out of memory")
    yield


def is_never_scheduled(pod: Pod) -> Generator[None, None, None]:
    pod.waits = "0/1 nodes are available"
    while True:
        yield


def gets_a_pod_late(condition: Callable[[Play], bool], then: Script) -> Script:
    """Its Job may not make it until something is so, and then only when it tries for the third time."""

    def script(pod: Pod) -> Generator[None, None, str | None]:
        pod.no_room = True
        while not condition(pod.play):
            yield
        yield
        yield
        pod.no_room = False
        return (yield from then(pod))

    return script


def prints(*lines: str) -> Script:
    def script(pod: Pod) -> Generator[None, None, None]:
        yield
        pod.prints += lines

    return script


async def jump(play: Play, seconds: float) -> None:
    play.world.ahead += timedelta(seconds=seconds)


async def settled(*plays: Play) -> None:
    """Runs several plays at once, which know nothing of each other."""
    await asyncio.gather(*(play.run() for play in plays))


def key_of(play: Play) -> StudyKey:
    return StudyKey(play.world.namespace, play.name)

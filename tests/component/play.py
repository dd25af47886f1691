"""A whole study with pods that follow a script, and an eye on what must never happen meanwhile."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Generator, Mapping
from typing import Any

import psycopg2
from faults import Died, Faults
from psycopg2.extensions import connection
from waiting import until
from world import Manifest, World, counted, has_ended, number_of, params_of, secret_of

from study_operator.cluster import ApiError
from study_operator.model.job import TRIAL_ID_ANNOTATION
from study_operator.model.plan import PRUNED_GRACE
from study_operator.model.trial import attempt_of
from study_operator.reconcile import Key
from study_operator.storage.database import StorageUnavailable

# Does one thing between two yields. Returns why its Job fails, or None when that completes.
Script = Callable[["Pod"], Generator[None, None, str | None]]

PRUNER = {"name": "SuccessiveHalving", "options": {"min_resource": 1, "reduction_factor": 2}}


class Pod:
    """The pod of one Job."""

    def __init__(self, reporter: connection, trial_id: int, script: Script) -> None:
        self._reporter, self.trial_id = reporter, trial_id
        self._steps = script(self)
        self.finished: list[float] | None = None

    def report(self, step: int, value: float) -> bool:
        return self._call("report(%s, %s, %s)", step, value)

    def finish(self, value: float) -> None:
        if not self._call("finish(%s, %s)", [value]):
            self.finished = [value]

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


def succeeds(value: float, reports: Mapping[int, float]) -> Script:
    """Reports, stores its final value, and ends a moment after that."""

    def script(pod: Pod) -> Generator[None, None, None]:
        for step, intermediate in reports.items():
            pod.report(step, intermediate)
        yield
        pod.finish(value)
        yield

    return script


def is_hopeless(pod: Pod) -> Generator[None, None, None]:
    """Reports the same bad value for ever, and takes no notice when it is pruned."""
    for step in itertools.count(1):
        pod.report(step, 0.1)
        yield


def crashes(pod: Pod) -> Generator[None, None, str]:
    yield
    return "BackoffLimitExceeded"


def is_evicted(pod: Pod) -> Generator[None, None, str]:
    pod.report(1, 0.9)
    yield
    return "PodFailurePolicy"


# Of four trials, two at a time, one is pruned, one fails, and one is evicted and runs again. The first reports far
# enough for the second to be judged. Each trial's scripts are those of its Jobs, one after the other.
SCRIPTS: dict[int, list[Script]] = {
    0: [succeeds(0.5, dict.fromkeys((1, 2, 4, 8), 0.9))],
    1: [is_hopeless],
    2: [crashes],
    3: [is_evicted, succeeds(0.7, {1: 0.95})],
}
ENDS = {0: "COMPLETE", 1: "PRUNED", 2: "FAIL", 3: "COMPLETE"}


class Play:
    """One study of `SCRIPTS`, from its creation to its end, whatever goes wrong on the way.

    Args:
        faults: what goes wrong in the first process of the operator, and if `again` in all later ones.
    """

    def __init__(self, world: World, name: str, faults: Callable[[], Faults], again: bool = False) -> None:
        self.world, self.name = world, name
        self.deaths = 0
        self._faults, self._again = faults, again
        self.faults = faults()
        self._pods: dict[str, Pod] = {}
        self._uids: dict[str, str] = {}
        self._ends: dict[int, Any] = {}
        self._admin = psycopg2.connect(world.database.url)
        self._admin.autocommit = True

    async def run(self) -> None:
        """Plays until the study has ended and another look would write nothing.

        Raises:
            AssertionError: what must never be has been, or the study does not end.
        """
        study = await self.world.apply(
            self.name,
            parallelism=2,
            maxTrials=4,
            pruner=PRUNER,
            successfulJobsHistoryLimit=0,
            failedJobsHistoryLimit=0,
        )
        self._reporter = self.world.database.connect_as_reporter(self.world.reporting(study).key)
        self._reporter.autocommit = True
        try:
            self._start(self.faults)
            for _ in range(150):
                before = len(self.faults.writes)
                went_well = await self._look()
                jobs = await self.world.jobs(self.name)
                self._check(jobs)
                if went_well and len(self.faults.writes) == before and all(map(has_ended, jobs)):
                    await self._check_end(jobs)
                    return
                await self._let_pods_act(jobs)
                self.world.ahead += PRUNED_GRACE
            raise AssertionError(f"the study does not end: {(await self.world.study(self.name))['status']}")
        except AssertionError as error:
            error.add_note(f"went wrong: {self.faults.struck}, after {self.faults.writes}")
            raise
        finally:
            self._admin.close()
            self._reporter.close()

    def _start(self, faults: Faults) -> None:
        self.world.operators_cluster.faults = self.world.operators_database.faults = self.faults = faults
        self.world.start_operator()

    async def _look(self) -> bool:
        """One look. False if it did not come to its end; a dead operator is followed by a new one."""
        try:
            return not (await self.world.look(self.name)).failed
        except (ApiError, StorageUnavailable):
            return False
        except Died:
            self.deaths += 1
            await until(lambda: self.world.operators_cluster.calls == 0)  # a dead process sends nothing later
            struck = self.faults.struck
            self._start(self._faults() if self._again else Faults())
            self.faults.struck = [*struck, *self.faults.struck]
            return False

    async def _let_pods_act(self, jobs: list[Manifest]) -> None:
        for job in sorted(jobs, key=number_of):
            if has_ended(job) or "deletionTimestamp" in job["metadata"]:
                continue
            number, uid = number_of(job), job["metadata"]["uid"]
            if uid not in self._pods:
                trial_id = int(job["metadata"]["annotations"][TRIAL_ID_ANNOTATION])
                self._pods[uid] = Pod(self._reporter, trial_id, SCRIPTS[number][attempt_of(job["metadata"]["name"])])
            ended, failed = self._pods[uid].step()
            if ended:
                await self.world.end_job(number, failed, "has condition DisruptionTarget", study=self.name)
        if any("deletionTimestamp" in job["metadata"] for job in jobs):
            await self.world.remove_finalizers(self.name)

    def _check(self, jobs: list[Manifest]) -> None:
        """What must be so at any moment."""
        rows = self._rows()
        self._check_memory(rows)
        assert [number for _, number, *_ in rows] == list(range(len(rows))), "numbers without gaps, none twice"
        assert len(rows) <= 4, "no more than maxTrials"
        active = [number_of(job) for job in jobs if not has_ended(job)]
        assert len(active) <= 2, "no more active Jobs than parallelism"
        assert len(set(active)) == len(active), "no two pods for one trial"
        by_number = {number: (trial_id, params) for trial_id, number, _, params, *_ in rows}
        for job in jobs:
            number, name = number_of(job), job["metadata"]["name"]
            assert self._uids.setdefault(name, job["metadata"]["uid"]) == job["metadata"]["uid"], (
                "each Job is made once"
            )
            assert number in by_number, "the row comes before the Job"
            trial_id, params = by_number[number]
            assert job["metadata"]["annotations"][TRIAL_ID_ANNOTATION] == str(trial_id)
            assert len(params_of(job)) == params, "all parameters are stored with the row"
        for trial_id, number, state, _, *end in rows:
            if state != "RUNNING":
                assert self._ends.setdefault(trial_id, (number, state, end)) == (number, state, end), "told once"

    def _check_memory(self, rows: list[tuple]) -> None:
        """What the operator remembers of the trials is what the database has; or it remembers nothing."""
        live = self.world.reconciler._live.get(Key(self.world.namespace, self.name))
        if live is not None and live._sampling is not None:
            remembered = [(trial.number, trial.state.name) for trial in live._sampling._study.trials]
            assert remembered == [(number, state) for _, number, state, *_ in rows]

    async def _check_end(self, jobs: list[Manifest]) -> None:
        """What must be so when the study has ended."""
        rows = self._rows()
        assert {number: state for _, number, state, *_ in rows} == ENDS
        finals = {trial_id: values for trial_id, _, state, _, _, values, _ in rows if state == "COMPLETE"}
        stored = {pod.trial_id: pod.finished for pod in self._pods.values() if pod.finished}
        assert finals == stored, "no final value is lost"
        reasons = {number: json.loads(failure)["reason"] for _, number, *_, failure in rows if failure}
        assert reasons == {2: "BackoffLimitExceeded"}
        left = [job["metadata"]["name"] for job in jobs]
        assert left == [f"{self.name}-3-r1"], f"only the best trial's Job is left, not {left}"
        assert {secret_of(job) for job in jobs} == set(await self.world.secrets(self.name))
        status = (await self.world.study(self.name))["status"]
        assert counted(status) == {"total": 4, "complete": 2, "pruned": 1, "failed": 1}
        assert status["failures"] == {"program": 1, "infrastructure": 1, "infeasible": 0}
        assert (status["phase"], status["progress"]) == ("Succeeded", "4/4")
        assert (status["bestTrial"]["number"], status["bestTrial"]["values"]) == (3, ["0.7"])
        conditions = {condition["type"]: condition["status"] for condition in status["conditions"]}
        assert conditions == {
            "Accepted": "True",
            "StorageReady": "True",
            "Progressing": "False",
            "Suspended": "False",
            "Complete": "True",
            "Failed": "False",
        }
        assert {failure["trial"]: failure["class"] for failure in status["recentFailures"]} == {
            2: "Program",
            3: "Infrastructure",
        }

    def _rows(self) -> list[tuple]:
        """Every trial: its id, number, state, number of parameters, time of its end, final values, failure."""
        with self._admin.cursor() as cursor:
            cursor.execute(
                "SELECT t.trial_id, t.number, t.state::text,"
                " (SELECT count(*) FROM trial_params p WHERE p.trial_id = t.trial_id), t.datetime_complete,"
                " (SELECT array_agg(v.value ORDER BY v.objective) FROM trial_values v WHERE v.trial_id = t.trial_id),"
                " (SELECT value_json FROM trial_user_attributes a WHERE a.trial_id = t.trial_id"
                "  AND a.key = 'study_operator:failure')"
                " FROM trials t JOIN studies s USING (study_id)"
                " WHERE s.study_name LIKE %s ORDER BY t.number, t.trial_id",
                (f"{self.world.namespace}/{self.name}-%",),
            )
            return cursor.fetchall()

"""Logs are followed to their ends, each line once, whatever breaks. Pods and rows are real, logs are `logserver`'s."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from faults import Faults, Wrong
from logserver import Fault, LogServer, as_given_out
from waiting import until
from world import World, container_status, job_template

from study_operator.model.job_state import JobPhase, JobState
from study_operator.model.study import STUDY_LABEL, Study, StudyKey, parse
from study_operator.model.trial import TrialRow, TrialState
from study_operator.podlogs import follower, tail
from study_operator.podlogs.follower import Follower
from study_operator.podlogs.stream import PodLogs
from study_operator.podlogs.tail import Tails
from study_operator.storage.printed_output import Output

KEY = StudyKey("team", "study")
JOB = "job-0"


class Scene:
    """One trial's Job, its pods, and the operator's follower."""

    def __init__(self, world: World, server: LogServer, study: Study) -> None:
        self.world, self.server, self.study = world, server, study
        self.trial_id = world.database.running_trial()
        self.job = JobState(JOB, "job-uid", 0, self.trial_id, JobPhase.ACTIVE, datetime.now(UTC), pods=1, ready=1)
        self.woken: list[tuple[str, str]] = []
        configuration = copy.copy(world._configuration)
        configuration.host = server.url
        configuration.api_key = {}
        self._configuration = configuration
        self._number = 0
        self._followers: list[tuple[Follower, PodLogs]] = []
        self.start_operator()

    def start_operator(self, and_stop: bool = True) -> None:
        """A new process, which knows nothing of what the old one had in memory; that one has stopped somewhere."""
        for old, _ in self._followers if and_stop else ():
            old.forget(KEY)
        logs = PodLogs(self._configuration)
        tails = Tails(self.world.cluster, logs, self.world.threads, self.output)
        self.follower = Follower(tails, self.woken.append)
        self._followers.append((self.follower, logs))

    @property
    def output(self) -> Output:
        return Output(self.world.operators_database)

    async def close(self) -> None:
        for one, logs in self._followers:
            await one.close()
            await logs.close()

    async def pod(self, phase: str = "Running", restarts: int = 0, **labels: str) -> str:
        """A pod of the Job, whose program runs. Returns its name."""
        self._number += 1
        name = f"{JOB}-{self._number}"
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": JOB, "uid": "job-uid", "controller": True}
        metadata = {
            "name": name,
            "namespace": self.world.namespace,
            "labels": {STUDY_LABEL: "study", "batch.kubernetes.io/job-name": JOB, **labels},
            "ownerReferences": [owner],
        }
        spec = {"restartPolicy": "OnFailure", "containers": [{"name": "trial", "image": "trial:1"}]}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
        await self.world.cluster._call("POST", f"/api/v1/namespaces/{self.world.namespace}/pods", body=pod)
        await self.status(name, phase, restarts)
        self.server.starts(name)
        return name

    async def status(self, pod: str, phase: str, restarts: int = 0) -> None:
        state: dict[str, Any] = {"running": {}} if phase == "Running" else {"terminated": {"exitCode": 0}}
        status = {**container_status(state), "restartCount": restarts}
        await self.world.set_pod_status(pod, {"phase": phase, "containerStatuses": [status]})

    async def delete(self, pod: str) -> None:
        path = f"/api/v1/namespaces/{self.world.namespace}/pods/{pod}"
        await self.world.cluster._call("DELETE", path, body={"gracePeriodSeconds": 0})
        self.server.pods.pop(pod, None)

    def look(self, phase: JobPhase = JobPhase.ACTIVE, **fields: Any) -> dict[str, str]:
        """What a look at the study does; the Job is in this phase. Returns what has been read to the end."""
        job = JobState(**{**vars(self.job), "phase": phase, **fields})
        row = TrialRow(self.trial_id, 0, TrialState.RUNNING, {}, JOB)
        drained = self.follower.drained(KEY, [job])
        self.follower.sync(KEY, self.study, [job], {0: row})
        return drained

    async def drained(self, phase: JobPhase = JobPhase.COMPLETE) -> str:
        """The Job has ended: reads on until all is read. Returns why not all could be."""
        self.woken.clear()
        self.look(phase)
        await until(lambda: self.woken)
        return self.look(phase)[JOB]

    def reports(self) -> list[tuple[int, float]]:
        return [(r.step, r.value) for r in self.world.database.trials().reports({self.trial_id: 0}, 10_000)[0]]

    def results(self) -> list[tuple[list[float], dict[str, float]]]:
        return self.world.database.query("SELECT vals, constraint_values FROM study_operator.results")

    def bad(self) -> list[tuple[int, str]]:
        return self.world.database.query("SELECT count, last FROM study_operator.bad_reports")

    async def has_reported(self, count: int) -> None:
        await until(lambda: len(self.reports()) >= count)


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is waited for in seconds takes milliseconds."""
    monkeypatch.setattr(follower, "_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(follower, "_LONGEST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(tail, "BATCH_SECONDS", 0.02)


@pytest.fixture
async def server() -> AsyncIterator[LogServer]:
    server = LogServer()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def make_scene(world: World, server: LogServer) -> AsyncIterator[Callable[..., Awaitable[Scene]]]:
    """Scenes of Studies with the given fields."""
    made: list[Scene] = []

    async def make(**spec: Any) -> Scene:
        manifest = await world.apply(metrics={"from": "Stdout"}, **spec)
        made.append(Scene(world, server, parse(manifest)))
        return made[-1]

    yield make
    for scene in made:
        await scene.close()


@pytest.fixture
async def scene(make_scene: Callable[..., Awaitable[Scene]]) -> Scene:
    return await make_scene(constraints=[{"name": "ms", "max": 5}])


def scores(*numbers: int) -> list[str]:
    return [f"score={number}" for number in numbers]


def counted(count: int) -> list[tuple[int, float]]:
    """The reports of a program that prints score=0, score=1 and so on."""
    return [(number, float(number)) for number in range(count)]


async def test_a_trial_is_followed_while_it_runs_and_ends_with_its_last_values(scene):
    pod = await scene.pod()
    scene.look()
    await scene.server.prints(pod, "loading", "epoch=1 score=0.1", "score: oops")
    await scene.has_reported(1)
    await scene.server.prints(pod, "epoch=2 score=0.2", "ms=4", "epoch=9 score=0.7")
    await scene.has_reported(3)
    assert scene.reports() == [(1, 0.1), (2, 0.2), (9, 0.7)]
    assert scene.results() == []
    await scene.server.prints(pod, "ms=3 epoch=10 score=0.9 and this line has no end", end=b"")
    await scene.server.ends(pod)
    await scene.status(pod, "Succeeded")
    assert await scene.drained() == ""
    assert scene.reports() == [(1, 0.1), (2, 0.2), (9, 0.7), (10, 0.9)]
    assert scene.results() == [([0.9], {"ms": 3.0})]
    assert scene.bad() == [(1, "score is 'oops', which is no number: score: oops")]


async def test_what_has_no_mark_counts_only_while_there_is_nothing_better(scene):
    pod = await scene.pod()
    scene.look()
    await scene.server.prints(
        pod, "score improved from 1 to 2", "epoch 1 score 0.1", "score=0.2 epoch=2", "best score 9"
    )
    await scene.has_reported(2)
    scene.start_operator()  # it has forgotten which values had a mark
    scene.look()
    await scene.server.prints(pod, "best score is 8, epoch 8", "ms 3")
    await scene.has_reported(3)
    await scene.server.ends(pod)
    await scene.status(pod, "Succeeded")
    assert await scene.drained() == ""
    assert scene.results() == [([0.2], {"ms": 3.0})]
    ((count, last),) = scene.bad()
    assert (count, last) == (1, "score has two readings, 1 and 2: print score=VALUE: score improved from 1 to 2")


async def test_nothing_is_lost_or_doubled_when_the_operator_is_killed_again_and_again(scene):
    pod = await scene.pod()
    for i in range(12):
        scene.look()
        # Many lines in one nanosecond, lines in between that say nothing, and a clock that is put back.
        await scene.server.prints(pod, *scores(*range(10 * i, 10 * i + 5)), apart=0)
        await scene.server.prints(
            pod, "noise", *scores(*range(10 * i + 5, 10 * i + 10)), apart=[1, -1, -300_000_000][i % 3]
        )
        if i % 4:
            await scene.has_reported(10 * i + i % 7)
        scene.start_operator()
    await scene.server.ends(pod)
    await scene.status(pod, "Succeeded")
    assert await scene.drained() == ""
    assert scene.reports() == counted(120)
    assert scene.results() == [([119.0], {})]


@pytest.mark.parametrize("quietly", [False, True])
async def test_nothing_is_lost_or_doubled_when_connections_break(scene, quietly):
    pod = await scene.pod()
    scene.server.faults = [Fault(after=count, quietly=quietly) for count in (0, 1, 20, 40, 41, 42, 43, 44, 90, 200)]
    scene.server.faults += [Fault(status=500), Fault(status=429), Fault(after=300)]
    scene.look()
    for i in range(10):
        await scene.server.prints(pod, *scores(*range(5 * i, 5 * i + 5)), apart=i % 2)
        await scene.has_reported(5 * i + 5)
    assert scene.server.faults == []
    scene.server.faults = [Fault(after=count, quietly=quietly) for count in (30, 100, 2200)]
    await scene.server.prints(pod, *scores(*range(50, 60)))
    await scene.server.ends(pod)
    await scene.status(pod, "Succeeded")
    assert await scene.drained() == ""
    assert scene.reports() == counted(60)
    assert scene.results() == [([59.0], {})]


async def test_a_value_that_is_cut_off_is_not_taken_for_another(scene):
    pod = await scene.pod("Succeeded")
    await scene.server.prints(pod, "score=0.1234", "score=0.5678", end=b"")
    whole = sum(map(len, as_given_out(scene.server.pods[pod][-1].lines)))
    scene.server.faults = [Fault(after=whole - 2, quietly=True), Fault(after=whole - 3, quietly=True)]
    await scene.server.ends(pod)
    assert await scene.drained() == ""
    assert scene.results() == [([0.5678], {})]


@pytest.mark.parametrize("wrong", [Wrong.LOST_BEFORE, Wrong.LOST_AFTER])
async def test_nothing_is_lost_or_doubled_when_the_database_breaks_off(scene, wrong):
    pod = await scene.pod()
    faults = scene.world.operators_database.faults = Faults(lambda count, name: wrong if count % 3 == 1 else None)
    scene.look()
    for i in range(8):
        await scene.server.prints(pod, *scores(*range(5 * i, 5 * i + 5)))
        await scene.has_reported(5 * i + 5)
    await scene.server.ends(pod)
    await scene.status(pod, "Succeeded")
    await scene.server.prints(pod, "ms=1")
    assert await scene.drained() == ""
    assert len(faults.struck) > 2
    assert scene.reports() == counted(40)
    assert scene.results() == [([39.0], {"ms": 1.0})]


async def test_two_operators_that_read_the_same_log_store_each_line_once(scene):
    pod = await scene.pod()
    scene.look()
    old, scene.follower = scene.follower, None
    scene.start_operator(and_stop=False)
    scene.look()
    for i in range(10):
        await scene.server.prints(pod, "score=oops", *scores(*range(5 * i, 5 * i + 5)))
        await scene.has_reported(5 * i + 5)
    await scene.server.ends(pod)
    await scene.status(pod, "Succeeded")
    assert await scene.drained() == ""
    old.forget(KEY)
    assert scene.reports() == counted(50)
    assert scene.bad()[0][0] == 10


async def test_the_runs_of_a_container_that_is_restarted_are_read_one_after_the_other(scene):
    pod = await scene.pod()
    scene.look()
    await scene.server.prints(pod, *scores(0, 1), "epoch=50 score=0.5")
    await scene.has_reported(3)
    scene.start_operator()  # and nobody reads how the first run ends
    await scene.server.prints(pod, *scores(2), "epoch=51 score=0.6")
    await scene.server.restarts(pod)
    await scene.status(pod, "Running", restarts=1)
    await scene.server.prints(pod, "score=7.5", "epoch=52 score=0.7")
    scene.look()
    await scene.has_reported(6)
    assert scene.reports() == [*counted(2), (50, 0.5), (2, 2.0), (51, 0.6), (52, 0.7)], "a step's first value stands"
    await scene.server.restarts(pod)
    await scene.status(pod, "Running", restarts=2)
    await scene.server.prints(pod, "epoch=53 score=0.8")
    await scene.has_reported(7)
    assert scene.reports()[-1] == (53, 0.8)


async def test_a_pod_that_follows_another_goes_on_with_the_trial(scene):
    first = await scene.pod()
    scene.look()
    await scene.server.prints(first, *scores(0, 1, 2), "ms=4")
    await scene.has_reported(3)
    await scene.server.prints(first, *scores(3))
    await scene.server.ends(first)
    await scene.status(first, "Failed")
    second = await scene.pod()
    scene.look(pods=2)
    await scene.server.prints(second, "resumed", "score=10", "epoch=4 score=0.5")
    await scene.has_reported(5)
    await scene.server.ends(second)
    await scene.status(second, "Succeeded")
    assert await scene.drained() == ""
    assert scene.reports() == [*counted(4), (4, 0.5)]
    words = "step 0 came again, with 10.0: the first value of a step stands, and others are no reports"
    assert scene.bad() == [(1, words)]
    assert scene.results() == [([0.5], {"ms": 4.0})], "the last value of each name, whichever pod printed it"


async def test_pods_that_nobody_followed_are_read_in_their_order(scene):
    await scene.server.prints(await scene.pod("Failed"), *scores(0, 1))
    await until(lambda: asyncio.sleep(1.01, True), 5)  # creation times have seconds
    await scene.server.prints(await scene.pod("Succeeded"), "score=5", "score=5", "score=2")
    assert await scene.drained() == ""
    assert scene.reports() == counted(3)
    assert scene.results() == [([2.0], {})]


async def test_only_index_0_of_an_indexed_job_reports(make_scene):
    template = job_template()
    template["spec"] |= {"completionMode": "Indexed", "completions": 2, "parallelism": 2}
    scene = await make_scene(jobTemplate=template)
    index = "batch.kubernetes.io/job-completion-index"
    other, pod = await scene.pod(**{index: "1"}), await scene.pod(**{index: "0"})
    scene.look()
    await scene.server.prints(other, "score=99")
    await scene.server.prints(pod, *scores(0, 1))
    await scene.has_reported(2)
    for name in (other, pod):
        await scene.server.ends(name)
        await scene.status(name, "Succeeded")
    assert await scene.drained() == ""
    assert (scene.reports(), scene.results()) == (counted(2), [([1.0], {})])


async def test_with_several_objectives_only_the_last_values_count(make_scene):
    objectives = [{"name": "score", "direction": "Maximize"}, {"name": "cost", "direction": "Minimize"}]
    scene = await make_scene(objectives=objectives)
    pod = await scene.pod("Succeeded")
    await scene.server.prints(pod, "score=1 cost=2", "cost=3")
    assert await scene.drained() == ""
    assert (scene.reports(), scene.results()) == ([], [([1.0, 3.0], {})])


async def test_a_program_that_never_printed_its_objective_has_no_result(scene):
    await scene.server.prints(await scene.pod("Succeeded"), "ms=3", "done")
    assert await scene.drained() == ""
    assert scene.results() == []


async def test_a_failed_job_has_no_result_but_keeps_its_reports(scene):
    await scene.server.prints(await scene.pod("Failed"), *scores(0, 1))
    assert await scene.drained(JobPhase.FAILED) == ""
    assert (scene.reports(), scene.results()) == (counted(2), [])


async def test_a_log_that_is_gone_gives_no_result(scene):
    pod = await scene.pod()
    scene.look()
    await scene.server.prints(pod, *scores(0, 1))
    await scene.has_reported(2)
    scene.start_operator()
    await scene.delete(pod)
    assert await scene.drained() == "its pod was gone before its log could be read to its end"
    assert scene.results() == [], "what was read last need not be the last value"


async def test_a_log_that_the_kubelet_has_lost_gives_no_result(scene):
    await scene.pod("Succeeded")
    scene.server.instead = b"unable to retrieve container logs for containerd://0123"
    words = "its log could not be read to its end: unable to retrieve container logs for containerd://0123"
    assert await scene.drained() == words
    assert scene.results() == []


async def test_a_node_that_does_not_answer_is_given_up_after_a_while(scene, monkeypatch):
    monkeypatch.setattr(follower, "PATIENCE_SECONDS", 0.5)
    pod = await scene.pod("Succeeded")
    await scene.server.prints(pod, *scores(0))
    scene.server.faults = [Fault(status=500, message="dial tcp 10.0.0.7:10250: i/o timeout") for _ in range(10_000)]
    assert await scene.drained() == "the log could not be read to its end: dial tcp 10.0.0.7:10250: i/o timeout"
    assert scene.results() == []


async def test_a_node_that_is_silent_is_given_up_after_a_while(scene, monkeypatch):
    monkeypatch.setattr(follower, "PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr(tail, "_READ_TIMEOUT_SECONDS", 0.1)
    await scene.pod("Succeeded")
    scene.server.faults = [Fault(silence=True) for _ in range(100)]
    assert await scene.drained() == "the log could not be read to its end: its node has not answered for 0.1 s"


async def test_what_an_ended_trial_prints_is_of_no_use(scene):
    pod = await scene.pod()
    scene.look()
    await scene.server.prints(pod, *scores(0))
    await scene.has_reported(1)
    scene.world.database.tell(scene.trial_id, TrialState.PRUNED, None)
    await scene.server.prints(pod, *scores(1))
    await until(lambda: scene.server.streams == 0)
    assert scene.reports() == counted(1)


async def test_only_trials_that_run_are_followed(scene):
    pod = await scene.pod()
    scene.look(ready=0)
    assert scene.server.queries == [], "its pod has not started"
    scene.look()
    await until(lambda: scene.server.streams == 1)
    scene.look()
    rerun = TrialRow(scene.trial_id, 0, TrialState.RUNNING, {}, "job-0-r1")
    scene.follower.sync(KEY, scene.study, [scene.job], {0: rerun})
    await until(lambda: scene.server.streams == 0)
    scene.look()
    await until(lambda: scene.server.streams == 1)
    scene.follower.forget(KEY)
    await until(lambda: scene.server.streams == 0)
    assert len(scene.server.queries) == 2
    await scene.server.prints(pod, *scores(0))
    assert scene.reports() == []


async def test_a_silent_stream_is_opened_anew(scene, monkeypatch):
    monkeypatch.setattr(tail, "SILENCE_SECONDS", 0.1)
    pod = await scene.pod()
    scene.look()
    await until(lambda: len(scene.server.queries) >= 3)
    await scene.server.prints(pod, *scores(0))
    await scene.has_reported(1)
    await until(lambda: len(scene.server.queries) >= 6)
    await scene.server.prints(pod, *scores(1))
    await scene.has_reported(2)
    assert scene.reports() == counted(2)


async def test_a_line_without_an_end_takes_no_memory(scene):
    pod = await scene.pod()
    scene.look()
    for _ in range(40):
        await scene.server.prints(pod, b"score=1 " + b"x" * 1_000_000, end=b"", apart=0)
    await scene.server.prints(pod, b"", *scores(0))
    await scene.has_reported(1)
    assert scene.reports() == counted(1)
    count, last = scene.bad()[0]
    assert count == 1
    assert last.startswith("a line has more than 8192 bytes: score=1 xxx")


@pytest.mark.parametrize("end", [b"", b"\n"])
async def test_a_progress_bar_that_never_ends_its_line_counts_by_its_last_state(scene, end):
    pod = await scene.pod()
    scene.look()
    bar = b"".join(b"\rtrain %40d/60000 epoch=1 score=%.5f" % (i, i / 60_000) for i in range(60_001))
    assert len(bar) > 3_000_000
    await scene.server.prints(pod, "the next line is a bar")
    await scene.server.prints(pod, bar, end=end)
    await scene.server.ends(pod)
    await scene.status(pod, "Succeeded")
    assert await scene.drained() == ""
    assert scene.results() == [([1.0], {})]
    assert (scene.reports(), scene.bad()) == ([(1, 1.0)], [])


async def test_a_step_that_cannot_be_used_costs_no_value_and_is_told_once(scene):
    pod = await scene.pod()
    scene.look()
    lines = ("epoch=0.5 score=0.1", "epoch=1.0 score=0.2", "epoch=[2/30] score=0.3", "epoch=best score=0.4")
    await scene.server.prints(pod, *lines)
    await scene.has_reported(3)
    scene.start_operator()
    scene.look()
    await scene.server.prints(pod, "epoch=9999999999 score=0.5", "score=0.6")
    await scene.server.ends(pod)
    await scene.status(pod, "Succeeded")
    assert await scene.drained() == ""
    assert scene.reports() == [(0, 0.1), (1, 0.2), (2, 0.3)], "the first value has a step, so others need one"
    assert scene.results() == [([0.6], {})]
    words = "epoch is 'best', which is no number: the value counts, but is no report that a pruner could judge"
    assert scene.bad() == [(1, words)]


async def test_after_a_rotation_reading_goes_on(scene):
    pod = await scene.pod()
    scene.look()
    await scene.server.prints(pod, *scores(0, 1), apart=0)
    await scene.has_reported(2)
    scene.start_operator()
    await scene.server.rotates(pod)
    await scene.server.prints(pod, *scores(2, 3), apart=1)
    scene.look()
    await scene.has_reported(4)
    assert scene.reports() == counted(4)


async def test_thousands_of_lines_at_once(scene):
    pod = await scene.pod()
    await scene.server.prints(pod, *scores(*range(5000)), apart=1)
    scene.look()
    await scene.has_reported(5000)
    assert scene.reports() == counted(5000)


async def test_a_study_of_trials_that_print_from_its_beginning_to_its_end(world, server):
    world.logs_from = server.url
    world.start_operator()
    pruner = {"name": "Threshold", "options": {"lower": 0.2}}
    await world.apply(metrics={"from": "Stdout"}, pruner=pruner, maxTrials=3, parallelism=3)
    await world.settle()
    running = {"phase": "Running", "containerStatuses": [container_status({"running": {}})]}
    pods = [await world.start_pod(number, running) for number in range(3)]
    for pod in pods:
        server.starts(pod)
    await world.settle()
    await server.prints(pods[0], "epoch=1 score=0.5", "epoch=2 score=0.7")
    await server.prints(pods[1], "epoch=1 score=0.1")
    await server.prints(pods[2], "nothing", "score: high")
    await until(lambda: len(world.database.query("SELECT 1 FROM trial_intermediate_values")) == 3)
    await world.settle()
    assert world.rows() == [(0, "RUNNING"), (1, "PRUNED"), (2, "RUNNING")], "pruned while it runs"
    for number in (0, 2):
        await server.prints(pods[number], "done")
        await server.ends(pods[number])
        await world.set_pod_status(pods[number], {"phase": "Succeeded"})
        await world.end_job(number)
    await world.end_job(1)
    await world.look()
    assert world.rows()[0] == (0, "RUNNING"), "its log has not been read to the end"
    await until(lambda: len(world.woken) == 2)
    await world.settle()
    assert world.rows() == [(0, "COMPLETE"), (1, "PRUNED"), (2, "FAIL")]
    status = (await world.study())["status"]
    assert status["bestTrial"]["values"] == ["0.7"]
    assert (status["badReports"], status["lastBadReport"]) == (
        1,
        "score is 'high', which is no number: score: high",
    )
    (failure,) = status["recentFailures"]
    assert failure["reason"] == "MetricMissing"
    assert "without a value of score" in failure["message"]
    assert "last bad report: score is 'high'" in failure["message"]
    await until(lambda: server.streams == 0)


async def test_values_under_whatever_name_the_program_has_for_them(make_scene):
    scene = await make_scene(
        objectives=[{"name": "map", "direction": "Maximize", "metric": "metrics/mAP50-95(B)", "finalValue": "Best"}],
        constraints=[{"name": "p99", "max": 5, "metric": "Latenz p99 [µs]"}],
    )
    pod = await scene.pod()
    scene.look()
    await scene.server.prints(pod, '{"epoch": 1, "metrics/mAP50-95(B)": 0.4}', "Latenz p99 [µs]: 7")
    await scene.has_reported(1)
    scene.start_operator()
    scene.look()
    await scene.server.prints(pod, "epoch: 2, metrics/mAP50-95(B): 0.3, Latenz p99 [µs]=3")
    await scene.has_reported(2)
    await scene.server.ends(pod)
    await scene.status(pod, "Succeeded")
    assert await scene.drained() == ""
    assert scene.reports() == [(1, 0.4), (2, 0.3)]
    assert scene.results() == [([0.4], {"p99": 3.0})]


async def test_a_trial_that_runs_out_of_time_says_what_it_has_printed(world, server):
    world.logs_from = server.url
    world.start_operator()
    objectives = [{"name": "map", "direction": "Maximize", "metric": "mAP@0.5", "finalValue": "Best"}]
    await world.apply(metrics={"from": "Stdout"}, objectives=objectives, maxTrials=1, parallelism=1)
    await world.settle()
    pod = await world.start_pod(0, {"phase": "Running", "containerStatuses": [container_status({"running": {}})]})
    server.starts(pod)
    await server.prints(pod, "mAP@0.5=0.75", "mAP@0.5=0.5")
    await server.ends(pod)
    await world.set_pod_status(pod, {"phase": "Failed", "reason": "DeadlineExceeded", "message": "too long"})
    await world.end_job(0, "BackoffLimitExceeded")
    await world.look()
    await until(lambda: world.woken)
    await world.settle()
    (failure,) = (await world.study())["status"]["recentFailures"]
    assert failure["reason"] == "DeadlineExceeded"
    assert failure["message"].startswith("too long; it had map 0.75 so far, which is not final")


async def test_additional_values_are_shown_with_the_best_trial(world, server):
    world.logs_from = server.url
    world.start_operator()
    await world.apply(
        metrics={"from": "Stdout", "additional": ["loss", "Lr (max)", "never"]}, maxTrials=1, parallelism=1
    )
    await world.settle()
    pod = await world.start_pod(0, {"phase": "Running", "containerStatuses": [container_status({"running": {}})]})
    server.starts(pod)
    await server.prints(pod, "loss=3 score=0.5", "loss=2.5 Lr (max): 0.1", "val_loss=7")
    await server.ends(pod)
    await world.set_pod_status(pod, {"phase": "Succeeded"})
    await world.end_job(0)
    await world.look()
    await until(lambda: world.woken)
    await world.settle()
    best = (await world.study())["status"]["bestTrial"]
    assert best["metrics"] == {"loss": "2.5", "Lr (max)": "0.1"}


async def test_a_program_that_prints_without_marks_has_a_best_trial(world, server):
    world.logs_from = server.url
    world.start_operator()
    await world.apply(metrics={"from": "Stdout"}, maxTrials=1, parallelism=1)
    await world.settle()
    pod = await world.start_pod(0, {"phase": "Running", "containerStatuses": [container_status({"running": {}})]})
    server.starts(pod)
    await server.prints(pod, "epoch 1 score 0.5", "score improved from 0.5 to 0.7", "epoch 2 score is 0.7")
    await server.ends(pod)
    await world.set_pod_status(pod, {"phase": "Succeeded"})
    await world.end_job(0)
    await world.look()
    await until(lambda: world.woken)
    await world.settle()
    assert (await world.study())["status"]["bestTrial"]["values"] == ["0.7"]


async def test_a_study_whose_pattern_cannot_be_used_is_refused(world):
    await world.apply(metrics={"from": "Stdout", "pattern": "(?P<name>a"})
    await world.settle()
    condition = await world.condition("Accepted")
    assert (condition["status"], condition["reason"]) == ("False", "InvalidMetricsPattern")
    assert "spec.metrics.pattern is not a regular expression of RE2: missing )" in condition["message"]
    assert await world.jobs() == []

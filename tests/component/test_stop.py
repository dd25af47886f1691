"""A study that its user stops: what becomes of its trials, how it has ended, and how it goes on."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from kubectl_cli import Kubectl
from world import GOES_ON, World, counted, job_template


async def _end(world: World) -> tuple[str, dict[str, str]]:
    """The phase, and the reasons of the conditions of an end that are true."""
    status = (await world.study())["status"]
    ends = {c["type"]: c["reason"] for c in status["conditions"] if c["type"] in ("Finished", "Complete", "Failed")}
    true = {c["type"] for c in status["conditions"] if c["status"] == "True"}
    return status["phase"], {type_: reason for type_, reason in ends.items() if type_ in true}


PAGE = (Path(__file__).resolve().parents[2] / "docs/ends.md").read_text()
PATIENCE = timedelta(seconds=10)  # more than the grace of a pruned trial
STOPPED = "Succeeded", {"Finished": "Stopped", "Complete": "Stopped"}


async def _let_pods_go(world: World) -> None:
    await world.settle()
    await world.remove_finalizers()
    await world.settle()


async def _ends(world: World, *numbers: int) -> None:
    """Trials end well, each with a tenth of its number."""
    for number in numbers:
        await world.finish(number, number / 10)
        await world.end_job(number)
    await world.settle()


async def _deleting(world: World) -> list[int]:
    jobs = [job for job in await world.jobs() if "deletionTimestamp" in job["metadata"]]
    return sorted(int(job["metadata"]["name"].split("-")[1]) for job in jobs)


async def test_drain_lets_running_trials_finish_and_without_it_the_study_goes_on(world):
    await world.apply(maxTrials=6)
    await world.settle()
    await world.edit(stop="Drain")
    await _ends(world, 0)
    assert (await world.active(), await _deleting(world)) == ([1], [])
    progressing = await world.condition("Progressing")
    message = "the study was stopped after 1 trial: spec.stop is Drain; remove it to go on; 1 trial still runs"
    assert (progressing["status"], progressing["reason"], progressing["message"]) == ("True", "Ending", message)
    assert await _end(world) == ("Running", {})

    await _ends(world, 1)
    assert await _end(world) == STOPPED
    status = (await world.study())["status"]
    assert (counted(status), status["progress"]) == ({"total": 2, "complete": 2}, "2/6")
    completed = (await world.events())["Completed"]
    words = "the study was stopped after 2 trials: spec.stop is Drain; remove it to go on; trial 1 is the best: 0.1"
    assert (completed["type"], completed["message"]) == ("Normal", words)

    world.start_operator()
    await world.edit(stop=None)
    await world.settle()
    after = (await world.study())["status"]
    assert (after["phase"] in GOES_ON, await world.active(), "completionTime" in after) == (True, [2, 3], False)
    assert after["bestTrial"] == status["bestTrial"]
    assert [(await world.condition(type_))["status"] for type_ in ("Finished", "Complete")] == ["False", "False"]
    await world.run_trials(lambda number: number / 10)
    assert await _end(world) == ("Succeeded", dict.fromkeys(("Finished", "Complete"), "MaxTrialsReached"))
    assert (await world.study())["status"]["progress"] == "6/6"


@pytest.mark.parametrize("forgets", [False, True], ids=["in memory", "after a restart"])
async def test_terminate_prunes_what_has_reported_and_counts_no_failure(world, forgets):
    await world.apply(maxTrials=9, parallelism=3, maxFailedTrials=0)
    await world.settle()
    for step, value in ((1, 0.3), (2, 0.7)):
        (await world.pod(0)).call("report", step, value)
    await world.finish(2, 0.5)  # stored before the operator looked: it is not lost
    if forgets:
        world.start_operator()
    await world.edit(stop="Terminate")
    await world.settle()
    assert await _deleting(world) == [0, 1], "2 may still save its model"
    assert (await world.condition("Progressing"))["reason"] == "Ending"
    await world.end_job(2)
    await _let_pods_go(world)
    assert await _end(world) == STOPPED
    assert world.rows() == [(0, "PRUNED"), (1, "FAIL"), (2, "COMPLETE")]
    status = (await world.study())["status"]
    assert counted(status) == {"total": 3, "complete": 1, "pruned": 1, "terminated": 1}
    assert (status["failures"], "recentFailures" in status) == (dict.fromkeys(status["failures"], 0), False)
    with world.database.optuna_study(status["studyName"]) as study:
        assert [trial.value for trial in study.trials] == [0.7, None, 0.5]
        assert study.trials[1].user_attrs["study_operator:failure"]["reason"] == "StudyStopped"

    await world.edit(stop=None)
    await world.settle()
    assert await world.active() == [3, 4, 5], "maxFailedTrials is 0, and nothing has failed"
    await world.run_trials(lambda number: number / 10)
    assert counted((await world.study())["status"]) == {"total": 9, "complete": 7, "pruned": 1, "terminated": 1}


async def test_drain_becomes_terminate_while_trials_run(world):
    await world.apply()
    await world.settle()
    await world.edit(stop="Drain")
    await world.settle()
    assert (await world.active(), await _deleting(world)) == ([0, 1], [])
    await world.edit(stop="Terminate")
    await _let_pods_go(world)
    assert (await _end(world), await world.jobs()) == (STOPPED, [])


@pytest.mark.parametrize("stop", ["Drain", "Terminate"])
async def test_a_suspended_study_that_is_stopped_ends_with_its_waiting_trials(world, stop):
    await world.apply(suspendPolicy="Terminate", maxTrials=3)
    await world.settle()
    (await world.pod(0)).call("report", 1, 0.3)
    await world.edit(suspend=True)
    await _let_pods_go(world)
    assert counted((await world.study())["status"]) == {"total": 2, "queued": 2}
    await world.edit(stop=stop)
    await world.settle()
    assert (await _end(world), world.rows()) == (STOPPED, [(0, "PRUNED"), (1, "FAIL")])
    await world.edit(stop=None)
    await world.settle()
    assert await _end(world) == ("Suspended", {})
    await world.edit(suspend=False)
    await world.settle()
    assert await world.active() == [2]


@pytest.mark.parametrize("stop", ["Drain", "Terminate"])
async def test_a_study_that_has_ended_by_itself_stays_as_it_ended(world, stop):
    await world.apply(maxTrials=2)
    await world.run_trials(lambda number: number)
    ended, events = (await world.study())["status"], await world.events()
    await world.edit(stop=stop)
    world.start_operator()
    await world.settle()
    status = (await world.study())["status"]
    assert await _end(world) == ("Succeeded", dict.fromkeys(("Finished", "Complete"), "MaxTrialsReached"))
    assert status["completionTime"] == ended["completionTime"]
    assert await world.events() == events
    await world.edit(maxTrials=4)
    await world.settle()
    assert (await _end(world), await world.active()) == (STOPPED, []), "more trials do not take back a stop"
    await world.edit(stop=None)
    await world.settle()
    assert await world.active() == [2, 3]


@pytest.mark.parametrize("cells", [2, 3], ids=["used up before", "one cell is left"])
async def test_no_history_is_held_to_look_at_a_stopped_study_of_a_finite_space(world, cells):
    choices = ["a", "b", "c"][:cells]
    await world.apply(sampler={"name": "Grid"}, parameters=[{"name": "x", "categorical": {"choices": choices}}])
    await world.settle()
    if cells == 3:
        await world.edit(stop="Drain")
    await _ends(world, 0, 1)
    await world.edit(stop="Drain")
    for _ in range(2):
        await world.settle()
        reason = "SearchSpaceExhausted" if cells == 2 else "Stopped"
        assert await _end(world) == ("Succeeded", {"Finished": reason, "Complete": reason})
        assert world.remembered() is None
        world.start_operator()
    await world.edit(stop=None)
    await world.settle()
    assert await world.active() == ([] if cells == 2 else [2])


async def test_the_pruner_works_on_while_a_study_drains(world):
    await world.apply(pruner={"name": "Threshold", "options": {"lower": 0.5}})
    await world.settle()
    await world.edit(stop="Drain")
    await world.settle()
    (await world.pod(0)).call("report", 1, 0.1)
    await world.settle()
    assert world.rows() == [(0, "PRUNED"), (1, "RUNNING")]
    assert await _deleting(world) == [], "it has its grace, as ever"


async def test_a_study_that_may_be_run_no_longer_can_be_stopped(world):
    await world.apply()
    await world.settle()
    broken: dict[str, Any] = {"containers": [{"name": "trial", "image": ""}]}
    await world.edit(jobTemplate={"spec": {"template": {"spec": broken}}})
    await world.settle()
    assert (await _end(world))[0] == "Refused"
    await world.edit(stop="Terminate")
    await _let_pods_go(world)
    assert await _end(world) == STOPPED
    assert (await world.condition("Accepted"))["status"] == "False", "which is why it does not go on without a stop"
    await world.edit(stop=None)
    await world.settle()
    assert await _end(world) == ("Refused", {})
    await world.edit(jobTemplate=job_template())
    await world.settle()
    assert await world.active() == [2, 3]


async def test_a_study_that_is_stopped_before_its_first_trial_begins_without_the_stop(world):
    await world.apply(stop="Drain", initialTrials=[{"x": 0.5}])
    await world.settle()
    assert (await _end(world), await world.jobs(), world.rows()) == (STOPPED, [], [])
    status = (await world.study())["status"]
    assert (counted(status), "startTime" in status) == ({}, False)
    await world.edit(stop=None)
    await world.settle()
    assert (await world.active(), "startTime" in (await world.study())["status"]) == ([0, 1], True)
    await world.run_trials(lambda number: number)
    assert (await world.study())["status"]["progress"] == "4/4"


async def test_drain_does_not_wait_for_a_queue(world):
    await world.apply(maxTrials=6, parallelism=3)
    await world.settle()
    for number in (1, 2):
        await world.patch_job(number, {"spec": {"suspend": True}})
    (await world.pod(2)).call("report", 1, 0.3)  # it ran before it was put back
    await world.edit(stop="Drain")
    await _let_pods_go(world)
    assert world.rows() == [(0, "RUNNING"), (1, "FAIL"), (2, "PRUNED")]
    assert 0 in await world.active()
    world.ahead += PATIENCE
    await _let_pods_go(world)
    assert await world.active() == [0], "the pruned one has had its grace"
    await _ends(world, 0)
    assert await _end(world) == STOPPED


async def test_a_study_that_is_deleted_while_it_stops_leaves_nothing_that_runs(world):
    await world.apply()
    await world.settle()
    await world.edit(stop="Drain")
    await world.settle()
    await world.delete_study()
    assert (await world.look()).gone
    assert world.rows() == [(0, "FAIL"), (1, "FAIL")]


async def test_kubectl_stops_waits_shows_and_lets_go(world, kubeconfig_of_studies, tmp_path):
    kubectl = Kubectl(kubeconfig_of_studies, tmp_path / "cache", world.namespace)
    section = PAGE.split("\n## Stop it yourself\n")[1].split("\n## ")[0]
    drain, terminate, go_on = [line.split() for line in section.splitlines() if line.startswith("    kubectl ")]
    await world.apply("digits")
    await world.settle("digits")
    for command in (drain, terminate):
        kubectl.ok(*(word.strip("'") for word in command[1:]))
        await world.settle("digits")
    await world.remove_finalizers()
    await world.settle("digits")
    kubectl.ok("wait", "--for=condition=Finished", "study/digits", "--timeout=30s")
    kubectl.ok("wait", "--for=condition=Complete", "study/digits", "--timeout=30s")
    shown = kubectl.ok("get", "studies", "-o", "wide")
    assert "Succeeded" in shown
    assert "the study was stopped after 2 trials: spec.stop is Terminate; remove it to go on" in shown
    assert "Drain" in kubectl.ok("explain", "study.spec.stop")
    kubectl.ok(*(word.strip("'") for word in go_on[1:]))
    await world.settle("digits")
    assert await world.active("digits") == [2, 3]

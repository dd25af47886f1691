"""Small studies which together need every kind of write that the operator knows; test_crash_points.py sees to that."""

from __future__ import annotations

import hashlib
from typing import Any

import optuna
from play import (
    Play,
    Scenario,
    calls_itself_infeasible,
    crashes,
    ends_without_value,
    exits_with,
    gets_a_pod_late,
    is_evicted,
    is_hopeless,
    is_never_scheduled,
    jump,
    prints,
    reports_for_ever,
    runs_for_ever,
    succeeds,
    waits_for,
)
from records import Records
from world import Manifest, has_ended, job_template

from study_operator.model.mark import CONTINUE_ANNOTATION

PRUNER = {"name": "SuccessiveHalving", "options": {"min_resource": 1, "reduction_factor": 2}}
CLAIM = {"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}}
SPACE = [{"name": "x", "float": {"low": 0, "high": 1}}]


async def _several_pods(play: Play) -> dict[str, Any]:
    """Trials of two pods, and a Service of this study's own: others run beside it."""
    template = job_template()
    template["spec"] |= {"completionMode": "Indexed", "completions": 2, "parallelism": 2}
    template["spec"]["template"]["spec"]["subdomain"] = f"{play.name}-pods"
    return {"jobTemplate": template}


# What users do


async def suspend(play: Play, jobs: list[Manifest]) -> bool:
    if done := len([job for job in jobs if not has_ended(job)]) == 2:
        await play.edit(suspend=True)
    return done


async def resume(play: Play, jobs: list[Manifest]) -> bool:
    done = all(map(has_ended, jobs)) and (await play.status()).get("phase") == "Suspended"
    if done:
        await play.edit(suspend=False)
    return done


async def let_the_deadline_pass(play: Play, jobs: list[Manifest]) -> bool:
    here = play.records()
    if done := here is not None and here.states() == {0: "COMPLETE", 1: "RUNNING"} and 1 in play.numbers:
        await jump(play, 3600)
    return done


async def raise_the_deadline(play: Play, jobs: list[Manifest]) -> bool:
    if done := (await play.status()).get("phase") == "Succeeded":
        await play.edit(activeDeadlineSeconds=1_000_000)
    return done


def is_stopped(play: Play) -> bool:
    return "stop" in play._watcher.spec


async def drain(play: Play, jobs: list[Manifest]) -> bool:
    """When three trials run, and the first has reported."""
    if done := {0, 1, 2} <= play.numbers:
        await play.edit(stop="Drain")
    return done


async def terminate(play: Play, jobs: list[Manifest]) -> bool:
    """When one of them has finished all the same."""
    here = play.records()
    if done := here is not None and here.states().get(2) == "COMPLETE":
        await play.edit(stop="Terminate")
    return done


async def go_on(play: Play, jobs: list[Manifest]) -> bool:
    status = await play.status()
    if done := status.get("phase") == "Succeeded":
        assert {c["reason"] for c in status["conditions"] if c["type"] in ("Finished", "Complete")} == {"Stopped"}
        await play.edit(stop=None)
    return done


def wishes(play: Play) -> set[int]:
    """The numbers of the trials that a user has stopped."""
    found = play.world.database.query(
        "SELECT t.number FROM study_operator.wishes w JOIN trials t USING (trial_id)"
        " JOIN study_operator.access a ON a.study_id = t.study_id WHERE a.name = %s",
        play.name,
    )
    return {number for (number,) in found}


async def stop_trials(play: Play, jobs: list[Manifest]) -> bool:
    """When three trials run, and the first has reported: a user stops all of them."""
    if done := {0, 1, 2} <= play.numbers:
        here = play.records()
        assert here is not None
        for trial in here.trials:
            play.world.database.query(
                "SELECT study_reading.stop_trial(%s, %s, %s, 'jane')",
                *(play.world.cluster_id, trial.trial_id, "FAIL" if trial.number == 1 else "PRUNED"),
            )
    return done


async def delete(play: Play, jobs: list[Manifest]) -> bool:
    if done := _one_has_ended(play):
        await play.delete()
    return done


async def purge(play: Play, jobs: list[Manifest]) -> bool:
    """When the operator knows that the Study is gone, a user wants no rows of it any more."""
    left = "SELECT study_id FROM study_operator.access WHERE uid = %s AND key_hash IS NULL"
    found = play.world.database.query(left, play.uid)
    for (study_id,) in found:
        play.world.database.query("SELECT study_reading.purge_study(%s, %s, 'jane')", play.world.cluster_id, study_id)
    return bool(found)


async def delete_and_make_anew(play: Play, jobs: list[Manifest]) -> bool:
    if done := _one_has_ended(play):
        await play.delete()
        await play.apply()
    return done


def has_finished_one(play: Play) -> bool:
    return any(pod.finished for pod in play.lives[-1].pods.values())


def _one_has_ended(play: Play) -> bool:
    """Trial 0 has stored its value, and trial 1 runs."""
    here = play.records()
    return here is not None and 1 in play.numbers and has_finished_one(play)


async def wish_for_the_impossible(play: Play, jobs: list[Manifest]) -> bool:
    if (name := (await play.status()).get("studyName")) is None:
        return False
    with play.world.database.optuna_study(name) as study:
        study.enqueue_trial({"x": 7.0})
    return True


async def wait_for_a_pod_long_enough(play: Play, jobs: list[Manifest]) -> bool:
    if done := 0 in play.numbers:
        await jump(play, 61)
    return done


async def _earlier_study(play: Play) -> dict[str, Any]:
    """An earlier study of the namespace, with a trial."""
    name, world = f"earlier-{play.name}", play.world
    key_hash = hashlib.sha256(name.encode()).digest()
    studies = world.database.studies(world.cluster_id)
    studies.ensure(name, ["MAXIMIZE"], world.namespace, name, name, "Retain", key_hash)
    with world.database.optuna_study(name) as study:
        space = {"x": optuna.distributions.FloatDistribution(0, 1)}
        study.add_trial(optuna.create_trial(value=0.3, params={"x": 0.5}, distributions=space))
    return {"warmStart": {"studies": [name]}}


async def _a_study_that_is_gone(play: Play) -> dict[str, Any]:
    """Rows of a Study that does not exist any more: one trial has ended, one ran. The new one goes on with them."""
    name, world = f"gone-{play.name}", play.world
    key_hash = hashlib.sha256(name.encode()).digest()
    world.database.studies(world.cluster_id).ensure(name, ["MAXIMIZE"], world.namespace, name, name, "Retain", key_hash)
    with world.database.optuna_study(name) as study:
        space = {"x": optuna.distributions.FloatDistribution(0, 1)}
        study.add_trial(optuna.create_trial(value=0.3, params={"x": 0.5}, distributions=space))
        running = study.ask(space)
        study._storage.set_trial_system_attr(running._trial_id, "study_operator:job", f"{name}-1")
    return {"annotations": {CONTINUE_ANNOTATION: name}}


# What must have come of it, beyond what holds for every study


async def _only_the_best_claim_is_left(play: Play, here: Records | None) -> None:
    found = await play.world.objects_of(play.name)
    assert [item["metadata"]["name"] for item in found["persistentvolumeclaims"]] == [f"{play.name}-1"]
    assert [item["metadata"]["name"] for item in found["services"]] == [f"{play.name}-pods"]


async def _no_row_is_left(play: Play, here: Records | None) -> None:
    assert play.all_records() == {}


async def _values_are_kept(play: Play, here: Records | None) -> None:
    (earlier,) = (known for uid, known in play.all_records().items() if uid != play.uid)
    assert earlier.states() == {0: "COMPLETE", 1: "FAIL"}
    assert {reason for *_, reason in earlier.incidents} == {"StudyDeleted"}


async def _warm(play: Play, here: Records | None) -> None:
    assert [one["taken"] for one in (await play.status())["warmStart"]] == [1]


async def _the_last_report_is_kept(play: Play, here: Records | None) -> None:
    assert here is not None
    assert [(trial.values, trial.failure) for trial in here.trials[:2]] == [((0.6,), None), ((), "StudyStopped")]


async def _stopped_trials_have_not_failed(play: Play, here: Records | None) -> None:
    assert here is not None
    stopped = [(trial.values, trial.failure) for trial in here.trials[:3]]
    assert stopped == [((0.6,), None), ((), "StoppedByUser"), ((), "StoppedByUser")]


SCENARIOS: dict[str, Scenario] = {
    # Of four trials, two at a time, one is pruned, one fails, and one is evicted and runs again. The first reports far
    # enough for the second to be judged.
    "ends": Scenario(
        spec={"parallelism": 2, "maxTrials": 4, "pruner": PRUNER},
        scripts={
            0: [succeeds(0.5, reports=dict.fromkeys((1, 2, 4, 8), 0.9))],
            1: [is_hopeless],
            2: [crashes],
            3: [is_evicted, succeeds(0.7, reports={1: 0.95})],
        },
        ends={0: "COMPLETE", 1: "PRUNED", 2: "FAIL", 3: "COMPLETE"},
        pods=True,
    ),
    "claims": Scenario(
        spec={
            "parallelism": 2,
            "maxTrials": 3,
            "checkpoints": {"claimTemplate": CLAIM, "keep": "Best"},
        },
        scripts={0: [succeeds(0.5)], 1: [succeeds(0.9)], 2: [succeeds(0.7)]},
        ends=dict.fromkeys(range(3), "COMPLETE"),
        prepare=_several_pods,
        check=_only_the_best_claim_is_left,
    ),
    "suspended": Scenario(
        spec={"parallelism": 2, "maxTrials": 3, "suspendPolicy": "Terminate", "activeDeadlineSeconds": 100_000},
        scripts={0: [runs_for_ever, succeeds(0.5)], 1: [runs_for_ever, succeeds(0.6)], 2: [succeeds(0.7)]},
        acts=[suspend, resume],
        ends=dict.fromkeys(range(3), "COMPLETE"),
    ),
    "several objectives": Scenario(
        spec={
            "parallelism": 2,
            "maxTrials": 5,
            "objectives": [{"name": "accuracy", "direction": "Maximize"}, {"name": "latency", "direction": "Minimize"}],
            "constraints": [{"name": "size", "max": 50}],
            "infeasibleExitCodes": [42],
        },
        scripts={
            0: [succeeds(0.9, 30.0, size=50)],
            1: [succeeds(0.8, 10.0, size=1)],
            2: [calls_itself_infeasible],
            3: [exits_with(42)],
            4: [succeeds(0.99, 1.0, size=51)],
        },
        ends={0: "COMPLETE", 1: "COMPLETE", 2: "PRUNED", 3: "PRUNED", 4: "COMPLETE"},
        pods=True,
    ),
    "output": Scenario(
        spec={"parallelism": 2, "maxTrials": 3, "metrics": {"from": "Stdout"}, "parameters": SPACE},
        scripts={
            0: [prints("epoch=1 score=0.4", "score: oops", "score=0.5")],
            1: [prints("hello")],
            2: [crashes],
        },
        ends={0: "COMPLETE", 1: "FAIL", 2: "FAIL"},
        prints=True,
    ),
    "beginnings": Scenario(
        spec={"parallelism": 1, "maxTrials": 4, "parameters": SPACE, "initialTrials": [{"x": 0.25}]},
        scripts={0: [succeeds(0.5)]},
        acts=[wish_for_the_impossible],
        ends=None,
        prepare=_earlier_study,
        check=_warm,
    ),
    "continued": Scenario(
        spec={"parallelism": 1, "maxTrials": 3, "parameters": SPACE},
        scripts={1: [succeeds(0.5)], 2: [succeeds(0.6)]},
        ends=dict.fromkeys(range(3), "COMPLETE"),
        prepare=_a_study_that_is_gone,
    ),
    "goal": Scenario(
        spec={
            "parallelism": 3,
            "maxTrials": 6,
            "objectives": [{"name": "score", "direction": "Minimize", "goal": 0.1}],
            "parameters": SPACE,
        },
        scripts={0: [waits_for(lambda play: len(play.numbers) == 3, succeeds(0.05))], 1: [runs_for_ever]},
        ends={0: "COMPLETE", 1: "FAIL", 2: "FAIL"},
        reason="GoalReached",
    ),
    "convergence": Scenario(
        spec={
            "parallelism": 1,
            "maxTrials": 50,
            "parameters": SPACE,
            "convergence": {"options": {"max_stagnation_trials": 1}, "minTrials": 2},
        },
        scripts={0: [succeeds(0.9)], 1: [succeeds(0.5)]},
        ends=None,
        reason="Converged",
    ),
    "deadline": Scenario(
        spec={"parallelism": 1, "maxTrials": 3, "activeDeadlineSeconds": 3600, "parameters": SPACE},
        scripts={0: [succeeds(0.5)], 1: [runs_for_ever], 2: [succeeds(0.6)]},
        acts=[let_the_deadline_pass, raise_the_deadline],
        ends={0: "COMPLETE", 1: "FAIL", 2: "COMPLETE"},
    ),
    "stopped": Scenario(
        spec={"parallelism": 3, "maxTrials": 5, "activeDeadlineSeconds": 100_000},
        scripts={
            0: [reports_for_ever({1: 0.9, 2: 0.6})],
            1: [runs_for_ever],
            2: [waits_for(is_stopped, succeeds(0.5))],
            3: [succeeds(0.7)],
        },
        acts=[drain, terminate, go_on],
        ends={0: "PRUNED", 1: "FAIL", 2: "COMPLETE", 3: "COMPLETE", 4: "COMPLETE"},
        check=_the_last_report_is_kept,
    ),
    # Of three trials that a user stops, one has reported, and one fails before the operator looks.
    "stopped trials": Scenario(
        spec={"parallelism": 3, "maxTrials": 4, "maxFailedTrials": 0},
        scripts={
            0: [reports_for_ever({1: 0.9, 2: 0.6})],
            1: [reports_for_ever({1: 0.9})],
            2: [waits_for(lambda play: 2 in wishes(play), crashes)],
            3: [succeeds(0.7)],
        },
        acts=[stop_trials],
        ends={0: "PRUNED", 1: "FAIL", 2: "FAIL", 3: "COMPLETE"},
        check=_stopped_trials_have_not_failed,
    ),
    "pending": Scenario(
        spec={"parallelism": 1, "maxTrials": 2, "pendingDeadlineSeconds": 60, "parameters": SPACE},
        scripts={0: [is_never_scheduled, succeeds(0.5)], 1: [ends_without_value]},
        acts=[wait_for_a_pod_long_enough],
        ends={0: "COMPLETE", 1: "FAIL"},
        pods=True,
    ),
    # A quota of one pod: the second Job gets its pod when the first has ended.
    "quota": Scenario(
        spec={"parallelism": 2, "maxTrials": 2, "parameters": SPACE},
        scripts={0: [succeeds(0.5)], 1: [gets_a_pod_late(has_finished_one, succeeds(0.6))]},
        ends=dict.fromkeys(range(2), "COMPLETE"),
        pods=True,
    ),
    "deleted with its rows": Scenario(
        spec={"parallelism": 2, "deletionPolicy": "Delete", "parameters": SPACE},
        scripts={0: [succeeds(0.5, reports={1: 0.5})], 1: [runs_for_ever]},
        acts=[delete],
        ends=None,
        reason="",
        check=_no_row_is_left,
    ),
    "purged": Scenario(
        spec={"parallelism": 2, "parameters": SPACE},
        scripts={0: [succeeds(0.5, reports={1: 0.5})], 1: [runs_for_ever]},
        acts=[delete, purge],
        ends=None,
        reason="",
        check=_no_row_is_left,
    ),
    "made anew": Scenario(
        spec={"parallelism": 2, "maxTrials": 2, "parameters": SPACE},
        scripts={0: [succeeds(0.5)], 1: [waits_for(lambda play: len(play.lives) > 1, succeeds(0.6))]},
        acts=[delete_and_make_anew],
        ends={0: "COMPLETE", 1: "COMPLETE"},
        check=_values_are_kept,
    ),
}

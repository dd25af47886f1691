"""A Study from its creation to its end, with the test in the place of pods, kubelet and Job controller."""

from __future__ import annotations

import json
from datetime import timedelta


async def test_a_study_runs_to_its_best_trial(world):
    await world.apply()
    await world.settle()
    jobs = await world.jobs()
    assert [job["metadata"]["name"] for job in jobs] == ["study-0", "study-1"]
    environment = {e["name"]: e.get("value") for e in jobs[0]["spec"]["template"]["spec"]["containers"][0]["env"]}
    params = json.loads(environment["STUDY_PARAMS"])
    assert environment["PARAM_x"] == str(params["x"])
    assert environment["PARAM_kind"] in ("a", "b")

    await world.run_trials(lambda number: number / 10)

    status = (await world.study())["status"]
    assert status["phase"] == "Succeeded"
    assert status["progress"] == "4/4"
    assert {name: count for name, count in status["trials"].items() if count} == {"total": 4, "complete": 4}
    assert status["bestValue"] == "0.3"
    assert status["bestTrial"]["number"] == 3
    assert status["bestTrial"]["jobName"] == "study-3"
    assert (await world.condition("Complete"))["status"] == "True"
    assert {"NewBest", "Completed"} <= set(await world.events())


async def test_a_job_without_a_pod_is_no_secret(world):
    await world.apply(parallelism=1)
    await world.settle()
    assert (await world.condition("Progressing"))["reason"] == "TrialsRunning"
    world.ahead += timedelta(seconds=10)
    await world.settle()
    progressing = await world.condition("Progressing")
    assert (progressing["status"], progressing["reason"]) == ("False", "TrialPending")
    assert progressing["message"].startswith("Job study-0 has no pod: a quota")

    await world.patch_job(0, {"spec": {"suspend": True}})
    await world.settle()
    progressing = await world.condition("Progressing")
    assert (progressing["status"], progressing["reason"]) == ("False", "TrialsQueued")
    assert "their Jobs are suspended, by a queue manager such as Kueue" in progressing["message"]
    assert world.rows() == [(0, "RUNNING")]

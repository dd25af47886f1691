"""What real pods do, and what a user sees of it."""

from __future__ import annotations

import json
import subprocess

import pytest
from e2e import SYSTEM, TRAIN, Cluster, eventually


def _events(cluster: Cluster, name: str) -> dict[str, str]:
    selector = f"involvedObject.kind=Study,involvedObject.name={name}"
    items = cluster.get("events", fields=selector)["items"]
    return {event["reason"]: event["message"] for event in items}


def test_gpu_trials_run_within_parallelism_and_end_with_the_best(cluster):
    cluster.apply("gpus", TRAIN.format(steps=3, sleep=0.3), maxTrials=6, parallelism=2, gpusPerTrial=1)
    most = 0

    def ended() -> bool:
        nonlocal most
        pods = cluster.get("pods")["items"]
        most = max(most, sum(pod["status"]["phase"] in ("Pending", "Running") for pod in pods))
        return cluster.condition("gpus", "Complete").get("status") == "True"

    eventually(ended, "the study completes", 240)
    assert most == 2
    status = cluster.status("gpus")
    best = status["bestTrial"]
    assert status["trials"]["complete"] == 6
    assert float(best["parameters"]["x"]) == float(best["values"][0])
    limits = cluster.get("job", best["jobName"])["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == "1"
    line = cluster.kubectl("get", "studies").splitlines()[1].split()
    assert line[:6] == ["gpus", "Succeeded", "6/6", "0", "0", f"{float(best['values'][0]):.6g}"]
    eventually(lambda: {"NewBest", "Completed"} <= _events(cluster, "gpus").keys(), "Events tell it")


def test_the_pruner_ends_a_trial_that_never_asks(cluster):
    # No study_trial, no should_prune: only reports, by the command line. The second trial is worse than the first.
    script = (
        "import os, subprocess, time\n"
        "n = int(os.environ['STUDY_TRIAL_NUMBER'])\n"
        "for step in range(1, 4 if n == 0 else 600):\n"
        "    subprocess.run(['study-trial', 'report', '--step', str(step), str(1 - n)], check=False)\n"
        "    time.sleep(0.5 if n else 0)\n"
        "subprocess.run(['study-trial', 'finish', str(1 - n)], check=True)\n"
    )
    options = {"n_startup_trials": 1, "n_warmup_steps": 0}
    cluster.apply("prune", script, maxTrials=2, parallelism=1, pruner={"name": "Median", "options": options})
    status = cluster.wait("prune")
    assert cluster.rows("prune") == [(0, "COMPLETE"), (1, "PRUNED")]
    assert status["bestTrial"]["number"] == 0
    assert all(job["status"].get("active", 0) == 0 for job in cluster.jobs())


@pytest.mark.parametrize(
    ("script", "limit", "reason", "code"),
    [
        ("import sys; print('cannot find the data'); sys.exit(3)", "128Mi", "Error", 3),
        ("x = bytearray(300_000_000); print(len(x))", "64Mi", "OOMKilled", 137),
        ("print('done and said nothing')", "128Mi", "MetricMissing", 0),
    ],
)
def test_a_failing_trial_shows_why(cluster, script, limit, reason, code):
    resources = {"requests": {"cpu": "20m", "memory": "32Mi"}, "limits": {"memory": limit}}
    cluster.apply("fails", script, container={"resources": resources}, maxTrials=1, parallelism=1, maxFailedTrials=0)
    status = cluster.wait("fails", "Failed")
    failure = status["recentFailures"][0]
    assert (failure["trial"], failure["reason"], failure["exitCode"]) == (0, reason, code)
    if reason == "Error":
        assert failure["lastLogLine"] == "cannot find the data"
    message = eventually(lambda: _events(cluster, "fails").get(f"Trial{reason}"), "an Event tells it")
    assert message.startswith(f"trial 0 failed: {reason}, exit code {code}")
    assert f"Trial{reason}" in cluster.kubectl("describe", "study", "fails")


def test_an_image_that_does_not_exist_shows_in_the_kubelets_words(cluster):
    cluster.apply("no-image", container={"image": "localhost/no-such-image:1"})

    def progressing() -> bool:
        condition = cluster.condition("no-image", "Progressing")
        return condition.get("reason") == "TrialPending" and "no-such-image" in condition["message"]

    eventually(progressing, "Progressing names the image", 30)
    condition = cluster.condition("no-image", "Progressing")
    assert "ErrImagePull" in condition["message"] or "ImagePullBackOff" in condition["message"]
    cluster.kubectl("delete", "study", "no-image")
    eventually(lambda: not cluster.jobs() and not cluster.get("pods")["items"], "Jobs and pods are gone", 60)


def test_a_trial_that_cannot_be_scheduled_shows_in_the_schedulers_words(cluster):
    cluster.apply("no-gpu", gpusPerTrial=1, gpuResourceName="example.com/gpu", parallelism=1)

    def progressing() -> bool:
        condition = cluster.condition("no-gpu", "Progressing")
        return condition.get("reason") == "TrialPending" and "Insufficient example.com/gpu" in condition["message"]

    eventually(progressing, "Progressing says what there is too little of", 30)


def test_a_refused_template_shows_the_api_servers_words_and_can_be_mended(cluster):
    cluster.apply("typo", container={"imagePullPolicy": "Sometimes"})
    eventually(lambda: cluster.condition("typo", "Accepted").get("status") == "False", "it is refused")
    condition = cluster.condition("typo", "Accepted")
    assert condition["reason"] == "JobTemplateRefused"
    assert 'Unsupported value: "Sometimes"' in condition["message"]
    cluster.apply("typo", maxTrials=2)
    assert cluster.wait("typo")["trials"]["complete"] == 2


def test_a_deleted_study_takes_its_jobs_along_and_its_name_can_be_used_again(cluster):
    cluster.apply("again", TRAIN.format(steps=100, sleep=0.5))
    eventually(lambda: len(cluster.jobs()) == 2, "two trials run")
    old = {job["metadata"]["uid"] for job in cluster.jobs()}
    cluster.kubectl("delete", "study", "again", "--wait=false")
    cluster.apply("again", maxTrials=2)
    status = cluster.wait("again")
    assert {state: n for state, n in status["trials"].items() if n} == {"total": 2, "complete": 2}
    assert not old & {job["metadata"]["uid"] for job in cluster.jobs()}


def test_scaling_by_kubectl(cluster):
    cluster.apply("scale", TRAIN.format(steps=100, sleep=0.3), maxTrials=10, parallelism=1)
    eventually(lambda: len(cluster.jobs()) == 1, "one trial runs")
    cluster.kubectl("scale", "study/scale", "--replicas=3")
    eventually(lambda: len(cluster.jobs()) == 3, "three trials run")


def test_a_suspended_study_frees_its_gpus_and_its_trials_run_again(cluster):
    cluster.apply("rest", TRAIN.format(steps=20, sleep=0.3), maxTrials=2, gpusPerTrial=1, suspendPolicy="Terminate")
    eventually(lambda: cluster.status("rest").get("gpus") == 2, "two GPUs are in use")
    parameters = {job["metadata"]["name"]: _x(job) for job in cluster.jobs()}
    cluster.kubectl("patch", "study/rest", "--type=merge", "-p", '{"spec": {"suspend": true}}')
    eventually(lambda: not cluster.get("pods")["items"], "the pods are gone", 60)
    eventually(lambda: cluster.status("rest").get("phase") == "Suspended", "the study says so")
    eventually(lambda: cluster.status("rest")["trials"]["queued"] == 2, "both are queued")
    eventually(lambda: cluster.status("rest")["gpus"] == 0, "no GPU is in use")
    cluster.kubectl("patch", "study/rest", "--type=merge", "-p", '{"spec": {"suspend": false}}')
    assert cluster.wait("rest")["trials"]["complete"] == 2
    again = {job["metadata"]["name"]: _x(job) for job in cluster.jobs()}
    assert again == {f"{name}-r1": x for name, x in parameters.items()}


def _x(job: dict) -> str:
    env = job["spec"]["template"]["spec"]["containers"][0]["env"]
    return next(variable["value"] for variable in env if variable["name"] == "PARAM_x")


def test_an_exit_code_says_that_parameters_cannot_work(cluster):
    script = "import os, sys; print('out of memory'); sys.exit(42)"
    cluster.apply("oom", script, maxTrials=2, maxFailedTrials=0, infeasibleExitCodes=[42])
    status = cluster.wait("oom", "Failed")
    assert status["trials"]["infeasible"] == 2
    assert status["failures"] == {"program": 0, "infrastructure": 0, "infeasible": 2}
    assert {f["lastLogLine"] for f in status["recentFailures"]} == {"out of memory"}


def test_an_image_that_stays_away_is_the_clusters_failure(cluster):
    fields = {"maxTrials": 1, "parallelism": 1, "maxFailedTrials": 0, "infrastructureRetries": 1}
    cluster.apply("away", container={"image": "localhost/no-such-image:1"}, pendingDeadlineSeconds=5, **fields)
    status = cluster.wait("away", "Failed")
    assert status["failures"] == {"program": 0, "infrastructure": 2, "infeasible": 0}
    assert {f["class"] for f in status["recentFailures"]} == {"Infrastructure"}
    assert {f["reason"] for f in status["recentFailures"]} <= {"ErrImagePull", "ImagePullBackOff"}


def test_nothing_secret_is_in_the_open(cluster):
    cluster.apply("secret", maxTrials=2)
    cluster.wait("secret")
    secret = next(s for s in cluster.get("secrets")["items"] if s["metadata"]["name"].startswith("secret-storage-"))
    import base64

    values = [base64.b64decode(secret["data"][name]).decode() for name in ("key", "url")]
    words = [values[0], values[1].partition("://")[2].partition("@")[0].partition(":")[2]]
    assert all(len(word) >= 16 for word in words)
    visible = json.dumps([cluster.get(kind) for kind in ("studies", "jobs", "pods", "events")])
    visible += cluster.kubectl("logs", "deploy/study-operator", "--all-containers", namespace=SYSTEM)
    visible += cluster.kubectl("logs", "job/secret-0")
    assert not [word for word in words if word in visible]


def test_helm_test(release):
    done = subprocess.run(["helm", "test", release, "-n", release], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Phase:          Succeeded" in done.stdout

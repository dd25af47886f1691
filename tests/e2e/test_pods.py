"""Trials whose pods are ended, suspended, several, or watched by a sidecar: what kubelet and scheduler really do."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from e2e import Cluster, eventually

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def _apply(cluster: Cluster, example: str, **spec: Any) -> str:
    """Applies an example with the image that is there, and the given fields of its spec replaced. Returns its name."""
    text = (EXAMPLES / example / "study.yaml").read_text()
    manifest = yaml.safe_load(text.replace("study-trial:dev", cluster.images["study-trial"]))
    manifest["spec"] |= spec
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
    return manifest["metadata"]["name"]


def _of_trial(number: int) -> str:
    return f"study-operator.io/trial={number}"


def _pods(cluster: Cluster, number: int) -> list[dict[str, Any]]:
    """The pods of a trial that are not being deleted."""
    found = cluster.get("pods", labels=_of_trial(number))["items"]
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]


def _log(cluster: Cluster, number: int) -> str:
    """What the pods of a trial have written; empty while there is none that has started."""
    text = ""
    for pod in _pods(cluster, number):
        if pod["status"]["phase"] != "Pending":
            text += cluster.kubectl("logs", pod["metadata"]["name"], "-c", "trial")
    return text


def _logged(cluster: Cluster, number: int, words: str) -> Callable[[], bool]:
    return lambda: words in _log(cluster, number)


def _evict(cluster: Cluster, pod: str) -> None:
    """Asks the Eviction API, as kubectl drain does."""
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
    path = f"/api/v1/namespaces/{cluster.namespace}/pods/{pod}/eviction"
    cluster.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))


def _reports(cluster: Cluster, name: str, number: int) -> int:
    """How many values the trial has reported."""
    return int(
        cluster.sql(
            "SELECT count(*) FROM trial_intermediate_values v JOIN trials t USING (trial_id) JOIN studies s"
            f" USING (study_id) WHERE s.study_name = '{cluster.status(name).get('studyName')}' AND t.number = {number}"
        )
    )


def _claims(cluster: Cluster) -> set[str]:
    """Names of the claims that are not being deleted; those wait for the finished pods of Jobs that are kept."""
    found = cluster.get("pvc")["items"]
    return {claim["metadata"]["name"] for claim in found if "deletionTimestamp" not in claim["metadata"]}


def test_the_least_that_is_a_study(cluster):
    # Its pods are not restricted: it says nothing of users.
    cluster.kubectl("label", "namespace", cluster.namespace, "pod-security.kubernetes.io/enforce-")
    name = _apply(cluster, "minimal")
    eventually(lambda: cluster.status(name).get("trials", {}).get("complete", 0) >= 2, "two trials have ended")
    cluster.kubectl("patch", "study", name, "--type=merge", "-p", '{"spec": {"maxTrials": 4}}')
    status = cluster.wait(name)
    assert status["trials"]["failed"] == 0
    best = status["bestTrial"]
    assert float(best["values"][0]) == (float(best["parameters"]["x"]) - 2) ** 2


def test_two_pods_of_a_trial_find_each_other(cluster):
    name = _apply(cluster, "distributed")
    eventually(lambda: len(_pods(cluster, 0)) == 2, "the trial has two pods")
    assert cluster.get("service", "workers")["spec"]["clusterIP"] == "None"
    status = cluster.wait(name)
    assert cluster.rows(name) == [(number, "COMPLETE") for number in range(3)]
    best = status["bestTrial"]
    x = float(best["parameters"]["x"])
    assert float(best["values"][0]) == x * x + abs(x - 0.5)  # the second term is what the other pod has sent


def test_a_trial_goes_on_from_its_checkpoint_when_its_pod_is_evicted(cluster):
    name = _apply(cluster, "checkpoints")
    eventually(_logged(cluster, 0, "epoch 3:"), "the trial has saved its state")
    pod = _pods(cluster, 0)[0]
    before = set(_claims(cluster))
    _evict(cluster, pod["metadata"]["name"])
    eventually(_logged(cluster, 0, "going on after epoch"), "the trial goes on in another pod")
    assert _pods(cluster, 0)[0]["metadata"]["uid"] != pod["metadata"]["uid"]
    assert "checkpoints-0" in before
    status = cluster.wait(name, seconds=300)
    assert cluster.rows(name) == [(number, "COMPLETE") for number in range(4)]
    assert (status["trials"]["failed"], status["failures"]["program"]) == (0, 0)
    assert _reports(cluster, name, 0) == 12
    best = status["bestTrial"]["number"]
    eventually(lambda: _claims(cluster) == {f"checkpoints-{best}"}, "only the best trial's claim is left")


def test_a_suspended_job_is_queued_and_goes_on_when_it_is_resumed(cluster):
    name = _apply(cluster, "checkpoints", maxTrials=1, parallelism=1)
    eventually(_logged(cluster, 0, "epoch 3:"), "the trial has saved its state")
    (job,) = (job["metadata"]["name"] for job in cluster.jobs())

    def suspend(value: str) -> None:
        cluster.kubectl("patch", "job", job, "--type=merge", "-p", f'{{"spec": {{"suspend": {value}}}}}')

    suspend("true")  # as Kueue does when it takes the quota back
    eventually(lambda: not cluster.get("pods", labels=_of_trial(0))["items"], "the Job controller has ended the pod")
    eventually(lambda: cluster.status(name)["trials"].get("queued") == 1, "the trial is queued")
    assert cluster.status(name)["trials"]["running"] == 0
    assert cluster.rows(name) == [(0, "RUNNING")]
    suspend("false")  # and when it has some again
    eventually(_logged(cluster, 0, "going on after epoch"), "the trial goes on")
    status = cluster.wait(name)
    assert (status["trials"]["complete"], status["trials"]["failed"], status["trials"]["total"]) == (1, 0, 1)
    assert [found["metadata"]["name"] for found in cluster.jobs()] == [job]
    assert _reports(cluster, name, 0) == 12


def test_a_shared_claim_has_a_directory_for_each_trial(cluster):
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Mi"}}}
    manifest = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "shared"}, "spec": claim}
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
    script = (
        "import study_trial\n"
        "trial = study_trial.current()\n"
        "mine = trial.checkpoint_dir / 'mine'\n"
        "assert not mine.exists(), 'another trial was here'\n"
        "mine.write_text(str(trial.number))\n"
        "trial.finish(trial.number)\n"
    )
    cluster.apply("share", script, maxTrials=3, checkpoints={"claimName": "shared"})
    status = cluster.wait("share")
    assert (status["trials"]["complete"], status["trials"]["failed"]) == (3, 0)
    assert _claims(cluster) == {"shared"}


def test_a_sidecar_reports_what_a_program_writes_to_a_file(cluster):
    name = _apply(cluster, "file-metrics")
    status = cluster.wait(name)
    assert status["trials"]["failed"] == 0
    assert status["trials"]["complete"] + status["trials"]["pruned"] == 6
    assert _reports(cluster, name, 0) == 10
    accuracy, lr = 0.0, float(status["bestTrial"]["parameters"]["lr"])
    for _ in range(10):
        accuracy += (1 - accuracy) * lr * (1.2 - lr)
    assert float(status["bestTrial"]["values"][0]) == accuracy
    assert status.get("badReports", 0) == 0


def test_a_pruned_trial_that_ignores_everything_is_ended_within_ten_seconds(cluster):
    script = (
        "import os, signal, subprocess, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "n = int(os.environ['STUDY_TRIAL_NUMBER'])\n"
        "for step in range(1, 4 if n == 0 else 600):\n"
        "    subprocess.run(['study-trial', 'report', '--step', str(step), str(1 - n)], check=False)\n"
        "    time.sleep(0.5 if n else 0)\n"
        "subprocess.run(['study-trial', 'finish', str(1 - n)], check=True)\n"
    )
    options = {"n_startup_trials": 1, "n_warmup_steps": 0}
    manifest = cluster.manifest(
        "stubborn", script, maxTrials=2, parallelism=1, pruner={"name": "Median", "options": options}
    )
    manifest["spec"]["jobTemplate"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 300
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
    eventually(lambda: (1, "PRUNED") in (cluster.status("stubborn") and cluster.rows("stubborn")), "it is pruned")
    pruned = time.monotonic()
    # It would take 300 seconds. On a machine that is not overloaded it takes 10 at the most, which the plan's own times
    # leave room for (tests/unit/test_plan.py); here the limit is a safety net.
    eventually(lambda: not cluster.get("pods", labels=_of_trial(1))["items"], "its pod is gone", 60)
    print(f"gone {time.monotonic() - pruned:.1f} s after it was pruned")
    cluster.wait("stubborn")

"""Programs as people have them, in real pods: what they print, write and return, and how their pods end."""

from __future__ import annotations

import json
from typing import Any

import pytest
from e2e import Cluster, eventually

PRINTS = {"from": "Stdout"}
WRITES = {"from": "File", "path": "/m/m.jsonl"}
ONE = {"maxTrials": 1, "parallelism": 1}

BAR = """
import sys
for i in range(301):
    sys.stderr.write(f"\\rtrain {i:>40}/300 epoch=1 score={i / 300:.3f}")
    sys.stderr.flush()
"""

RANKS = """
import os, subprocess, sys, time
code = '''
import os, time
import study_trial
rank = int(os.environ["RANK"])
def objective(trial):
    for epoch in range(3):
        trial.report(rank / 10, epoch)
    if rank == 0:
        time.sleep(1)  # the other rank ends first
    return 0.5 if rank == 0 else None
study_trial.run(objective)
'''
ranks = [subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "RANK": rank}) for rank in "01"]
sys.exit(max(rank.wait() for rank in ranks))
"""

# Name of the Study: its program, what its spec has, the value of its trial.
KEPT: dict[str, tuple[str, dict[str, Any], float]] = {
    "fraction": ("print({'score': 0.91, 'epoch': 0.5}); print({'score': 0.93, 'epoch': 2.99})", {}, 0.93),
    "brackets": ("print('epoch: [3/30] score: 0.91')", {}, 0.91),
    "bar": (BAR, {}, 1.0),
    "numpy": ("print(\"{'score': np.float64(0.91), 'epoch': 3}\")", {}, 0.91),
    "best-of": (
        "for score in 0.2, 0.9, 0.4: print(f'score={score}')",
        {"objectives": [{"name": "score", "direction": "Maximize", "finalValue": "Best"}]},
        0.9,
    ),
    "text-in-json": (
        """open("/m/m.jsonl", "w").write('{"score": "0.91", "epoch": 2.99, "timestamp": 1700000000.5}')""",
        {"metrics": WRITES},
        0.91,
    ),
    "named": (
        """open("/m/m.jsonl", "w").write('{"epoch": 1, "metrics/mAP50-95(B)": 0.4}\\n')""",
        {
            "metrics": WRITES,
            "objectives": [{"name": "map", "metric": "metrics/mAP50-95(B)", "direction": "Maximize"}],
        },
        0.4,
    ),
    "sdk": (
        "import study_trial\n"
        "trial = study_trial.current()\n"
        "trial.report(0.9, 3.0)\n"
        "trial.report(0.9, 2.99)\n"
        "trial.finish(0.9)\n",
        {"metrics": {"from": "Sdk"}},
        0.9,
    ),
    "ranks": (RANKS, {"metrics": {"from": "Sdk"}}, 0.5),
}


def _fields(name: str) -> tuple[str, dict[str, Any]]:
    script, spec, _ = KEPT[name]
    return script, {"metrics": PRINTS, **ONE, **spec}


def test_a_value_is_taken_whatever_is_beside_it(cluster):
    for name in KEPT:
        script, spec = _fields(name)
        cluster.apply(name, script, **spec)
    for name, (_, _, value) in KEPT.items():
        status = cluster.wait(name, "Finished")
        assert status["trials"]["complete"] == 1, (name, status.get("recentFailures"))
        assert status["bestTrial"]["values"] == [str(value)], name
    assert cluster.reports("bar", 0) == [(1, 1.0)]
    assert [value for _, value in cluster.reports("ranks", 0)] == [0.0, 0.0, 0.0]  # rank 0 speaks


MISSING = {
    "other-names": ("print('epoch 3: loss=0.5 acc=0.9')", PRINTS, "acc"),
    "no-file": ("print('saves nothing')", WRITES, "/m/m.jsonl"),
    "unreadable": ("print('score: n/a')", PRINTS, "n/a"),
}


def test_a_missing_value_says_what_there_was_instead(cluster):
    for name, (script, metrics, _) in MISSING.items():
        cluster.apply(name, script, metrics=metrics, **ONE)
    for name, (_, _, words) in MISSING.items():
        (failure,) = cluster.wait(name, "Finished")["recentFailures"]
        assert failure["reason"] == "MetricMissing"
        assert words in failure["message"], failure
        told = f"involvedObject.kind=Study,involvedObject.name={name},reason=TrialMetricMissing"
        (event,) = eventually(lambda told=told: cluster.get("events", fields=told)["items"], "an Event tells it")
        assert words in event["message"]


def _with_proxy(cluster: Cluster, name: str, script: str, metrics: dict[str, str]) -> None:
    """Apply a Study beside whose program a container runs that does not end, as a service mesh's proxy."""
    manifest = cluster.manifest(name, script, metrics=metrics, maxTrials=2, parallelism=1)
    containers = manifest["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    containers.append({**containers[0], "name": "proxy", "command": ["sleep", "100000"]})
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))


def test_a_container_that_stays_holds_up_no_trial(cluster):
    _with_proxy(cluster, "out", "print('score=1')", PRINTS)
    _with_proxy(cluster, "by-sdk", "import study_trial; study_trial.current().finish(1)", {"from": "Sdk"})
    _with_proxy(cluster, "fails", "raise SystemExit(3)", PRINTS)

    def names_it() -> bool:
        return "container proxy" in cluster.condition("out", "Progressing").get("message", "")

    eventually(names_it, "Progressing names the container that still runs")
    for name in ("out", "by-sdk"):
        status = cluster.wait(name, "Finished")
        assert (status["trials"]["complete"], status["bestTrial"]["values"]) == (2, ["1.0"])
    failures = cluster.wait("fails", "Finished")["recentFailures"]
    assert [(failure["class"], failure["exitCode"]) for failure in failures] == [("Program", 3)] * len(failures)
    running = "status.phase=Running"
    eventually(lambda: not cluster.get("pods", fields=running)["items"], "no pod is left running")


@pytest.mark.parametrize("how", [(), ("--grace-period=0", "--force")], ids=["plainly", "by force"])
def test_trials_whose_pods_are_deleted_run_again(cluster, how):
    script = (
        "import os, time\n"
        "import study_trial\n"
        "time.sleep(1 if os.environ['STUDY_TRIAL_JOB'].endswith('-r1') else 600)\n"
        "study_trial.current().finish(1)\n"
    )
    cluster.apply("deleted", script, maxTrials=2)

    def running() -> list[str]:
        pods = cluster.get("pods", fields="status.phase=Running")["items"]
        return [pod["metadata"]["name"] for pod in pods]

    for name in eventually(lambda: names if len(names := running()) == 2 else None, "both trials run"):
        cluster.kubectl("delete", "pod", name, "--wait=false", *how)
    status = cluster.wait("deleted")
    assert (status["trials"]["complete"], status["trials"]["failed"]) == (2, 0)
    assert status["failures"]["program"] == 0
    assert status["failures"]["infrastructure"] == 2


def _create(cluster: Cluster, kind: str, spec: dict[str, Any]) -> None:
    manifest = {"apiVersion": "v1", "kind": kind, "metadata": {"name": "bounds"}, "spec": spec}
    cluster.kubectl("create", "-f", "-", stdin=json.dumps(manifest))


def test_the_sidecar_fits_where_the_program_fits(cluster):
    amounts = {"limits.cpu": "4", "limits.memory": "4Gi", "requests.cpu": "2", "requests.memory": "4Gi"}
    _create(cluster, "ResourceQuota", {"hard": amounts})
    _create(cluster, "LimitRange", {"limits": [{"type": "Container", "min": {"cpu": "50m"}, "max": {"cpu": "500m"}}]})
    limits = {"cpu": "500m", "memory": "128Mi"}
    own = {"resources": {"requests": {"cpu": "50m", "memory": "32Mi"}, "limits": limits}}
    script = """open("/m/m.jsonl", "w").write('{"score": 1}')"""
    cluster.apply("bounded", script, metrics=WRITES, container=own, **ONE)
    where = "/runs/m.jsonl"
    paths = {
        "env": [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "volumeMounts": [{"name": "runs", "mountPath": "/runs", "subPathExpr": "$(POD_NAME)"}],
    }
    script = script.replace("/m/m.jsonl", where)
    manifest = cluster.manifest("sub-path", script, metrics=WRITES | {"path": where}, container=own | paths, **ONE)
    pod = manifest["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    pod["volumes"] = [{"name": "runs", "emptyDir": {}}]
    pod["securityContext"]["fsGroup"] = 65532
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
    for name in ("bounded", "sub-path"):
        status = cluster.wait(name, "Finished")
        assert status["trials"]["complete"] == 1, (name, status.get("recentFailures"))


def test_trials_beyond_a_quota_wait_their_turn_and_the_status_quotes_it(cluster):
    _create(cluster, "ResourceQuota", {"hard": {"pods": "1"}})
    script = "import study_trial, time; time.sleep(8); study_trial.current().finish(1)"
    cluster.apply("beyond", script, maxTrials=3, parallelism=3, pendingDeadlineSeconds=60)

    def quoted() -> bool:
        condition = cluster.condition("beyond", "Progressing")
        return condition.get("status") == "False" and "exceeded quota: bounds" in condition["message"]

    eventually(quoted, "Progressing quotes the quota", 45)
    assert cluster.status("beyond")["phase"] == "Waiting"
    status = cluster.wait("beyond")
    assert (status["trials"]["complete"], status["failures"]["infrastructure"]) == (3, 0)


def test_a_pruned_trial_that_has_been_told_may_upload_as_long_as_its_template_says(cluster):
    """Longer than the ten seconds that a pruned trial has otherwise."""
    script = (
        "import itertools, time\n"
        "import study_trial\n"
        "trial = study_trial.current()\n"
        "for step in itertools.count():\n"
        "    trial.report(0.0, step)\n"
        "    if trial.should_prune():\n"
        "        break\n"
        "    time.sleep(0.2)\n"
        "time.sleep(15)\n"
        "print('uploaded')\n"
    )
    pruner = {"name": "Threshold", "options": {"lower": 0.5}}
    manifest = cluster.manifest("uploads", script, pruner=pruner, **ONE)
    manifest["spec"]["jobTemplate"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 120
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
    cluster.wait("uploads", "Finished")
    assert cluster.rows("uploads") == [(0, "PRUNED")]
    assert "uploaded" in cluster.kubectl("logs", "job/uploads-0")

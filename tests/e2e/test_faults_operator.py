"""The operator is killed at any moment, or its clock is wrong: its studies end complete with exactly their trials."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from e2e import KEEP_JOBS, TRAIN, Cluster, eventually
from node import wrong_clock
from operator_process import OperatorProcess

pytestmark = pytest.mark.apart

STEPS = 8


@pytest.fixture
def operator(own_database: dict[str, str], tmp_path: Path) -> Iterator[OperatorProcess]:
    """An operator outside the cluster, not started yet, that serves the test's namespace alone."""
    with OperatorProcess(tmp_path, own_database) as process:
        yield process


@pytest.mark.parametrize("kills", [10, pytest.param(100, marks=pytest.mark.faults)])
def test_an_operator_that_is_killed_again_and_again(cluster: Cluster, operator: OperatorProcess, kills: int):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    cluster.apply("killed", TRAIN.format(steps=STEPS, sleep=0.3), maxTrials=1000, parallelism=4, **KEEP_JOBS)
    for _ in range(kills):
        operator.start()
        # Some die while they wait for what the one before may still do, most while they go on.
        time.sleep(chance.uniform(0, 3) if chance.random() < 0.3 else chance.uniform(3, 7))
        operator.kill()
    so_far = len(cluster.rows("killed"))
    assert so_far >= kills // 10, "between kills, trials are started"
    trials = so_far + 4
    cluster.kubectl("patch", "study", "killed", "--type=merge", "-p", json.dumps({"spec": {"maxTrials": trials}}))
    operator.start()
    cluster.wait("killed")
    cluster.assert_whole("killed", trials, STEPS)


def _skew(ahead: bool) -> float:
    """An hour ahead; or behind, as far as the cluster's certificates are valid yet."""
    certificate = Path(os.environ["KUBECONFIG"]).parent / "pki/ca.crt"
    return 3600.0 if ahead else -min(3600.0, time.time() - certificate.stat().st_mtime - 60)


@pytest.mark.parametrize("ahead", [True, False], ids=["ahead", "behind"])
def test_an_operator_whose_clock_is_wrong(cluster: Cluster, own_database: dict[str, str], tmp_path: Path, ahead: bool):
    """Deadlines are those of the database's and the API server's clocks, from which their beginnings are."""
    skew = _skew(ahead)
    with OperatorProcess(tmp_path, own_database | wrong_clock(skew)) as operator:
        operator.start()
        script = TRAIN.format(steps=STEPS, sleep=0.3)
        limits = {"activeDeadlineSeconds": 900, "pendingDeadlineSeconds": 600}
        cluster.apply("patient", script, maxTrials=4, parallelism=2, **limits, **KEEP_JOBS)
        endless = TRAIN.format(steps=10000, sleep=1)
        cluster.apply("late", endless, maxTrials=2, parallelism=1, activeDeadlineSeconds=10)
        cluster.wait("late", "Failed", 120)
        assert cluster.condition("late", "Failed")["reason"] == "DeadlineExceeded"
        cluster.wait("patient")
        cluster.assert_whole("patient", 4, STEPS)
        logged = datetime.fromisoformat(operator.log.read_text().split()[0]).timestamp()
        assert abs(time.time() + skew - logged) < 300, "its clock was as wrong as it should be"


def test_trials_whose_clocks_are_wrong(cluster: Cluster, operator: OperatorProcess):
    cluster.kubectl("label", "namespace", cluster.namespace, "pod-security.kubernetes.io/enforce-")  # for hostPath
    operator.start()
    env = wrong_clock(3600)
    library = str(Path(env["LD_PRELOAD"]).parent)
    container = {
        "env": [{"name": name, "value": value} for name, value in env.items()],
        "volumeMounts": [{"name": "library", "mountPath": library, "readOnly": True}],
    }
    # libfaketime does not know Python's way to sleep.
    script = (
        "import select, time\n"
        "time.sleep = lambda seconds: select.select([], [], [], seconds)\n"
        "print(time.time(), flush=True)\n"
    )
    script += TRAIN.format(steps=STEPS, sleep=0.3)
    spec = {"maxTrials": 4, "parallelism": 2, "activeDeadlineSeconds": 900, "container": container, **KEEP_JOBS}
    manifest = cluster.manifest("skewed", script, **spec)
    pod = manifest["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    pod["volumes"] = [{"name": "library", "hostPath": {"path": library}}]
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
    cluster.wait("skewed")
    cluster.assert_whole("skewed", 4, STEPS)
    assert float(cluster.kubectl("logs", "job/skewed-0").split()[0]) > time.time() + 3000


# What trials print is read by the operator.


def test_no_line_is_lost_or_doubled_when_the_operator_is_killed(cluster: Cluster, operator: OperatorProcess):
    operator.start()
    # No steps: each line counts, so that one too many or too few moves all that follow.
    script = (
        "import time\n"
        "for i in range(60):\n"
        "    time.sleep(0.2)\n"
        "    print('some noise', flush=i % 5 > 0)\n"
        "    print(f'score: {i}', flush=i % 5 > 0)\n"
        "print('score: n/a')\n"
        "print('score: 7', end='', flush=True)\n"
    )
    cluster.apply("killed", script, metrics={"from": "Stdout"}, maxTrials=1, parallelism=1)
    for enough in (10, 20, 30, 40):
        eventually(lambda enough=enough: len(cluster.reports("killed", 0)) >= enough, f"{enough} reports are there")
        operator.kill()
        operator.start()
    status = cluster.wait("killed")
    assert cluster.reports("killed", 0) == [*((i, float(i)) for i in range(60)), (60, 7.0)]
    assert status["bestTrial"]["values"] == ["7.0"]
    assert status["badReports"] == 1
    assert status["lastBadReport"] == "score is 'n/a', which is no number: score: n/a"


def test_what_is_printed_while_the_operator_is_away_is_read_when_it_is_back(
    cluster: Cluster, operator: OperatorProcess
):
    operator.start()
    script = "import time\nfor i in range(20):\n    print(f'epoch={i} score={i}', flush=True)\n    time.sleep(0.25)\n"
    cluster.apply("away", script, metrics={"from": "Stdout"}, maxTrials=1, parallelism=1)
    eventually(lambda: len(cluster.reports("away", 0)) >= 3, "three reports are there")
    operator.kill()
    job = cluster.jobs()[0]["metadata"]["name"]
    cluster.kubectl("wait", "--for=condition=Complete", f"job/{job}", "--timeout=240s")
    operator.start()
    status = cluster.wait("away")
    assert cluster.reports("away", 0) == [(i, float(i)) for i in range(20)]
    assert status["bestTrial"]["values"] == ["19.0"]

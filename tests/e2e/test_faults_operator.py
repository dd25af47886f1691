"""The operator is killed, again and again, at any moment: its study ends complete with exactly its trials."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e import KEEP_JOBS, TRAIN, Cluster
from operator_process import OperatorProcess, scaled

STEPS = 8


@pytest.fixture(scope="module", autouse=True)
def _none_in_the_cluster(installed: dict[str, str]) -> Iterator[None]:
    with scaled(0):
        yield


@pytest.fixture
def operator(installed: dict[str, str], tmp_path: Path) -> Iterator[OperatorProcess]:
    with OperatorProcess(tmp_path) as process:
        yield process


@pytest.mark.parametrize("kills", [10, pytest.param(100, marks=pytest.mark.faults)])
def test_an_operator_that_is_killed_again_and_again(cluster: Cluster, operator: OperatorProcess, kills: int):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    cluster.apply("killed", TRAIN.format(steps=STEPS, sleep=0.3), maxTrials=1000, parallelism=4, **KEEP_JOBS)
    for _ in range(kills):
        operator.start()
        # Half of them die while they find out what there is, the others while they go on with it.
        time.sleep(chance.uniform(0, 1.5) if chance.random() < 0.5 else chance.uniform(1.5, 4))
        operator.kill()
    so_far = len(cluster.rows("killed"))
    assert so_far >= kills // 10, "between kills, trials are started"
    trials = so_far + 4
    cluster.kubectl("patch", "study", "killed", "--type=merge", "-p", json.dumps({"spec": {"maxTrials": trials}}))
    operator.start()
    cluster.wait("killed")
    cluster.assert_whole("killed", trials, STEPS)

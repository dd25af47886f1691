"""The operator's images with PyTorch and with plug-ins: they learn, and the example Studies run to their end.

Not part of `make test`: the images take minutes to build. `make test-variants` runs these.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e import SYSTEM, Cluster, eventually

pytestmark = pytest.mark.variants

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = ROOT / "examples/plugins"

# Asks a Study's sampler for trials of a quadratic, as the operator does, one after the other; prints their losses.
DRIVE = """
import datetime, json, os
from study_operator.model.batch import Stored
from study_operator.model.history import History, StoredStudy
from study_operator.model.actions import Tell
from study_operator.model.study import parse
from study_operator.model.trial import TrialState
from study_operator.optimizer import StudyOptimizer

study = parse(json.loads(os.environ["STUDY"]))
nothing = History(1, StoredStudy(study.optuna_name, study.directions, {}, {}), [])
optimizer = StudyOptimizer.of(study, nothing, [], [study.sampler.cls] if study.sampler.cls else [])
now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
losses = []
for number in range(int(os.environ["TRIALS"])):
    optimizer.suggest(1, 1000)
    (row,) = optimizer.commit(Stored(now, [number]))
    losses.append((row.params["x"] - 2) ** 2 + (row.params["y"] + 1) ** 2)
    optimizer.tell([Tell(row, TrialState.COMPLETE, (losses[-1],))])
    optimizer.commit(Stored(now))
print(json.dumps([type(optimizer._sampling._study.sampler).__name__, losses]))
"""
QUADRATIC = [{"name": "x", "float": {"low": -5, "high": 5}}, {"name": "y", "float": {"low": -5, "high": 5}}]
# What random search expects of it: the variance of each side, and how far its centre is from the best point.
RANDOM = 2 * 10**2 / 12 + 2**2 + 1**2
GP = {"name": "GP", "seed": 7, "options": {"n_startup_trials": 8}}
BOTORCH = {"class": "optuna_integration.botorch:BoTorchSampler", "seed": 7, "options": {"n_startup_trials": 8}}
HYPEROPT = {"class": "hyperopt_sampler:HyperoptSampler", "seed": 7, "options": {"n_startup_trials": 8}}


@pytest.mark.parametrize(
    ("name", "sampler", "cls", "trials", "most"),
    [
        ("study-operator-gp", GP, "GPSampler", 30, 0.25),
        ("study-operator-botorch", BOTORCH, "BoTorchSampler", 20, 0.25),
        ("study-operator-hyperopt", HYPEROPT, "HyperoptSampler", 60, 0.8),  # it explores much longer
    ],
)
def test_a_sampler_learns_in_its_image(
    cluster: Cluster, name: str, sampler: dict[str, Any], cls: str, trials: int, most: float
):
    """Over the later half of its trials it is better than random search, whose expected loss is known."""
    manifest = cluster.manifest("quadratic", "", sampler=sampler, parameters=QUADRATIC)
    manifest["spec"]["objectives"][0]["direction"] = "Minimize"
    defaulted = cluster.kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=json.dumps(manifest))
    cluster.kubectl("create", "-f", "-", stdin=json.dumps(_pod(_image(name), STUDY=defaulted, TRIALS=str(trials))))
    eventually(lambda: _phase(cluster) in ("Succeeded", "Failed"), "the pod has ended", 500)
    said = cluster.kubectl("logs", "asker")
    assert _phase(cluster) == "Succeeded", said
    found, losses = json.loads(said.splitlines()[-1])
    assert found == cls
    assert statistics.mean(losses[trials // 2 :]) < most * RANDOM
    assert min(losses[8:]) < min(losses[:8])


def _image(name: str) -> str:
    """One of the images that are only built when they are asked for."""
    command = [sys.executable, "hack/local-cluster", "images", name]
    return json.loads(subprocess.check_output(command, cwd=ROOT).splitlines()[-1])[name]


def _pod(image: str, **env: str) -> dict[str, Any]:
    """A pod as restricted as the operator's own."""
    container = {
        "name": "asker",
        "image": image,
        "imagePullPolicy": "Never",
        "command": ["python3", "-W", "ignore", "-c", DRIVE],
        "env": [{"name": key, "value": value} for key, value in env.items()],
        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    security = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    spec = {"restartPolicy": "Never", "securityContext": security, "containers": [container]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "asker"}, "spec": spec}


def _phase(cluster: Cluster) -> str:
    return cluster.get("pod", "asker")["status"]["phase"]


# The operator itself. It is one for the whole cluster: each test installs an image and leaves the usual one behind.


@pytest.fixture
def usual_operator(installed: dict[str, str]) -> Iterator[None]:
    yield
    subprocess.run([sys.executable, "hack/demo.py", "--only-install"], cwd=ROOT, check=True)


def _upgrade(image: str, *values: str) -> None:
    """Lets the operator run an image, with further arguments of `helm upgrade`."""
    repository, _, tag = image.rpartition(":")
    settings = ["--set-string", f"operator.image.repository={repository},operator.image.tag={tag}"]
    chart = ["helm", "upgrade", SYSTEM, "helm/study-operator", "-n", SYSTEM, "--reset-then-reuse-values"]
    subprocess.run([*chart, *values, *settings, "--wait", "--timeout", "5m"], cwd=ROOT, check=True)


def _refusal(cluster: Cluster, name: str) -> tuple[str, str]:
    eventually(lambda: cluster.condition(name, "Accepted").get("status") == "False", "it is refused", 60)
    condition = cluster.condition(name, "Accepted")
    return condition["reason"], condition["message"]


def test_gp_waits_for_the_variant_and_then_runs(cluster: Cluster, usual_operator: None):
    script = (
        "import study_trial\n"
        "study_trial.run(lambda t: (t.suggest_float('x', -5, 5) - 2) ** 2 + (t.suggest_float('y', -5, 5) + 1) ** 2)\n"
    )
    objectives = [{"name": "loss", "direction": "Minimize"}]
    cluster.apply("gp", script, sampler=GP, parameters=QUADRATIC, objectives=objectives, maxTrials=14)
    reason, message = _refusal(cluster, "gp")
    assert reason == "SamplerNotInstalled"
    assert "operator.image.variant: gp" in message
    _upgrade(_image("study-operator-gp").removesuffix("-gp"), "--set", "operator.image.variant=gp")
    status = cluster.wait("gp", seconds=400)
    assert status["trials"]["complete"] == 14
    assert status["bestTrial"]["number"] >= 8  # after the random start
    assert float(status["bestValue"]) < 0.5


@pytest.mark.parametrize("name", ["hyperopt", "botorch"])
def test_an_example_is_refused_until_it_is_allowed_and_then_runs(cluster: Cluster, usual_operator: None, name: str):
    text = (PLUGINS / name / "study.yaml").read_text()
    study = yaml.safe_load(text)
    cls, most = study["spec"]["sampler"]["class"], study["spec"]["maxTrials"]
    cluster.kubectl("apply", "-f", "-", stdin=text.replace("study-trial:dev", cluster.images["study-trial"]))
    reason, message = _refusal(cluster, name)
    assert reason == "SamplerNotAllowed"
    assert cls in message
    assert not cluster.jobs()

    _upgrade(_image(f"study-operator-{name}"), "-f", str(PLUGINS / name / "values.yaml"))
    status = cluster.wait(name, seconds=500)
    assert status["trials"]["complete"] == most
    assert status["trials"]["failed"] == 0
    assert status["bestTrial"]["number"] >= study["spec"]["sampler"]["options"]["n_startup_trials"]

    # What is not in the list stays refused, though the image could import it.
    cluster.apply("other", sampler={"class": "optuna.samplers:RandomSampler"})
    reason, message = _refusal(cluster, "other")
    assert reason == "SamplerNotAllowed"
    assert f"write one of {cls}" in message

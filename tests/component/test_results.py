"""The commands of docs/results.md, as a user runs them: taken from the page, against a real API server."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chart import program
from world import GOES_ON, World, environment_of

PAGE = (Path(__file__).resolve().parents[2] / "docs/results.md").read_text()
PARAMETERS = [
    {"name": "lr", "float": {"low": 1e-6, "high": 1e-1, "log": True}},
    {"name": "batch", "int": {"low": 1, "high": 10_000_000}},
    {"name": "bias", "categorical": {"choices": [True, False]}},
    {"name": "size", "categorical": {"choices": ["32", "64"]}},
]
BEST = {"lr": 0.00001, "batch": 4_000_000, "bias": True, "size": "32"}

Run = Callable[[str], str]
pytestmark = pytest.mark.skipif(shutil.which("jq") is None, reason="the page's commands need jq")


def commands(heading: str, language: str = "sh") -> list[str]:
    """The blocks of a section of the page."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


@pytest.fixture
def run(world: World, api_server: Any, tmp_path: Path) -> Run:
    """Runs a command in a shell whose kubectl speaks to the test's namespace."""
    kubeconfig = os.environ.get("TEST_KUBECONFIG") or api_server.kubeconfig
    wrapper = tmp_path / "kubectl"
    options = f"--kubeconfig={kubeconfig} --cache-dir={tmp_path}/cache -n {world.namespace}"
    wrapper.write_text(f'#!/bin/sh\nexec {program("kubectl")} {options} "$@"\n')
    wrapper.chmod(0o755)

    def in_shell(command: str) -> str:
        environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        shell = ["bash", "-euo", "pipefail", "-c", command]
        done = subprocess.run(shell, env=environment, capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return in_shell


@pytest.fixture
async def digits(world: World) -> World:
    """A study that has ended, whose best trial has the parameters BEST."""
    spec = {"parameters": PARAMETERS, "initialTrials": [BEST], "maxTrials": 2}
    await world.apply("digits", **spec)
    await world.run_trials(lambda number: 1.0 - number, "digits")
    return world


async def test_what_has_ended_is_read(digits: World, run: Run) -> None:
    (waits,) = commands("Wait for the end")
    assert run(waits).splitlines() == ["study.study-operator.io/digits condition met", "Succeeded"]

    (shows,) = commands("All that it says, on one screen")
    lines = [line.split(maxsplit=3) for line in run(shows).splitlines()]
    assert ["Finished", "True", "MaxTrialsReached", "2 of 2 trials have ended"] in lines
    assert len(lines) < 24

    (shows,) = commands("The best parameters, as arguments")
    found = dict(line.removeprefix("--").split("=") for line in run(shows).splitlines())
    assert {name: json.loads(value) for name, value in found.items()} == BEST | {"size": 32}

    (event,) = commands("Word of the end")
    assert "trial 0 is the best: 1.0" in run(event)
    (manifests,) = commands("Word of the end", "yaml")
    run(f"kubectl create --dry-run=server --validate=strict -f - <<'END'\n{manifests}\nEND")


async def test_the_best_trial_runs_again(digits: World, run: Run) -> None:
    as_study, as_job = commands("The best trial again, for longer")
    run(as_study)
    await digits.settle("digits-long")
    made = await digits.job(0, "digits-long")
    assert json.loads(environment_of(made)["STUDY_PARAMS"]) == BEST
    assert made["spec"]["template"]["spec"]["containers"][0]["args"] == ["--epochs=100"]

    (shows,) = commands("Compare two studies")
    head, one, other = run(shows).splitlines()
    assert head.split() == ["NAME", "PHASE", "TRIALS", "BEST", "TRIAL", "PARAMS"]
    assert one.split()[:6] == ["digits", "Succeeded", "2/2", "1", "(max)", "0"]
    assert other.split()[0] == "digits-long"
    assert other.split()[1] in GOES_ON

    run(as_job)
    job = json.loads(run("kubectl get job digits-best -o json"))
    assert "ownerReferences" not in job["metadata"]
    environment = environment_of(job)
    assert set(environment) == {"PARAM_lr", "PARAM_batch", "PARAM_bias", "PARAM_bias_FLAG", "PARAM_size"}
    assert environment["PARAM_batch"] == "4000000"
    pod = job["spec"]["template"]["spec"]
    assert (pod.get("volumes"), pod["containers"][0].get("volumeMounts")) == (None, None)

"""`kubectl study` on trials: the trials API behind a real API server, read through a real kubectl."""

from __future__ import annotations

import csv
import io
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from aggregated import Aggregated, aggregated
from kubectl_cli import Kubectl
from optuna.trial import TrialState
from study_cli import StudyCommand
from waiting import wait_until

CRD = Path(__file__).resolve().parents[2] / "crds/study.yaml"
SPEC = {
    "objectives": [{"name": "accuracy", "direction": "Maximize"}],
    "parameters": [{"name": "lr", "float": {"low": 0, "high": 1}}],
    "jobTemplate": {"spec": {"template": {"spec": {"containers": [{"name": "trial", "image": "trial:1"}]}}}},
}


@pytest.fixture(scope="module")
def api(own_services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aggregated]:
    with aggregated(own_services, tmp_path_factory.mktemp("api")) as opened:
        opened.kubectl.ok("apply", "--server-side", "--force-conflicts", "-f", str(CRD))
        wait_until(lambda: opened.kubectl.run("get", "studies").returncode == 0)
        yield opened


@pytest.fixture(scope="module")
def study(api: Aggregated, tmp_path_factory: pytest.TempPathFactory) -> StudyCommand:
    """The plug-in in a namespace with a Study, and trials of each kind, which tests read."""
    namespace = api.namespace()
    kubectl = Kubectl(api.kubectl.kubeconfig, api.kubectl.cache, namespace)
    head = {"apiVersion": "study-operator.io/v1alpha1", "kind": "Study", "metadata": {"name": "digits"}}
    kubectl.ok("create", "-f", "-", stdin=json.dumps(head | {"spec": SPEC}))
    params = {"lr": "0.25"}
    best = {"number": 1, "values": ["1.0"], "parameters": params, "paramsLeftOut": "they take more than 4096 bytes"}
    status = {"phase": "Running", "bestTrial": best, "trials": {"running": 1}}
    patch = json.dumps({"status": status | {"conditions": []}})
    kubectl.ok("patch", "study", "digits", "--subresource=status", "--type=merge", "-p", patch)
    rows = api.study(namespace)
    rows.add(0.5, lr=0.25, layers=3, optimizer="\x1b[31mred", reports={1: 0.25, 2: 0.5}, attributes={"note": "=1+1"})
    rows.add(1.0, lr=1.0, layers=4, optimizer="sgd")
    rows.add(-3.0, lr=0.5, layers=4, optimizer=None)
    rows.add(state=TrialState.PRUNED, lr=0.75, reports={1: float("inf"), 2: 0.125})
    rows.add(float("inf"), lr=0.125)
    rows.add(state=TrialState.RUNNING, lr=0.0625)
    for number in range(6):
        rows.add(number / 10, lr=number / 100, layers=2 + number % 2, optimizer="adam")
    return StudyCommand(kubectl, tmp_path_factory.mktemp("client"))


def numbers(shown: str) -> list[int]:
    return [int(line.split()[0]) for line in shown.splitlines()[1:]]


def test_trials_are_listed_chosen_and_sorted(study: StudyCommand):
    shown = study.ok("trials", "digits")
    assert numbers(shown) == list(range(12))
    assert "\x1b" not in shown
    assert shown.splitlines()[0].split() == ["TRIAL", "STATE", "ACCURACY", "layers", "lr", "optimizer", "DURATION"]
    assert numbers(study.ok("trials", "digits", "--best", "3")) == [4, 1, 0]
    assert numbers(study.ok("trials", "digits", "--state", "pruned")) == [3]
    assert numbers(study.ok("trials", "digits", "--sort", "lr", "--reverse"))[:3] == [1, 3, 2]
    assert "there are value, number" in study.refused("trials", "digits", "--sort", "epochs")


def test_trials_are_files_for_other_programs(study: StudyCommand, tmp_path: Path):
    head, first, *_ = csv.reader(io.StringIO(study.ok("trials", "digits", "-o", "csv")))
    row = dict(zip(head, first, strict=True))
    assert (row["accuracy"], row["params_optimizer"], row["attr_note"]) == ("0.5", "[31mred", "'=1+1")
    lines = study.ok("trials", "digits", "-o", "jsonl").splitlines()
    assert json.loads(lines[0])["spec"]["parameters"] == {"lr": 0.25, "layers": 3, "optimizer": "\x1b[31mred"}
    names = study.ok("trials", "digits", "-o", "name", "--best", "1").split()
    assert names == ["studytrial.results.study-operator.io/digits-4"]
    assert "12 trials of digits" in study.ok("export", "digits", "-o", "json", str(tmp_path / "all.json"))
    assert len(json.loads((tmp_path / "all.json").read_text())) == 12


def test_a_trial_is_described_and_ready_for_a_command_line(study: StudyCommand):
    shown = study.ok("describe", "digits/0")
    for said in ("Trial digits/0: Complete", "accuracy", "\\x1b[31mred", "0.5 at step 2"):
        assert said in shown
    assert study.ok("describe", "digits/1", "-o", "args") == "--layers=4 --lr=1 --optimizer=sgd\n"
    assert "characters that cannot be seen" in study.refused("describe", "digits/0", "-o", "args")
    assert "there is no trial digits/99" in study.refused("describe", "digits/99")


def test_parameters_that_the_status_leaves_out_are_read_here(study: StudyCommand):
    assert study.ok("best", "digits", "-o", "args") == "--layers=4 --lr=1 --optimizer=sgd\n"


def test_running_trials_are_in_the_status(study: StudyCommand):
    shown = study.ok("status", "digits")
    assert "lr=0.0625" in shown
    assert shown.splitlines()[-2].split()[:2] == ["TRIAL", "FOR"]


def test_curves_and_importance(study: StudyCommand):
    shown = study.ok("curve", "digits", "0", "3")
    assert "o trial 0: 2 reports, last 0.5" in shown
    assert "x trial 3: 1 reports, last 0.125" in shown
    assert "PARAMETER" in study.ok("importance", "digits")


def test_trials_are_completed_by_kubectl(study: StudyCommand):
    command = ["kubectl", "__complete", "study", "-n", study.kubectl.namespace, "describe", "digits/1"]
    done = subprocess.run(command, env=study.environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["digits/1", "digits/10", "digits/11", ":4"]


def test_who_may_view_reads_trials_and_nobody_else(study: StudyCommand, api: Aggregated):
    assert "kubectl study doctor" in study.refused("trials", "digits", "--as=bob")
    # The chart adds these rights to `view`, by a controller that is not here.
    group = "results.study-operator.io"
    for name, what in (
        ("own", "studies.study-operator.io"),
        ("all", f"studytrials.{group},studytrials.{group}/reports"),
    ):
        study.kubectl.ok("create", "role", name, "--verb=get,list", f"--resource={what}")
        study.kubectl.ok("create", "rolebinding", name, f"--role={name}", "--user=ann")
    wait_until(lambda: study.run("trials", "digits", "--as=ann").returncode == 0)
    shown = study.run("doctor", "--as=ann").stdout
    assert "may list studytrials.results.study-operator.io" in shown
    assert study.run("suspend", "digits", "--as=ann").returncode == 1

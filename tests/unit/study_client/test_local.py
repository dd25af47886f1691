"""`kubectl study run --local`: real programs, a real socket, and the operator's own sampler and pruner."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from study_client.errors import ClientError
from study_client.local import run_local
from study_client.local.programs import elsewhere, expanded, program_of
from study_client.local.reporting import Answering, Reporting
from study_client.local.runner import _SCHEME
from study_client.local.session import Session
from study_client.local.shown import state_of
from study_client.local.study_file import read_study
from study_trial._connection import Call, UnavailableError
from study_trial._errors import RefusedError, TrialFinishedError
from study_trial._local import SCHEME, LocalConnection

ROOT = Path(__file__).resolve().parents[3]
SDK = """
import study_trial
def objective(trial):
    x = trial.suggest_float("x", 0, 1)
    trial.set_user_attr("seen", True)
    for step in range(5):
        trial.report(x, step)
        if trial.should_prune():
            raise study_trial.TrialPruned
    return x
study_trial.run(objective)
"""
STDOUT = "import os\nfor step in range(3): print(f'epoch={step} value={os.environ[\"PARAM_x\"]}')\n"
TO_FILE = """
import json, pathlib, sys
pathlib.Path(sys.argv[1]).write_text("".join(json.dumps({"epoch": n, "value": n * 0.5}) + "\\n" for n in range(4)))
"""

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a Study whose program is some lines of Python."""

    def write(program: str, *args: str, container: dict[str, Any] | None = None, **spec: Any) -> str:
        command = {"name": "trial", "image": "x:1", "command": [sys.executable, "-c", program], "args": list(args)}
        pod = {"containers": [command | (container or {})], **spec.pop("pod", {})}
        job = {"spec": {"template": {"spec": pod}, **spec.pop("job", {})}}
        whole = {
            "objectives": [{"name": "value", "direction": "Minimize"}],
            "parameters": [{"name": "x", "float": {"low": 0, "high": 1}}],
            "sampler": {"name": "Random", "seed": 1},
            "gpusPerTrial": 0,
            "jobTemplate": job,
            **spec,
        }
        head = {"apiVersion": "study-operator.io/v1alpha1", "kind": "Study", "metadata": {"name": "local"}}
        file = tmp_path / "study.yaml"
        file.write_text(json.dumps(head | {"spec": whole}))
        return str(file)

    return write


@pytest.fixture(autouse=True)
def found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Programs find study_trial as they do where it is installed; folders of runs go with the test."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "trial-image"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


def session_of(file: str, most: int = 10) -> Session:
    return Session(read_study(file)[0], most)


def test_both_sides_know_the_scheme():
    assert _SCHEME == SCHEME


def test_a_program_reports_by_study_trial(write: Write, capsys):
    assert run_local(write(SDK), trials=3, parallel=2) == 0
    shown = capsys.readouterr().out
    rows = [line.split() for line in shown.split("\n\n")[1].splitlines()]
    assert rows[0] == ["TRIAL", "STATE", "VALUE", "x", "DURATION"]
    assert [row[:2] for row in rows[1:]] == [["0", "Complete"], ["1", "Complete"], ["2", "Complete"]]
    assert all(row[2] == row[3] for row in rows[1:])
    assert "image x:1" in shown


def test_values_are_read_off_what_is_printed(write: Write, capsys):
    assert run_local(write(STDOUT, metrics={"from": "Stdout"}), trials=2, parallel=1) == 0
    assert capsys.readouterr().out.count("Complete after") == 2


def test_values_are_read_from_a_file_of_each_trial(write: Write, capsys):
    metrics = {"from": "File", "path": "/study-metrics/metrics.jsonl"}
    file = write(TO_FILE, "/study-metrics/metrics.jsonl", metrics=metrics)
    assert run_local(file, trials=2, parallel=2) == 0
    assert capsys.readouterr().out.count("Complete after 0s: value 1.5") == 2
    assert not Path("/study-metrics").exists()


@pytest.mark.parametrize(
    ("program", "spec", "said"),
    [
        ("raise SystemExit(3)", {}, "Error, exit code 3"),
        ("print('CUDA\\x1b[2J oom'); raise SystemExit(3)", {}, r"last log line: CUDA\x1b[2J oom"),
        ("raise SystemExit(42)", {"infeasibleExitCodes": [42]}, "Infeasible after"),
        ("pass", {}, "the program ended without a final value"),
        ("print('accuracy=1')", {"metrics": {"from": "Stdout"}}, "MetricMissing"),
        (
            "import time; time.sleep(60)",
            {"job": {"activeDeadlineSeconds": 1}},
            "activeDeadlineSeconds of 1 have passed",
        ),
    ],
)
def test_it_is_said_why_a_trial_has_no_value(write: Write, capsys, program: str, spec: dict[str, Any], said: str):
    assert run_local(write(program, **spec), trials=1, parallel=1) == 1
    shown = capsys.readouterr().out
    assert said in shown
    assert "\x1b" not in shown


def test_a_study_ends_as_the_operator_ends_it(write: Write, capsys):
    assert run_local(write("raise SystemExit(1)", maxFailedTrials=1), trials=9, parallel=1) == 1
    assert "2 trials failed, maxFailedTrials is 1" in capsys.readouterr().out
    objectives = [{"name": "value", "direction": "Minimize", "goal": 1}]
    assert run_local(write(SDK, objectives=objectives), trials=9, parallel=1) == 0
    assert "trial 0 has reached the goal" in capsys.readouterr().out
    grid = {"parameters": [{"name": "x", "categorical": {"choices": [1, 2]}}], "sampler": {"name": "Grid"}}
    assert run_local(write("print('value=1')", metrics={"from": "Stdout"}, **grid), trials=9, parallel=1) == 0
    assert "every point of the search space was tried" in capsys.readouterr().out


def test_the_pruner_is_the_operators(write: Write):
    pruner = {"name": "Median", "options": {"n_startup_trials": 1, "n_warmup_steps": 0}}
    session = session_of(write(SDK, pruner=pruner))
    calls = Answering(session)

    def call(trial_id: int, **content: Any) -> Any:
        return calls.answer(json.dumps({"trial": trial_id, **content}).encode())["result"]

    good, bad = session.start(), session.start()
    assert good is not None
    assert bad is not None
    assert call(good.row.trial_id, call="report", step=1, value=0.1) is False
    assert call(good.row.trial_id, call="finish", values=[0.1]) is False
    assert call(bad.row.trial_id, call="report", step=1, value=0.9) is True
    assert call(bad.row.trial_id, call="should_stop") is True
    assert call(bad.row.trial_id, call="finish", values=[0.9]) is True
    assert (state_of(good), state_of(bad)) == ("Complete", "Pruned")
    assert list(bad.values or ()) == [0.9]


def test_initial_trials_come_first(write: Write):
    session = session_of(write(SDK, initialTrials=[{"x": 0.25}, {"x": 0.75}]))
    found = [session.start() for _ in range(3)]
    assert [one.row.params["x"] for one in found if one][:2] == [0.25, 0.75]
    assert [one.row.number for one in found if one] == [0, 1, 2]
    assert session_of(write(SDK, maxTrials=2), most=9)._most == 2


def test_the_socket_answers_as_the_database_does(write: Write, tmp_path: Path):
    session = session_of(write(SDK))
    trial = session.start()
    assert trial is not None
    reporting = Reporting(session, tmp_path / "socket")
    connection = LocalConnection(reporting.path)

    def call(**content: Any) -> Any:
        return connection.call(Call({"trial": trial.row.trial_id, **content}, "it"), 5.0)

    try:
        assert call(call="report", step=1, value="NaN") is False
        assert call(call="set_user_attr", name="a", json="[1]") is None
        assert call(call="finish", values=["Infinity"], constraints={}, infeasible=None, pruned=False) is False
        with pytest.raises(TrialFinishedError, match="it was refused: the trial has ended"):
            call(call="report", step=2, value=1)
        for wrong in ({"call": "report"}, {"call": "drop"}, {"call": "report", "step": "x", "value": 1, "trial": 77}):
            with pytest.raises(RefusedError):
                call(**wrong)
    finally:
        reporting.close()
    assert trial.attributes == {"a": [1]}
    with pytest.raises(UnavailableError):
        call(call="should_stop")


def test_references_are_expanded_as_kubernetes_does():
    assert expanded("$(A)-$$(A)-$(B)-$(", {"A": "1"}) == "1-$(A)-$(B)-$("


def test_a_program_gets_what_its_container_gets(write: Write, tmp_path: Path):
    container = {
        "env": [
            {"name": "LR", "value": "x is $(PARAM_x)"},
            {"name": "JOB", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
            {"name": "OUT", "value": "/scratch/out:/scratchy"},
        ],
        "volumeMounts": [{"name": "tmp", "mountPath": "/scratch"}, {"name": "data", "mountPath": "/data"}],
        "workingDir": "/app",
    }
    volumes = [{"name": "tmp", "emptyDir": {}}, {"name": "data", "persistentVolumeClaim": {"claimName": "d"}}]
    study, _ = read_study(write("pass", "--x=$(PARAM_x)", container=container, pod={"volumes": volumes}))
    trial = Session(study, 1).start()
    assert trial is not None
    program = program_of(study, trial.row, tmp_path, "study-local:/s")
    x = trial.row.params["x"]
    assert program.command[-1] == f"--x={x!r}"
    assert program.environment["LR"] == f"x is {x!r}"
    assert program.environment["STUDY_TRIAL_JOB"] == program.environment["JOB"] == "local-0"
    assert program.environment["OUT"] == f"{tmp_path}/scratch/out:/scratchy"
    assert json.loads(program.environment["STUDY_PARAMS"]) == {"x": x}
    assert "TOKEN" not in program.environment
    said = "\n".join(elsewhere(study))
    for words in ("nothing is mounted at /data", "/scratch is an empty directory", "not set: TOKEN", "workingDir /app"):
        assert words in said
    assert program_of(study, trial.row, tmp_path, "u", ["a", "$(PARAM_x)"]).command == ["a", repr(x)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"container": {"command": None}}, "has no command.*-- python train.py"),
        ({"sampler": {"name": "GP"}}, "torch|PyTorch"),
        ({"parameters": []}, "would be refused"),
        ({"container": {"command": ["no-such-program"]}}, "no-such-program cannot be started"),
    ],
)
def test_what_cannot_run_here_is_said(write: Write, change: dict[str, Any], said: str):
    with pytest.raises(ClientError, match=said):
        run_local(write("pass", **change), trials=1, parallel=1)


def test_one_study_is_run(tmp_path: Path):
    file = tmp_path / "none.yaml"
    file.write_text("kind: Pod")
    with pytest.raises(ClientError, match="has 0 Studies"):
        run_local(str(file), 1, 1)
    with pytest.raises(ClientError, match="cannot be read"):
        run_local(str(tmp_path / "missing.yaml"), 1, 1)


def test_ctrl_c_leaves_nothing_behind(write: Write, tmp_path: Path):
    """The program starts another one, as data loaders do, and neither heeds SIGTERM."""
    program = (
        "import os, signal, subprocess, sys, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"child = subprocess.Popen(['sleep', '300'])\nopen({str(tmp_path / 'pids')!r}, 'a').write"
        "(f'{os.getpid()} {child.pid}\\n')\ntime.sleep(300)"
    )
    paths = os.pathsep.join(str(ROOT / folder) for folder in ("client", "operator", "trial-image"))
    command = [sys.executable, "-m", "study_client", "run", "--local", write(program), "--parallel", "2"]
    running = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": paths}, stdout=subprocess.PIPE, text=True)
    pids = tmp_path / "pids"
    deadline = time.monotonic() + 60
    while not pids.exists() or len(pids.read_text().split()) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    shown, _ = running.communicate(timeout=60)
    assert "interrupted" in shown
    assert "Terminated" in shown
    for pid in map(int, pids.read_text().split()):
        while _lives(pid):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert not list(tmp_path.rglob("socket"))


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False

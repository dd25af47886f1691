"""`kubectl study` through a real kubectl, against a real API server. The test writes the status, as the operator."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubectl_cli import Kubectl
from study_cli import StudyCommand

SPEC: dict[str, Any] = {
    "objectives": [{"name": "accuracy", "direction": "Maximize", "goal": 0.95}],
    "parameters": [
        {"name": "lr", "float": {"low": 1e-5, "high": 1.0, "log": True}},
        {"name": "hidden", "int": {"low": 16, "high": 128}},
        {"name": "kind", "categorical": {"choices": ["it's new", "old"]}},
    ],
    "maxTrials": 20,
    "parallelism": 4,
    "gpusPerTrial": 0,
    "jobTemplate": {"spec": {"template": {"spec": {"containers": [{"name": "trial", "image": "trial:1"}]}}}},
}
PARAMS = {"hidden": 69, "kind": "it's new", "lr": 1e-05}  # in the API server's order
BEST = {"number": 7, "values": ["0.9123456789"], "params": PARAMS, "jobName": "digits-7"}
RUNNING = {
    "phase": "Running",
    "progress": "9/20",
    "trials": {"total": 11, "running": 2, "complete": 8, "failed": 1},
    "best": "0.912346 (max)",
    "bestValue": "0.912346",
    "bestTrial": BEST,
    "recentFailures": [
        {"trial": 3, "class": "Program", "reason": "Error", "exitCode": 1, "lastLogLine": "CUDA\\u001b[2J oom"}
    ],
    "conditions": [("Progressing", "True", "TrialsRunning", "2 trials run, 9 of 20 have ended")],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("client")


@pytest.fixture
def kubectl(kubeconfig_of_studies: str, folder: Path) -> Iterator[Kubectl]:
    yield from Kubectl(kubeconfig_of_studies, folder / "cache").in_new_namespace()


@pytest.fixture
def study(kubectl: Kubectl, tmp_path: Path) -> StudyCommand:
    return StudyCommand(kubectl, tmp_path)


@pytest.fixture
def create(kubectl: Kubectl) -> Callable[..., None]:
    def create(name: str = "digits", status: dict[str, Any] | None = None, **changes: Any) -> None:
        meta = {"name": name, "labels": {"team": "vision"}, "annotations": {"study-operator.io/mark": "x", "why": "y"}}
        head = {"apiVersion": "study-operator.io/v1alpha1", "kind": "Study", "metadata": meta}
        kubectl.ok("create", "-f", "-", stdin=json.dumps({**head, "spec": SPEC | changes}))
        if status is not None:
            tell(kubectl, name, status)

    return create


def tell(kubectl: Kubectl, name: str, status: dict[str, Any]) -> None:
    """Writes a status, whose conditions are of the Study's generation of now."""
    generation = json.loads(kubectl.ok("get", "study", name, "-o", "json"))["metadata"]["generation"]
    fields = ("type", "status", "reason", "message")
    conditions = [
        dict(zip(fields, one, strict=True))
        | {"observedGeneration": generation, "lastTransitionTime": "2026-01-01T00:00:00Z"}
        for one in status.get("conditions", ())
    ]
    patch = json.dumps({"status": {**status, "conditions": conditions}})
    kubectl.ok("patch", "study", name, "--subresource=status", "--type=merge", "-p", patch)


def test_studies_are_listed(study: StudyCommand, create: Callable[..., None]) -> None:
    assert "there are no" in study.ok("list")
    create("digits", RUNNING)
    create("other")
    head, digits, other = study.ok("list").splitlines()
    assert head.split() == ["NAME", "PHASE", "TRIALS", "RUNNING", "FAILED", "BEST", "TRIAL", "AGE"]
    assert digits.split()[:8] == ["digits", "Running", "9/20", "2", "1", "0.912346", "(max)", "7"]
    assert other.split()[:2] == ["other", "0/20"]
    assert study.ok("list", "-o", "name").split() == ["study.study-operator.io/digits", "study.study-operator.io/other"]
    assert yaml.safe_load(study.ok("list", "-o", "yaml"))["items"][0]["status"]["bestTrial"] == BEST
    assert len(study.ok("list", "-l", "team=vision,nobody=this").splitlines()) == 1
    found = study.ok("list", "-A", "-o", "wide")
    assert study.kubectl.namespace in found
    assert "TPE" in found


def test_status_is_one_screen_of_safe_text(study: StudyCommand, create: Callable[..., None]) -> None:
    create("digits", RUNNING)
    shown = study.ok("status", "digits")
    assert "9/20; 2 running, 8 complete, 1 failed" in shown
    assert "accuracy 0.912346 (trial 7): hidden=69, kind=it's new, lr=1e-05" in shown
    assert "2 of 4 in use" in shown
    assert "2 trials run, 9 of 20 have ended" in shown
    assert "trial 3: Error, exit code 1: CUDA" in shown
    assert "\x1b" not in shown


def test_best_is_ready_for_a_command_line(study: StudyCommand, create: Callable[..., None]) -> None:
    create("digits")
    assert "has no best trial yet" in study.refused("best", "digits")
    tell(study.kubectl, "digits", RUNNING)
    assert study.ok("best", "digits", "-o", "args") == "--hidden=69 '--kind=it'\"'\"'s new' --lr=1e-05\n"
    variables = study.ok("best", "digits", "-o", "env")
    assert subprocess.check_output(["sh", "-c", f'{variables}echo "$PARAM_kind"'], text=True) == "it's new\n"
    assert yaml.safe_load(study.ok("best", "digits", "-o", "yaml")) == PARAMS
    assert json.loads(study.ok("best", "digits", "-o", "json")) == PARAMS


def test_a_study_is_suspended_scaled_extended_and_stopped(study: StudyCommand, create: Callable[..., None]) -> None:
    create("digits", RUNNING)
    study.ok("suspend", "digits")
    assert study.study("digits")["spec"]["suspend"] is True
    study.ok("resume", "digits")
    assert study.study("digits")["spec"]["suspend"] is False
    study.ok("scale", "digits", "0")
    assert study.study("digits")["spec"]["parallelism"] == 0
    assert "parallelism 0" in study.ok("resume", "digits")
    study.ok("extend", "digits", "--trials", "+50")
    assert study.study("digits")["spec"]["maxTrials"] == 70
    study.ok("extend", "digits", "--trials=80")
    assert study.study("digits")["spec"]["maxTrials"] == 80
    assert "kubectl study stop digits" in study.refused("extend", "digits", "--trials", "10")
    assert "+50 for fifty more" in study.refused("extend", "digits", "--trials", "many")


def test_two_who_extend_at_once_both_add_trials(study: StudyCommand, create: Callable[..., None]) -> None:
    create("digits")
    both = [study.start("extend", "digits", "--trials", "+50") for _ in range(3)]
    assert [one.wait(timeout=90) for one in both] == [0, 0, 0]
    assert study.study("digits")["spec"]["maxTrials"] == 170


def test_a_study_stops_and_goes_on(study: StudyCommand, create: Callable[..., None]) -> None:
    create("digits")
    known = (
        "stop"
        in json.loads(study.kubectl.ok("get", "--raw", "/openapi/v3/apis/study-operator.io/v1alpha1"))["components"][
            "schemas"
        ]["io.study-operator.v1alpha1.Study"]["properties"]["spec"]["properties"]
    )
    if not known:  # an operator before 0.3
        assert "has no field spec.stop" in study.refused("stop", "digits")
        return
    study.ok("stop", "digits")
    assert study.study("digits")["spec"]["stop"] == "Drain"
    study.ok("stop", "digits", "--now")
    assert study.study("digits")["spec"]["stop"] == "Terminate"
    study.ok("resume", "digits")
    assert "stop" not in study.study("digits")["spec"]


def test_wait_believes_conditions_of_this_generation_alone(study: StudyCommand, create: Callable[..., None]) -> None:
    create("digits", RUNNING)
    assert study.ok("wait", "digits", "--for=0.9") == "digits has 0.912346 (trial 7)\n"
    assert "not there after 1 seconds" in study.refused("wait", "digits", "--for=complete", "--timeout=1s")
    ended = [("Complete", "True", "GoalReached", "trial 7 has it"), ("Finished", "True", "GoalReached", "it")]
    tell(study.kubectl, "digits", RUNNING | {"conditions": ended})
    for wanted in ("complete", "goal"):
        assert "GoalReached" in study.ok("wait", "digits", f"--for={wanted}")
    study.ok("extend", "digits", "--trials", "+5")
    assert "not there after" in study.refused("wait", "digits", "--for=complete", "--timeout=1s")
    waiting = study.start("wait", "digits", "--for=0.99")
    failed = [("Failed", "True", "MaxFailedTrialsExceeded", "11 trials failed")]
    tell(study.kubectl, "digits", RUNNING | {"conditions": failed})
    out, _ = waiting.communicate(timeout=60)
    assert waiting.returncode == 1
    assert out == "digits has failed (MaxFailedTrialsExceeded): 11 trials failed\n"
    assert "write complete, goal, or a value" in study.refused("wait", "digits", "--for=soon")


def test_a_clone_has_changes_and_nothing_that_was_the_originals_alone(
    study: StudyCommand, create: Callable[..., None]
) -> None:
    create("digits", RUNNING, suspend=True)
    image = "jobTemplate.spec.template.spec.containers[0].image=trial:2"
    assert "digits-2 created" in study.ok("clone", "digits", "--set", "maxTrials=50", "--set", image)
    assert "digits-3 created" in study.ok("clone", "digits")
    found = study.study("digits-2")
    assert found["spec"]["maxTrials"] == 50
    assert found["spec"]["suspend"] is False
    assert found["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["image"] == "trial:2"
    assert found["metadata"]["labels"] == {"team": "vision"}
    assert found["metadata"]["annotations"] == {"why": "y"}
    assert "status" not in found
    assert "there is a Study digits-2 already" in study.refused("clone", "digits", "--name", "digits-2")
    assert "nothing at 3" in study.refused("clone", "digits", "--set", "objectives[3].name=x")
    assert yaml.safe_load(study.ok("clone", "digits", "-o", "yaml"))["metadata"]["name"] == "digits-2"


def test_a_live_view_that_is_no_terminal_prints_lines_and_ends(
    study: StudyCommand, create: Callable[..., None]
) -> None:
    create("digits", RUNNING)
    watching = study.start("status", "digits", "-w")
    assert watching.stdout is not None
    assert watching.stdout.readline() == (
        "Running: 9/20 trials, best 0.912346 (max); 2 trials run, 9 of 20 have ended\n"
    )
    ended = [("Progressing", "False", "Finished", "20 of 20"), ("Finished", "True", "MaxTrialsReached", "20 of 20")]
    tell(study.kubectl, "digits", RUNNING | {"phase": "Succeeded", "progress": "20/20", "conditions": ended})
    out, _ = watching.communicate(timeout=60)
    assert out == "Succeeded: 20/20 trials, best 0.912346 (max); 20 of 20\n"
    assert watching.returncode == 0


def test_what_is_not_there_is_said_in_words(study: StudyCommand, create: Callable[..., None]) -> None:
    assert "there is no Study nobody" in study.refused("status", "nobody")
    create("digits", RUNNING)
    for args in (("trials", "digits"), ("describe", "digits/7"), ("importance", "digits"), ("curve", "digits", "7")):
        assert "this cluster does not serve trials" in study.refused(*args)
    assert "has no pod now" in study.refused("logs", "digits/7")
    assert "its last line was: CUDA" in study.refused("logs", "digits", "--failed")
    assert "names no trial" in study.refused("describe", "digits")
    assert "connect" in study.refused("list", "--server=https://127.0.0.1:1")


def test_names_are_completed_by_kubectl(study: StudyCommand, create: Callable[..., None]) -> None:
    create("digits", RUNNING)

    def completed(*words: str) -> list[str]:
        command = ["kubectl", "__complete", "study", *words]
        done = subprocess.run(command, env=study.environment, capture_output=True, text=True, timeout=60)
        return done.stdout.split()

    namespace = ("-n", study.kubectl.namespace)
    assert completed("st") == ["status", "stop", ":4"]
    assert completed(*namespace, "best", "di") == ["digits", ":4"]
    assert completed(*namespace, "describe", "digits/") == [":4"]


def test_the_doctor_says_which_binding_is_missing(study: StudyCommand, kubectl: Kubectl) -> None:
    shown = study.ok("doctor")
    assert "may list studies.study-operator.io" in shown
    assert "RoleBinding" not in shown
    shown = study.run("doctor", "--as=ann")
    assert shown.returncode == 1
    _, binding = shown.stdout.split("administers the namespace:\n\n")
    kubectl.ok("apply", "-f", "-", stdin=binding)
    made = yaml.safe_load(binding)
    assert made["roleRef"]["name"] == "edit"
    assert made["subjects"] == [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "ann"}]


def test_ctrl_c_ends_the_live_view_and_leaves_nothing_behind(study: StudyCommand, create: Callable[..., None]) -> None:
    create("digits", RUNNING)
    ours, terminal = os.openpty()
    command = ["kubectl", "study", "status", "digits", "-w", "-n", study.kubectl.namespace]
    # kubectl becomes the plug-in, so that the signal reaches it as Ctrl-C does.
    watching = subprocess.Popen(command, env=study.environment, stdout=terminal, stderr=terminal)
    os.close(terminal)
    shown = b""
    try:
        while shown.count(b"Study ") < 2:  # it has been drawn over itself
            shown += os.read(ours, 4096)
        watching.send_signal(signal.SIGINT)
        assert watching.wait(timeout=60) == 130
        with contextlib.suppress(OSError):  # the terminal has no writer any more
            while chunk := os.read(ours, 4096):
                shown += chunk
    finally:
        watching.kill()
        os.close(ours)
    assert b"Traceback" not in shown
    # It moves up and clears, and changes nothing that would have to be changed back, such as the cursor.
    assert set(re.findall(rb"\x1b\[[0-9?]*[A-Za-z]", shown)) <= {
        b"\x1b[K",
        b"\x1b[J",
        *(b"\x1b[%dA" % n for n in range(30)),
    }


def test_logs_are_asked_of_the_trials_latest_pod(study: StudyCommand, create: Callable[..., None]) -> None:
    """There is no kubelet here: the API server says on which node it looked for one, and each pod has its own."""
    create("digits", RUNNING)
    # The API server's times have whole seconds. Of pods of one second that with the last name counts.
    for name, number, job in (("a", 7, "digits-7"), ("b", 7, "digits-7-r1"), ("c", 8, "digits-8")):
        labels = {"study-operator.io/study": "digits", "study-operator.io/trial": str(number)}
        labels |= {"batch.kubernetes.io/job-name": job}
        annotations = {"kubectl.kubernetes.io/default-container": "trial"}
        spec = {"nodeName": f"node-{name}", "containers": [{"name": one, "image": "x"} for one in ("proxy", "trial")]}
        meta = {"name": name, "labels": labels, "annotations": annotations}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}
        study.kubectl.ok("create", "-f", "-", stdin=json.dumps(pod))
    for args in (("digits/7",), ("digits", "--best"), ("digits/7", "-f", "--tail", "3")):
        done = study.run("logs", *args)
        assert (done.returncode, re.findall(r"node-[abc]", done.stderr)) == (1, ["node-b"]), done.stderr
    assert "which trial?" in study.refused("logs", "digits")

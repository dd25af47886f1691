"""`study-trial follow`, the sidecar that reports what a program writes to files, with a real PostgreSQL."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tensorboardX import SummaryWriter
from trial_pod import Pod
from waiting import wait_until

from study_operator.model.trial import TrialState


@pytest.fixture
def pod(database) -> Pod:
    return Pod.create(database)


class Sidecar:
    """A running `study-trial follow`."""

    def __init__(self, pod: Pod, path: Path, *arguments: str, **env: str) -> None:
        # Blocked from the start, as the operator starts it: the program may have ended before Python runs.
        command = ["env", "--block-signal=TERM", sys.executable, "-m", "study_trial", "follow", "--path", str(path)]
        command += arguments
        self.process = subprocess.Popen(command, env=pod.env | env, stderr=subprocess.PIPE, text=True)
        status = Path(f"/proc/{self.process.pid}/status")
        wait_until(lambda: int(status.read_text().partition("SigBlk:")[2].split()[0], 16) & 1 << signal.SIGTERM - 1)

    def end(self) -> str:
        """Ends it as the kubelet does once the program has ended. Returns what it has said."""
        self.process.terminate()
        _, errors = self.process.communicate(timeout=180)
        assert self.process.returncode == 0, errors
        return errors

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextmanager
def following(pod: Pod, path: Path, *arguments: str, **env: str) -> Iterator[Sidecar]:
    sidecar = Sidecar(pod, path, *arguments, **env)
    try:
        yield sidecar
    finally:
        if sidecar.process.poll() is None:
            sidecar.kill()


def write(path: Path, *lines: dict[str, Any] | str) -> None:
    with path.open("a") as file:
        file.writelines((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)


def bad_reports(pod: Pod) -> list[tuple]:
    return pod.database.query("SELECT count, last FROM study_operator.bad_reports WHERE trial_id = %s", pod.trial_id)


def test_json_lines_are_reported_live_and_end_as_a_candidate(pod, tmp_path):
    path = tmp_path / "metrics.jsonl"
    with following(pod, path) as sidecar:
        write(path, {"epoch": 1, "accuracy": 0.5}, "Epoch 1 done", {"epoch": 2, "accuracy": 0.6, "memory": 7})
        wait_until(lambda: pod.stored().intermediate_values == {1: 0.5, 2: 0.6})
        wait_until(lambda: len(bad_reports(pod)) == 1)
        assert pod.result() is None
        write(path, {"epoch": 3, "accuracy": 0.7, "latency_ms": 43})
        sidecar.end()
    assert pod.stored().intermediate_values == {1: 0.5, 2: 0.6, 3: 0.7}
    assert pod.result() == ([0.7], False)
    assert pod.extras() == ({"latency_ms": 43.0, "memory": 7.0}, None, True)
    (bad,) = bad_reports(pod)
    assert bad == (1, "line 2 is not JSON (Expecting value: line 1 column 1 (char 0)): Epoch 1 done")


def test_values_under_whatever_name_the_program_has_for_them(pod, tmp_path):
    path = tmp_path / "m"
    called = json.dumps({"accuracy": "metrics/mAP50-95(B)", "latency_ms": "Latenz [ms]"})
    arguments = ("--final=accuracy=Max", "--additional=loss", "--additional=-lr %")
    with following(pod, path, *arguments, STUDY_METRICS=called) as sidecar:
        write(path, {"epoch": 1, "metrics/mAP50-95(B)": 0.4, "loss": 3, "-lr %": 7, "accuracy": 9})
        wait_until(lambda: pod.stored().user_attrs == {"loss": 3.0, "-lr %": 7.0})
        write(path, {"epoch": 2, "metrics/mAP50-95(B)": 0.3, "Latenz [ms]": 5, "loss": math.inf})
        sidecar.end()
    assert pod.stored().intermediate_values == {1: 0.4, 2: 0.3}
    assert pod.result() == ([0.4], False)
    assert pod.extras() == ({"latency_ms": 5.0}, None, True)
    assert pod.stored().user_attrs == {"loss": "inf", "-lr %": 7.0}


def test_what_is_there_instead_of_a_missing_value_is_stored(pod, tmp_path):
    path = tmp_path / "m"
    with following(pod, path) as sidecar:
        sidecar.end()
    assert bad_reports(pod) == [(1, f"{path} cannot be read: No such file or directory")]
    write(path, {"val_acc": 0.5, "loss": 1}, "oops")
    with following(pod, path) as sidecar:
        sidecar.end()
    ((count, last),) = bad_reports(pod)
    assert count == 2
    assert last.startswith("line 2 is not JSON")
    assert last.endswith(": oops; it has values of val_acc, loss")


@pytest.mark.parametrize(
    ("lines", "pattern"),
    [
        (["2026-11-29T18:36:28Z epoch=1 accuracy=0.5", "epoch=2 accuracy=0.6 loss=0.3", "accuracy=oops"], None),
        (
            ["epoch is 1, accuracy is 0.5", "epoch is 2, accuracy is 0.6", "accuracy is oops"],
            "(?P<name>[a-z]+) is (?P<value>[^ ,]+)",
        ),
    ],
)
def test_lines_of_text_are_reported_live_and_end_as_a_candidate(pod, tmp_path, lines, pattern):
    path = tmp_path / "log.txt"
    arguments = ["--format=Text", *([f"--pattern={pattern}"] if pattern else [])]
    with following(pod, path, *arguments) as sidecar:
        write(path, *lines)
        wait_until(lambda: pod.stored().intermediate_values == {1: 0.5, 2: 0.6})
        wait_until(lambda: len(bad_reports(pod)) == 1)
        write(path, lines[1].replace("2", "3").replace("0.6", "0.7"))
        sidecar.end()
    assert pod.stored().intermediate_values == {1: 0.5, 2: 0.6, 3: 0.7}
    assert (pod.result(), pod.extras()) == (([0.7], False), ({}, None, True))
    assert bad_reports(pod) == [(1, f"line 3: accuracy is 'oops', which is no number: {lines[2]}")]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--pattern=x"], "--pattern is for --format Text: remove it"),
        (["--format=Text", "--pattern=("], "--pattern: missing ), unterminated subpattern at position 0"),
    ],
)
def test_a_pattern_that_cannot_be_used_is_said_at_once(pod, tmp_path, arguments, words):
    command = [sys.executable, "-m", "study_trial", "follow", "--path", str(tmp_path / "m"), *arguments]
    done = subprocess.run(command, env=pod.env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, words in done.stderr) == (2, True), done.stderr


def test_tensorboards_event_files(pod, tmp_path):
    with following(pod, tmp_path / "logs", "--format", "TensorBoard") as sidecar:
        with SummaryWriter(str(tmp_path / "logs"), flush_secs=1) as writer:
            for step in range(5):
                writer.add_scalar("accuracy", step / 4, step)
            writer.flush()
            wait_until(lambda: pod.stored().intermediate_values == {step: step / 4 for step in range(5)})
            writer.add_scalar("accuracy", 0.75, 5)
        sidecar.end()
    assert (pod.result(), pod.extras()) == (([0.75], False), ({}, None, True))


def test_a_sidecar_that_is_killed_reads_again_without_doubling_anything(pod, tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, {"accuracy": 0.5}, "bad", {"accuracy": 0.6})
    with following(pod, path) as sidecar:
        wait_until(lambda: len(bad_reports(pod)) == 1)
        sidecar.kill()
    write(path, "worse", {"accuracy": 0.7})
    with following(pod, path) as sidecar:
        wait_until(lambda: len(pod.stored().intermediate_values) == 3)
        sidecar.end()
    assert pod.stored().intermediate_values == {0: 0.5, 1: 0.6, 2: 0.7}
    assert [count for count, _ in bad_reports(pod)] == [2]
    assert pod.result() == ([0.7], False)


def test_another_pod_of_the_trial_does_not_end_with_the_first_ones_values(pod, tmp_path):
    write(tmp_path / "first", {"accuracy": 0.5})
    with following(pod, tmp_path / "first") as sidecar:
        wait_until(lambda: len(pod.stored().intermediate_values) == 1)
        sidecar.end()
    assert pod.result() == ([0.5], False)
    with following(pod, tmp_path / "second") as sidecar:
        wait_until(lambda: pod.result() is None)
        assert "there is no value of accuracy" in sidecar.end()
    assert pod.result() is None


def test_a_database_that_is_away_costs_neither_a_report_nor_the_final_value(own_pod, server, tmp_path):
    path = tmp_path / "metrics.jsonl"
    with following(own_pod, path, STUDY_REPORT_TIMEOUT="0.2") as sidecar:
        write(path, {"epoch": 0, "accuracy": 0.0})
        wait_until(lambda: own_pod.stored().intermediate_values == {0: 0.0})
        server.stop()
        write(path, *({"epoch": step, "accuracy": step / 100} for step in range(1, 50)))
        assert "the database is away" in sidecar.process.stderr.readline()
        server.start()
        wait_until(lambda: len(own_pod.stored().intermediate_values) == 50)
        server.stop()
        write(path, {"epoch": 50, "accuracy": 0.9})
        sidecar.process.terminate()
        while "waits for the database" not in sidecar.process.stderr.readline():
            pass
        server.start()
        assert sidecar.process.wait(timeout=30) == 0
    assert own_pod.stored().intermediate_values == {**{step: step / 100 for step in range(50)}, 50: 0.9}
    assert own_pod.result() == ([0.9], False)


def test_a_pruned_trial_gets_no_candidate(pod, tmp_path):
    path = tmp_path / "metrics.jsonl"
    with following(pod, path) as sidecar:
        write(path, {"epoch": 1, "accuracy": 0.5})
        wait_until(lambda: pod.stored().intermediate_values == {1: 0.5})
        pod.end(TrialState.PRUNED)
        write(path, {"epoch": 2, "accuracy": 0.6})
        sidecar.end()
    assert (pod.result(), pod.stored().intermediate_values) == (None, {1: 0.5})


def test_beside_the_other_pods_of_a_trial_nothing_is_reported(pod, tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, {"epoch": 1, "accuracy": 0.5}, "bad")
    with following(pod, path, JOB_COMPLETION_INDEX="1") as sidecar:
        assert "it has JOB_COMPLETION_INDEX=1" in sidecar.process.stderr.readline()
        sidecar.end()
    assert (pod.result(), pod.stored().intermediate_values, bad_reports(pod)) == (None, {}, [])


def test_several_objectives_end_as_one_candidate(database, tmp_path):
    pod = Pod.create(database, "accuracy", "latency")
    write(tmp_path / "m", {"epoch": 1, "accuracy": 0.5}, {"epoch": 1, "latency": 12}, {"epoch": 2, "accuracy": 0.6})
    with following(pod, tmp_path / "m") as sidecar:
        sidecar.end()
    assert (pod.result(), pod.stored().intermediate_values) == (([0.6, 12.0], False), {})


def test_it_waits_with_little_memory_and_hardly_any_time(pod, tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"x": "%s"}\n' % ("x" * 1000) * 50_000 + '{"epoch": 1, "accuracy": 0.5}\n')
    with following(pod, path) as sidecar:
        wait_until(lambda: pod.stored().intermediate_values == {1: 0.5})
        process = Path(f"/proc/{sidecar.process.pid}")

        def used() -> float:
            fields = process.joinpath("stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

        def looks() -> int:
            return int(process.joinpath("status").read_text().partition("voluntary_ctxt_switches:")[2].split()[0])

        before, at = used(), looks()
        wait_until(lambda: looks() >= at + 4)
        assert used() - before < 0.2
        (high,) = (line for line in process.joinpath("status").read_text().splitlines() if line.startswith("VmHWM"))
        assert int(high.split()[1]) < 64 * 1024, high  # KiB; the sidecar's request
        sidecar.end()


def test_a_local_run_prints_what_would_be_sent(tmp_path):
    write(tmp_path / "m", {"epoch": 1, "accuracy": 0.5}, "bad")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("STUDY_")}
    command = [sys.executable, "-m", "study_trial", "follow", "--path", str(tmp_path / "m")]
    done = subprocess.run(command, env=clean, capture_output=True, text=True, timeout=180)
    assert (done.returncode, "STUDY_OBJECTIVES is not set" in done.stderr) == (2, True)
    process = subprocess.Popen(
        command, env=clean | {"STUDY_OBJECTIVES": '["accuracy"]'}, stderr=subprocess.PIPE, text=True
    )
    lines = [process.stderr.readline().strip() for _ in range(3)]
    assert lines[1] == "study-trial: local run: step 1: 0.5"
    assert lines[2].startswith("study-trial: local run: bad report 1: line 2 is not JSON")
    process.terminate()
    assert process.communicate(timeout=30)[1] == "study-trial: local run: final value 0.5\n"
    assert process.returncode == 0

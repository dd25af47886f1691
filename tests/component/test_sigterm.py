"""SIGTERM in a trial's pod, with real processes and a real PostgreSQL."""

from __future__ import annotations

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from trial_pod import Pod, write_script
from waiting import wait_until


@pytest.fixture
def pod(database) -> Pod:
    return Pod.create(database)


SAVES = """
import pathlib, signal, sys, time

def objective(trial):
    try:
        print("started", flush=True)
        {work}
    except Exception:
        print("swallowed", flush=True)
    except study_trial.Terminated as end:
        signal.raise_signal(signal.SIGTERM)         # a second one does not interrupt the saving
        (trial.checkpoint_dir / "last").write_text("saved with " + str(end.code))
        raise
"""
IN_PYTHON = "for i in range(10**12): i * i"
IN_A_SLEEP = "time.sleep(600)"
IN_A_REPORT = "trial.report(0.5, 0)"
IN_A_FINALIZER = """type("Batch", (), {"__del__": lambda self: time.sleep(600)})()
        time.sleep(600)"""  # Python loses an exception of the first


def start(pod: Pod, script: str, *more: str, **env: str) -> subprocess.Popen[str]:
    """Runs a script until it has printed that it is `started`."""
    command = [sys.executable, "-m", "study_trial", "run", script, *more]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=pod.env | env, **pipes)
    assert process.stdout.readline() == "started\n"
    return process


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """The exit code and what it wrote after `started`, to stdout and stderr."""
    stdout, stderr = process.communicate(timeout=180)
    return process.returncode, stdout, stderr


def terminate(pod: Pod, script: str, *more: str, **env: str) -> tuple[int, str, str]:
    """Runs a script, and ends it as the kubelet does once it has printed that it is `started`. Returns as `end`."""
    process = start(pod, script, *more, **env)
    if "delay" in more:
        wait_until_blocked(process.pid)
    process.terminate()
    return end(process)


def wait_until_blocked(pid: int) -> None:
    """Waits until the process sleeps in poll(), where it waits for the database."""
    wait_until(lambda: "poll" in Path(f"/proc/{pid}/wchan").read_text())


@pytest.mark.parametrize("work", [IN_PYTHON, IN_A_SLEEP, IN_A_FINALIZER])
def test_sigterm_lets_the_script_save(pod, tmp_path, work):
    script = write_script(tmp_path, SAVES.format(work=work))
    done = terminate(pod, script, STUDY_CHECKPOINT_DIR=str(tmp_path / "checkpoints"))
    assert done == (143, "", "")
    assert (tmp_path / "checkpoints/last").read_text() == "saved with 143"
    assert pod.result() is None


def test_sigterm_interrupts_a_report_that_waits_for_the_database(own_pod, server, tmp_path):
    script = write_script(tmp_path, SAVES.format(work=IN_A_REPORT))
    env = {"STUDY_CHECKPOINT_DIR": str(tmp_path), "STUDY_REPORT_TIMEOUT": "500"}
    server.freeze()
    try:
        process = start(own_pod, script, **env)
        wait_until_blocked(process.pid)
        process.terminate()
        wait_until((tmp_path / "last").exists)
    finally:
        server.thaw()
    assert end(process) == (143, "", "")
    assert (tmp_path / "last").read_text() == "saved with 143"
    assert own_pod.stored().intermediate_values == {0: 0.5}, "what was interrupted is sent when the process ends"


WAITS = """
def objective(trial):
    for step in range(3):
        trial.report(step / 10, step)
    print("started", flush=True)
    import time; time.sleep(600)
"""


def test_what_waits_for_the_database_is_sent_when_sigterm_ends_the_process(own_pod, server, tmp_path):
    server.freeze()
    try:
        process = start(own_pod, write_script(tmp_path, WAITS), STUDY_REPORT_TIMEOUT="3")
    finally:
        server.thaw()
    process.terminate()
    code, _, stderr = end(process)
    away, back = stderr.splitlines()
    assert (code, "is away" in away, "is back" in back) == (143, True, True)
    assert own_pod.stored().intermediate_values == {0: 0.0, 1: 0.1, 2: 0.2}


def test_what_cannot_be_sent_when_sigterm_ends_the_process_is_said(own_pod, server, tmp_path):
    server.freeze()
    try:
        process = start(own_pod, write_script(tmp_path, WAITS), STUDY_REPORT_TIMEOUT="0.5")
        process.terminate()
        code, _, stderr = end(process)
    finally:
        server.thaw()
    assert code == 143
    lost = [f"warning: the report {step / 10!r} of step {step} is NOT stored" for step in range(3)]
    assert [line.removeprefix("study-trial: ").split(",")[0] for line in stderr.splitlines()[1:]] == lost


def test_sigterm_waits_for_a_final_value_that_is_on_its_way(own_pod, server, tmp_path):
    body = """
        def objective(trial):
            print("started", flush=True)
            return 0.93
        """
    server.freeze()
    try:
        with ThreadPoolExecutor(1) as threads:
            ended = threads.submit(terminate, own_pod, write_script(tmp_path, body), "--", "delay")
            with pytest.raises(TimeoutError):
                ended.result(timeout=2)
            server.thaw()
            done = ended.result()
    finally:
        server.thaw()
    assert done[:2] == (143, "")
    assert own_pod.result() == ([0.93], False)


def test_a_final_value_that_cannot_be_delivered_is_said_before_the_end(own_pod, server, tmp_path):
    body = "def objective(trial):\n    print('started', flush=True)\n    return 0.93\n"
    server.freeze()
    try:
        done = terminate(own_pod, write_script(tmp_path, body), "--", "delay", STUDY_FINISH_TIMEOUT="2")
    finally:
        server.thaw()
    assert done[0] == 143
    assert "the final value 0.93 of trial 0 could not be delivered" in done[2].splitlines()[-1]


@pytest.mark.parametrize(
    ("setup", "code"),
    [
        ("signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))", 7),  # the program's own handler, a framework's
        ("import threading; t = threading.Thread(target=study_trial.current); t.start(); t.join()", -signal.SIGTERM),
    ],
)
def test_sigterm_is_the_programs_own_where_it_handles_it_or_calls_from_a_thread(pod, tmp_path, setup, code):
    body = f"import signal, sys, time, study_trial\n{setup}\nprint('started', flush=True)\n"
    body += "study_trial.current()\n" if code > 0 else ""
    script = tmp_path / "train.py"
    script.write_text(body + "time.sleep(600)\n")
    process = subprocess.Popen([sys.executable, script], env=pod.env, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "started\n"
    process.terminate()
    assert process.wait(timeout=30) == code
    process.stdout.close()


def test_forked_workers_end_by_the_signal_as_ever(pod, tmp_path):
    body = """
        import multiprocessing, time

        def objective(trial):
            print("started", flush=True)
            worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
            worker.start()
            worker.terminate()
            worker.join()
            print(worker.exitcode)
            return 0.5
        """
    done = pod.command("run", write_script(tmp_path, body))
    assert (done.returncode, done.stdout) == (0, f"started\n{-signal.SIGTERM}\n")


def test_a_result_sent_from_another_thread_does_not_keep_the_signal(own_pod, server, tmp_path):
    body = """
        import threading, time

        def objective(trial):
            sender = threading.Thread(target=trial.finish, args=(0.93,), daemon=True)
            sender.start()
            try:
                while not trial.undelivered:
                    time.sleep(0.01)
                print("started", flush=True)
                time.sleep(600)
            except study_trial.Terminated:
                print("terminated", flush=True)
                raise
        """
    server.freeze()
    try:
        done = terminate(own_pod, write_script(tmp_path, body))
    finally:
        server.thaw()
    assert done[:2] == (143, "terminated\n")

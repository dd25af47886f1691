"""`study_trial` and `study-trial` against a real PostgreSQL that restarts, hangs and refuses."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
import traceback
from urllib.parse import quote, urlsplit

import psycopg2
import pytest
from database import ANOTHER_KEY, KEY, REPORTER_PASSWORD, TestDatabase, prove
from hypothesis import given
from hypothesis import strategies as st
from trial_pod import PARAMS, Pod, write_script

import study_trial
from study_operator.model.trial import TrialState
from study_trial._connection import Call, Connection, UnavailableError
from study_trial._messages import Writer

REPORTER_SESSIONS = "FROM pg_stat_activity WHERE usename = 'study_reporter' AND datname = current_database()"


@pytest.fixture
def pod(database: TestDatabase) -> Pod:
    return Pod.create(database)


def wait_for_sessions(database: TestDatabase, count: int) -> None:
    """Waits until the reporter has so many sessions: a server process outlives its client's goodbye a little."""
    deadline = time.monotonic() + 10
    while len(found := database.query(f"SELECT query {REPORTER_SESSIONS}")) != count:
        assert time.monotonic() < deadline, found
        time.sleep(0.02)


def test_an_objective_runs_as_a_trial(pod, tmp_path):
    script = write_script(
        tmp_path,
        """
        def objective(trial):
            lr = trial.suggest_float("lr", 0.001, 0.1, log=True)
            batch = trial.suggest_categorical("batch", [16, 32])
            for epoch in range(3):
                trial.report(lr * batch * epoch, epoch)
                assert not trial.should_prune()
            trial.set_user_attr("path", {"weights": "/tmp/ü"})
            trial.set_constraint("latency_ms", 43)
            trial.set_constraint("memory", 2.5)
            return lr * batch
        """,
    )
    done = pod.command("run", script)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert pod.stored().intermediate_values == {0: 0.0, 1: 0.32, 2: 0.64}
    assert pod.extras() == ({"latency_ms": 43.0, "memory": 2.5}, None, False)
    assert pod.stored().user_attrs == {"path": {"weights": "/tmp/ü"}}
    assert pod.result() == ([0.32], False)


def test_every_float_arrives_as_it_is(pod):
    values = [0.1 + 0.2, -1e-300, 5e-324, 1.7976931348623157e308, math.inf, -math.inf, math.nan, 0.0]
    trial = pod.trial()
    for step, value in enumerate(values):
        trial.report(value, step)
    assert str(list(pod.stored().intermediate_values.values())) == str(values)
    trial.finish(math.nan)
    assert str(pod.result()) == str(([math.nan], False))


def test_a_slow_name_server_takes_no_time_from_a_call(pod, monkeypatch):
    def slow(*args, connect=psycopg2.connect, **more):
        time.sleep(3.5)  # the driver returns when it has looked the host's name up
        return connect(*args, **more)

    monkeypatch.setattr(psycopg2, "connect", slow)
    pod.trial(report=3.0).report(0.5, 0)
    assert pod.stored().intermediate_values == {0: 0.5}


def test_the_first_value_of_a_step_stands(pod):
    trial = pod.trial()
    trial.report(0.1, 2**31 - 1)
    trial.report(0.2, 2**31 - 1)
    assert pod.stored().intermediate_values == {2**31 - 1: 0.1}


@pytest.mark.parametrize("first", [0.1, math.nan, math.inf])
def test_a_report_that_is_dropped_is_told_once(pod, first):
    def bad() -> list[tuple[int, str]]:
        return pod.database.query("SELECT count, last FROM study_operator.bad_reports")

    pod.trial().report(first, 1)
    pod.trial().report(first, 1.5)
    assert bad() == [], "it is the same value, as when an answer was lost"
    pod.trial().report(0.2, 1)
    pod.trial().report(0.3, 1)
    assert bad() == [(1, "step 1 came again, with 0.2: the first value of a step stands, and others are no reports")]


def test_a_pruned_trial_stops(pod):
    trial = pod.trial()
    trial.report(0.5, 0)
    assert not trial.should_prune()
    pod.end(TrialState.PRUNED)
    trial.report(0.6, 1)
    assert trial.should_prune()
    trial.set_user_attr("late", 1)  # no error: it may come between any two reports
    trial.finish(0.6)
    assert pod.stored().intermediate_values == {0: 0.5}
    assert pod.stored().user_attrs == {}
    assert pod.result() is None


def test_should_prune_asks_when_no_report_has_just_answered(pod):
    trial = pod.trial()
    assert not trial.should_prune()
    pod.end(TrialState.PRUNED)
    assert pod.trial().should_prune()


def test_an_objective_that_is_pruned_ends_well(pod, tmp_path):
    script = write_script(
        tmp_path,
        """
        def objective(trial):
            trial.report(0.5, 0)
            if trial.should_prune():
                raise study_trial.TrialPruned
            return 0.5
        """,
    )
    pod.end(TrialState.PRUNED)
    done = pod.command("run", script)
    assert (done.returncode, pod.result()) == (0, None), done.stderr


def test_an_objective_may_prune_itself(pod, tmp_path):
    done = pod.command("run", write_script(tmp_path, "def objective(trial):\n    raise study_trial.TrialPruned\n"))
    assert (done.returncode, done.stderr, pod.result()) == (0, "", ([], True))


def test_an_objective_that_fails_finishes_nothing(pod, tmp_path):
    done = pod.command("run", write_script(tmp_path, "def objective(trial):\n    return 1 / 0\n"))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "ZeroDivisionError: division by zero"
    assert pod.result() is None


def test_an_infeasible_trial(pod, tmp_path):
    script = write_script(tmp_path, 'def objective(trial):\n    trial.mark_infeasible(MemoryError("OOM at 512"))\n')
    done = pod.command("run", script)
    assert (done.returncode, done.stderr, pod.result()) == (0, "", ([], False))
    assert pod.extras() == ({}, "OOM at 512", False)


def test_several_objectives(database):
    pod = Pod.create(database, "accuracy", "latency")
    done = pod.command("finish", "0.9")
    assert (done.returncode, pod.result()) == (2, None)
    assert "2 objectives, accuracy, latency, and so many final values are needed" in done.stderr
    done = pod.command("report", "--step", "1", "0.9")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Optuna has no pruning with several" in done.stderr
    with pytest.raises(NotImplementedError, match="the study has 2 objectives, and Optuna has no pruning"):
        pod.trial().report(0.9, 1)  # an environment that does not name the objectives, as an older operator's
    assert pod.command("finish", "0.9", "-12", STUDY_OBJECTIVES="", STUDY_CONSTRAINTS="").returncode == 0
    assert pod.result() == ([0.9, -12.0], False)


def test_the_command_stores_constraints(pod):
    command = ["finish", "0.9", "--constraint", "latency_ms=43", "--constraint", "memory=-1"]
    assert pod.command(*command).returncode == 0
    assert pod.extras() == ({"latency_ms": 43.0, "memory": -1.0}, None, False)
    done = pod.command("finish", "0.9", "--constraint", "latency=43")
    assert (done.returncode, "it has latency_ms, memory" in done.stderr) == (2, True)


def test_the_command_says_that_a_trial_is_infeasible(pod):
    assert pod.command("infeasible", "OOM at this batch size").returncode == 0
    assert pod.result() == ([], False)
    assert pod.extras() == ({}, "OOM at this batch size", False)


def test_of_several_processes_that_of_rank_0_reports_and_others_may_return_none(pod, tmp_path):
    script = write_script(
        tmp_path,
        """
        import os

        def objective(trial):
            rank = int(os.environ["RANK"])
            trial.report(rank / 10, 0)
            return None if rank else 0.5
        """,
    )
    for rank in ("3", "1"):
        assert pod.command("run", script, RANK=rank, LOCAL_RANK=rank).returncode == 0
    assert pod.result() is None
    assert pod.command("run", script, RANK="0", LOCAL_RANK="0").returncode == 0
    assert pod.result() == ([0.5], False)


def test_of_several_pods_the_first_reports(pod, tmp_path):
    script = write_script(
        tmp_path,
        """
        def objective(trial):
            trial.report(0.5, 0)
            print(trial.should_prune(), trial.suggest_categorical("batch", [16, 32]))
            return 0.5
        """,
    )
    done = pod.command("run", script, JOB_COMPLETION_INDEX="1")
    assert (done.returncode, done.stdout) == (0, "False 32\n")
    assert done.stderr.splitlines()[-1].endswith("it has JOB_COMPLETION_INDEX=1, and 0 reports for all")
    assert (pod.result(), pod.stored().intermediate_values) == (None, {})
    pod.end(TrialState.PRUNED)
    assert pod.command("run", script, JOB_COMPLETION_INDEX="1").stdout == "True 32\n"


def test_finish_may_be_repeated_but_not_changed(pod):
    pod.trial().finish(0.5)
    pod.trial().finish(0.5)
    with pytest.raises(study_trial.TrialFinishedError, match=r"the final value 0\.6"):
        pod.trial().finish(0.6)
    assert pod.result() == ([0.5], False)


def test_a_trial_that_has_ended_takes_nothing(pod):
    pod.end(TrialState.FAIL)
    for write in (
        lambda trial: trial.report(0.5, 0),
        lambda trial: trial.finish(0.5),
        lambda trial: trial.set_user_attr("a", 1),
    ):
        started = time.monotonic()
        with pytest.raises(study_trial.TrialFinishedError, match="FAIL"):
            write(pod.trial())
        assert time.monotonic() - started < 2  # refused, so not retried


def test_another_studys_key_is_refused(pod):
    pod.database.running_trial(ANOTHER_KEY, "team/another")
    trial = pod.trial(key=ANOTHER_KEY)
    for write in (
        lambda: trial.report(0.5, 0),
        lambda: trial.finish(0.5),
        lambda: trial.set_user_attr("a", 1),
    ):
        with pytest.raises(study_trial.WrongKeyError, match="STUDY_STORAGE_KEY"):
            write()
    assert pod.stored().intermediate_values == {}
    assert pod.result() is None


def test_what_the_database_refuses_is_said_in_its_words(pod):
    trial = pod.trial()
    with pytest.raises(study_trial.RefusedError, match=r"objectives: 1, of final values that were sent: 2"):
        trial.finish([0.1, 0.2])
    with pytest.raises(study_trial.RefusedError, match="study_operator:"):
        trial.set_user_attr("study_operator:failure", "none")
    with pytest.raises(study_trial.RefusedError, match="attribute 'a' was refused"):
        trial.set_user_attr("a", "\0")


def test_reports_survive_a_restart_of_the_database(own_pod, server, capsys):
    trial = own_pod.trial(report=0.5)
    trial.report(0.0, 0)
    server.stop()
    for step in range(1, 6):
        started = time.monotonic()
        trial.report(step / 10, step)
        assert time.monotonic() - started < 1.0
        assert not trial.should_prune()
    assert len(trial.undelivered) == 5
    server.start()
    trial.finish(0.5)
    assert own_pod.stored().intermediate_values == {step: step / 10 for step in range(6)}
    assert own_pod.result() == ([0.5], False)
    assert trial.undelivered == []
    errors = capsys.readouterr().err
    assert errors.count("the database is away") == 1
    assert "the database is back: the report 0.1 of step 1 is stored" in errors


def test_a_connection_that_the_server_has_ended_goes_unnoticed(own_pod, server, capsys):
    trial = own_pod.trial()
    for step in range(3):
        trial.report(0.5, step)
    server.stop()
    server.start()
    trial.report(0.5, 3)
    assert list(own_pod.stored().intermediate_values) == [0, 1, 2, 3]
    assert capsys.readouterr().err == ""


def test_a_final_value_waits_for_the_database(own_pod, server):
    server.stop()
    waiting = subprocess.Popen(
        [sys.executable, "-m", "study_trial", "finish", "0.93"],
        env=own_pod.env | {"STUDY_CONSTRAINTS": ""},
        stderr=subprocess.PIPE,
        text=True,
    )
    line = waiting.stderr.readline()
    assert "the final value 0.93 of trial 0 waits for the database" in line
    assert "Connection refused" in line
    server.start()
    assert waiting.wait(timeout=30) == 0
    waiting.stderr.close()
    assert own_pod.result() == ([0.93], False)


def test_a_final_value_is_never_lost_in_silence(own_pod, server):
    server.stop()
    done = own_pod.command("finish", "0.93", STUDY_FINISH_TIMEOUT="1")
    assert done.returncode == 1
    assert "the final value 0.93 of trial 0 could not be delivered within 1 s" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("connected", [False, True])
def test_a_database_that_hangs_holds_up_no_report(own_pod, server, connected, capsys):
    trial = own_pod.trial(report=0.5)
    if connected:
        trial.report(0.0, 0)
        trial.report(0.1, 1)
    server.freeze()
    try:
        started = time.monotonic()
        trial.report(0.2, 2)
        assert time.monotonic() - started < 1.0
    finally:
        server.thaw()
    trial.finish(0.5)
    assert own_pod.stored().intermediate_values[2] == 0.2
    assert "timed out waiting for" in capsys.readouterr().err


def test_logins_are_short_unless_calls_are_frequent(pod):
    trial = pod.trial()
    trial.report(0.1, 0)
    wait_for_sessions(pod.database, 0)
    trial.report(0.2, 1)
    wait_for_sessions(pod.database, 1)
    trial.finish(0.2)
    wait_for_sessions(pod.database, 0)


def test_the_key_is_in_no_statement_that_other_pods_could_see(pod):
    trial = pod.trial()
    trial.report(0.1, 0)
    trial.report(0.2, 1)
    seen = pod.database.query(f"SELECT query {REPORTER_SESSIONS}")
    assert len(seen) == 1
    assert "study_operator.submit" in seen[0][0]
    assert KEY not in seen[0][0]


def test_psql_reports_as_the_documentation_says(pod):
    env = pod.env | {"PGOPTIONS": f"-c study_operator.key={KEY}"}
    more = "constraint_values => '{\"latency_ms\": 43}'"
    for call in (f"report({pod.trial_id}, 3, 0.91)", f"finish({pod.trial_id}, '{{0.93}}', {more})"):
        command = ["psql", env["STUDY_STORAGE_URL"], "-Atc", f"SELECT study_operator.{call}"]
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        assert (done.stdout, done.stderr) == ("f\n", "")
    assert pod.stored().intermediate_values == {3: 0.91}
    assert (pod.result(), pod.extras()) == (([0.93], False), ({"latency_ms": 43}, None, False))


def test_psql_says_why_a_trial_is_infeasible_as_the_documentation_says(pod):
    env = pod.env | {"PGOPTIONS": f"-c study_operator.key={KEY}"}
    call = f"SELECT study_operator.finish({pod.trial_id}, '{{}}', infeasible => 'OOM')"
    subprocess.run(["psql", env["STUDY_STORAGE_URL"], "-Atc", call], env=env, check=True, capture_output=True)
    assert (pod.result(), pod.extras()) == (([], False), ({}, "OOM", False))


@pytest.mark.parametrize("key", ["", "some text", KEY[:-1], KEY.upper(), KEY[:-2] + "ü0", f"{KEY[:32]} {KEY[32:]}"])
def test_a_key_that_is_none_is_said_and_not_shown(pod, key):
    with pytest.raises(
        study_trial.SetupError, match="STUDY_STORAGE_KEY is not a key of 64 hexadecimal digits"
    ) as caught:
        pod.trial(key=key)
    assert not key or key not in "".join(traceback.format_exception(caught.value))


@given(st.binary(min_size=32, max_size=32), st.dictionaries(st.text(), st.text()))
def test_proofs_are_made_as_the_database_says(key, content):
    message, proof = Writer(key.hex()).write(content)
    assert proof == prove(key.hex(), message)


def test_a_forked_child_leaves_its_parents_connection_alone(pod):
    trial = pod.trial()
    trial.report(0.0, 0)
    trial.report(0.1, 1)
    child = os.fork()
    if not child:
        status = 1
        try:
            trial.report(0.2, 2)
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    trial.report(0.3, 3)
    trial.finish(0.3)
    assert list(pod.stored().intermediate_values) == [0, 1, 2, 3]


@pytest.mark.parametrize("wrong", ["nothing", "database", "role", "password", "key", "port"])
def test_no_error_shows_the_password_or_the_key(pod, wrong):
    url = pod.database.reporter_url
    parts = urlsplit(url)
    url = {
        "database": url.replace(f"/{pod.database.name}", "/nowhere"),
        "role": url.replace("study_reporter", "nobody"),
        "password": url.replace(parts.password, parts.password[1:]),
        "port": url.replace(f":{parts.port}", ":1"),
    }.get(wrong, url)
    key = KEY[::-1] if wrong == "key" else KEY
    connection = Connection(url, key)
    for content in (
        {"call": "finish", "values": [1.0, 2.0], "pruned": False},
        {"call": "set_user_attr", "name": "a", "json": '"\\u0000"'},
        {"call": "nothing"},
    ):
        with pytest.raises((study_trial.RefusedError, UnavailableError)) as caught:
            connection.call(Call({"trial": pod.trial_id, **content}, "the call"), 5)
        text = "".join(traceback.format_exception(caught.value)) + repr(caught.value.args)
        for secret in (REPORTER_PASSWORD, quote(REPORTER_PASSWORD), key):
            assert secret not in text


def test_a_url_that_cannot_be_read_is_not_shown(pod):
    done = pod.command("finish", "1", STUDY_STORAGE_URL="postgres//user:hunter2@host/db")
    assert done.returncode == 1
    assert "STUDY_STORAGE_URL" in done.stderr
    assert "hunter2" not in done.stderr


def test_the_command_reports_and_answers(pod):
    done = pod.command("report", "--step", "3", "-1e-5", "--exit-code")
    assert (done.returncode, done.stdout, done.stderr) == (0, "continue\n", "")
    assert pod.stored().intermediate_values == {3: -1e-5}
    pod.end(TrialState.PRUNED)
    done = pod.command("report", "--step", "4", "0.5")
    assert (done.returncode, done.stdout) == (0, "stop\n")
    assert pod.command("report", "--step", "5", "0.5", "--exit-code").returncode == 3


def test_the_command_stores_attributes_and_ends_the_trial(pod):
    assert pod.command("attr", "path", "/tmp/model").returncode == 0
    assert pod.command("attr", "f1", "0.5").returncode == 0
    assert pod.command("finish", "nan", STUDY_CONSTRAINTS="").returncode == 0
    assert pod.stored().user_attrs == {"path": "/tmp/model", "f1": 0.5}
    assert str(pod.result()) == str(([math.nan], False))
    late = pod.command("finish", "0.5")
    assert late.returncode == 1
    assert "was refused" in late.stderr


def test_the_command_gives_the_parameters(pod):
    assert json.loads(pod.command("params").stdout) == PARAMS
    assert pod.command("params", "batch").stdout == "32\n"


def test_text_for_a_number_sends_nothing(pod):
    done = pod.command("report", "--step", "0", "high")
    assert (done.returncode, done.stdout) == (2, "")
    assert "must be a number, not 'high'; nothing was sent" in done.stderr
    assert pod.stored().intermediate_values == {}


def test_a_single_report_that_is_lost_does_not_end_the_training(own_pod, server):
    server.stop()
    done = own_pod.command("report", "--step", "0", "0.5", "--exit-code", STUDY_REPORT_TIMEOUT="0.5")
    assert (done.returncode, done.stdout) == (0, "continue\n")
    assert "the report 0.5 of step 0 is NOT stored" in done.stderr


def test_all_ranks_of_a_pod_hear_at_the_same_step_that_the_trial_is_pruned(pod, tmp_path):
    """Each at its own pace. One that is killed leaves the others to themselves: see tests/unit/study_trial."""
    script = write_script(
        tmp_path,
        """
        import os, random, sys, time

        def objective(trial):
            for epoch in range(100_000):
                trial.report(0.5, epoch)
                if trial.should_prune():
                    print(f"stopped at {epoch}", flush=True)
                    raise study_trial.TrialPruned
                if epoch == 20:
                    print("trains", flush=True)
                time.sleep(random.random() * 0.01)
            raise AssertionError("it was not pruned")
        """,
    )
    command = [sys.executable, "-m", "study_trial", "run", script]
    ranks = [
        subprocess.Popen(command, env=pod.env | {"RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(3)
    ]
    for rank in ranks:
        assert rank.stdout.readline() == "trains\n"
    pod.end(TrialState.PRUNED)
    said = [rank.communicate(timeout=180)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0, 0]
    assert len(set(said)) == 1, said
    assert "stopped at" in said[0]


def test_two_processes_without_ranks_that_end_a_trial_with_different_values(pod, tmp_path):
    """The second is refused, and what it has tried is an incident of the study."""
    script = write_script(tmp_path, "def objective(trial):\n    import os\n    return float(os.environ['VALUE'])\n")
    assert pod.command("run", script, VALUE="0.1").returncode == 0
    refused = pod.command("run", script, VALUE="0.3")
    assert refused.returncode == 1
    assert "set RANK in each of them, or let one of them report" in refused.stderr
    assert pod.result() == ([0.1], False)
    query = "SELECT reason FROM study_operator.incidents WHERE trial_id = %s"
    assert pod.database.query(query, pod.trial_id) == [("SeveralFinalValues",)]
    assert pod.command("run", script, VALUE="0.1").returncode == 0, "the same again is no other value"

"""What pods send: messages and their proofs, hostile ones among them. Those refused are counted and cheap."""

from __future__ import annotations

import json
import statistics
import time
import uuid
from collections.abc import Callable
from dataclasses import replace

import psycopg2
import pytest
from database import ANOTHER_KEY, KEY, TestDatabase, TrialPod, prove, settings_for
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg2.extensions import ISOLATION_LEVEL_AUTOCOMMIT
from trial_pod import Pod

import study_trial
from study_operator.model.actions import RunAgain
from study_operator.model.trial import Failure, FailureClass, TrialRow, TrialState
from study_operator.storage.database import Database
from study_operator.storage.refused_calls import refusals

NONE = {"WrongKey": 0, "NotRunning": 0, "BadArgument": 0, "SeveralObjectives": 0, "Repeated": 0, "LimitReached": 0}


@pytest.fixture
def pod(database: TestDatabase) -> TrialPod:
    return TrialPod(database, KEY, database.running_trial(), job="job-0")


def refused(database: TestDatabase) -> dict[str, int]:
    """How often the database has refused a call, without the reasons that it has not met."""
    counts = refusals(Database(settings_for(database).dsn))
    assert counts.keys() == NONE.keys()
    return {reason: count for reason, count in counts.items() if count}


def code(send: Callable[[], object]) -> str | None:
    """The SQLSTATE with which something is refused; None if it is not."""
    try:
        send()
    except psycopg2.Error as error:
        return error.pgcode
    return None


def stored(database: TestDatabase) -> list[list[tuple]]:
    """All that messages can change."""
    return [
        database.query(f"SELECT * FROM {table} ORDER BY 1, 2, 3")
        for table in (
            "trials",
            "trial_intermediate_values",
            "trial_user_attributes",
            "trial_system_attributes",
            "study_operator.results",
            "study_operator.bad_reports",
        )
    ]


# Proofs


def test_a_proof_is_of_use_for_its_message_alone(pod):
    message = pod.message("report", 1, 0.5)
    proof = prove(KEY, message)
    assert code(lambda: pod.submit(message.replace("0.5", "0.6"), proof)) == "SO001"
    assert code(lambda: pod.submit(message + " ", proof)) == "SO001"
    assert pod.submit(message, proof) is False
    assert pod.database.query("SELECT step, intermediate_value FROM trial_intermediate_values") == [(1, 0.5)]
    assert refused(pod.database) == {"WrongKey": 2}


@pytest.mark.parametrize(
    "proof", ["", "0" * 64, "f" * 64, "x" * 64, KEY, KEY.upper(), "0" * 63, "00" * 64, "ü", "' OR 1=1 --"]
)
def test_what_is_no_proof_opens_nothing(pod, proof):
    before = stored(pod.database)
    assert code(lambda: pod.submit(pod.message("finish", [0.5]), proof)) == "SO001"
    assert (stored(pod.database), refused(pod.database)) == (before, {"WrongKey": 1})


def test_each_bit_of_a_proof_counts(pod):
    message = pod.message("report", 1, 0.5)
    proof = int(prove(KEY, message), 16)
    for bit in range(0, 256, 5):
        assert code(lambda bit=bit: pod.submit(message, f"{proof ^ (1 << bit):064x}")) == "SO001"
    assert pod.database.query("SELECT * FROM trial_intermediate_values") == []


def test_what_the_database_has_stored_is_not_enough_for_a_proof(pod):
    ((stored_hash,),) = pod.database.query("SELECT encode(key_hash, 'hex') FROM study_operator.access")
    message = pod.message("report", 1, 0.5)
    for key in (stored_hash, "0" * 64):
        assert code(lambda key=key: pod.submit(message, prove(key, message))) == "SO001"


def test_nobodys_trial_is_opened_by_no_key(pod):
    for trial_id in (pod.trial_id + 1, 0, -1, 2**31 - 1):
        assert replace(pod, trial_id=trial_id).refusal("report", 1, 0.5) == "SO001"
    pod.database.query("UPDATE study_operator.access SET key_hash = NULL")  # its Study has been deleted
    assert pod.refusal("report", 1, 0.5) == "SO001"


def test_the_trial_of_another_study_is_not_opened_nor_locked(pod):
    theirs = pod.database.running_trial(ANOTHER_KEY, "team/theirs")
    message = replace(pod, trial_id=theirs).message("finish", [0.5])
    connection = psycopg2.connect(pod.database.reporter_url)
    with connection.cursor() as cursor:
        with pytest.raises(psycopg2.Error) as caught:
            cursor.execute("SELECT study_operator.submit(%s, %s)", (message, prove(KEY, message)))
        assert caught.value.pgcode == "SO001"
        connection.rollback()
        cursor.execute("SAVEPOINT before")
        with pytest.raises(psycopg2.Error):
            cursor.execute("SELECT study_operator.submit(%s, %s)", (message, prove(KEY, message)))
        cursor.execute("ROLLBACK TO before")  # the transaction goes on, with whatever it has locked
        assert pod.database.query("SELECT 1 FROM trials WHERE trial_id = %s FOR UPDATE NOWAIT", theirs) == [(1,)]
    connection.close()


# Sent again by somebody who has seen it


def test_a_report_and_a_result_sent_again_change_nothing(pod):
    old = [pod.message("report", 1, 0.5), pod.message("finish", [0.5])]
    for message in old:
        pod.submit(message)
    before = stored(pod.database)
    for message in old:
        assert pod.submit(message) is False
    assert stored(pod.database) == before


def test_an_old_candidate_or_attribute_does_not_come_back(pod):
    old = [
        pod.message("candidate", []),
        pod.message("candidate", [0.1]),
        pod.message("set_user_attr", "a", "1"),
    ]
    for message in old:
        pod.submit(message)
    pod.call("candidate", [0.2])
    pod.call("set_user_attr", "a", "2")
    before = stored(pod.database)
    assert [code(lambda message=message: pod.submit(message)) for message in old] == ["SO005"] * 3
    assert (stored(pod.database), refused(pod.database)) == (before, {"Repeated": 3})


def test_a_message_of_an_earlier_job_is_worth_nothing(pod):
    kept = [pod.message("finish", [0.5]), pod.message("candidate", [0.5]), pod.message("report", 1, 0.5)]
    failure = Failure("NodeLost", kind=FailureClass.INFRASTRUCTURE)
    ((study_id,),) = pod.database.query("SELECT study_id FROM trials")
    again = RunAgain(TrialRow(pod.trial_id, 0, TrialState.RUNNING, {}, "job-0"), failure)
    assert pod.database.trials().run_again(study_id, again, "job-0-r1")
    for message in kept:
        with pytest.raises(psycopg2.Error) as caught:
            pod.submit(message)
        assert caught.value.pgcode == "SO002"
        assert caught.value.diag.message_primary == (
            "the trial runs again as Job job-0-r1, and is no longer that of Job job-0"
        )
    assert pod.database.query("SELECT * FROM study_operator.results") == []
    assert replace(pod, job="job-0-r1").call("finish", [0.7]) is False
    assert replace(pod, job=None).call("report", 2, 0.7) is False, "of a pod whose operator did not tell it the Job"


def test_a_program_whose_clock_was_put_back_is_believed(database, monkeypatch):
    pod = Pod.create(database)
    pod.trial().set_user_attr("a", 1)
    monkeypatch.setattr(time, "time_ns", lambda: 1_000_000)
    later = pod.trial()
    later.set_user_attr("a", 2)
    later.set_user_attr("b", 3)
    assert pod.stored().user_attrs == {"a": 2, "b": 3}
    assert refused(database) == {"Repeated": 1}, "it has learned the number with the first"


# Whatever a message says

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
SQL = st.sampled_from(
    ["'; DROP TABLE trials; --", '"', "\\", "$$", "%s", "\0", "NaN", "-Infinity", "1e400", "٣", "ü" * 600]
)
FIELDS = (
    "trial",
    "number",
    "step",
    "value",
    "values",
    "pruned",
    "constraints",
    "infeasible",
    "message",
    "total",
    "name",
    "json",
    "job",
)
CALLS = ("report", "finish", "candidate", "bad_report", "set_user_attr", "should_stop")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    call=st.sampled_from(CALLS) | JSON | SQL,
    fields=st.dictionaries(st.sampled_from(FIELDS), JSON | SQL | st.just("1"), max_size=8),
)
def test_any_message_is_done_or_refused_with_a_reason(connected, call, fields):
    pod, cursor = connected
    message = json.dumps({"call": call, "trial": pod.trial_id, **fields})
    try:
        cursor.execute("SELECT study_operator.submit(%s, %s)", (message, prove(KEY, message)))
        assert cursor.fetchone()[0] in (True, False)
    except psycopg2.Error as error:
        if error.pgcode not in ("SO001", "SO002", "SO003", "SO005") or len(str(error)) > 2000:
            raise


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text() | st.sampled_from(["null", "[]", "1", '"report"', "{", "[" * 100000, '{"a":' * 40000, "{}"]))
def test_any_text_is_refused(connected, text):
    _, cursor = connected
    if "\0" in text:
        return  # the driver refuses it
    with pytest.raises(psycopg2.Error) as caught:
        cursor.execute("SELECT study_operator.submit(%s, %s)", (text, prove(KEY, text)))
    assert caught.value.pgcode in ("SO001", "SO003")
    assert len(str(caught.value)) < 2000


@pytest.fixture
def connected(pod):
    """A pod, and a cursor on a connection of its login."""
    connection = psycopg2.connect(pod.database.reporter_url)
    connection.set_isolation_level(ISOLATION_LEVEL_AUTOCOMMIT)
    with connection.cursor() as cursor:
        yield pod, cursor
    connection.close()
    assert pod.database.query("SELECT count(*) FROM trials") == [(1,)]


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("report", (2**63, 0.5)),
        ("report", (2**31, 0.5)),
        ("report", (-1, 0.5)),
        ("report", (1.5, 0.5)),
        ("report", ("one", 0.5)),
        ("report", ([1], 0.5)),
        ("report", (1, "high")),
        ("report", (1, None)),
        ("report", (1, True)),
        ("report", (1, 10**400)),
        ("finish", ("0.5",)),
        ("finish", ([[0.5]],)),
        ("finish", ([{"value": 0.5}],)),
        ("finish", ([0.5], "perhaps")),
        ("finish", ([0.5], False, '{"latency": {"ms": 43}}')),
        ("candidate", ([10**400],)),
        ("bad_report", (None, 3)),
        ("bad_report", ("line", 2**63)),
        ("bad_report", ("line", 0)),
        ("set_user_attr", ("", "1")),
        ("set_user_attr", ("a", "{")),
        ("set_user_attr", ("a", '"\\u0000"')),
        ("set_user_attr", ("study_operator:job", '"job-9"')),
        ("set_user_attr", ("x" * 513, "1")),
        ("set_user_attr", ("a", json.dumps("x" * 65536))),
        ("set_user_attr", ("a", json.dumps("x" * 10_000_000))),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_counted_and_not_stored(pod, function, arguments):
    before = stored(pod.database)
    assert pod.refusal(function, *arguments) == "SO003"
    assert (stored(pod.database), refused(pod.database)) == (before, {"BadArgument": 1})


def test_sql_in_names_stays_text(pod):
    name = "'; DROP TABLE trials; -- \"$$%s\\"
    pod.call("set_user_attr", name, json.dumps(name))
    pod.call("bad_report", name, 1)
    pod.call("finish", [], False, None, name)
    assert pod.database.query("SELECT key, value_json FROM trial_user_attributes") == [(name, json.dumps(name))]
    assert pod.database.query("SELECT last FROM study_operator.bad_reports") == [(name,)]
    assert pod.database.query("SELECT infeasible FROM study_operator.results") == [(name,)]


def test_a_trial_takes_no_more_than_a_hundred_attributes(pod):
    for number in range(100):
        pod.call("set_user_attr", f"a{number}", "1")
    assert pod.refusal("set_user_attr", "one more", "1") == "SO003"
    assert pod.call("set_user_attr", "a7", "2") is False


def test_the_program_is_told_before_anything_is_sent(database):
    pod = Pod.create(database)
    trial = pod.trial()
    for write in (
        lambda: trial.report("high", 1),
        lambda: trial.set_user_attr("x" * 513, 1),
        lambda: trial.set_user_attr("a", "x" * 10_000_000),
        lambda: trial.finish("0.5"),
    ):
        with pytest.raises(study_trial.InvalidValueError):
            write()
    trial.report(0.5, 2**63)  # a step that cannot be stored costs the report, and a warning
    for arguments in (["finish", "'; DROP TABLE trials"], ["attr", "", "1"]):
        done = pod.command(*arguments)
        assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert refused(database) == {}
    assert pod.stored().user_attrs == {}


# Cheap


def test_a_thousand_bad_keys_are_counted_and_cost_no_more_than_good_ones(connected):
    pod, cursor = connected

    def send(message: str, proof: str) -> float:
        begun = time.perf_counter()
        code(lambda: cursor.execute("SELECT study_operator.submit(%s, %s)", (message, proof)))
        return time.perf_counter() - begun

    good, bad = [], []
    for number in range(1000):  # by turns, so that both meet the same machine
        message = pod.message("report", number, 0.5)
        good.append(send(message, prove(KEY, message)))
        bad.append(send(message, prove(uuid.uuid4().hex * 2, message)))
    assert refused(pod.database) == {"WrongKey": 1000}
    assert pod.database.query("SELECT count(*) FROM trial_intermediate_values") == [(1000,)]
    assert statistics.median(bad) < 3 * statistics.median(good)


def test_ten_megabytes_are_refused_unread(connected):
    """They must be received; nothing more is done with them. A text that only the client sends costs as much."""
    pod, cursor = connected
    message = pod.message("set_user_attr", "a", json.dumps("x" * 10_000_000))
    proof = prove(KEY, message)
    refusals, floors = [], []
    for _ in range(5):
        begun = time.perf_counter()
        assert code(lambda: cursor.execute("SELECT study_operator.submit(%s, %s)", (message, proof))) == "SO003"
        refusals.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        cursor.execute("SELECT length(%s)", (message,))
        floors.append(time.perf_counter() - begun)
    assert statistics.median(refusals) < 3 * statistics.median(floors)

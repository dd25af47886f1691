"""The reporting functions of the database: results, candidates for one, and what could not be read."""

from __future__ import annotations

import math
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psycopg2
import pytest
from database import ANOTHER_KEY, KEY, TestDatabase, TrialPod, settings_for
from world import counted

from study_operator.model.trial import TrialState
from study_operator.storage.migrate import REPORTING_SCHEMA, migrate

SCHEMAS = Path(__file__).parent / "support/schemas"
ROW = "vals, pruned, constraint_values, infeasible, provisional"


@pytest.fixture(params=["message", "setting"])
def way(request: pytest.FixtureRequest) -> str:
    """How a pod shows that it has the key: what is allowed and refused is the same."""
    return request.param


@pytest.fixture
def pod(database: TestDatabase, way: str) -> TrialPod:
    return trial(database, way)


def trial(database: TestDatabase, way: str, directions: int = 1) -> TrialPod:
    """A running trial of a study of its own."""
    trial_id = database.running_trial(KEY, f"team/{uuid.uuid4()}", directions)
    return TrialPod(database, KEY, trial_id, by_setting=way == "setting")


def result(pod: TrialPod) -> tuple | None:
    rows = pod.database.query(f"SELECT {ROW} FROM study_operator.results WHERE trial_id = %s", pod.trial_id)
    return rows[0] if rows else None


def end(pod: TrialPod, state: TrialState) -> None:
    """What the operator does when it ends a trial."""
    assert pod.database.tell(pod.trial_id, state, None, despite_result=True)


def test_a_result_has_values_and_constraints(pod):
    latency = '{"latency_ms": 43, "memory/gb": -1.5e-3}'
    assert pod.call("finish", [0.9], False, latency) is False
    assert result(pod) == ([0.9], False, {"latency_ms": 43, "memory/gb": -0.0015}, None, False)
    assert pod.call("finish", [0.9], False, '{"memory/gb": -0.0015, "latency_ms": 43.0}') is False, "the same again"
    for other in ([0.8], False, latency), ([0.9], False, '{"latency_ms": 44}'), ([0.9], False), ([], True, latency):
        assert pod.refusal("finish", *other) == "SO002"


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (([0.1],), ([0.3],), "a second end, 0.3, came after the first one, 0.1, which counts"),
        (([0.1],), ([], True), "a second end, pruned, came after the first one, 0.1"),
        (([], False, None, "OOM"), ([math.nan],), "a second end, NaN, came after the first one, infeasible"),
    ],
)
@pytest.mark.parametrize("told", [False, True])
def test_a_second_end_of_a_trial_is_an_incident(database, first, second, words, told):
    """Once, whether the first one has been told or not. It is the first one that counts."""
    pod = trial(database, "message")
    pod.call("finish", *first)
    before = result(pod)
    if told:
        end(pod, TrialState.COMPLETE)

    def incidents() -> list[tuple]:
        return database.query(
            "SELECT kind, reason, message FROM study_operator.incidents WHERE trial_id = %s", pod.trial_id
        )

    pod.call("other_end", *first)
    assert incidents() == [], "it is the same"
    for _ in range(2):
        assert pod.refusal("finish", *second) == "SO002"
        pod.call("other_end", *second)
    ((kind, reason, message),) = incidents()
    assert (kind, reason) == ("Program", "SeveralFinalValues")
    assert message.startswith(words)
    assert result(pod) == before


def test_a_first_end_is_no_second_one(database):
    pod = trial(database, "message")
    pod.call("candidate", [0.1])
    pod.call("other_end", [0.3])
    assert database.query("SELECT * FROM study_operator.incidents WHERE trial_id = %s", pod.trial_id) == []


def test_an_infeasible_trial_says_why(pod):
    why = "OOM at this batch size: größer geht nicht"
    assert pod.call("finish", [], False, None, why) is False
    assert pod.call("finish", [], False, None, why) is False
    assert pod.refusal("finish", [], False, None, "another reason") == "SO002"
    assert pod.refusal("finish", [0.9]) == "SO002"
    assert result(pod) == ([], False, {}, why, False)


@pytest.mark.parametrize(
    "arguments",
    [
        ([None],),
        (None,),
        ([[0.5]],),
        ([0.5], None),
        ([0.5, 0.5],),
        ([],),
        ([], False, "{}"),
        ([0.5], False, "[]"),
        ([0.5], False, "null"),
        ([0.5], False, "43"),
        ([0.5], False, '{"latency_ms": "43"}'),
        ([0.5], False, '{"latency_ms": null}'),
        ([0.5], False, '{"latency_ms": [1]}'),
        ([0.5], False, '{"latency_ms": 1e400}'),
        ([0.5], False, '{"latency_ms": -1e400}'),
        ([0.5], False, '{"latency_ms": 1e-400}'),
        ([0.5], False, '{"": 1}'),
        ([0.5], False, f'{{"{"x" * 64}": 1}}'),
        ([0.5], False, "{" + ", ".join(f'"c{i}": {i}' for i in range(21)) + "}"),
        ([0.5], False, None, "too slow"),
        ([], True, None, "too slow"),
        ([], False, None, ""),
        ([], False, None, "x" * 1001),
    ],
)
def test_what_no_result_can_be_is_refused_and_not_stored(pod, arguments):
    assert pod.refusal("finish", *arguments) == "SO003"
    assert result(pod) is None


def test_as_much_as_a_result_can_hold(pod):
    twenty = "{" + ", ".join(f'"{"x" * 60}{i:03}": {math.pi}e{i}' for i in range(20)) + "}"
    assert pod.call("finish", [], False, twenty, "x" * 1000) is False
    assert (len(result(pod)[2]), len(result(pod)[3])) == (20, 1000)


def test_a_result_has_one_value_for_each_objective(database, way):
    pod = trial(database, way, directions=3)
    assert pod.refusal("finish", [0.9]) == pod.refusal("candidate", [0.9]) == "SO003"
    assert pod.call("finish", [0.9, math.inf, math.nan]) is False
    assert str(result(pod)[0]) == "[0.9, inf, nan]"


def test_reports_are_refused_with_several_objectives_and_their_number(database, way):
    pod = trial(database, way, directions=2)
    with pytest.raises(psycopg2.Error) as caught:
        pod.call("report", 1, 0.5)
    assert caught.value.pgcode == "SO004"
    assert caught.value.diag.message_primary == (
        "the study has 2 objectives, and Optuna has no pruning with several: there is nothing that could be done with "
        "values reported during a trial; report the final ones, by finish()"
    )
    assert database.query("SELECT count(*) FROM trial_intermediate_values") == [(0,)]
    assert pod.call("should_stop") is False


def test_of_results_sent_at_the_same_time_one_stands(pod):
    with ThreadPoolExecutor(8) as threads:
        refused = list(threads.map(lambda i: pod.refusal("finish", [float(i % 4)]), range(16)))
    (stored,) = result(pod)[0]
    assert [refusal is None for refusal in refused] == [i % 4 == stored for i in range(16)]
    assert set(refused) == {None, "SO002"}


def test_no_candidate_takes_the_place_of_a_result(pod):
    with ThreadPoolExecutor(8) as threads:
        sent = [threads.submit(pod.refusal, "candidate", [float(i)]) for i in range(8)]
        sent += [threads.submit(pod.refusal, "finish", [0.5])]
        answers = [done.result() for done in sent]
    assert answers[-1] is None
    assert set(answers) <= {None, "SO005"}, "of candidates sent at the same time, one may come after a later one"
    assert result(pod) == ([0.5], False, {}, None, False)


def test_a_candidate_is_replaced_and_taken_back(pod):
    assert pod.call("candidate", []) is False
    assert pod.call("candidate", [0.1]) is False
    assert pod.call("candidate", [0.2], '{"latency_ms": 43}') is False
    assert result(pod) == ([0.2], False, {"latency_ms": 43}, None, True)
    assert pod.call("candidate", []) is False
    assert result(pod) is None
    assert pod.refusal("candidate", None) == pod.refusal("candidate", [0.1], '{"a": "b"}') == "SO003"


def test_a_program_that_finishes_itself_needs_no_candidate(pod):
    pod.call("candidate", [0.1])
    pod.call("finish", [0.1])
    assert result(pod) == ([0.1], False, {}, None, False), "the same values, and they count now"
    assert pod.call("candidate", [0.2]) is pod.call("candidate", []) is False
    assert result(pod) == ([0.1], False, {}, None, False)


def test_a_trial_that_has_ended_takes_no_candidate(database, way):
    pruned, failed, told = (trial(database, way) for _ in range(3))
    end(pruned, TrialState.PRUNED)
    assert pruned.call("candidate", [0.1]) is pruned.call("candidate", []) is True
    end(failed, TrialState.FAIL)
    assert failed.refusal("candidate", [0.1]) == "SO002"
    assert failed.call("candidate", []) is False
    told.call("candidate", [0.1])
    end(told, TrialState.COMPLETE)
    assert told.call("candidate", [0.1]) is told.call("candidate", []) is False, "its answer had got lost"
    assert [result(pod) is None for pod in (pruned, failed, told)] == [True, True, False]


def test_a_pruned_trial_is_told_to_stop_and_that_is_noted(pod):
    def noted() -> list[tuple]:
        return pod.database.query("SELECT goes_on FROM study_operator.stops WHERE trial_id = %s", pod.trial_id)

    assert (pod.call("report", 1, 0.5), pod.call("should_stop"), noted()) == (False, False, [])
    end(pod, TrialState.PRUNED)
    assert (pod.call("should_stop"), noted()) == (True, [(False,)])
    assert (pod.call("report", 2, 0.5), pod.call("finish", [0.9]), noted()) == (True, True, [(False,)])
    pod.database.query("UPDATE study_operator.stops SET told_at = told_at - interval '2 seconds'")
    assert (pod.call("should_stop"), noted()) == (True, [(False,)])
    assert (pod.call("report", 3, 0.5), noted()) == (True, [(True,)]), "it goes on"


@pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.FAIL])
def test_a_trial_that_has_ended_otherwise_is_not_told_to_stop(pod, state):
    end(pod, state)
    assert (pod.call("should_stop"), pod.refusal("report", 1, 0.5)) == (False, "SO002")
    assert pod.database.query("SELECT * FROM study_operator.stops WHERE trial_id = %s", pod.trial_id) == []


def test_bad_reports_are_counted(pod):
    def counted() -> list[tuple]:
        return pod.database.query("SELECT study_id, count, last FROM study_operator.bad_reports")

    ((study,),) = pod.database.query("SELECT study_id FROM trials WHERE trial_id = %s", pod.trial_id)
    pod.call("bad_report", "line 7: high is not a number", 1)
    pod.call("bad_report", "ü" * 300, 2)
    assert counted() == [(study, 2, "ü" * 256)]
    pod.call("bad_report", "line 9", 5)
    pod.call("bad_report", "line 7, read again", 3)
    assert counted() == [(study, 5, "line 7, read again")]
    assert pod.refusal("bad_report", None) == pod.refusal("bad_report", "line", 0) == "SO003"
    pod.call("bad_report", "line", 2**63 - 1)
    pod.call("bad_report", "line", 1)
    assert counted() == [(study, 2**63 - 1, "line")]
    end(pod, TrialState.FAIL)
    pod.call("bad_report", "too late", 1)
    assert counted() == [(study, 2**63 - 1, "line")]


def test_what_is_counted_goes_with_its_trial(pod):
    pod.call("bad_report", "line", 1)
    pod.database.query("DELETE FROM trial_system_attributes")
    pod.database.query("DELETE FROM trials WHERE trial_id = %s", pod.trial_id)
    assert pod.database.query("SELECT * FROM study_operator.bad_reports") == []


@pytest.mark.parametrize(
    ("function", "arguments"), [("candidate", [[0.1]]), ("candidate", [[]]), ("bad_report", ["line", 1])]
)
def test_another_studys_key_opens_nothing(pod, function, arguments):
    assert replace(pod, key=ANOTHER_KEY).refusal(function, *arguments) == "SO001"


@pytest.mark.parametrize("version", range(1, REPORTING_SCHEMA))
def test_a_database_of_an_earlier_version_is_migrated_with_its_data(database, version):
    database.query("DROP SCHEMA study_operator CASCADE")
    earlier = (SCHEMAS / f"reporting-{version}.sql").read_text()
    database.query(earlier.replace(':"reporter"', "study_reporter"))
    database.query("INSERT INTO study_operator.schema_version (version) VALUES (%s)", version)
    database.query(
        "INSERT INTO studies (study_id, study_name) VALUES (7, 'team/old');"
        "INSERT INTO study_directions (study_id, direction, objective) VALUES (7, 'MAXIMIZE', 0);"
        "INSERT INTO trials (trial_id, study_id, number, state) VALUES (70, 7, 0, 'RUNNING'), (71, 7, 1, 'RUNNING');"
        "INSERT INTO study_operator.access (study_id, key_hash, cluster_id, namespace, name, uid, deletion_policy)"
        " VALUES (7, sha256(%s), 'cluster', 'team', 'old', 'uid', 'Retain')",
        KEY.encode(),
    )
    first, second = (TrialPod(database, KEY, trial_id, by_setting=True) for trial_id in (70, 71))
    first.call("report", 1, 0.4)
    first.call("finish", [0.5])
    with database.connect_as_reporter(KEY) as running, running.cursor() as cursor:
        cursor.execute("SELECT study_operator.report(71, 1, 0.1)")
        running.commit()
        migrate(settings_for(database))
        cursor.execute("SELECT study_operator.report(71, 2, 0.2)")  # a pod that was connected all the time
    running.close()
    assert result(first) == ([0.5], False, {}, None, False)
    assert database.query("SELECT name, objectives, paused_at, paused_seconds FROM study_operator.access") == [
        ("old", 1, None, 0)
    ]
    assert first.call("finish", [0.5]) is False
    assert replace(second, by_setting=False).call("report", 3, 0.3) is False, "a pod started since then"
    assert second.call("finish", [], True) is False, "as study_trial of the first version calls it"
    assert database.query("SELECT max(version) FROM study_operator.schema_version") == [(REPORTING_SCHEMA,)]
    assert database.query("SELECT count(*) FROM trial_intermediate_values") == [(4,)]


# What the operator makes of it


async def test_a_candidate_counts_once_the_job_is_complete(world):
    await world.apply(maxTrials=2)
    await world.settle()
    for number, value in ((0, 0.5), (1, 0.9)):
        assert (await world.pod(number)).call("candidate", [value]) is False
    await world.settle()
    assert world.rows() == [(0, "RUNNING"), (1, "RUNNING")], "nobody knows yet how their programs end"
    await world.end_job(0)
    await world.end_job(1, failed="BackoffLimitExceeded")
    await world.settle()
    assert world.rows() == [(0, "COMPLETE"), (1, "FAIL")]
    with world.database.optuna_study((await world.study())["status"]["studyName"]) as study:
        assert [trial.values for trial in study.trials] == [[0.5], None]


@pytest.mark.parametrize("told", [False, True])
async def test_a_second_end_of_a_trial_is_told(world, told):
    """In the status and by an Event. The trial has not failed."""
    await world.apply(maxTrials=1, parallelism=1)
    await world.settle()
    pod = await world.pod(0)
    pod.call("finish", [0.1])
    if told:
        await world.settle()
    pod.call("other_end", [0.3])
    await world.end_job(0)
    await world.settle()
    status = (await world.study())["status"]
    assert (status["phase"], counted(status)) == ("Succeeded", {"total": 1, "complete": 1})
    (failure,) = status["recentFailures"]
    assert (failure["trial"], failure["reason"], failure["class"]) == (0, "SeveralFinalValues", "Program")
    assert status["failures"]["program"] == 1
    event = (await world.events())["TrialSeveralFinalValues"]
    assert (event["type"], event["message"]) == ("Warning", f"trial 0: {failure['message']}")


async def test_bad_reports_show_in_the_status(world):
    await world.apply()
    await world.settle()
    for number, total in ((0, 3), (1, 4)):
        (await world.pod(number)).call("bad_report", f"line {number}: high is no number", total)
    await world.settle()
    status = (await world.study())["status"]
    assert (status["badReports"], status["lastBadReport"]) == (7, "line 1: high is no number")

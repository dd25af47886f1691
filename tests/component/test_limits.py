"""How much is taken in: each bound, and the words in which its user learns of it."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest
from database import KEY, TestDatabase, TrialPod, settings_for
from trial_pod import Pod
from world import World

import study_trial
from study_operator.model.log_position import Position
from study_operator.model.study import StudyKey
from study_operator.reconcile import intake
from study_operator.settings import Limits
from study_operator.storage import history
from study_operator.storage.database import Database
from study_operator.storage.migrate import migrate
from study_operator.storage.printed_output import Output, OutputBatch, OutputStored
from study_operator.storage.study_sizes import study_sizes

# What pods store


def limit(database: TestDatabase, **limits: int) -> None:
    for name, most in limits.items():
        database.query(f"UPDATE study_operator.limits SET {name} = %s", most)


def test_a_trial_reports_as_often_as_it_may(database):
    limit(database, reports_per_trial=3)
    pod = TrialPod(database, KEY, database.running_trial(), job="job-0")
    for step in (1, 2, 2, 1, 3):  # the first value of a step stands: the others are none
        pod.call("report", step, 0.5)
    assert pod.refusal("report", 4, 0.5) == "SO006"
    assert pod.refusal("report", 5, 0.5) == "SO006", "a refusal leaves nothing behind"
    assert pod.call("report", 3, 0.5) is False
    assert database.query("SELECT count(*) FROM trial_intermediate_values") == [(3,)]
    pod.call("finish", [0.5])


def test_the_program_learns_which_limit_it_has_reached(database):
    limit(database, reports_per_trial=1)
    pod = Pod.create(database)
    trial = pod.trial()
    trial.report(0.5, 1)
    words = (
        r"the trial has reported 1 intermediate values, as many as a trial may \(limits.reportsPerTrial\): report less"
    )
    with pytest.raises(study_trial.LimitReachedError, match=words):
        trial.report(0.5, 2)
    done = pod.command("report", "--step", "3", "0.5")
    assert done.returncode != 0
    assert "limits.reportsPerTrial" in done.stderr
    assert "Traceback" not in done.stderr


def test_attributes_take_as_much_as_they_may(database):
    limit(database, bytes_per_study=100_000)
    pod = Pod.create(database)
    trial = pod.trial()
    trial.set_user_attr("a", "x" * 60_000)
    trial.set_user_attr("a", "x" * 50_000)
    with pytest.raises(
        study_trial.LimitReachedError, match=r"take 1\d+ bytes, and may take 100000 .limits.bytesPerStudy"
    ):
        trial.set_user_attr("b", "x" * 60_000)
    trial.set_user_attr("b", "x" * 40_000)
    trial.set_user_attr("a", 1)
    trial.set_user_attr("c", "x" * 40_000)
    assert set(pod.stored().user_attrs) == {"a", "b", "c"}


def test_reports_count_by_the_thousand(database):
    pod = TrialPod(database, KEY, database.running_trial(), job="job-0")
    pod.call("report", 0, 0.5)
    database.query("UPDATE study_operator.trial_usage SET reports = 999")
    pod.call("report", 1, 0.5)
    assert database.query("SELECT bytes FROM study_operator.study_usage") == [(100_000,)]
    limit(database, bytes_per_study=150_000)
    database.query("UPDATE study_operator.trial_usage SET reports = 1999")
    assert pod.refusal("report", 2, 0.5) == "SO006"


def test_the_studies_of_a_namespace_take_together_as_much_as_they_may(database):
    limit(database, bytes_per_namespace=100_000)
    trials = [database.running_trial(study_name=name) for name in ("team/one", "team/two")]
    one, two = (TrialPod(database, KEY, trial, job="job-0") for trial in trials)
    one.call("set_user_attr", "a", f'"{"x" * 60_000}"')
    two.call("set_user_attr", "b", f'"{"x" * 30_000}"')
    assert two.refusal("set_user_attr", "c", f'"{"x" * 30_000}"') == "SO006"
    one.call("report", 0, 0.5)
    database.query("UPDATE study_operator.trial_usage SET reports = 999")
    assert one.refusal("report", 1, 0.5) == "SO006"
    database.query("UPDATE study_operator.study_usage SET bytes = 100000")
    assert database.query(f"SELECT study_operator.take_reports({trials[0]}, study_id, 5) FROM studies") == [(0,), (0,)]
    database.query("UPDATE study_operator.access SET namespace = 'another' WHERE name = 'team/two'")
    database.query("UPDATE study_operator.study_usage SET bytes = 60000")
    two.call("set_user_attr", "c", f'"{"x" * 30_000}"')


def test_of_what_a_trial_prints_the_rest_is_counted_as_bad(database):
    limit(database, reports_per_trial=4)
    output, trial_id = Output(Database(settings_for(database).dsn)), database.running_trial()
    before = None
    for number in range(2):
        after = Position(number + 1, 1, 5)
        batch = OutputBatch([(3 * number + step, 0.5) for step in range(3)])
        assert output.store(trial_id, "pod", before, after, batch) is OutputStored.DONE
        before = after
    assert database.query("SELECT step FROM trial_intermediate_values ORDER BY 1") == [(0,), (1,), (2,), (3,)]
    ((count, last),) = database.query("SELECT count, last FROM study_operator.bad_reports")
    assert count == 2
    assert "reported as much as it may" in last


def test_limits_are_those_of_the_chart(database):
    migrate(settings_for(database, REPORTS_PER_TRIAL="7", BYTES_PER_STUDY="5000000", BYTES_PER_NAMESPACE="6000000"))
    assert database.query("SELECT * FROM study_operator.limits") == [(7, 5_000_000, 6_000_000)]


def test_what_studies_take_is_told(database):
    pod = TrialPod(database, KEY, database.running_trial(), job="job-0")
    for step in range(3):
        pod.call("report", step, 0.5)
    pod.call("set_user_attr", "abc", '"' + "x" * 995 + '"')
    ((namespace, name, cluster_id),) = database.query("SELECT namespace, name, cluster_id FROM study_operator.access")
    database_of_operator = Database(settings_for(database).dsn)
    assert study_sizes(database_of_operator, cluster_id) == {(namespace, name): (1, 3, 1_000)}
    assert study_sizes(database_of_operator, "another") == {}


# What Studies ask for


def limited(world: World, **limits: int) -> None:
    world.settings = dataclasses.replace(world.settings, limits=Limits(**limits))
    world.start_operator()


def categories(count: int, length: int) -> list[dict[str, Any]]:
    texts = [str(number).rjust(length, "x") for number in range(100)]
    return [{"name": f"p{number}", "categorical": {"choices": texts}} for number in range(count)]


GRID = [{"name": name, "int": {"low": 1, "high": 10}} for name in "xy"]
REFUSED = {
    "candidates": (
        {"sampler": {"name": "TPE", "options": {"n_ei_candidates": 1_000_000_000}}},
        "InvalidSamplerOptions",
        "spec.sampler: option 'n_ei_candidates' of sampler TPE is 1000000000; it may be at most 10,000",
    ),
    "environment": (
        {
            "parameters": categories(9, 123),
            "jobTemplate": {
                "spec": {
                    "template": {"spec": {"containers": [{"name": f"c{n}", "image": "i"} for n in range(10)]}},
                }
            },
        },
        "JobTemplateInvalid",
        "each of 11 containers would have 11",
    ),
    "parameters": (
        {"parameters": categories(10, 123)},
        "TooLarge",
        "spec.parameters has 124 KiB as JSON, and may have 120",
    ),
}


async def condition_of(world: World) -> dict[str, Any]:
    """The condition Accepted, of a Study that the operator may not decode."""
    study = await world.cluster._call("GET", world._path("studies", "study"))
    return next(one for one in study["status"]["conditions"] if one["type"] == "Accepted")


@pytest.mark.parametrize(("spec", "reason", "words"), REFUSED.values(), ids=REFUSED)
async def test_a_study_that_asks_for_too_much_is_refused(world, spec, reason, words):
    await world.apply(**spec)
    await world.look()
    condition = await condition_of(world)
    assert (condition["status"], condition["reason"]) == ("False", reason), condition
    assert words in condition["message"]
    assert await world.jobs() == []


async def test_the_oldest_studies_of_a_namespace_are_served(world):
    limited(world, studies_per_namespace=2)
    for name in "abc":
        await world.apply(name)
    for study in await world.cluster.list_studies(world.namespace):
        world.reconciler.intake.note(StudyKey(study.namespace, study.name), study.created, study.uid)
    for name in "cba":  # in whatever order they come
        await world.look(name)
    reasons = {name: (await world.condition("Accepted", name))["reason"] for name in "abc"}
    assert sorted(reasons.values()) == ["Accepted", "Accepted", "TooManyStudies"]
    (refused,) = [name for name, reason in reasons.items() if reason != "Accepted"]
    condition = await world.condition("Accepted", refused)
    assert "has 2 older Studies, and this installation serves 2 of a namespace" in condition["message"]
    (one, _) = [name for name in "abc" if name != refused]
    await world.delete_study(one)
    await world.look(one)
    look = await world.look(refused)
    assert (await world.condition("Accepted", refused))["reason"] == "Accepted", look


async def test_a_study_has_no_more_trials_than_it_may(world):
    limited(world, trials_per_study=3)
    await world.apply(maxTrials=1000)
    await world.settle()
    message = (await world.condition("Accepted"))["message"]
    assert message == "the Study can be run; of maxTrials 1000, this installation starts 3 (limits.trialsPerStudy)"
    await world.run_trials(float)
    status = (await world.study())["status"]
    assert (status["trials"]["total"], status["progress"]) == (3, "3/3")
    assert (await world.condition("Complete"))["reason"] == "MaxTrialsReached"


async def test_cells_of_all_grids_of_a_namespace_are_counted(world, monkeypatch):
    monkeypatch.setattr(intake, "MOST_CELLS_OF_NAMESPACE", 250)
    for name in "abc":
        await world.apply(name, sampler={"name": "Grid"}, parameters=GRID, maxTrials=100)
        await world.look(name)
    condition = await world.condition("Accepted", "c")
    assert condition["reason"] == "TooManyCells"
    assert "its grid has 100 cells, those of other Studies of the namespace" in condition["message"]
    assert await world.jobs("c") == []
    world.start_operator()
    for name in "cab":
        await world.look(name)
    assert len(await world.jobs("a")) == len(await world.jobs("b")) == 2, "what was accepted goes on"
    await world.delete_study("a")
    await world.look("a")
    await world.look("c")
    assert (await world.condition("Accepted", "c"))["reason"] == "Accepted"


async def test_users_attributes_are_not_read(world):
    """Neither when a study is loaded nor when it has changed."""
    await world.apply(maxTrials=6)
    await world.settle()
    pod = await world.pod(0)
    for number in range(20):
        pod.call("set_user_attr", f"a{number}", '"' + "x" * 60_000 + '"')
    world.start_operator()
    await world.finish(1, 0.5)
    await world.end_job(1)
    await world.settle()
    (live,) = world.reconciler._live.values()
    loaded = await asyncio.to_thread(history.load, live.trials._database, live.trials.study_id, False)
    assert [trial.user_attrs for trial in loaded.trials] == [{}] * 3
    assert world.database.query("SELECT count(*) FROM trial_user_attributes") == [(20,)]

"""Which installation serves a Study, and in which database its rows are: wrong databases, and two operators."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg2
import pytest
from database import TestDatabase, settings_for
from faults import Died, Faults, Wrong
from world import MERGE, World

from study_operator import metrics
from study_operator.kube.api_server import ApiError
from study_operator.model import mark
from study_operator.storage.database import Database
from study_operator.storage.whereabouts import Whereabouts


@pytest.fixture
async def named(world: World) -> World:
    """The world of `world`, whose operator is that of the release system/one."""
    return _release(world, "one")


def _release(world: World, name: str) -> World:
    world.settings = settings_for(world.database, OPERATOR_SERVICE=f"system/{name}")
    world.start_operator()
    return world


@asynccontextmanager
async def _on(world: World, database: TestDatabase, release: str) -> AsyncIterator[World]:
    """An operator of that release on that database, in the same namespace."""
    other = World(world._configuration, world.cluster_id, database, world.namespace)
    try:
        yield _release(other, release)
    finally:
        await other.close()


async def _annotate(world: World, **annotations: str | None) -> None:
    found = {f"study-operator.io/{name.replace('_', '-')}": value for name, value in annotations.items()}
    body = {"metadata": {"annotations": found}}
    await world.cluster._call("PATCH", world._path("studies", "study"), body=body, content=MERGE)


async def _place(world: World) -> str:
    """The name of the world's database, as messages have it."""
    return Whereabouts(Database(world.settings.dsn), world.cluster_id).find("nobody").place.name


async def _everything(world: World) -> dict:
    """Study and Jobs, as they are stored: what nobody may touch."""
    return {"study": await world.study(), "jobs": await world.jobs()}


def _not_served(world: World, reason: str) -> float | None:
    labels = {"namespace": world.namespace, "study": "study", "reason": reason}
    return metrics.REGISTRY.get_sample_value("study_operator_studies_not_served", labels)


async def test_a_study_is_marked_before_its_first_job(named):
    await named.apply()
    writes = named.operators_cluster.faults.writes
    await named.settle()
    kinds = [name for name in writes if name in ("PATCH studies", "POST jobs")]
    assert kinds == ["PATCH studies", "POST jobs", "POST jobs"]
    found = json.loads((await named.study())["metadata"]["annotations"][mark.MARK_ANNOTATION])
    assert found["installation"] == "system/one"
    assert found["database"] == named.database.name
    ((study_id, token),) = named.database.query("SELECT study_id, token FROM study_operator.access")
    assert found["rows"] == f"{study_id}/{token}"
    assert len(token) == 36
    await named.run_trials(lambda number: number / 10)
    assert writes.count("PATCH studies") == 1


@pytest.mark.parametrize("wrong", [Wrong.DIES_BEFORE, Wrong.DIES_AFTER, Wrong.TIMES_OUT_LATE, Wrong.CONFLICT])
async def test_the_claim_goes_wrong(named, wrong):
    await named.apply()
    named.operators_cluster.faults = Faults(lambda _, name: wrong if name == "PATCH studies" else None)
    with pytest.raises((Died, ApiError)):
        await named.look()
    await named.late_writes_arrive()
    assert await named.jobs() == []
    named.operators_cluster.faults = Faults()
    named.start_operator()
    await named.run_trials(lambda number: number / 10)
    assert named.rows() == [(number, "COMPLETE") for number in range(4)]
    assert len(named.database.query("SELECT 1 FROM studies")) == 1


async def test_a_second_installation_writes_nothing_but_an_event(named, other_database):
    """Case H5: two releases with two databases, and one namespace."""
    await named.apply()
    await named.settle()
    before = await _everything(named)
    async with _on(named, other_database, "two") as second:
        for _ in range(3):
            await second.look()
        assert set(second.operators_cluster.faults.writes) == {"POST events"}
        assert _not_served(second, "anothers") == 1
        assert second.database.query("SELECT 1 FROM studies") == []
    assert await _everything(named) == before
    event = (await named.events())["ServedElsewhere"]
    assert event["type"] == "Warning"
    assert "system/one" in event["message"]
    assert event.get("count", 1) == 1
    await named.run_trials(lambda number: number / 10)
    assert (await named.study())["status"]["phase"] == "Succeeded"


async def test_a_second_installation_refuses_nothing_and_tells_no_outage(named, other_database):
    """Also what its own sampler or database would say is not written."""
    await named.apply()
    await named.settle()
    before = await _everything(named)
    async with _on(named, other_database, "two") as second:
        second.operators_database.faults = Faults(read_fails=lambda: True)
        await second.look()
        await second.reconciler.tell_outage((second.namespace, "study"), "gone")
        assert second.operators_cluster.faults.writes == []
    assert await _everything(named) == before


async def test_of_two_that_claim_at_once_one_is_refused(named, other_database):
    await named.apply()
    manifest = await named.study()
    async with _on(named, other_database, "two") as second:
        named.operators_cluster.faults = Faults(lambda _, name: Wrong.DIES_AFTER if name == "PATCH studies" else None)
        with pytest.raises(Died):
            await named.look()
        second.operators_cluster.get_study = _answers(manifest)  # it has read the Study before the other one's claim
        with pytest.raises(ApiError) as refused:
            await second.look()
        assert (refused.value.status, second.operators_cluster.faults.writes[-1]) == (409, "PATCH studies")
        del second.operators_cluster.get_study
        await second.look()
        assert set(second.operators_cluster.faults.writes) == {"POST jobs (dry run)", "PATCH studies", "POST events"}
    named.operators_cluster.faults = Faults()
    named.start_operator()
    await named.run_trials(lambda number: number / 10)


def _answers(manifest):
    async def get_study(*_: str):
        return manifest

    return get_study


async def test_another_installation_takes_a_study_over_when_it_is_told_to(named, other_database):
    await named.apply()
    await named.settle()
    async with _on(named, other_database, "two") as second:
        await second.look()
        place = await _place(second)
        assert f"study-operator.io/begin-anew={place}" in (await named.events())["ServedElsewhere"]["message"]
        await _annotate(named, begin_anew=place)
        await second.settle()
        await second.remove_finalizers()  # of the Jobs of the rows that have been given up
        await second.settle()
        assert second.rows() == [(0, "RUNNING"), (1, "RUNNING")]
        assert "study-operator.io/begin-anew" not in (await second.study())["metadata"]["annotations"]
        before = await _everything(named)
        await named.look()
        assert await _everything(named) == before


async def test_an_annotation_for_another_database_stops_this_one(named, other_database):
    """From the moment at which it is given away, not from the one at which the other one takes it."""
    await named.apply()
    await named.settle()
    await _annotate(named, take_over="0123456789ab")
    before = await _everything(named)
    for number in await named.active():
        await named.finish(number, 0.5)
    await named.look()
    assert await _everything(named) == before
    await _annotate(named, take_over=None)
    await named.look()
    assert (0, "COMPLETE") in named.rows()


@pytest.mark.parametrize("ended", [False, True], ids=["running", "ended"])
async def test_an_empty_database_costs_nothing(named, other_database, ended):
    """Case D1: a changed port, or a pod of the operator that starts before the restore."""
    await named.apply()
    if ended:
        await named.run_trials(lambda number: number / 10)
    else:
        await named.settle()
    before, jobs = (await named.study())["status"], await named.jobs()
    async with _on(named, other_database, "one") as wrong:
        look = await wrong.settle()
        assert look.again is not None
        assert await wrong.jobs() == jobs
        assert wrong.database.query("SELECT 1 FROM studies") == []
        assert _not_served(wrong, "lost") == 1
        status, ready = (await wrong.study())["status"], await wrong.condition("StorageReady")
        phase = before["phase"] if ended else "Waiting"
        assert {k: v for k, v in status.items() if k != "conditions"} == {
            k: v for k, v in (before | {"phase": phase}).items() if k != "conditions"
        }
        assert (ready["status"], ready["reason"]) == ("False", "RowsMissing")
        assert "does not know this study" in ready["message"]
        assert "restore the backup" in ready["message"]
        assert named.database.name in ready["message"]
        assert f"study-operator.io/begin-anew={await _place(wrong)}" in ready["message"]
        complete = await wrong.condition("Complete")
        assert complete.get("status") == ("True" if ended else None)
    named.start_operator()
    await named.settle()
    assert (await named.condition("StorageReady"))["status"] == "True"
    await named.run_trials(lambda number: number / 10)
    assert named.rows() == [(number, "COMPLETE") for number in range(4)]


async def test_an_empty_database_and_a_study_without_a_mark(named, other_database):
    """A Study that version 0.2 has served, or whose mark somebody has removed: its status or its Jobs tell."""
    await named.apply()
    await named.settle()
    await _annotate(named, mark=None)
    jobs = await named.jobs()
    async with _on(named, other_database, "one") as wrong:
        await wrong.settle()
        assert await wrong.jobs() == jobs
        assert (await wrong.condition("StorageReady"))["reason"] == "RowsMissing"
        body = {"status": None}
        await wrong.cluster._call("PATCH", wrong._path("studies", "study", "status"), body=body, content=MERGE)
        await wrong.settle()
        assert await wrong.jobs() == jobs
        assert (await wrong.condition("StorageReady"))["reason"] == "RowsMissing"
    named.start_operator()
    await named.settle()
    assert mark.MARK_ANNOTATION in (await named.study())["metadata"]["annotations"]


async def test_a_study_begins_anew_when_it_is_told_to(named, other_database):
    await named.apply()
    await named.settle()
    async with _on(named, other_database, "one") as anew:
        await anew.settle()
        await _annotate(anew, begin_anew=await _place(anew))
        await anew.settle()
        await anew.remove_finalizers()
        await anew.run_trials(lambda number: number / 10)
        assert anew.rows() == [(number, "COMPLETE") for number in range(4)]
        assert (await anew.condition("StorageReady"))["status"] == "True"


async def test_a_database_that_is_exchanged_under_a_running_operator(named, other_database):
    """As a changed address of a Service does it: the operator's connections break, and lead elsewhere."""
    await named.apply()
    await named.settle()
    jobs = await named.jobs()
    right = named.operators_database._dsn
    named.operators_database._dsn = settings_for(other_database).dsn
    _end_connections(named.database)
    for _ in range(3):
        await named.look()
    assert await named.jobs() == jobs
    assert other_database.query("SELECT 1 FROM studies") == []
    assert (await named.condition("StorageReady"))["reason"] == "RowsMissing"
    named.operators_database._dsn = right
    _end_connections(other_database)
    for _ in range(3):
        await named.look()
    await named.run_trials(lambda number: number / 10)
    assert named.rows() == [(number, "COMPLETE") for number in range(4)]


def _end_connections(database: TestDatabase) -> None:
    connection = psycopg2.connect(database.server)
    connection.autocommit = True
    connection.cursor().execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (database.name,)
    )
    connection.close()


@pytest.mark.parametrize("ended", [False, True], ids=["running", "ended"])
async def test_rows_that_somebody_deletes(named, ended):
    """With `optuna delete-study`: nothing begins anew in silence, and what has ended stays as it was."""
    await named.apply()
    if ended:
        await named.run_trials(lambda number: number / 10)
    else:
        await named.settle()
    before, jobs = (await named.study())["status"], await named.jobs()
    named.database.query("TRUNCATE studies CASCADE")
    for _ in range(3):
        await named.look()
    assert await named.jobs() == jobs
    assert (await named.condition("StorageReady"))["reason"] == "RowsMissing"
    assert (await named.study())["status"]["phase"] == (before["phase"] if ended else "Waiting")
    assert (await named.study())["status"].get("bestTrial") == before.get("bestTrial")


async def test_a_mark_that_nobody_can_read_is_written_again(named):
    """Whoever may edit the Study may write anything there. It is about that Study alone."""
    await named.apply()
    await named.settle()
    right = (await named.study())["metadata"]["annotations"][mark.MARK_ANNOTATION]
    for wrong in ("[" * 5000, "{}", "null", json.dumps(json.loads(right) | {"server": "x\ny"}), "\0"[:0]):
        await _annotate(named, mark=wrong)
        await named.look()
        assert (await named.study())["metadata"]["annotations"][mark.MARK_ANNOTATION] == right


async def test_a_copy_of_a_study_is_another_study(named):
    await named.apply()
    await named.settle()
    found = await named.study()
    copy = {**found, "metadata": {"name": "copy", "annotations": found["metadata"]["annotations"]}, "status": None}
    await named.cluster._call("POST", named._path("studies"), body={k: v for k, v in copy.items() if v is not None})
    await named.settle("copy")
    found = [(await named.study(name))["metadata"]["annotations"][mark.MARK_ANNOTATION] for name in ("study", "copy")]
    marks = [json.loads(text) for text in found]
    assert marks[0]["study"] != marks[1]["study"]
    assert len(named.database.query("SELECT 1 FROM studies")) == 2


async def test_a_release_of_another_name_on_the_same_database_goes_on(named):
    """Uninstalled, and installed again under another name: the rows are there."""
    await named.apply()
    await named.settle()
    async with _on(named, named.database, "two") as second:
        await second.run_trials(lambda number: number / 10)
        assert second.rows() == [(number, "COMPLETE") for number in range(4)]
        found = json.loads((await second.study())["metadata"]["annotations"][mark.MARK_ANNOTATION])
        assert found["installation"] == "system/two"

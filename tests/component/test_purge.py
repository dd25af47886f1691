"""A user wants the rows of a deleted Study removed, as `create studytrialsets/purge` notes it: the operator does it."""

from __future__ import annotations

import pytest
from world import World

from study_operator.model.study import StudyKey

PURGE = "SELECT refused FROM study_reading.purge_study(%s, %s, 'jane')"


async def _is_gone(world: World) -> int:
    """A Study has been deleted, and has left its rows. Returns their study_id."""
    study = await world.apply()
    await world.settle()
    await world.finish(0, 0.5)
    await world.delete_study()
    await world.look()
    uid = study["metadata"]["uid"]
    ((study_id,),) = world.database.query("SELECT study_id FROM study_operator.access WHERE uid = %s", uid)
    return study_id


@pytest.mark.parametrize("forgets", [False, True], ids=["in memory", "after a restart"])
async def test_a_sweep_finds_what_is_to_be_removed_and_a_look_removes_it(world, forgets):
    study_id = await _is_gone(world)
    assert (world.rows(), await world.reconciler.known_studies()) == ([(0, "COMPLETE"), (1, "FAIL")], [])
    assert world.database.query(PURGE, world.cluster_id, study_id) == [(None,)]
    if forgets:
        world.start_operator()
    (known,) = await world.reconciler.known_studies()
    assert (known.name, known.deletion_policy, known.purged_by) == ("study", "Delete", "jane")
    await world.look()
    assert (world.rows(), await world.reconciler.known_studies()) == ([], [])


async def test_a_study_of_the_same_name_keeps_its_rows(world):
    study_id = await _is_gone(world)
    await world.collect_garbage()
    await world.apply()
    await world.settle()
    assert world.database.query(PURGE, world.cluster_id, study_id) == [(None,)]
    world.reconciler.look_for_predecessors(StudyKey(world.namespace, "study"))  # as a sweep does
    await world.settle()
    assert world.rows() == [(0, "RUNNING"), (1, "RUNNING")]
    assert [known.purged_by for known in await world.reconciler.known_studies()] == [""]

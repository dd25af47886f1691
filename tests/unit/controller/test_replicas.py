"""Which studies somebody has to serve, as far as a replica has heard."""

from __future__ import annotations

import asyncio

import pytest

from study_operator.controller import replicas as module
from study_operator.controller.replicas import Replicas
from study_operator.model.study import StudyKey
from study_operator.storage.database import StorageUnavailable


def test_a_study_that_is_noticed_while_others_are_listed_stays_known():
    """It was deleted and has been created again: the list is older than the event."""
    replicas = Replicas(None, None, None, "cluster", (), None)
    gone, again = StudyKey("team", "gone"), StudyKey("team", "again")
    replicas.notice(gone)
    replicas.notice(again)
    before_the_list = replicas.known()
    replicas.notice(again)
    replicas.forget(before_the_list)
    assert list(replicas.known()) == [again]
    replicas.forget(replicas.known())
    assert not replicas.known()
    replicas.close()


async def test_two_replicas_come_back_at_different_moments(monkeypatch: pytest.MonkeyPatch):
    """They lose the database at the same moment, and must not all ask it again at the same moments."""
    paused: dict[str, list[float]] = {"ours": [], "theirs": []}

    async def refuse(*_: object) -> None:
        raise StorageUnavailable("Connection refused")

    async def pause(seconds: float) -> None:
        name = asyncio.current_task().get_name()
        paused[name].append(seconds)
        if len(paused[name]) == 6:
            raise asyncio.CancelledError

    monkeypatch.setattr(module.Locks, "join", refuse)
    monkeypatch.setattr(module.asyncio, "sleep", pause)
    both = [Replicas(None, None, None, "cluster", (), None) for _ in paused]
    tasks = [asyncio.create_task(one.run(), name=name) for name, one in zip(paused, both, strict=True)]
    await asyncio.wait(tasks)
    for ours, theirs, bound in zip(*paused.values(), (0.5, 1, 2, 4, 4, 4), strict=True):
        assert ours != theirs
        assert bound / 2 <= min(ours, theirs) <= max(ours, theirs) <= bound
    for one in both:
        one.close()

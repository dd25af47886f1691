"""Which studies somebody has to serve, as far as a replica has heard."""

from __future__ import annotations

from study_operator.controller.replicas import Replicas
from study_operator.model.study import StudyKey


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

"""Who may do what is asked of the cluster once in some seconds, and never remembered when there was no answer."""

from __future__ import annotations

import asyncio

import pytest

from study_operator.api.access import SECONDS, Access
from study_operator.api.front_proxy import User
from study_operator.api.refusals import Refusal
from study_operator.api.resources import TRIALS
from study_operator.kube.api_server import ApiError

ANNA, BEA = User("anna", groups=("team",)), User("bea")


class Cluster:
    """Answers reviews, and counts them."""

    def __init__(self) -> None:
        self.asked, self.allowed, self.away = [], True, False

    async def review(self, user, verb, group, version, resource, namespace, name):
        self.asked.append((user["user"], verb, resource, namespace, name))
        await asyncio.sleep(0)
        if self.away:
            raise ApiError(0, "Unreachable", "nobody there")
        return self.allowed, "" if self.allowed else "no rule"


@pytest.fixture
def cluster():
    return Cluster()


async def test_an_answer_holds_for_seconds_and_for_the_same_question_alone(cluster):
    now = [0.0]
    access = Access(cluster, lambda: now[0])
    await asyncio.gather(*[access.check(ANNA, "list", TRIALS, "team-a") for _ in range(50)])
    assert len(cluster.asked) == 1, "many who ask the same wait for one answer"
    await access.check(BEA, "list", TRIALS, "team-a")
    await access.check(ANNA, "get", TRIALS, "team-a", "digits-1")
    await access.check(ANNA, "list", TRIALS, "team-b")
    await access.check(User("anna", groups=("other",)), "list", TRIALS, "team-a")
    assert len(cluster.asked) == 5
    now[0] = SECONDS + 0.1
    cluster.allowed = False
    with pytest.raises(
        Refusal, match=r'User "anna" cannot list resource "studytrials" .* "team-a": no rule'
    ) as refused:
        await access.check(ANNA, "list", TRIALS, "team-a")
    assert refused.value.code == 403


async def test_no_answer_is_no_permission_and_is_not_remembered(cluster):
    access = Access(cluster)
    cluster.away = True
    with pytest.raises(Refusal, match="the API server cannot say") as refused:
        await access.check(ANNA, "list", TRIALS, "")
    assert refused.value.code == 503
    cluster.away = False
    await access.check(ANNA, "list", TRIALS, "")


async def test_a_client_that_goes_away_takes_no_answer_from_others(cluster):
    access = Access(cluster)
    first = asyncio.create_task(access.check(ANNA, "list", TRIALS, ""))
    second = asyncio.create_task(access.check(ANNA, "list", TRIALS, ""))
    await asyncio.sleep(0)
    first.cancel()
    await second
    assert len(cluster.asked) == 1

"""`wait`: until a study has ended, has reached its goal, or has a value."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from study_client.errors import ClientError
from study_client.kubectl import Kubectl
from study_client.studies import StudyView
from study_client.texts import is_number, one_line

_POLL_SECONDS = 2.0


class Answer(NamedTuple):
    """Whether what is waited for has come (True) or will not come (False), and in words why."""

    reached: bool
    words: str


def check_goal(wanted: str) -> None:
    """Check what is to be waited for.

    Raises:
        ClientError: it is none of `complete`, `goal` and a number.
    """
    if wanted not in ("complete", "goal") and not is_number(wanted):
        raise ClientError(f"--for is {wanted!r}: write complete, goal, or a value of the objective such as 0.95")


def answer(study: StudyView, wanted: str) -> Answer | None:
    """Return whether what is waited for has come; None while it may still come.

    Raises:
        ClientError: this study cannot have it.
    """
    if wanted == "goal" and study.spec["objectives"][0].get("goal") is None:
        raise ClientError(f"{study.name} has no goal (spec.objectives[0].goal): write --for=complete, or a value")
    value = study.best_value()
    if wanted not in ("complete", "goal"):
        if study.several:
            raise ClientError(f"{study.name} has several objectives, and no best value to wait for")
        bound = float(wanted)
        if value is not None and (value >= bound if study.maximised else value <= bound):
            return Answer(True, f"{study.name} has {value:.6g} (trial {study.status['bestTrial']['number']})")
    complete, failed = study.holds("Complete"), study.holds("Failed")
    if complete is not None and (wanted == "complete" or (wanted == "goal" and complete.reason == "GoalReached")):
        return Answer(True, f"{study.name} is complete ({complete.reason}): {one_line(complete.message)}")
    if (ended := complete or failed) is not None:
        how = "is complete" if complete else "has failed"
        return Answer(False, f"{study.name} {how} ({ended.reason}): {one_line(ended.message)}")
    return None


def wait(
    kubectl: Kubectl,
    name: str,
    wanted: str,
    timeout: float | None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Wait, and return 0 when it has come, 1 when the study has ended without it.

    Args:
        timeout: in seconds; None for ever.

    Raises:
        ClientError: the time is over, or the study cannot have it.
    """
    check_goal(wanted)
    deadline = None if timeout is None else clock() + timeout
    while True:
        study = StudyView(kubectl.study(name))
        if (found := answer(study, wanted)) is not None:
            print(found.words)
            return 0 if found.reached else 1
        left = _POLL_SECONDS if deadline is None else min(_POLL_SECONDS, deadline - clock())
        if left <= 0:
            raise ClientError(f"{name} is not there after {timeout:g} seconds: {one_line(study.why)}")
        sleep(left)

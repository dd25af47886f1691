"""What people wish of a study's trials. The operator does it, or says why not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any


class Act(StrEnum):
    """What is wished: end a running trial; try parameters next; let a value no longer count, or count again; remove
    the rows that a deleted Study has left.
    """

    STOP = "stop"
    ENQUEUE = "enqueue"
    EXCLUDE = "exclude"
    INCLUDE = "include"
    PURGE = "purge"


class WishRefused(Exception):
    """A wish cannot be noted. The message is for whoever has it.

    Attributes:
        missing: whether there is no such study or trial.
    """

    def __init__(self, message: str, missing: bool = False) -> None:
        super().__init__(message)
        self.missing = missing


@dataclass(frozen=True, slots=True)
class Wish:
    """A wish that has been noted.

    Attributes:
        wish_id: its number.
        namespace: of the Study.
        study_id: Optuna's.
        number: the trial's; None if it concerns no trial.
        act: what is wished.
        content: what the act needs to know, such as parameters.
        wished_by: the user's name, as Kubernetes knows it.
        at: when it was noted, aware.
        granted: whether the operator has done it; None before it has answered.
        answer: what was done, or why it was not; None before.
    """

    wish_id: int
    namespace: str
    study_id: int
    number: int | None
    act: Act
    content: Mapping[str, Any]
    wished_by: str
    at: datetime
    granted: bool | None = None
    answer: str | None = None

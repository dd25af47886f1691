"""Names of the objects of the trials API, and what a name may stand for.

A trial is `<study>-<number>`, as its first Job. Of a deleted Study whose rows were kept, digits of its UID follow,
because another Study may have its name by now. So `digits-7-12345678` can be two things: a trial of a Study
named `digits-7`, or one of a deleted Study named `digits`. The Study that exists is looked for first.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import NamedTuple

UID_DIGITS = 8
_LONGEST = 253  # characters of a name in Kubernetes
_HEXADECIMAL = frozenset("0123456789abcdef")


class Named(NamedTuple):
    """What a name may stand for.

    Attributes:
        study: the Study's name.
        number: the trial's; None for the study as a whole.
        uid: the first digits of the UID of a deleted Study; empty for a Study that exists.
    """

    study: str
    number: int | None
    uid: str = ""


def trial_name(study: str, number: int, deleted_uid: str = "") -> str:
    """Return the name of a trial.

    Args:
        deleted_uid: the Study's UID, if the Study was deleted.
    """
    return f"{set_name(study)}-{number}" + _ending(deleted_uid)


def set_name(study: str, deleted_uid: str = "") -> str:
    """Return the name of a whole study. Args as `trial_name`."""
    return study + _ending(deleted_uid)


def trials_named(name: str) -> Iterator[Named]:
    """Yield which trials a name may stand for, the likeliest first."""
    if len(name) > _LONGEST:
        return
    if (found := _numbered(name)) is not None:
        yield found
    head, uid = _without_uid(name)
    if uid and (found := _numbered(head)) is not None:
        yield found._replace(uid=uid)


def sets_named(name: str) -> Iterator[Named]:
    """Yield which studies a name may stand for, the likeliest first."""
    if len(name) > _LONGEST:
        return
    yield Named(name, None)
    head, uid = _without_uid(name)
    if uid:
        yield Named(head, None, uid)


def trial_uid(study_uid: str, number: int) -> str:
    """Return the UID of a trial's object: the same each time, and another one for each trial of each Study."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"study-operator.io/{study_uid}/{number}"))


def _ending(uid: str) -> str:
    return f"-{uid[:UID_DIGITS]}" if uid else ""


def _numbered(name: str) -> Named | None:
    study, _, digits = name.rpartition("-")
    if not study or not digits.isascii() or not digits.isdecimal() or len(digits) > 9:
        return None
    return Named(study, int(digits)) if digits == str(int(digits)) else None


def _without_uid(name: str) -> tuple[str, str]:
    """Return a name without the digits of a UID at its end, and these digits; both empty if it has none."""
    head, _, uid = name.rpartition("-")
    return (head, uid) if head and len(uid) == UID_DIGITS and set(uid) <= _HEXADECIMAL else ("", "")

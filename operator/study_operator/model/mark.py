"""The mark of a Study: which installation serves it, and in which database its rows are.

The mark is an annotation on the Study, no status: a status is a cache, which backups leave out. It is compared with the
database before anything of the study is touched. `compare` is the whole decision.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import Enum
from typing import Any

from study_operator.model.study import GROUP

MARK_ANNOTATION = f"{GROUP}/mark"
# What users write to say that a study's rows are to be found elsewhere from now on, or are given up. The value is the
# name of the database that is meant, so that an annotation that was forgotten does no harm later.
TAKE_OVER_ANNOTATION = f"{GROUP}/take-over"
BEGIN_ANEW_ANNOTATION = f"{GROUP}/begin-anew"
# The name in Optuna of a stored study that a new Study goes on with.
CONTINUE_ANNOTATION = f"{GROUP}/continue"
_LONGEST = 253  # characters of one field of a mark, which tenants could have written


@dataclass(frozen=True)
class Place:
    """A database, as the Studies of one cluster know it.

    Attributes:
        cluster: the UID of the cluster's kube-system namespace.
        server: the PostgreSQL server's own identifier; "-" where the operator may not read it.
        database: the database's name.
        identity: a random text that `migrate` has stored in the database. A copy of the database has the same.
    """

    cluster: str
    server: str
    database: str
    identity: str

    @property
    def name(self) -> str:
        """A short name, for messages and for what users write."""
        text = "/".join((self.cluster, self.server, self.database, self.identity))
        return f"{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def __str__(self) -> str:
        return f"{self.name} ({self.database!r} on server {self.server})"


@dataclass(frozen=True)
class Stored:
    """The rows of a Study, as the database that was asked knows them.

    Attributes:
        study_id: Optuna's.
        token: a random text that was stored when the rows were made.
        name: the study's name in Optuna.
    """

    study_id: int
    token: str
    name: str = ""


@dataclass(frozen=True)
class Mark:
    """What the annotation says.

    Attributes:
        study: the UID of the Study that was marked. A copy of the Study carries the mark, and is another Study.
        installation: namespace and name of the release that serves it; empty for an operator without a release.
        cluster, server, database, identity: those of the place.
        rows: Optuna's study_id and the token there.
    """

    study: str
    installation: str
    cluster: str
    server: str
    database: str
    identity: str
    rows: str

    @classmethod
    def of(cls, uid: str, installation: str, place: Place, stored: Stored) -> Mark:
        """Return the mark of a Study whose rows are at a place."""
        return cls(uid, installation, **asdict(place), rows=f"{stored.study_id}/{stored.token}")

    @property
    def place(self) -> Place:
        """Where the rows are."""
        return Place(self.cluster, self.server, self.database, self.identity)

    def text(self) -> str:
        """Return the annotation's value."""
        return json.dumps(asdict(self), separators=(",", ":"))


def read(manifest: Mapping[str, Any]) -> Mark | None:
    """Return a Study's mark; None if it has none, or that of the Study of which it is a copy."""
    meta = manifest["metadata"]
    try:
        found = json.loads((meta.get("annotations") or {})[MARK_ANNOTATION])
        mark = Mark(**{field.name: found[field.name] for field in fields(Mark)})
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    texts = asdict(mark).values()
    if not all(isinstance(text, str) and len(text) <= _LONGEST and text.isprintable() for text in texts):
        return None
    return mark if mark.study == meta["uid"] else None


def continued(manifest: Mapping[str, Any]) -> str | None:
    """Return the name in Optuna of the stored study that a Study is to go on with; None if it begins one of its own."""
    return (manifest["metadata"].get("annotations") or {}).get(CONTINUE_ANNOTATION) or None


class Standing(Enum):
    """What an operator may do about a Study."""

    OURS = "serve it"
    CLAIM = "mark it, then serve it"
    ANOTHERS = "leave it alone, because another installation serves it"
    LOST = "touch nothing, because its rows are not in the database"


@dataclass(frozen=True)
class Comparison:
    """What came of comparing a mark with the database.

    Attributes:
        standing: what may be done.
        words: why nothing may be done, and what to do about it; empty if something may.
    """

    standing: Standing
    words: str = ""


def of_another(manifest: Mapping[str, Any], installation: str, here: Place | None) -> bool:
    """Return whether another installation serves the Study, as far as that is certain without asking the database.

    Args:
        manifest: the Study.
        installation: this one's name.
        here: the database, as it was when it last answered; None if it never has.
    """
    mark = read(manifest)
    return mark is not None and mark.installation != installation and (here is None or mark.place != here)


def compare(
    manifest: Mapping[str, Any], installation: str, here: Place, stored: Stored | None, had_trials: bool
) -> Comparison:
    """Compare a Study's mark with the database.

    Args:
        manifest: the Study.
        installation: this one's name.
        here: the database that was asked.
        stored: the Study's rows in it; None if there are none.
        had_trials: whether the Study has had trials, according to its status or to its Jobs.
    """
    meta = manifest["metadata"]
    annotations = meta.get("annotations") or {}
    take_over, anew = annotations.get(TAKE_OVER_ANNOTATION), annotations.get(BEGIN_ANEW_ANNOTATION)
    mark = read(manifest)
    if take_over is not None and take_over != here.name:
        words = f"database {take_over[:_LONGEST]!r} is to take it over ({TAKE_OVER_ANNOTATION}); this one is {here}"
        return Comparison(Standing.ANOTHERS, words)
    if mark is not None and mark.place == here and stored is not None and _same_rows(mark, stored):
        asked = here.name in (take_over, anew)
        return Comparison(Standing.OURS if mark.installation == installation and not asked else Standing.CLAIM)
    if stored is not None and (mark is None or take_over is not None):
        return Comparison(Standing.CLAIM)
    if stored is None and (anew == here.name or (mark is None and not had_trials)):
        return Comparison(Standing.CLAIM)
    if mark is not None and mark.installation != installation:
        words = (
            f"it is served by {mark.installation or 'an operator without a release'} with database {mark.place}; this "
            f"operator works on database {here} and leaves it alone. If this one is to serve it, stop the other one, "
            f"then {_annotate(meta, TAKE_OVER_ANNOTATION if stored else BEGIN_ANEW_ANNOTATION, here)}"
        )
        return Comparison(Standing.ANOTHERS, words)
    return Comparison(Standing.LOST, _lost(meta, mark, here, stored))


def _same_rows(mark: Mark, stored: Stored) -> bool:
    return mark.rows == f"{stored.study_id}/{stored.token}"


def _lost(meta: Mapping[str, Any], mark: Mark | None, here: Place, stored: Stored | None) -> str:
    """Return why the rows cannot be used, and what to do about it."""
    if stored is not None and mark is not None:
        where = f"its rows were last in database {mark.place}, and this is database {here}"
        if mark.place == here:
            where = f"database {here} has other rows of this study than those that it was last served from"
        return (
            f"{where}. If this database is the right one, moved, restored or made from a dump, and no operator works "
            f"on the other one: {_annotate(meta, TAKE_OVER_ANNOTATION, here)}"
        )
    words = f"database {here} does not know this study"
    if mark is not None and mark.place != here:
        words += f", whose rows were last in database {mark.place}: connect the operator to that one, or restore"
    elif mark is not None:
        words += ": its rows were deleted (`optuna delete-study`, optuna-dashboard), or it is an older copy; restore"
    else:
        words += ": restore"
    anew = _annotate(meta, BEGIN_ANEW_ANNOTATION, here)
    return f"{words} the backup (docs/backup.md). To give its trials up and start from nothing: {anew}"


def _annotate(meta: Mapping[str, Any], annotation: str, here: Place) -> str:
    return f"kubectl -n {meta['namespace']} annotate study {meta['name']} {annotation}={here.name}"


def claim(manifest: Mapping[str, Any], installation: str, place: Place, stored: Stored) -> dict[str, str | None] | None:
    """Return the annotations to merge into a Study, so that its mark says where its rows are; None if it does already.

    What users have asked for is done then, and is taken away.
    """
    found = manifest["metadata"].get("annotations") or {}
    mark = Mark.of(manifest["metadata"]["uid"], installation, place, stored)
    done = {name: None for name in (TAKE_OVER_ANNOTATION, BEGIN_ANEW_ANNOTATION) if found.get(name) == place.name}
    if read(manifest) == mark and not done:
        return None
    return {MARK_ANNOTATION: mark.text(), **done}

"""What has happened to trials, as watches tell it: read from the log of changes, and turned into events of a client.

A change says that a trial has changed, not how: what the event shows is the trial as it is now. So several changes of
one trial that are read together are one event. What happens to a whole study, its deletion for instance, stays one
entry until a client is told of it: its trials may be many, and most clients do not want them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from study_operator.api import numbers
from study_operator.api.reading import Reading
from study_operator.api.selection import Selection
from study_operator.api.shapes import Shape
from study_operator.api.trial_objects import Identity
from study_operator.model.readable import Change, ChangeKind, Changes, Key, ReadableTrial, ShownState, Where

_PAGE = 500


@dataclass(frozen=True)
class TrialEvent:
    """One trial is new or has changed.

    Attributes:
        number: of the latest change that it stands for.
        trial: as it is now.
        before: the trial as it was before; None if it is new.
    """

    number: int
    trial: ReadableTrial
    before: Identity | None
    _encoded: dict[tuple[str, Shape], bytes] = field(default_factory=dict, repr=False, compare=False)

    def told(self, selection: Selection, shape: Shape) -> bytes | None:
        """Return the event for a client that watches a selection; None if the client has no part in it.

        For a client that watches trials of some state, a trial appears when it gets that state, and goes with it.
        """
        was = self.before is not None and selection.matches(self.before)
        now = selection.matches(Identity.of(self.trial))
        if not was and not now:
            return None
        kind = "MODIFIED" if was and now else "ADDED" if now else "DELETED"
        known = self._encoded.get((kind, shape))  # many watch the same
        if known is None:
            shown = shape.alone(self.number, shape.trial(self.trial, self.number))
            known = self._encoded[kind, shape] = event(kind, shown)
        return known


Entry = TrialEvent | Change


@dataclass(frozen=True)
class Batch:
    """What has happened up to some change.

    Attributes:
        entries: in the order of their numbers.
        at: the number of the latest change that was read.
    """

    entries: list[Entry]
    at: int


async def batch(reading: Reading, changes: Changes) -> Batch:
    """Return what changes mean: with the trials that they are about.

    Raises:
        Refusal: the database cannot be asked.
    """
    keys = {Key(one.study_id, one.first): None for one in changes.changes if one.kind is ChangeKind.TRIAL}
    rows = (
        {Key(trial.study.study_id, trial.number): trial for trial in await reading.trials(list(keys))} if keys else {}
    )
    first: dict[Key, Change] = {}
    was: dict[Key, ShownState] = {}  # the state before the first change of it
    entries: dict[object, Entry] = {}
    for change in changes.changes:
        if change.kind is not ChangeKind.TRIAL:
            entries[change.number] = change
            first.clear()  # what comes after it is about another trial, or about one with another name
            was.clear()
            continue
        key = Key(change.study_id, change.first)
        if (trial := rows.get(key)) is None:
            continue  # it is gone: a later change says so
        if key in first:
            entries.pop((key, first[key].number), None)
        began = first.setdefault(key, change)
        if change.was is not None:
            was.setdefault(key, change.was)
        before = None if began.made else Identity.of(trial).before(was.get(key, trial.state))
        entries[key, began.number] = TrialEvent(change.number, trial, before)
    return Batch(list(entries.values()), changes.at)


async def told(reading: Reading, entry: Entry, selection: Selection, shape: Shape) -> AsyncIterator[bytes]:
    """Yield the events of an entry for a client that watches a selection.

    All but the last have the resource version before the entry's: a client that is cut off in between sees all again.

    Raises:
        Refusal: the database cannot be asked.
    """
    if isinstance(entry, TrialEvent):
        if (known := entry.told(selection, shape)) is not None:
            yield known
        return
    last: tuple[str, Callable[[int], Any]] | None = None
    async for one in _of_study(reading, entry, selection, shape):
        if last is not None:
            yield event(last[0], shape.alone(entry.number - 1, last[1](entry.number - 1)))
        last = one
    if last is not None:
        yield event(last[0], shape.alone(entry.number, last[1](entry.number)))


async def _of_study(
    reading: Reading, change: Change, selection: Selection, shape: Shape
) -> AsyncIterator[tuple[str, Callable[[int], Any]]]:
    """Yield the events of what has happened to several trials: type, and what makes the object of a version."""
    if selection.may_match(change.namespace, change.study):
        for number in range(change.first, change.last + 1):
            identity = Identity(change.namespace, change.study, change.uid, change.deleted, number)
            if _matched(selection, identity):
                yield "DELETED", lambda version, identity=identity: shape.bare(identity, version)  # type: ignore[misc]
    if change.kind is not ChangeKind.STUDY:
        return
    after: Key | None = Key(change.study_id, -1)
    where = Where(namespace=selection.where.namespace, deleted=selection.where.deleted)
    while after is not None and not selection.nothing:
        page = await reading.page(where, _PAGE, after)
        after = page.after
        for trial in page.trials:
            if trial.study.study_id != change.study_id:
                return
            if selection.matches(Identity.of(trial)):
                yield "ADDED", lambda version, trial=trial: shape.trial(trial, version)  # type: ignore[misc]


def _matched(selection: Selection, gone: Identity) -> bool:
    """Return whether a client may have been shown a trial that is gone, in whatever state it was."""
    if selection.where.states is None:
        return selection.matches(gone)
    return any(selection.matches(gone.before(state)) for state in selection.where.states)


def event(kind: str, shown: Any) -> bytes:
    """Return an event of a watch as one line of JSON."""
    return numbers.encode({"type": kind, "object": shown}) + b"\n"

"""Lists trials: page after page for clients that ask for pages, and in one stream for those that want all.

All pages of a list have the resource version of the first one. What happened after it may be shown or not; a watch from
that version shows it again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from study_operator.api import continuing, numbers
from study_operator.api.continuing import Position
from study_operator.api.options import ListOptions
from study_operator.api.reading import Reading
from study_operator.api.refusals import expired, too_large_version
from study_operator.api.selection import Selection
from study_operator.api.shapes import CLOSING, Shape
from study_operator.api.trial_objects import Identity
from study_operator.model.readable import Key, Page

MOST = 500  # trials of a page, whatever a client asks for
# How many pages are read for one of an answer, if few of their trials are wanted. The client is then told to go on.
_PAGES = 20


async def listed(
    reading: Reading, selection: Selection, options: ListOptions, path: str, shape: Shape
) -> AsyncIterator[bytes]:
    """Yield the JSON of a list, in pieces.

    Args:
        reading: the database.
        selection: which trials.
        options: the request's.
        path: the request's, so that no continue token is used for another list.
        shape: the form of the answer.

    Raises:
        Refusal: before the first piece: the continue token is of another list, the resource version is none that there
            is, or the database cannot be asked. Between pieces: the last of these.
    """
    asked = continuing.question(path, *options.selectors)
    start = continuing.position(options.going_on, asked) if options.going_on else None
    if selection.nothing:
        at = start.at if start else await reading.number()
        yield shape.opening({"resourceVersion": str(at)}) + CLOSING
        return
    after = Key(start.study_id, start.number) if start else None
    limit = min(options.limit, MOST) if options.limit else 0
    first = await reading.page(selection.where, limit or MOST, after)
    at = start.at if start else first.at
    _check_version(options, at)
    if limit:
        yield await _page(reading, selection, limit, first, at, asked, shape)
        return
    yield shape.opening({"resourceVersion": str(at)})
    page, comma = first, False
    while True:
        if pieces := _shown(selection, page, at, shape):
            yield (b"," if comma else b"") + b",".join(pieces)
            comma = True
        if page.after is None:
            break
        page = await reading.page(selection.where, MOST, page.after)
    yield CLOSING


async def _page(
    reading: Reading, selection: Selection, limit: int, page: Page, at: int, asked: str, shape: Shape
) -> bytes:
    """Return the JSON of one page: of `limit` trials, unless few of very many are wanted."""
    pieces = _shown(selection, page, at, shape)
    for _ in range(_PAGES):
        if page.after is None or len(pieces) >= limit:
            break
        page = await reading.page(selection.where, limit - len(pieces), page.after)
        pieces += _shown(selection, page, at, shape)
    meta: dict[str, Any] = {"resourceVersion": str(at)}
    if page.after is not None:
        meta["continue"] = continuing.token(Position(at, page.after.study_id, page.after.number), asked)
    return shape.opening(meta) + b",".join(pieces) + CLOSING


def _shown(selection: Selection, page: Page, at: int, shape: Shape) -> list[bytes]:
    wanted = (trial for trial in page.trials if selection.matches(Identity.of(trial)))
    return [numbers.encode(shape.trial(trial, at)) for trial in wanted]


def _check_version(options: ListOptions, at: int) -> None:
    """Refuse a list of another state than the present one.

    Raises:
        Refusal: the client wants a later state than there is, or exactly an earlier one.
    """
    if options.version is not None and options.version > at:
        raise too_large_version(options.version, at)
    if options.match == "Exact" and options.version != at:
        raise expired(f"The provided resource version {options.version} is not the present one, {at}: list without it")

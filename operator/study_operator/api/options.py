"""Reads the options of a list or a watch from a request's query, and refuses those that contradict one another.

What is refused, and in which words, follows Kubernetes' own validation of ListOptions, because clients look at it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from study_operator.api import selectors
from study_operator.api.refusals import bad_request, invalid
from study_operator.api.selectors import Requirement

FIELDS = ("metadata.name", "metadata.namespace", "spec.study", "status.state")
_MATCHES = ("Exact", "NotOlderThan")
_TRUE, _FALSE = ("1", "t", "T", "true", "TRUE", "True"), ("0", "f", "F", "false", "FALSE", "False")


@dataclass(frozen=True)
class ListOptions:
    """What a client wants of a list.

    Attributes:
        labels, fields: what the objects must have.
        selectors: both as they were sent, for the continue token.
        limit: how many objects at most; 0 for all.
        going_on: the continue token; empty for the first page.
        version: the resource version, from which a watch begins; None if none was given.
        match: Exact, NotOlderThan, or empty.
        watch: whether changes are wanted.
        bookmarks: whether the watch may send bookmarks.
        initial: whether the watch begins with the objects that there are, and says where they end; None: not said.
        seconds: after how many seconds the watch ends; None: not said.
        include: of a Table, what each row has of its object: Metadata, Object or None.
    """

    labels: tuple[Requirement, ...] = ()
    fields: tuple[Requirement, ...] = ()
    selectors: tuple[str, str] = ("", "")
    limit: int = 0
    going_on: str = ""
    version: int | None = None
    match: str = ""
    watch: bool = False
    bookmarks: bool = False
    initial: bool | None = None
    seconds: int | None = None
    include: str = "Metadata"


def parse(query: Mapping[str, str]) -> ListOptions:
    """Return the options of a request.

    Args:
        query: by name. Names that are not known are passed over, as Kubernetes does.

    Raises:
        Refusal: an option cannot be read, or contradicts another one.
    """
    texts = query.get("labelSelector", ""), query.get("fieldSelector", "")
    found = ListOptions(
        labels=selectors.labels(texts[0]),
        fields=selectors.fields(texts[1], FIELDS),
        selectors=texts,
        limit=_number(query, "limit") or 0,
        going_on=query.get("continue", ""),
        version=_number(query, "resourceVersion"),
        match=query.get("resourceVersionMatch", ""),
        watch=bool(_boolean(query, "watch")),
        bookmarks=bool(_boolean(query, "allowWatchBookmarks")),
        initial=_boolean(query, "sendInitialEvents"),
        seconds=_number(query, "timeoutSeconds"),
        include=include(query),
    )
    _check(found)
    return found


def include(query: Mapping[str, str]) -> str:
    """Return what each row of a Table is to have of its object.

    Raises:
        Refusal: there is no such thing.
    """
    found = query.get("includeObject") or "Metadata"
    if found not in ("Metadata", "Object", "None"):
        raise bad_request(f'unrecognized includeObject value: "{found}"')
    return found


def _check(found: ListOptions) -> None:
    if found.match and found.match not in _MATCHES:
        raise invalid("resourceVersionMatch", f'"{found.match}" is not supported: write {" or ".join(_MATCHES)}')
    if found.match and found.going_on:
        raise invalid("resourceVersionMatch", "resourceVersionMatch is forbidden when continue is provided")
    if not found.watch:
        if found.initial is not None:
            raise invalid("sendInitialEvents", "sendInitialEvents is forbidden for list")
        if found.match and found.version is None:
            raise invalid("resourceVersionMatch", "resourceVersionMatch is forbidden unless there is a resourceVersion")
        if found.match == "Exact" and found.version == 0:
            raise invalid("resourceVersionMatch", 'resourceVersionMatch "exact" is forbidden for resourceVersion "0"')
        if found.going_on and found.version:
            raise bad_request("specifying resource version is not allowed when using continue")
        return
    if found.initial is not None and found.match != "NotOlderThan":
        raise invalid("resourceVersionMatch", "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")
    if found.match and found.initial is None:
        raise invalid(
            "resourceVersionMatch", "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
        )


def _number(query: Mapping[str, str], name: str) -> int | None:
    if not (text := query.get(name, "")):
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 19 and int(text) < 2**63):
        raise bad_request(f"{name} is {text[:100]!r}; write a whole number")
    return int(text)


def _boolean(query: Mapping[str, str], name: str) -> bool | None:
    if name not in query:
        return None
    text = query[name]
    if text == "" or text in _TRUE:  # Kubernetes reads `?watch` as true
        return True
    if text in _FALSE:
        return False
    raise bad_request(f"{name} is {text[:100]!r}; write true or false")

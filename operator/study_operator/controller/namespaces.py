"""Which namespaces are served: all, some by name, or those with certain labels, which are watched.

Labels come and go while the operator runs. A namespace that gets them is served within a moment. In one that loses
them, nothing is started any more and nothing is written; Jobs that run there run to their end, and what they report
waits in the database until the namespace has the labels again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from typing import TypedDict
from urllib.parse import quote

import msgspec
from kubernetes.aio import client

from study_operator import metrics
from study_operator.backoff import delays
from study_operator.kube.api_server import ApiError
from study_operator.kube.streams import lines, stream

# Before a watch that has ended goes on: the first and the longest delay.
_FIRST_DELAY_SECONDS, _LONGEST_DELAY_SECONDS = 1.0, 4.0
# A watch in which nothing comes for so long is lost: the API server sends a bookmark each minute.
_SILENCE_SECONDS = 90.0
_PATH, _PAGE = "/api/v1/namespaces", 500  # how many are read at once

log = logging.getLogger(__name__)


# "continue", which asks for the next part of a list, is a word of Python.
_Metadata = TypedDict("_Metadata", {"name": str, "resourceVersion": str, "continue": str}, total=False)


class _Namespace(TypedDict, total=False):
    metadata: _Metadata
    code: int
    message: str


class _List(TypedDict):
    metadata: _Metadata
    items: list[_Namespace]


class _Event(TypedDict):
    type: str
    object: _Namespace


_LIST, _EVENT = msgspec.json.Decoder(_List), msgspec.json.Decoder(_Event)


class Namespaces:
    """The namespaces that this operator serves. Belongs to one event loop.

    Args:
        configuration: of the kubernetes client.
        names: those to serve; empty for all.
        selector: labels of those to serve, as the API server has them in `labelSelector`; empty for all.
        own: the operator's own, which is served whatever its labels are, for the chart's test; None if unknown.
    """

    def __init__(
        self, configuration: client.Configuration, names: Collection[str], selector: str, own: str | None
    ) -> None:
        self._configuration, self._names, self._selector, self._own = configuration, frozenset(names), selector, own
        self._selected: set[str] = set()
        self._version = ""

    def serves(self, namespace: str) -> bool:
        """Return whether Studies of a namespace are served."""
        if self._selector:
            return namespace in self._selected or namespace == self._own
        return not self._names or namespace in self._names

    async def served_or_gone(self, namespaces: Iterable[str]) -> set[str]:
        """Return those of some namespaces that are served, and those that do not exist: nobody can give a namespace
        that is gone the labels that it had, and what its Studies have left must be ended all the same.

        Raises:
            ApiError: the API server does not say whether a namespace exists.
        """
        asked = set(namespaces)
        found = {name for name in asked if self.serves(name)}
        if self._selector and found != asked:
            async with client.ApiClient(self._configuration) as api:
                found |= {name for name in asked - found if not await _exists(api, name)}
        return found

    async def read(self) -> None:
        """Read which namespaces have the labels. Does nothing without a selector.

        Raises:
            ApiError: the API server refuses the call or cannot be reached.
        """
        if self._selector:
            async with client.ApiClient(self._configuration) as api:
                await self._read(api)

    async def watch(self, changed: Callable[[], object]) -> None:
        """Watch the labels until cancelled. Does nothing without a selector.

        Args:
            changed: called when a namespace has got the labels, or lost them, or is gone.
        """
        waits = delays(_FIRST_DELAY_SECONDS, _LONGEST_DELAY_SECONDS)
        async with client.ApiClient(self._configuration) as api:
            while self._selector:
                try:
                    if not self._version and await self._read(api):
                        changed()
                    async for event in self._events(api):
                        waits = delays(_FIRST_DELAY_SECONDS, _LONGEST_DELAY_SECONDS)
                        if self._take(event):
                            changed()
                except (ApiError, msgspec.MsgspecError) as error:
                    if not isinstance(error, ApiError) or error.status:  # the server lives: begin anew
                        self._version = ""
                        metrics.WATCHES_BROKEN.labels("namespaces").inc()
                        log.info("the watch of namespaces has ended, opening it again: %s", error)
                await asyncio.sleep(next(waits))
            await asyncio.Event().wait()

    async def _read(self, api: client.ApiClient) -> bool:
        """Read all. Return whether there are others than before."""
        query, selected = {"labelSelector": self._selector, "limit": str(_PAGE)}, set[str]()
        while True:
            async with stream(api, _PATH, query, silence=_SILENCE_SECONDS) as answer:
                text = await answer.read()
            try:
                found = _LIST.decode(text)
            except msgspec.MsgspecError as error:
                raise ApiError(500, "Unreadable", f"the list of namespaces cannot be read: {error}") from None
            selected |= {item["metadata"]["name"] for item in found["items"]}
            if not (rest := found["metadata"].get("continue")):
                break
            query["continue"] = rest
        before, self._selected = self._selected, selected
        self._version = found["metadata"]["resourceVersion"]
        return self._selected != before

    async def _events(self, api: client.ApiClient) -> AsyncIterator[_Event]:
        """Yield events after the latest version. To the API server, an object that loses its labels is DELETED.

        Raises:
            ApiError: the server refuses the watch or breaks it off; status 0 if it cannot be reached or falls silent.
        """
        query = {"watch": "true", "allowWatchBookmarks": "true"}
        query |= {"labelSelector": self._selector, "resourceVersion": self._version}
        async with stream(api, _PATH, query, silence=_SILENCE_SECONDS) as answer:
            async for line in lines(answer):
                event = _EVENT.decode(line)
                if event["type"] == "ERROR":
                    raise ApiError(event["object"].get("code", 0), "", event["object"].get("message", ""))
                yield event

    def _take(self, event: _Event) -> bool:
        """Take account of an event. Return whether a namespace has come or gone."""
        meta = event["object"]["metadata"]
        self._version = meta["resourceVersion"]
        if event["type"] == "BOOKMARK" or (event["type"] != "DELETED") is (meta["name"] in self._selected):
            return False
        if event["type"] == "DELETED":
            self._selected.remove(meta["name"])
            log.info("namespace %s is served no longer: it has lost its labels, or is gone", meta["name"])
        else:
            self._selected.add(meta["name"])
            log.info("namespace %s is served: it has the labels", meta["name"])
        return True


async def _exists(api: client.ApiClient, namespace: str) -> bool:
    try:
        async with stream(api, f"{_PATH}/{quote(namespace)}", {}, silence=_SILENCE_SECONDS):
            return True
    except ApiError as error:
        if error.status == 404:
            return False
        raise

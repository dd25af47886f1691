"""Decides whether a user may do something, by asking the cluster's own authorizer, and remembers it for seconds.

The API server has asked the same before it passed the request on. This is a second lock: whoever reaches this server by
another way, with a stolen client certificate, still has a user's rights only.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable

from study_operator.api.front_proxy import User
from study_operator.api.refusals import Refusal, forbidden
from study_operator.api.resources import GROUP, VERSION, Resource
from study_operator.kube.aggregation import Aggregation, reviewed
from study_operator.kube.api_server import ApiError

SECONDS = 10.0  # how long an answer holds, as in the API server's own webhooks for what is refused
_MOST = 4096  # answers that are remembered

_Question = tuple[User, str, str, str, str]
_Answer = tuple[bool, str]


class Access:
    """Who may do what. Belongs to one event loop.

    Args:
        cluster: the API server.
        clock: seconds, monotonic.
    """

    def __init__(self, cluster: Aggregation, clock: Callable[[], float] = time.monotonic) -> None:
        self._cluster, self._clock = cluster, clock
        self._known: OrderedDict[_Question, tuple[float, asyncio.Task[_Answer]]] = OrderedDict()

    async def check(self, user: User, verb: str, resource: Resource, namespace: str, name: str = "") -> None:
        """Return if the user may do it.

        Args:
            verb: get, list, watch or create.
            namespace: empty for all namespaces.
            name: of one object; empty for all.

        Raises:
            Refusal: the user may not, or the API server cannot be asked.
        """
        try:
            allowed, why = await asyncio.shield(self._asked((user, verb, resource.name, namespace, name)))
        except ApiError as error:
            raise Refusal(503, "ServiceUnavailable", f"the API server cannot say who may do this: {error}") from None
        if not allowed:
            raise forbidden(user.name, verb, resource, namespace, name, why)

    def _asked(self, question: _Question) -> asyncio.Task[_Answer]:
        """Return the answer to a question: one that is known, or one that comes. Many who ask the same wait for one."""
        now = self._clock()
        known = self._known.get(question)
        if known is not None and now < known[0] and not _failed(known[1]):
            return known[1]
        task = asyncio.get_running_loop().create_task(self._ask(question))
        self._known[question] = now + SECONDS, task
        self._known.move_to_end(question)
        if len(self._known) > _MOST:
            self._known.popitem(last=False)
        return task

    async def _ask(self, question: _Question) -> _Answer:
        user, verb, resource, namespace, name = question
        about = reviewed(user.name, user.uid, user.groups, dict(user.extra))
        return await self._cluster.review(about, verb, GROUP, VERSION, resource, namespace, name)


def _failed(task: asyncio.Task[_Answer]) -> bool:
    """Return whether there was no answer. It is not remembered."""
    return task.done() and (task.cancelled() or task.exception() is not None)

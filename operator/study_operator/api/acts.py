"""Acts: what users ask the operator to do with trials. Each is a right of its own, and is only noted here."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from study_operator.api import numbers, replies
from study_operator.api.access import Access
from study_operator.api.bodies import body, choice
from study_operator.api.front_proxy import User
from study_operator.api.reading import Reading
from study_operator.api.refusals import conflict, not_found
from study_operator.api.resources import GROUP_VERSION, PURGE, SETS, STOP, TRIALS, Resource
from study_operator.api.serving import USER
from study_operator.api.trial_objects import Identity, set_metadata
from study_operator.model.trial import TrialState
from study_operator.storage.wishes import Wishes, WishRefused
from study_operator.texts import one_line

_LONGEST_NAME = 256  # characters of a user's name that are stored
_STATES = {"Pruned": TrialState.PRUNED, "Failed": TrialState.FAIL}


class Acts:
    """The handlers of what is created.

    Args:
        reading: the database.
        wishes: where wishes are noted; its calls block.
        access: who may do what.
    """

    def __init__(self, reading: Reading, wishes: Wishes, access: Access) -> None:
        self._reading, self._wishes, self._access = reading, wishes, access

    async def stop(self, request: web.Request) -> web.StreamResponse:
        """Note that a running trial is to end now. To ask for the same again changes nothing, and is answered alike."""
        namespace, name, user = request.match_info["namespace"], request.match_info["name"], request[USER]
        await self._access.check(user, "create", STOP, namespace, name)
        told_as = choice(await body(request, STOP, ("as",)), "as", [*_STATES])
        if (trial := await self._reading.named(namespace, name)) is None:
            raise not_found(TRIALS, name)
        wanted = _STATES[told_as]
        try:
            wish = await self._reading.ask(namespace, self._wishes.stop, trial.trial_id, wanted, _name(user))
        except WishRefused as refusal:
            raise conflict(TRIALS, name, str(refusal)) from None
        first = next(word for word, state in _STATES.items() if state is wish.state)
        if first != told_as:
            raise conflict(TRIALS, name, f"{wish.by} has asked already to stop it, as {first}")
        told = {"as": told_as, "by": wish.by, "time": numbers.moment(wish.at)}
        return _noted(STOP, Identity.of(trial).metadata(0, trial.started_at), told)

    async def purge(self, request: web.Request) -> web.StreamResponse:
        """Note that the rows of a deleted Study are to be removed. To ask again is answered alike."""
        namespace, name, user = request.match_info["namespace"], request.match_info["name"], request[USER]
        await self._access.check(user, "create", PURGE, namespace, name)
        await body(request, PURGE, ())
        if (study := await self._reading.study_named(namespace, name)) is None:
            raise not_found(SETS, name)
        try:
            by, at = await self._reading.ask(namespace, self._wishes.purge, study.study_id, _name(user))
        except WishRefused as refusal:
            raise conflict(SETS, name, str(refusal)) from None
        return _noted(PURGE, set_metadata(study, 0), {"by": by, "time": numbers.moment(at)})


def _name(user: User) -> str:
    return one_line(user.name)[:_LONGEST_NAME]


def _noted(resource: Resource, metadata: dict[str, Any], told: dict[str, Any]) -> web.Response:
    """Return the answer about a wish. It has no resource version, because it is not read again."""
    del metadata["resourceVersion"]
    head = {"kind": resource.kind, "apiVersion": GROUP_VERSION, "metadata": metadata}
    return replies.answer(head | told, status=201)

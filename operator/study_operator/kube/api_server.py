"""Requests to an API server: what is sent, what comes back, and what goes wrong.

They send and receive JSON, because building the client library's model objects costs more than the call. This module
knows objects, pages of lists and UIDs of owners; it does not know which kinds there are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Self, TypeVar
from urllib.parse import quote, urlencode

import aiohttp
from kubernetes.aio import client, config

from study_operator import fence
from study_operator.clocks import RemoteClock
from study_operator.kube import decoding
from study_operator.texts import one_line

MERGE_PATCH = "application/merge-patch+json"
_TIMEOUT_SECONDS = 30.0  # a call that hangs must not hold its study for ever
# The longest answer that is read, in bytes. An object has two million at most. A list that is longer, because users
# have labelled large objects as trials', is read in pages, with fewer objects the longer they are.
_LONGEST_ANSWER, _PAGE = 1 << 26, 256

T = TypeVar("T")
M = TypeVar("M", decoding.Job, decoding.Pod, decoding.Claim)


class ApiError(Exception):
    """The API server refused a call, or could not be reached.

    Attributes:
        status: the HTTP status; 0 if the API server could not be reached.
        reason: CamelCase, such as NotFound or AlreadyExists; "Unreachable" with status 0.
        message: the API server's own sentence.
    """

    def __init__(self, status: int, reason: str, message: str) -> None:
        message = one_line(message)  # it quotes what a tenant has written
        super().__init__(f"{status} {reason}: {message}" if status else message)
        self.status, self.reason, self.message = status, reason, message


class AnswerTooLong(ApiError):
    """The API server's answer is longer than the operator reads."""

    def __init__(self, path: str) -> None:
        super().__init__(0, "AnswerTooLong", f"the answer for {path} has more than {_LONGEST_ANSWER >> 20} MiB")


class ApiServer:
    """Requests to one API server. Close it at the end.

    Every write asks the fence first (`fence.check`): under a hold that may be lost, it raises NotHeld and sends
    nothing.

    Args:
        configuration: of the kubernetes client; `connect` makes it from the pod's service account or KUBECONFIG.

    Attributes:
        clock: the API server's, to a second: what the times of Jobs and pods are to be compared with.
    """

    def __init__(self, configuration: client.Configuration) -> None:
        self._client = client.ApiClient(configuration)
        self.clock = RemoteClock()

    @classmethod
    async def connect(cls) -> Self:
        """Return a client that is configured by the pod's service account, or else by KUBECONFIG.

        Raises:
            config.ConfigException: there is neither.
        """
        configuration = client.Configuration()
        try:
            config.load_incluster_config(client_configuration=configuration)
        except config.ConfigException:
            await config.load_kube_config(client_configuration=configuration)
        return cls(configuration)

    @property
    def configuration(self) -> client.Configuration:
        """The kubernetes client's configuration."""
        return self._client.configuration

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    async def _delete(self, path: str, name: str, body: Mapping[str, Any], but: Collection[int] = (404, 409)) -> None:
        """Delete an object. An object that is gone, or has given way to another of that name, is no error.

        Args:
            but: the statuses that are no error.
        """
        try:
            await self._send("DELETE", f"{path}/{quote(name)}", body=body)
        except ApiError as error:
            if error.status not in but:
                raise

    async def _list(
        self, path: str, query: Mapping[str, str], decode: Callable[[bytes], decoding.Listed[M]], owner: str
    ) -> list[M]:
        """Return the objects of a list that an object controls.

        A list is asked for whole, because the API server answers that from its cache. Only one that is too long for
        that is read in pages.
        """
        found: list[M] = []
        paged, limit = {**query}, 0
        while True:
            try:
                page = decoded(decode, await self._send("GET", path, paged))
            except AnswerTooLong:
                if limit == 1:
                    raise
                limit = max(1, limit // 4) if limit else _PAGE
                paged["limit"] = str(limit)
                continue
            found += [item for item in page.items if owner_uid(item) == owner]
            if not (rest := page.metadata.get("continue")):
                return found
            paged["continue"] = rest

    async def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content: str = "application/json",
    ) -> dict[str, Any]:
        return decoded(json.loads, await self._send(method, path, query, body, content))

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content: str = "application/json",
        accept: str = "application/json",
    ) -> bytes:
        if method != "GET":
            fence.check()
        # Not compressed, because that would cost the API server more than the network gains.
        headers = {"Accept": accept, "Accept-Encoding": "identity", "Content-Type": content}
        try:
            _, url, headers, _, _ = await self._client.param_serialize(
                method, path, header_params=headers, auth_settings=["BearerToken"]
            )
            if query:
                url = f"{url}?{urlencode(query)}"
            answer = await self._client.call_api(method, url, headers, body, _request_timeout=_TIMEOUT_SECONDS)
            response = answer.response
            try:
                text = await _read(response.content, path)
            except BaseException:
                response.close()
                raise
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise unreachable(error) from None
        if date := response.headers.get("Date"):
            self.clock.heard(parsedate_to_datetime(date))
        if response.status >= 300:
            raise refusal(response.status, text.decode("utf-8", "replace"))
        return text


async def _read(answer: aiohttp.StreamReader, path: str) -> bytes:
    """Read an answer whole.

    Raises:
        AnswerTooLong: it is longer than the operator reads. Its connection is closed.
    """
    pieces, length = [], 0
    async for piece in answer.iter_any():
        pieces.append(piece)
        length += len(piece)
        if length > _LONGEST_ANSWER:
            raise AnswerTooLong(path)
    return b"".join(pieces)


def decoded(decode: Callable[[bytes], T], answer: bytes) -> T:
    """Decode an answer.

    Raises:
        ApiError: it cannot be decoded. So it is an error of the study that was asked for, like all others.
    """
    try:
        return decode(answer)
    except (ValueError, RecursionError) as error:
        raise ApiError(0, "Unreadable", f"the API server's answer cannot be read: {error}") from None


def refusal(status: int, text: str) -> ApiError:
    """Return the error that an answer with a status of 300 or more stands for."""
    try:
        found = json.loads(text)
        return ApiError(status, found.get("reason", ""), found.get("message", text))
    except (ValueError, AttributeError, RecursionError):
        return ApiError(status, "", text[:500])


def unreachable(error: Exception) -> ApiError:
    """Return the error for a connection that failed."""
    return ApiError(0, "Unreachable", f"the API server cannot be reached: {error or type(error).__name__}")


def owner_uid(manifest: Mapping[str, Any]) -> str | None:
    """Return the UID of the object that controls this one; None if none does."""
    references = manifest["metadata"].get("ownerReferences") or ()
    return next((reference["uid"] for reference in references if reference.get("controller")), None)

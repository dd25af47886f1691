"""What the trials API says when it refuses: the error, and its answer, a metav1.Status as kubectl prints it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from study_operator.api.resources import GROUP, Resource
from study_operator.texts import one_line

_LONGEST = 2000  # characters of a message


class Refusal(Exception):
    """A request is refused.

    Args:
        code: the HTTP status.
        reason: CamelCase, one of Kubernetes' reasons.
        message: a sentence for the user. It may quote what the client has sent.
        details: of the Status; may be empty.

    Attributes:
        code, reason, message: as given; the message on one line.
    """

    def __init__(self, code: int, reason: str, message: str, details: Mapping[str, Any] | None = None) -> None:
        self.code, self.reason = code, reason
        self.message = one_line(message[:_LONGEST])
        self._details = dict(details or {})
        super().__init__(f"{code} {reason}: {self.message}")

    def status(self) -> dict[str, Any]:
        """Return the metav1.Status."""
        found: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        }
        return found | ({"details": self._details} if self._details else {})

    @property
    def retry_after(self) -> int | None:
        """After how many seconds the client may ask again; None if that would not help."""
        return self._details.get("retryAfterSeconds")


def unauthorized() -> Refusal:
    """The request is not from the API server, or names no user."""
    return Refusal(401, "Unauthorized", "Unauthorized")


def bad_request(message: str) -> Refusal:
    """The request cannot be understood."""
    return Refusal(400, "BadRequest", message)


def invalid(field: str, message: str) -> Refusal:
    """An option contradicts another one, or has a value that there is not."""
    cause = {"reason": "FieldValueForbidden", "message": message, "field": field}
    return Refusal(422, "Invalid", f"ListOptions.meta.k8s.io is invalid: {field}: {message}", {"causes": [cause]})


def forbidden(user: str, verb: str, resource: Resource, namespace: str, name: str, why: str) -> Refusal:
    """The user has not the right."""
    where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
    plural = resource.name.partition("/")[0]
    about = f'{plural}.{GROUP} "{name}"' if name else f"{plural}.{GROUP}"
    what = f'resource "{resource.name}" in API group "{GROUP}"'
    text = f'{about} is forbidden: User "{user}" cannot {verb} {what} {where}'
    details = {"group": GROUP, "kind": plural, **({"name": name} if name else {})}
    return Refusal(403, "Forbidden", f"{text}: {why}" if why else text, details)


def not_found(resource: Resource, name: str) -> Refusal:
    """There is no object of that name."""
    plural = resource.name.partition("/")[0]
    return Refusal(
        404, "NotFound", f'{plural}.{GROUP} "{name}" not found', {"group": GROUP, "kind": plural, "name": name}
    )


def conflict(resource: Resource, name: str, why: str) -> Refusal:
    """What is asked for an object cannot be, as it is now."""
    plural = resource.name.partition("/")[0]
    message = f'Operation cannot be fulfilled on {plural}.{GROUP} "{name}": {why}'
    return Refusal(409, "Conflict", message, {"group": GROUP, "kind": plural, "name": name})


def too_large(most: int) -> Refusal:
    """The body is longer than anything that can be asked."""
    return Refusal(413, "RequestEntityTooLarge", f"the body of a request has at most {most} bytes here")


def no_such_path() -> Refusal:
    """Nothing is served at that path."""
    return Refusal(404, "NotFound", "the server could not find the requested resource")


def method_not_allowed(method: str) -> Refusal:
    """The path is served, but not with that method."""
    return Refusal(405, "MethodNotAllowed", f"{method} is not offered here: the operator alone changes trials")


def not_acceptable() -> Refusal:
    """No form of the answer is one that the client has named."""
    return Refusal(406, "NotAcceptable", "only application/json is served, as the object, a Table or its metadata")


def expired(message: str) -> Refusal:
    """What the client knows is too old to go on from: it must list anew."""
    return Refusal(410, "Expired", message)


def too_large_version(asked: int, newest: int) -> Refusal:
    """The client asks for a later state than there is."""
    message = f"Timeout: Too large resource version: {asked}, current: {newest}"
    cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
    return Refusal(504, "Timeout", message, {"causes": [cause], "retryAfterSeconds": 1})


def database_away(why: str) -> Refusal:
    """The database does not answer, or has no time.

    Nothing is said of when to ask again: kubectl would then ask ten times before it shows the message.
    """
    message = f"the database of the trials cannot be asked now: {why}. Studies and their Jobs are not affected"
    return Refusal(503, "ServiceUnavailable", message)


def busy(why: str) -> Refusal:
    """This server has too much to do."""
    return Refusal(429, "TooManyRequests", why, {"retryAfterSeconds": 1})


def internal() -> Refusal:
    """A defect. Its traceback is in the log, and nowhere else."""
    return Refusal(500, "InternalError", "a defect of the trials API: the log of `study-operator serve-api` has it")

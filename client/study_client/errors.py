"""What goes wrong, in words for the user."""

from __future__ import annotations


class ClientError(Exception):
    """A command cannot do what it was asked. The message says what was wrong, and what to write instead."""


class NotFoundError(ClientError):
    """The cluster has no object of this name."""


class NotServedError(ClientError):
    """The cluster does not serve this kind of object."""


class ConflictError(ClientError):
    """Somebody else has changed the object in the meantime, or has taken its name."""

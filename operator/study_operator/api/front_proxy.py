"""Says whom a request is from: the API server's word counts, and nobody else's.

The API server has authenticated the user. It names them in headers, and proves itself with a client certificate of an
authority that signs for nothing else. Which authority, which names a certificate may have, and which headers they are
stands in a ConfigMap of kube-system.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from study_operator.texts import one_line

# Bounds of what is taken from headers: nobody's groups are more, and each costs a place in the cache of reviews.
_MOST_GROUPS, _MOST_EXTRA = 4096, 256


class NoFrontProxy(Exception):
    """The cluster does not say how its API server proves itself. The message says what is missing."""


@dataclass(frozen=True)
class User:
    """Whom the API server has authenticated.

    Attributes:
        name, uid, groups: as the API server has them.
        extra: more that it knows, by name, sorted.
    """

    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()


@dataclass(frozen=True)
class FrontProxy:
    """How the API server proves itself, and in which headers it names the user.

    Attributes:
        authority: certificates of the authority that signs the API server's client certificate, as PEM.
        names: common names that the certificate may have; empty for any.
        user_headers, uid_headers, group_headers: names of headers, in lower case.
        extra_prefixes: beginnings of names of headers, in lower case.
    """

    authority: str = field(repr=False)
    names: frozenset[str]
    user_headers: tuple[str, ...]
    uid_headers: tuple[str, ...]
    group_headers: tuple[str, ...]
    extra_prefixes: tuple[str, ...]

    @classmethod
    def of(cls, data: Mapping[str, str]) -> FrontProxy:
        """Read the ConfigMap's data.

        Raises:
            NoFrontProxy: it does not say what is needed.
        """
        authority = data.get("requestheader-client-ca-file", "")
        if "BEGIN CERTIFICATE" not in authority:
            raise NoFrontProxy(
                "ConfigMap kube-system/extension-apiserver-authentication has no requestheader-client-ca-file: the "
                "cluster has no aggregation layer. Start kube-apiserver with --requestheader-client-ca-file and "
                "--proxy-client-cert-file"
            )
        users = _texts(data, "requestheader-username-headers")
        if not users:
            raise NoFrontProxy(
                "ConfigMap kube-system/extension-apiserver-authentication names no requestheader-username-headers"
            )
        return cls(
            authority=authority,
            names=frozenset(_texts(data, "requestheader-allowed-names")),
            user_headers=_lower(users),
            uid_headers=_lower(_texts(data, "requestheader-uid-headers")),
            group_headers=_lower(_texts(data, "requestheader-group-headers")),
            extra_prefixes=_lower(_texts(data, "requestheader-extra-headers-prefix")),
        )

    def user(self, common_name: str | None, headers: Iterable[tuple[str, str]]) -> User | None:
        """Return the user of a request; None if it is not from the API server, or names nobody.

        Args:
            common_name: of the client certificate, if the authority has signed it; else None.
            headers: names and values, in order.
        """
        if common_name is None or (self.names and common_name not in self.names):
            return None
        given = [(name.lower(), value) for name, value in headers if value]
        name = self._first(self.user_headers, given)
        if not name:
            return None
        groups = tuple(value for header in self.group_headers for key, value in given if key == header)
        extra: dict[str, list[str]] = {}
        for prefix in self.extra_prefixes:
            for key, value in given:
                if key.startswith(prefix):
                    extra.setdefault(unquote(key[len(prefix) :]), []).append(value)
        if len(groups) > _MOST_GROUPS or len(extra) > _MOST_EXTRA:
            return None
        more = tuple(sorted((key, tuple(values)) for key, values in extra.items()))
        return User(name, self._first(self.uid_headers, given), groups, more)

    @staticmethod
    def _first(headers: tuple[str, ...], given: list[tuple[str, str]]) -> str:
        return next((value for header in headers for key, value in given if key == header), "")


def common_name(certificate: Mapping[str, Any] | None) -> str | None:
    """Return the common name of a peer's certificate, as `ssl` has it; None without a certificate or a name."""
    if not certificate:
        return None
    parts = (part for relative in certificate.get("subject", ()) for part in relative)
    return next((value for key, value in parts if key == "commonName"), None)


def _texts(data: Mapping[str, str], key: str) -> list[str]:
    """Return a list of texts, which the ConfigMap has as JSON."""
    try:
        found = json.loads(data.get(key) or "[]")
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        text = one_line(str(data.get(key))[:100])
        raise NoFrontProxy(
            f"ConfigMap kube-system/extension-apiserver-authentication has {key} = {text}, which is no list of texts"
        )
    return [one.strip() for one in found if one.strip()]


def _lower(names: list[str]) -> tuple[str, ...]:
    return tuple(name.lower() for name in names)

"""Whom a request is from: what the ConfigMap says, and headers that anybody may send."""

from __future__ import annotations

import pytest

from study_operator.api.front_proxy import FrontProxy, NoFrontProxy, User, common_name

DATA = {
    "requestheader-client-ca-file": "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n",
    "requestheader-allowed-names": '["front-proxy-client"]',
    "requestheader-username-headers": '["X-Remote-User","X-Second-User"]',
    "requestheader-uid-headers": '["X-Remote-Uid"]',
    "requestheader-group-headers": '["X-Remote-Group"]',
    "requestheader-extra-headers-prefix": '["X-Remote-Extra-"]',
}
HEADERS = [
    ("X-Remote-User", "anna"),
    ("x-remote-group", "team"),
    ("X-Remote-Group", "all"),
    ("X-Remote-Uid", "u1"),
    ("X-Remote-Extra-Scopes%2Fa", "read"),
    ("X-Remote-Extra-Scopes%2Fa", "write"),
    ("X-Other-Group", "system:masters"),
]


def test_the_api_server_names_the_user():
    user = FrontProxy.of(DATA).user("front-proxy-client", HEADERS)
    assert user == User("anna", "u1", ("team", "all"), (("scopes/a", ("read", "write")),))


@pytest.mark.parametrize("name", [None, "", "somebody", "Front-Proxy-Client"])
def test_nobody_else_can(name):
    assert FrontProxy.of(DATA).user(name, HEADERS) is None


def test_without_names_every_certificate_of_the_authority_counts_and_none_still_does_not():
    proxy = FrontProxy.of({**DATA, "requestheader-allowed-names": "[]"})
    assert proxy.user("somebody", HEADERS) is not None
    assert proxy.user(None, HEADERS) is None


def test_a_request_that_names_nobody_is_nobodys():
    assert FrontProxy.of(DATA).user("front-proxy-client", [("X-Remote-Group", "system:masters")]) is None
    assert FrontProxy.of(DATA).user("front-proxy-client", [("X-Remote-User", "")]) is None
    second = FrontProxy.of(DATA).user("front-proxy-client", [("X-Second-User", "bea")])
    assert second == User("bea")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"requestheader-client-ca-file": ""}, "no aggregation layer"),
        ({"requestheader-username-headers": "[]"}, "names no requestheader-username-headers"),
        ({"requestheader-allowed-names": "front-proxy-client"}, "no list of texts"),
        ({"requestheader-allowed-names": "[1]"}, "no list of texts"),
    ],
)
def test_a_cluster_that_does_not_say_how_is_told_so(changed, words):
    """And above all: a list of names that cannot be read is not an empty one, which lets everybody pass."""
    with pytest.raises(NoFrontProxy, match=words):
        FrontProxy.of({**DATA, **changed})


def test_the_name_in_a_certificate():
    subject = ((("organizationName", "o"),), (("commonName", "front-proxy-client"),))
    assert common_name({"subject": subject}) == "front-proxy-client"
    assert common_name({"subject": ()}) is None
    assert common_name({}) is None
    assert common_name(None) is None

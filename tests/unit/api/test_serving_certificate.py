"""A replica's own certificate, and the bundle by which the API server trusts all replicas."""

from __future__ import annotations

import base64
import ssl
import tempfile
from datetime import UTC, datetime, timedelta

import pytest

from study_operator.api import serving_certificate
from study_operator.api.serving_certificate import MOST, bundle_with, has, make

NOW = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture(scope="module")
def certificate():
    return make("trials", "system", NOW)


def handshake(certificate, name: str) -> None:
    """Let a client that trusts the certificate's authority alone speak to a server that has the certificate."""
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context(cadata=certificate.authority)
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(certificate.key + certificate.chain)
        file.flush()
        server.load_cert_chain(file.name)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = client.wrap_bio(down, up, server_hostname=name), server.wrap_bio(up, down, server_side=True)
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    ends[0].do_handshake()


def test_a_client_that_trusts_the_authority_trusts_the_server(certificate):
    handshake(certificate, "trials.system.svc")


def test_and_no_other_name(certificate):
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(certificate, "kubernetes.default.svc")


def test_the_key_of_the_authority_is_nowhere(certificate):
    assert certificate.key.count("PRIVATE KEY") == 2
    assert "PRIVATE" not in certificate.chain + certificate.authority
    assert "PRIVATE" not in repr(certificate)


def test_a_bundle_keeps_the_other_replicas_and_drops_what_has_expired(certificate):
    other = make("trials", "system", NOW)
    old = make("trials", "system", NOW - timedelta(days=3))
    bundle = ""
    for one in (old, other, certificate):
        bundle = bundle_with(bundle, one.authority, NOW)
    assert has(bundle, certificate.authority)
    assert has(bundle, other.authority)
    assert not has(bundle, old.authority)
    assert bundle_with(bundle, certificate.authority, NOW) == bundle, "once is enough"


@pytest.mark.parametrize("bundle", ["", "not base64!", base64.b64encode(b"no certificate").decode(), "AAAA"])
def test_a_bundle_that_cannot_be_read_is_written_anew(bundle, certificate):
    assert base64.b64decode(bundle_with(bundle, certificate.authority, NOW)).decode() == certificate.authority


def test_a_bundle_does_not_grow_for_ever(monkeypatch, certificate):
    monkeypatch.setattr(serving_certificate, "_valid", lambda *_: True)
    bundle = ""
    many = [certificate.authority.replace("MII", f"M{number:03}", 1) for number in range(MOST + 10)]
    for one in many:
        bundle = bundle_with(bundle, one, NOW)
    assert base64.b64decode(bundle).decode().count("BEGIN") == MOST
    assert has(bundle, many[-1])
    assert not has(bundle, many[0])
    again = bundle_with(bundle, many[0], NOW)
    assert has(again, many[0]), "a replica that was pushed out comes back"

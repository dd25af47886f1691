"""A certificate for this replica's server, with an authority of its own, and the bundle that says whom to trust.

Nobody else has the key: neither a Secret nor another replica. The authority signs this one certificate and its key is
forgotten then. So the API server can trust it for as long as it is valid, and needs no other check of names.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALID = timedelta(days=2)
# Another one is made when half of its time is over: by then a clock that is a day slow is no trouble yet.
RENEWED = timedelta(days=1)
_BACKDATED = timedelta(hours=1)  # clocks of other machines may be slow
# How many certificates a bundle has at most. A replica whose own has been pushed out adds it again.
MOST = 64
_AUTHORITY = "study-operator trials API"
_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


@dataclass(frozen=True)
class Certificate:
    """A serving certificate.

    Attributes:
        chain: the certificate, as PEM.
        key: its private key, as PEM.
        authority: the certificate of the authority that has signed it, as PEM.
        renewed_at: when another one is to be made, aware.
    """

    chain: str = field(repr=False)
    key: str = field(repr=False)
    authority: str = field(repr=False)
    renewed_at: datetime


def make(service: str, namespace: str, now: datetime) -> Certificate:
    """Make a certificate for a Service, by the name that the API server expects.

    Args:
        service, namespace: of the Service.
        now: aware.
    """
    name = f"{service}.{namespace}.svc"
    signer, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    serial = x509.random_serial_number()
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{_AUTHORITY} {serial:x}"[:64])])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, service[:64])])
    begin, end = now - _BACKDATED, now + VALID
    authority = (
        _builder(issuer, issuer, signer.public_key(), begin, end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signing=True), critical=True)
        .add_extension(
            x509.NameConstraints(permitted_subtrees=[x509.DNSName(name)], excluded_subtrees=None), critical=True
        )
        .sign(signer, hashes.SHA256())
    )
    certificate = (
        _builder(subject, issuer, key.public_key(), begin, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signing=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(signer, hashes.SHA256())
    )
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    return Certificate(_pem(certificate), text, _pem(authority), now + RENEWED)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, begin: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(signing: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signing,
        key_cert_sign=signing,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def bundle_with(bundle: str, authority: str, now: datetime) -> str:
    """Return a bundle that has an authority, and none that has expired or cannot be read.

    Args:
        bundle: an APIService's caBundle, which is base64; may be empty or anything.
        authority: as PEM.
        now: aware.
    """
    kept = [one for one in _certificates(bundle) if one != authority and _valid(one, now)]
    text = "".join([*kept[-(MOST - 1) :], authority])
    return base64.b64encode(text.encode()).decode()


def has(bundle: str, authority: str) -> bool:
    """Return whether a bundle has an authority. Args as `bundle_with`."""
    return authority in _certificates(bundle)


def _certificates(bundle: str) -> list[str]:
    """Return the certificates of a bundle, each as PEM in the spelling of `_pem`."""
    try:
        text = base64.b64decode(bundle, validate=True).decode("ascii")
    except (binascii.Error, UnicodeDecodeError):
        return []
    return [f"{_BEGIN}{body}{_END}\n" for body in _bodies(text)]


def _bodies(text: str) -> Iterable[str]:
    for piece in text.split(_BEGIN)[1:]:
        body, end, _ = piece.partition(_END)
        if end:
            yield body


def _valid(certificate: str, now: datetime) -> bool:
    try:
        return x509.load_pem_x509_certificate(certificate.encode()).not_valid_after_utc > now
    except ValueError:
        return False

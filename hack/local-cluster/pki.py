"""Certificates and kubeconfigs, made with openssl and kept until what they say has to change."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from common import run, write

_EC = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
_DAYS = "3650"


@dataclass(frozen=True)
class Certificate:
    """Paths of a certificate and its key, both PEM."""

    crt: Path
    key: Path


class Authority:
    """A certificate authority and what it signed, all in one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.crt = directory / "ca.crt"
        key = directory / "ca.key"
        if not self.crt.exists():
            fresh = directory / "ca.crt.new"
            run(
                [
                    "openssl",
                    "req",
                    "-x509",
                    *_EC,
                    "-days",
                    _DAYS,
                    "-subj",
                    "/CN=local-cluster-ca",
                    "-addext",
                    "keyUsage=critical,keyCertSign,cRLSign,digitalSignature",
                    "-keyout",
                    key,
                    "-out",
                    fresh,
                ]
            )
            fresh.replace(self.crt)
        self._key = key

    def issue(self, name: str, common_name: str, organization: str = "", sans: tuple[str, ...] = ()) -> Certificate:
        """A certificate for client and server use; made anew when subject, names or authority changed.

        `sans` are in openssl's notation: `IP:127.0.0.1`, `DNS:localhost`.
        """
        made = Certificate(self._directory / f"{name}.crt", self._directory / f"{name}.key")
        authority = hashlib.sha256(self.crt.read_bytes()).hexdigest()
        wanted = json.dumps([common_name, organization, sans, authority])
        stamp = self._directory / f"{name}.json"
        if stamp.exists() and stamp.read_text() == wanted:
            return made
        subject = (f"/O={organization}" if organization else "") + f"/CN={common_name}"
        request, extensions = self._directory / f"{name}.csr", self._directory / f"{name}.ext"
        lines = [
            "keyUsage=critical,digitalSignature,keyEncipherment",
            "extendedKeyUsage=serverAuth,clientAuth",
        ]
        if sans:
            lines.append(f"subjectAltName={','.join(sans)}")
        write(extensions, "\n".join(lines) + "\n")
        run(["openssl", "req", "-new", *_EC, "-subj", subject, "-keyout", made.key, "-out", request])
        run(
            [
                "openssl",
                "x509",
                "-req",
                "-in",
                request,
                "-CA",
                self.crt,
                "-CAkey",
                self._key,
                "-CAcreateserial",
                "-days",
                _DAYS,
                "-extfile",
                extensions,
                "-out",
                made.crt,
            ]
        )
        write(stamp, wanted)
        return made

    def aggregation(self) -> tuple[list[str], tuple[Path, ...]]:
        """What lets an API server pass requests on to the servers of APIServices, and prove to them that it is it.

        For the authority of these proofs alone: whoever it signs may name any user.

        Returns:
            The API server's arguments, and the files that they name.
        """
        proxy = self.issue("front-proxy-client", "front-proxy-client")
        arguments = [
            f"--requestheader-client-ca-file={self.crt}",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--proxy-client-cert-file={proxy.crt}",
            f"--proxy-client-key-file={proxy.key}",
        ]
        return arguments, (self.crt, proxy.crt)

    def signing_key(self, name: str) -> tuple[Path, Path]:
        """A key pair that signs tokens: paths of the private and the public key."""
        private, public = self._directory / f"{name}.key", self._directory / f"{name}.pub"
        if not public.exists():
            fresh = public.with_suffix(".new")
            run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", private])
            run(["openssl", "ec", "-in", private, "-pubout", "-out", fresh])
            fresh.replace(public)
        return private, public

    def kubeconfig(self, path: Path, server: str, user: Certificate) -> Path:
        """Writes a kubeconfig that carries its certificates in itself. JSON, which is YAML too."""

        def data(file: Path) -> str:
            return base64.b64encode(file.read_bytes()).decode()

        cluster = {"server": server, "certificate-authority-data": data(self.crt)}
        identity = {"client-certificate-data": data(user.crt), "client-key-data": data(user.key)}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "local", "cluster": cluster}],
            "users": [{"name": "local", "user": identity}],
            "contexts": [{"name": "local", "context": {"cluster": "local", "user": "local"}}],
            "current-context": "local",
        }
        write(path, json.dumps(content, indent=1) + "\n")
        return path

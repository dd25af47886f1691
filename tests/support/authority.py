"""A certificate authority, made by openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path


class Authority:
    """An authority that signs certificates of servers.

    Args:
        directory: where its files are.
        name: tells its files and its certificate from those of others.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self._directory, self._name = directory, name
        self._openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.crt",
                      "-days", "2", "-subj", f"/CN={name}")  # fmt: skip

    @property
    def pem(self) -> str:
        """Its own certificate."""
        return (self._directory / f"{self._name}.crt").read_text()

    def sign(self, *names: str) -> tuple[Path, Path]:
        """Return the files with a certificate for these names (`DNS:localhost`, `IP:127.0.0.1`), and with its key."""
        n = self._name
        (self._directory / "ext").write_text(f"subjectAltName={','.join(names)}\n")
        self._openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{n}-server.key", "-out", f"{n}-server.csr",
                      "-subj", "/CN=server")  # fmt: skip
        self._openssl("x509", "-req", "-in", f"{n}-server.csr", "-CA", f"{n}.crt", "-CAkey", f"{n}.key",
                      "-CAcreateserial", "-out", f"{n}-server.crt", "-days", "2", "-extfile", "ext")  # fmt: skip
        return self._directory / f"{n}-server.crt", self._directory / f"{n}-server.key"

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self._directory, capture_output=True, check=True)

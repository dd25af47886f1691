"""Messages to the database, and proofs that their sender has the study's key.

submit() in reporting.sql accepts them. The key itself is never sent, because all pods share one role: PostgreSQL shows
the text of a query to every connection of that role, and logs a query that fails. A pod that sees a message and its
proof can send this message again, but cannot make another one.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from typing import Any

from study_trial._errors import SetupError


class Writer:
    """Writes messages with rising numbers.

    A number is the time in microseconds since 1970, or one more than the last number if the clock is behind. So it is
    higher than the numbers of an earlier process, whose last number is not known.

    Args:
        key: the study's key, 64 hexadecimal digits.

    Raises:
        SetupError: the key does not have that form. The message does not quote it.
    """

    def __init__(self, key: str) -> None:
        try:
            self._key = bytes.fromhex(key)
        except ValueError:
            self._key = b""
        if len(self._key) != 32 or self._key.hex() != key:
            raise SetupError(
                "STUDY_STORAGE_KEY is not a key of 64 hexadecimal digits; the operator sets it from the study's "
                "Secret, so look for what overwrites it"
            )
        self._key_hash = hashlib.sha256(key.encode()).digest()
        self._number = 0

    def write(self, content: Mapping[str, Any]) -> tuple[str, str]:
        """Return a message with this content, and its proof in hexadecimal digits."""
        self._number = max(self._number + 1, time.time_ns() // 1000)
        message = json.dumps({**content, "number": self._number}, allow_nan=False)
        return message, self._prove(message)

    def continue_after(self, number: int) -> None:
        """Use higher numbers than this one, which the database has had already."""
        self._number = max(self._number, number)

    def _prove(self, message: str) -> str:
        """Return the proof of a message.

        It is made as SCRAM's ClientProof (RFC 5802). The database knows the key's hash only. It computes the key from
        the proof, and compares that key's hash with the one it knows.
        """
        digest = hmac.digest(self._key_hash, message.encode(), "sha256")
        return bytes(a ^ b for a, b in zip(self._key, digest, strict=True)).hex()

"""Messages to the database, and proofs that their sender has the study's key; submit() in reporting.sql takes them.

The key itself is never sent. PostgreSQL shows the text of a query to every connection of the same role and logs those
that fail, and all pods share one role. Whoever sees a message and its proof can send these again, and make no others.
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
    """Writes messages under rising numbers: microseconds since 1970 where the clock allows it, so that those of the
    process before, which cannot be asked, are lower.

    Raises:
        SetupError: the key is none. The message does not quote it.
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
        """A message with this content, and its proof in hexadecimal digits."""
        self._number = max(self._number + 1, time.time_ns() // 1000)
        message = json.dumps({**content, "number": self._number}, allow_nan=False)
        return message, self._prove(message)

    def continue_after(self, number: int) -> None:
        """The database has had a message of that number already."""
        self._number = max(self._number, number)

    def _prove(self, message: str) -> str:
        """As SCRAM's ClientProof (RFC 5802): the database knows the key's hash, and takes the key out of the proof to
        compare its hash with that."""
        digest = hmac.digest(self._key_hash, message.encode(), "sha256")
        return bytes(a ^ b for a, b in zip(self._key, digest, strict=True)).hex()

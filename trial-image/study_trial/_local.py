"""The way to `kubectl study run --local`: a Unix socket of the machine on which the trial runs, in place of a database.

A call is one line of JSON, and so is its answer: `{"result": ...}`, or `{"error": SQLSTATE, "message": ...}` with the
states that reporting.sql has. Each call has a connection of its own, so that processes that a program forks do not
share one.
"""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from study_trial._connection import Call, UnavailableError
from study_trial._errors import RefusedError, TrialFinishedError

# STUDY_STORAGE_URL begins with it, and the socket's path follows.
SCHEME = "study-local:"
_LONGEST_ANSWER = 65536  # bytes


class LocalConnection:
    """Runs reporting calls over a Unix socket, each within a time limit.

    Only the socket's owner can reach it, so there is no key to prove anything with.

    Args:
        path: the socket's.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def call(self, call: Call, timeout: float) -> Any:
        """Run one call and return its result. Args and errors as `Connection.call`."""
        try:
            with socket.socket(socket.AF_UNIX) as connected:
                connected.settimeout(timeout)
                connected.connect(str(self._path))
                connected.sendall(json.dumps(dict(call.content), allow_nan=False).encode() + b"\n")
                with connected.makefile("rb") as answers:
                    line = answers.readline(_LONGEST_ANSWER)
        except OSError as error:
            raise UnavailableError(f"kubectl study run --local: {error.strerror or 'no answer'}") from None
        try:
            answer = json.loads(line)
        except ValueError:
            raise UnavailableError("kubectl study run --local: it has ended") from None
        if "error" in answer:
            kind = TrialFinishedError if answer["error"] == "SO002" else RefusedError
            raise kind(f"{call.what} was refused: {answer.get('message')}")
        return answer.get("result")

    def close(self) -> None:
        """Do nothing: no connection outlives its call."""

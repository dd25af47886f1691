"""The connection of a trial's pod to the study's PostgreSQL, as the reporting role."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import psycopg2
from psycopg2 import extensions

from study_trial._errors import (
    LimitReachedError,
    RefusedError,
    SetupError,
    SeveralObjectivesError,
    TrialFinishedError,
    WrongKeyError,
)
from study_trial._messages import Writer

# Thousands of pods share one PostgreSQL, so a pod keeps its login only if it calls more often than this. If the pod
# then falls silent, the server ends the login: the role's idle_session_timeout.
_KEEP_SECONDS = 5.0

# SQLSTATEs after which a later attempt may succeed. Whole classes: connection lost; out of resources, for example too
# many connections; operator intervention (restart, shutdown). Single ones: read-only, as a database is during a
# failover; serialisation failure; deadlock; lock not available.
_PASSING_CLASSES = {"08", "53", "57"}
_PASSING = {"25006", "40001", "40P01", "55P03"}


class Call(NamedTuple):
    """A call of the database.

    Attributes:
        content: the content of its message; submit() in reporting.sql describes it.
        what: the call's name in log lines and errors.
    """

    content: Mapping[str, Any]
    what: str


class UnavailableError(Exception):
    """The database cannot be reached, is busy or too slow. The call may have been carried out nevertheless."""


class Connection:
    """Runs reporting calls, each within a time limit. Opens the connection when it is needed. Not thread-safe.

    Each call is one statement and one transaction, and does not depend on earlier statements. So a pooler such as
    PgBouncer may run each call on another of its connections.

    The driver runs in its asynchronous mode, because a server may accept a connection and then hang (a stalled disk, a
    frozen machine). The limit holds then, too. Only the system's look-up of the host's name may take longer.
    """

    def __init__(self, url: str, key: str, directory: Path | None = None) -> None:
        """Check address and key. Does not connect yet.

        Args:
            url: a libpq URL with the password.
            key: the study's key.
            directory: where the study's Secret is mounted. The kubelet brings a new password or CA into it while the
                pod runs, so its file `url` is read again at each connection, in place of `url`.

        Raises:
            SetupError: one of them cannot be read. The message does not quote it.
        """
        self._key, self._directory = key, directory
        self._secrets: list[str] = []
        try:
            self._take(url)
        except psycopg2.ProgrammingError:
            raise SetupError(
                "STUDY_STORAGE_URL is not a PostgreSQL URL (postgresql://user:password@host:5432/database); "
                "the operator sets it from the study's Secret, so look for what overwrites it"
            ) from None
        self._writer = Writer(key)
        self._connection: extensions.connection | None = None
        self._owner = 0
        self._last_call = float("-inf")

    def call(self, call: Call, timeout: float) -> Any:
        """Run one call and return the SQL function's result.

        Args:
            call: what to run.
            timeout: the time limit, in seconds.

        Raises:
            UnavailableError: the database is away, busy or too slow. Another attempt may succeed.
            RefusedError: the database refused the call. WrongKeyError, TrialFinishedError and SeveralObjectivesError
                are its subclasses.
        """
        now = time.monotonic()
        often = now - self._last_call < _KEEP_SECONDS
        self._last_call = now
        if not often or self._owner != os.getpid():  # a forked child must not write to its parent's socket
            self.close()
        try:
            result = self._run(call, now + timeout)
        except psycopg2.Error as error:
            self.close()
            raise self._translate(call, error) from None  # the driver's text may quote the query
        except BaseException:
            self.close()  # the answer may still arrive, so the connection cannot be used again
            raise
        if not often:
            self.close()
        return result

    def close(self) -> None:
        """Close the connection if there is one. The next call opens another."""
        if self._connection is not None and self._owner == os.getpid():
            self._connection.close()
        self._connection = None

    def _take(self, url: str) -> None:
        """Use this address and login from now on.

        Raises:
            psycopg2.ProgrammingError: it is no libpq URL.
        """
        dsn = extensions.parse_dsn(url)
        password = dsn.get("password", "")
        self._url = url
        self._address = f"{dsn.get('host', 'localhost')}:{dsn.get('port', '5432')}"
        # What earlier connections have used stays secret.
        self._secrets += [text for text in (url, self._key, quote(password, safe=""), password) if text]

    def _read_again(self) -> None:
        """Use the address and login that the Secret has now. Without a file that can be read, those of before."""
        if self._directory is None:
            return
        try:
            url = (self._directory / "url").read_text().strip()
            if url and url != self._url:
                self._take(url)
        except (OSError, UnicodeDecodeError, psycopg2.ProgrammingError):
            pass

    def _run(self, call: Call, deadline: float) -> Any:
        if self._connection is None:
            self._read_again()
            before = time.monotonic()
            self._connection = psycopg2.connect(self._url, async_=True)  # returns when the host's name is looked up
            deadline += time.monotonic() - before  # else a slow name server would leave no attempt time for its call
            self._owner = os.getpid()
            self._wait(deadline, "the connection")
        try:
            return self._submit(call, deadline)
        except psycopg2.Error as error:
            if error.pgcode != "SO005":
                raise
            # An earlier process has used a higher number, because its clock was ahead. Send again with one above it.
            self._writer.continue_after(int(error.diag.message_detail or 0))
            return self._submit(call, deadline)

    def _submit(self, call: Call, deadline: float) -> Any:
        assert self._connection is not None
        with self._connection.cursor() as cursor:
            cursor.execute("SELECT study_operator.submit(%s, %s)", self._writer.write(call.content))
            self._wait(deadline, "an answer")
            row = cursor.fetchone()
        return row[0] if row else None

    def _wait(self, deadline: float, what: str) -> None:
        assert self._connection is not None
        while (state := self._connection.poll()) != extensions.POLL_OK:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise UnavailableError(f"{self._address}: timed out waiting for {what}")
            poller = select.poll()
            poller.register(
                self._connection.fileno(), select.POLLIN if state == extensions.POLL_READ else select.POLLOUT
            )
            poller.poll(remaining * 1000)

    def _translate(self, call: Call, error: psycopg2.Error) -> Exception:
        code = error.pgcode or ""
        message = " ".join((error.diag.message_primary or str(error)).split())
        for secret in self._secrets:
            message = message.replace(secret, "***")
        if code == "SO001":
            return WrongKeyError(
                f"{call.what} was refused: {message}. STUDY_STORAGE_KEY and STUDY_TRIAL_ID must be those "
                "that the operator set in this very pod; a study deleted or re-created has another key"
            )
        if code == "SO002":
            return TrialFinishedError(f"{call.what} was refused: {message}; what has ended stays as it is")
        if code in ("42883", "3F000"):  # no such function, no such schema
            return RefusedError(
                f"{call.what} was refused: the database does not know study_operator.submit, so the operator is older "
                "than this study_trial: upgrade the operator, or put the study_trial of its version into the image"
            )
        if code == "SO004":
            return SeveralObjectivesError(f"{call.what} was refused: {message}")
        if code == "SO006":
            return LimitReachedError(f"{call.what} was refused: {message}")
        passing = isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError)
        if passing or code[:2] in _PASSING_CLASSES or code in _PASSING:
            return UnavailableError(f"{self._address}: {message or type(error).__name__}")
        return RefusedError(f"{call.what} was refused: {message} (SQLSTATE {code or 'unknown'})")

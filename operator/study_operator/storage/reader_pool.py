"""The reader's connections: a few, for the trials API alone. People who read never take one that the operator needs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg2
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, connection

from study_operator.storage.database import StorageError, StorageFull, StorageUnavailable, one_line

_WAIT_SECONDS = 5.0  # for a free connection
_FRESH_SECONDS = 30.0  # a connection that has been idle for longer may have been ended by the server or on the way


class ReaderPool:
    """Lend connections of the reader's login. Safe to use from several threads.

    Args:
        dsn: libpq connection string of the reader's login.
        size: how many connections there may be at once.
        statement_seconds: how long a statement may take, in seconds.
    """

    def __init__(self, dsn: str, size: int = 4, statement_seconds: float = 10.0) -> None:
        self._dsn, self._timeout = dsn, int(statement_seconds * 1000)
        self._free = threading.BoundedSemaphore(size)
        self._idle: list[tuple[connection, float]] = []
        self._lock = threading.Lock()
        self._closed = False

    @contextmanager
    def lend(self) -> Iterator[connection]:
        """Lend a connection outside of a transaction. It must come back so, or it is closed.

        Raises:
            StorageUnavailable: no connection becomes free in time, or the database cannot be reached, or goes away.
            StorageError: the database refuses a statement. One that takes too long is among these.
        """
        if not self._free.acquire(timeout=_WAIT_SECONDS):
            raise StorageUnavailable("every connection for reading trials is in use: try again in a moment")
        try:
            opened = self._take()
            try:
                yield opened
            except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
                if opened.closed:  # the others are probably closed as well: without this each would fail once
                    self._forget_idle()
                raise _translated(error) from None
            except psycopg2.Error as error:
                raise StorageError(one_line(error)) from None
            finally:
                self._give_back(opened)
        finally:
            self._free.release()

    def close(self) -> None:
        """Close every connection. One that is lent is closed when it comes back."""
        self._closed = True
        self._forget_idle()

    def _forget_idle(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for opened, _ in idle:
            opened.close()

    def _take(self) -> connection:
        stale: list[connection] = []
        found = None
        with self._lock:
            while self._idle and found is None:
                opened, since = self._idle.pop()
                if time.monotonic() - since < _FRESH_SECONDS:
                    found = opened
                else:
                    stale.append(opened)
        for opened in stale:
            opened.close()
        return found or self._open()

    def _open(self) -> connection:
        try:
            # jit: to compile a query takes longer than to run it. UTF8 is what the records are in.
            opened = psycopg2.connect(
                self._dsn, client_encoding="UTF8", options=f"-c statement_timeout={self._timeout} -c jit=off"
            )
        except psycopg2.OperationalError as error:
            raise StorageUnavailable(one_line(error)) from None
        return opened

    def _give_back(self, opened: connection) -> None:
        if not opened.closed and opened.info.transaction_status == TRANSACTION_STATUS_IDLE:
            with self._lock:
                if not self._closed:
                    self._idle.append((opened, time.monotonic()))
                    return
        opened.close()


def _translated(error: psycopg2.Error) -> StorageUnavailable | StorageError:
    """Return the error that says what a failure on a connection means."""
    if isinstance(error, psycopg2.errors.QueryCanceled):
        return StorageError("reading takes too long: ask for less at once, such as one study, or fewer trials a page")
    if isinstance(error, psycopg2.errors.DiskFull):
        return StorageFull(one_line(error))
    return StorageUnavailable(one_line(error))

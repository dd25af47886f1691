"""The reader's connections: a few, for the trials API alone. People who read never take one that the operator needs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from queue import Empty, LifoQueue
from typing import Any

import psycopg2
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, connection

from study_operator.storage.database import StorageError, StorageFull, StorageUnavailable, one_line, one_row

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
        # A place for each connection, with the one that is open, and since when it has been idle.
        self._places: LifoQueue[tuple[connection | None, float]] = LifoQueue()
        self._closed = False
        for _ in range(size):
            self._places.put((None, 0.0))

    @contextmanager
    def lend(self) -> Iterator[connection]:
        """Lend a connection outside of a transaction. It must come back so, or it is closed.

        Raises:
            StorageUnavailable: no connection becomes free in time, or the database cannot be reached, or goes away.
            StorageError: the database refuses a statement. One that takes too long is among these.
        """
        try:
            opened, since = self._places.get(timeout=_WAIT_SECONDS)
        except Empty:
            raise StorageUnavailable("every connection for reading trials is in use: try again in a moment") from None
        try:
            if opened is not None and time.monotonic() - since > _FRESH_SECONDS:
                opened.close()
                opened = None
            opened = opened or self._open()
            yield opened
        except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
            if opened is not None and opened.closed:
                self._close_idle()  # probably closed as well: without this each would fail once
            raise _translated(error) from None
        except psycopg2.Error as error:
            raise StorageError(one_line(error)) from None
        finally:
            self._put_back(opened)

    def close(self) -> None:
        """Close every connection. One that is lent is closed when it comes back."""
        self._closed = True
        self._close_idle()

    def _open(self) -> connection:
        # jit: to compile a query takes longer than to run it. UTF8 is what the records are in.
        return psycopg2.connect(
            self._dsn, client_encoding="UTF8", options=f"-c statement_timeout={self._timeout} -c jit=off"
        )

    def _put_back(self, opened: connection | None) -> None:
        if opened is not None and (self._closed or opened.info.transaction_status != TRANSACTION_STATUS_IDLE):
            opened.close()
        self._places.put((None if opened is None or opened.closed else opened, time.monotonic()))

    def _close_idle(self) -> None:
        found = []
        with suppress(Empty):
            while True:
                found.append(self._places.get_nowait())
        for opened, _ in found:
            if opened is not None:
                opened.close()
            self._places.put((None, 0.0))


def call(opened: connection, statement: str, arguments: Sequence[Any] = ()) -> Any:
    """Call a function that writes, and return its answer.

    The statement is a transaction of its own, in one round trip. So a process that stops keeps no lock for
    which all others would wait.

    Args:
        opened: a connection outside of a transaction.
        statement: SQL that answers with one value.
        arguments: for its placeholders.

    Raises:
        psycopg2.Error: when the database refuses it.
    """
    opened.autocommit = True
    try:
        with opened.cursor() as cursor:
            cursor.execute(f"SET TRANSACTION READ WRITE; {statement}", arguments)
            return one_row(cursor)[0]
    finally:
        if not opened.closed:
            opened.autocommit = False


def _translated(error: psycopg2.Error) -> StorageUnavailable | StorageError:
    """Return the error that says what a failure on a connection means."""
    if isinstance(error, psycopg2.errors.QueryCanceled):
        return StorageError("reading takes too long: ask for less at once, such as one study, or fewer trials a page")
    if isinstance(error, psycopg2.errors.DiskFull):
        return StorageFull(one_line(error))
    return StorageUnavailable(one_line(error))

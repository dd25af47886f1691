"""Transactions in PostgreSQL, on one connection per thread of the bounded pool.

A lost connection is opened again. Writes to a study's trials are refused once another replica serves the study.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg2
from psycopg2.extensions import connection, cursor

from study_operator import fence

# A stopped process must not keep its successor waiting with an open transaction that holds locks.
_IDLE_WRITER_TIMEOUT = "4s"
# A trial's pod must not keep the operator waiting with a lock.
_LOCK_TIMEOUT = "5s"
_ADMIT, _NOT_HELD, _NO_ROWS = "SELECT study_operator.admit({}, %s)", "SO010", "SO011"
DELETED = "the study's rows have just been deleted from the database"


class StorageUnavailable(Exception):
    """The database cannot be reached, or it ended the connection. A write in flight may or may not have been stored."""


class StorageFull(StorageUnavailable):
    """The database answers, but its disk is full. Reads still work, writes fail."""


class StorageError(Exception):
    """The database answers, but not as it must. The message says what is wrong and what to do."""


class Database:
    """Run transactions in one database. Safe to use from several threads, because each has its own connection.

    `write`, and `transaction` with a study or a trial, ask the current hold whether this process may still write about
    the study, and let the database check the hold's epoch (see `fence`).

    Args:
        dsn: libpq connection string of the operator's own login.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._local = threading.local()
        self._lost = 0.0  # when the server last ended a connection (monotonic seconds); older connections are replaced

    def connect(self, **options: Any) -> connection:
        """Open a new connection that only the caller uses.

        Args:
            options: libpq options and arguments of `psycopg2.connect` for this connection.

        Raises:
            StorageUnavailable: when the database cannot be reached.
        """
        try:
            return psycopg2.connect(self._dsn, **options)
        except psycopg2.OperationalError as error:
            raise StorageUnavailable(one_line(error)) from None

    def write(self, study_id: int, statement: str, arguments: Sequence[Any]) -> tuple[Any, ...]:
        """Run one statement that writes to a study's trials, as a transaction: one round trip and one commit.

        All writes to trials of a served study go through here.

        Args:
            study_id: the study that the statement writes to.
            statement: SQL with a placeholder for each argument. It must answer with exactly one row.

        Returns:
            The statement's row.

        Raises:
            StorageUnavailable: when the connection fails. The statement may or may not have been carried out.
            StorageError: when the database refuses the statement, or does not answer with exactly one row.
            NotHeld: when this process may not write to the study; see `transaction`.
        """
        hold = fence.current()
        if hold is not None:
            hold.check()
            # Both statements are one transaction, which ends with them. So a stopped process leaves none open.
            statement, arguments = f"{_ADMIT.format('%s')}; {statement}", (study_id, hold.epoch, *arguments)
        with self._connection() as connection, connection.cursor() as cursor:
            connection.autocommit = True  # otherwise psycopg2 sends BEGIN and COMMIT as separate round trips
            try:
                with _refused_without(hold):
                    cursor.execute(statement, arguments)
                    return one_row(cursor)
            finally:
                if not connection.closed:
                    connection.autocommit = False

    @contextmanager
    def transaction(self, study_id: int | None = None, trial_id: int | None = None) -> Iterator[cursor]:
        """Open a transaction on this thread's connection. Commit it at the end, roll it back on an exception.

        Args:
            study_id: the study that the transaction writes to. The transaction is refused if another replica has taken
                the study over, and no replica can take it over before the transaction ends; see `_admit`.
            trial_id: names the study in the same way, by one of its trials.

        Raises:
            StorageUnavailable: when the connection fails, at the start or on the way.
            StorageError: when the database refuses a statement.
            NotHeld: when this process may not write to the study.
        """
        with self._connection() as connection, connection, connection.cursor() as cursor:
            if study_id is not None or trial_id is not None:
                _admit(cursor, study_id, trial_id)
            yield cursor

    @contextmanager
    def _connection(self) -> Iterator[connection]:
        """Lend this thread's connection, and translate psycopg2's errors as `transaction` and `write` say."""
        connection = getattr(self._local, "connection", None)
        if connection is None or connection.closed or self._local.opened < self._lost:
            if connection is not None:
                connection.close()
            self._local.opened = time.monotonic()
            connection = self._local.connection = self.connect()
            try:
                with connection, connection.cursor() as cursor:
                    # jit: compiling the query that loads a history takes longer than running it.
                    cursor.execute(f"SET lock_timeout = '{_LOCK_TIMEOUT}'; SET jit = off")
            except psycopg2.Error as error:
                connection.close()
                raise StorageUnavailable(one_line(error)) from None
        try:
            yield connection
        except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
            if connection.closed:  # the other threads' are probably closed as well; without this each would fail once
                self._lost = time.monotonic()
            connection.close()
            full = isinstance(error, psycopg2.errors.DiskFull)
            raise (StorageFull if full else StorageUnavailable)(one_line(error)) from None
        except psycopg2.Error as error:
            raise StorageError(one_line(error)) from error


def _admit(cursor: cursor, study_id: int | None, trial_id: int | None) -> None:
    """Refuse the transaction unless the current hold is the newest one of this study.

    The check locks the row that names the hold, so a takeover (`Studies.take_over`) has to wait until this transaction
    ends. Without a current hold nothing is checked.

    Raises:
        NotHeld: when there is a newer hold, or when the current one may have ended.
    """
    hold = fence.current()
    if hold is None:
        return
    hold.check()
    study = "%s" if trial_id is None else "(SELECT study_id FROM trials WHERE trial_id = %s)"
    with _refused_without(hold):
        cursor.execute(
            f"SET LOCAL idle_in_transaction_session_timeout = '{_IDLE_WRITER_TIMEOUT}'; {_ADMIT.format(study)}",
            (study_id if trial_id is None else trial_id, hold.epoch),
        )


@contextmanager
def _refused_without(hold: fence.Hold | None) -> Iterator[None]:
    """Raise NotHeld in place of the database's error that says that there is a newer hold.

    Raises:
        NotHeld: that.
        StorageError: the study has no rows any more.
    """
    try:
        yield
    except psycopg2.Error as error:
        if error.pgcode == _NO_ROWS:
            raise StorageError(DELETED) from None
        if hold is None or error.pgcode != _NOT_HELD:
            raise
        hold.superseded = True
        raise fence.NotHeld("another replica has taken the study over") from None


def one_row(cursor: cursor) -> tuple[Any, ...]:
    """Return the row of a statement that always answers with exactly one.

    Raises:
        StorageError: when the last statement has answered with no row, or with several.
    """
    rows = cursor.fetchall()
    if len(rows) != 1:
        raise StorageError(f"the database answered with {len(rows)} rows where the operator needs exactly one")
    return rows[0]


def one_line(error: psycopg2.Error) -> str:
    """Return the driver's message on one line. libpq names host, port and user in it, never a password."""
    return " ".join(str(error).split()) or type(error).__name__

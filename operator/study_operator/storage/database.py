"""Connections to PostgreSQL: one per thread of the bounded pool, reopened when lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg2
from psycopg2.extensions import connection, cursor

from study_operator import fence

# A stopped process must not keep its successor waiting by what it has locked; nor must a trial's pod its operator.
_IDLE_WRITER, _LOCK = "4s", "5s"
_ADMIT, _NOT_HELD = "SELECT study_operator.admit({}, %s)", "SO010"


class StorageUnavailable(Exception):
    """The database cannot be reached or ended the connection. Nothing is known of what a write in flight did."""


class StorageFull(StorageUnavailable):
    """The database answers, and its disk has no room left: what reads goes on, what writes fails."""


class StorageError(Exception):
    """The database answers, but not as it must; the message says what is wrong and what to do."""


class Database:
    """Transactions on one database.

    Args:
        dsn: libpq connection string of the operator's own login.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._local = threading.local()
        self._lost = 0.0  # when the server last ended a connection; older ones are not used any more

    def connect(self, **options: Any) -> connection:
        """A new connection of the caller's own, with other options than the others' if need be.

        Raises:
            StorageUnavailable: when the database cannot be reached.
        """
        try:
            return psycopg2.connect(self._dsn, **options)
        except psycopg2.OperationalError as error:
            raise StorageUnavailable(one_line(error)) from None

    def write(self, study_id: int, statement: str, arguments: Sequence[Any]) -> tuple:
        """One statement that writes to a study's trials, in a transaction of its own: one round trip and one commit.
        Every write to trials of a study that is served goes through here.

        Returns:
            The one row that it answers with.

        Raises:
            StorageUnavailable: when the connection fails; whether the statement was carried out is then unknown.
            StorageError: when the database refuses the statement.
            NotHeld: this process may not write to the study; see `transaction`.
        """
        hold = fence.current()
        if hold is not None:
            hold.check()
            # Both are one transaction. It has ended when the statement has: none that a stopped process leaves open.
            statement, arguments = f"{_ADMIT.format('%s')}; {statement}", (study_id, hold.epoch, *arguments)
        with self._connection() as connection, connection.cursor() as cursor:
            connection.autocommit = True  # psycopg2 would send BEGIN and COMMIT by themselves
            try:
                with _refused_without(hold):
                    cursor.execute(statement, arguments)
                    return cursor.fetchone()
            finally:
                if not connection.closed:
                    connection.autocommit = False

    @contextmanager
    def transaction(self, study_id: int | None = None, trial_id: int | None = None) -> Iterator[cursor]:
        """One transaction on this thread's connection: committed at the end, rolled back on an exception.

        Args:
            study_id, trial_id: the study, or a trial of it, that is written to. The transaction is then refused when
                another process has taken the study over, and none can before it has ended: see `_admit`.

        Raises:
            StorageUnavailable: when the connection fails, at the start or on the way.
            StorageError: when the database refuses a statement.
            NotHeld: this process may not write to the study.
        """
        with self._connection() as connection, connection, connection.cursor() as cursor:
            if study_id is not None or trial_id is not None:
                _admit(cursor, study_id, trial_id)
            yield cursor

    @contextmanager
    def _connection(self) -> Iterator[connection]:
        """This thread's connection; what goes wrong with it is raised as `transaction` and `write` say."""
        connection = getattr(self._local, "connection", None)
        if connection is None or connection.closed or self._local.opened < self._lost:
            if connection is not None:
                connection.close()
            self._local.opened = time.monotonic()
            connection = self._local.connection = self.connect()
            try:
                with connection, connection.cursor() as cursor:
                    # Compiling the query that loads a history takes longer than the query.
                    cursor.execute(f"SET lock_timeout = '{_LOCK}'; SET jit = off")
            except psycopg2.Error as error:
                connection.close()
                raise StorageUnavailable(one_line(error)) from None
        try:
            yield connection
        except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
            if connection.closed:  # so are the others' probably, or each of them would fail once
                self._lost = time.monotonic()
            connection.close()
            full = isinstance(error, psycopg2.errors.DiskFull)
            raise (StorageFull if full else StorageUnavailable)(one_line(error)) from None
        except psycopg2.Error as error:
            raise StorageError(one_line(error)) from error


def _admit(cursor: cursor, study_id: int | None, trial_id: int | None) -> None:
    """Lets a transaction write to a study only by right of the latest hold of it, which stays the latest until the
    transaction has ended: whoever takes the study over waits so long (`Studies.claim`). Does nothing where there is no
    current hold.

    Raises:
        NotHeld: there is a later one.
    """
    hold = fence.current()
    if hold is None:
        return
    hold.check()
    study = "%s" if trial_id is None else "(SELECT study_id FROM trials WHERE trial_id = %s)"
    with _refused_without(hold):
        cursor.execute(
            f"SET LOCAL idle_in_transaction_session_timeout = '{_IDLE_WRITER}'; {_ADMIT.format(study)}",
            (study_id if trial_id is None else trial_id, hold.epoch),
        )


@contextmanager
def _refused_without(hold: fence.Hold | None) -> Iterator[None]:
    """Raises NotHeld when the database says that there is a later hold."""
    try:
        yield
    except psycopg2.Error as error:
        if hold is None or error.pgcode != _NOT_HELD:
            raise
        hold.superseded = True
        raise fence.NotHeld("another replica has taken the study over") from None


def one_line(error: psycopg2.Error) -> str:
    """The driver's message on one line. libpq names host, port and user in it, never a password."""
    return " ".join(str(error).split()) or type(error).__name__

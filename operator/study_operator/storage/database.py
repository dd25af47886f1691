"""Connections to PostgreSQL: one per thread of the bounded pool, reopened when lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg2
from psycopg2.extensions import connection, cursor


class StorageUnavailable(Exception):
    """The database cannot be reached or ended the connection. Nothing is known of what a write in flight did."""


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

    def connect(self) -> connection:
        """A new connection of the caller's own.

        Raises:
            StorageUnavailable: when the database cannot be reached.
        """
        try:
            return psycopg2.connect(self._dsn)
        except psycopg2.OperationalError as error:
            raise StorageUnavailable(_one_line(error)) from None

    @contextmanager
    def transaction(self) -> Iterator[cursor]:
        """One transaction on this thread's connection: committed at the end, rolled back on an exception.

        Raises:
            StorageUnavailable: when the connection fails, at the start or on the way.
            StorageError: when the database refuses a statement.
        """
        connection = getattr(self._local, "connection", None)
        if connection is None or connection.closed:
            connection = self._local.connection = self.connect()
        try:
            with connection, connection.cursor() as cursor:
                yield cursor
        except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
            connection.close()
            raise StorageUnavailable(_one_line(error)) from None
        except psycopg2.Error as error:
            raise StorageError(_one_line(error)) from error


def _one_line(error: psycopg2.Error) -> str:
    """The driver's message on one line. libpq names host, port and user in it, never a password."""
    return " ".join(str(error).split()) or type(error).__name__

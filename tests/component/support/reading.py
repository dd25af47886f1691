"""A database with a reader, and what a test writes and reads in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg2
from database import TestDatabase, settings_for
from fresh import Fresh, execute, fresh_database
from psycopg2 import sql

from study_operator.settings import Settings, reader_dsn
from study_operator.storage.migrate import migrate
from study_operator.storage.readable_trials import ReadableTrials
from study_operator.storage.reader_pool import ReaderPool

READER_PASSWORD = "reader of the component tests"
CLUSTER = "test-cluster"  # that of `TestDatabase.studies`


@dataclass(frozen=True)
class OwnDatabase(TestDatabase):
    """A database with a reporter's login of its own."""

    reporter: str

    @property
    def reporter_url(self) -> str:
        return settings_for(self, REPORTER_USER=self.reporter).reporter_url


@dataclass(frozen=True)
class Reading:
    """A migrated database with a reader of its own, and the pool of its connections."""

    fresh: Fresh
    reader: str
    pool: ReaderPool
    trials: ReadableTrials

    @property
    def database(self) -> OwnDatabase:
        return OwnDatabase(self.fresh.database.server, self.fresh.database.name, self.fresh.reporter)

    @property
    def dsn(self) -> str:
        return reader_dsn(_environment(self.fresh, self.reader))

    def settings(self, **more: str) -> Settings:
        """The operator's settings."""
        return self.fresh.settings(**{"READER_USER": self.reader, "READER_PASSWORD": READER_PASSWORD, **more})

    def refusal(self, statement: str) -> str | None:
        """The SQLSTATE with which a statement of the reader's is refused; None if it is not."""
        connection = psycopg2.connect(self.dsn)
        try:
            connection.cursor().execute(statement)
        except psycopg2.Error as error:
            return error.pgcode
        finally:
            connection.close()
        return None


@contextmanager
def reading_database(server: str) -> Iterator[Reading]:
    """Such a database on the server of that url, removed at the end with its logins."""
    with fresh_database(server) as fresh:
        reader = f"{fresh.database.name}_reader"
        pool = ReaderPool(reader_dsn(_environment(fresh, reader)))
        opened = Reading(fresh, reader, pool, ReadableTrials(pool, CLUSTER))
        migrate(opened.settings(), patience=60)
        yield opened
        pool.close()
    execute(server, "DROP ROLE IF EXISTS {}", sql.Identifier(reader))


def _environment(fresh: Fresh, reader: str) -> dict[str, str]:
    return {"DATABASE_URL": fresh.database.url, "READER_USER": reader, "READER_PASSWORD": READER_PASSWORD}

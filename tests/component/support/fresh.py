"""An empty database with logins of its own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

import psycopg2
from database import TestDatabase, settings_for
from psycopg2 import sql

from study_operator.settings import Settings


@dataclass(frozen=True)
class Fresh:
    """An empty database, and names of roles that nobody else uses: roles belong to the whole server."""

    database: TestDatabase
    operator: str
    reporter: str

    def settings(self, login: str | None = None, **more: str) -> Settings:
        """Settings of an operator; `login` is the one that it uses, the superuser's unless given."""
        url = urlsplit(self.database.url)
        if login:
            url = url._replace(netloc=f"{login}:{login}@{url.hostname}:{url.port}")
        return settings_for(self.database, **{"DATABASE_URL": urlunsplit(url), "REPORTER_USER": self.reporter, **more})

    def create_role(self, name: str, rights: str = "") -> None:
        """A login whose password is its name."""
        self.execute(f"CREATE ROLE {{}} LOGIN {rights} PASSWORD {{}}", sql.Identifier(name), sql.Literal(name))

    def logins(self) -> list[str]:
        """The logins of namespaces, and their group."""
        ((migrated,),) = self.database.query("SELECT to_regclass('study_operator.installation') IS NOT NULL")
        if not migrated:
            return []
        members = self.database.query(
            "SELECT role FROM study_operator.logins UNION ALL"
            " SELECT rolname FROM pg_roles JOIN study_operator.installation"
            " ON rolname = 'study_reporters_' || substr(channel, 7, 8)"
        )
        return [role for (role,) in members]

    def execute(self, text: str, *names: sql.Composable) -> None:
        execute(self.database.url, text, *names)

    def connect(self, user: str, password: str) -> psycopg2.extensions.connection:
        return psycopg2.connect(self.database.url, user=user, password=password)


@contextmanager
def fresh_database(server: str) -> Iterator[Fresh]:
    """An empty database on the server of that url, removed at the end with its logins."""
    name = f"fresh_{uuid.uuid4().hex[:8]}"
    execute(server, "CREATE DATABASE {}", sql.Identifier(name))
    fresh = Fresh(TestDatabase(server, name), f"{name}_operator", f"{name}_reporter")
    yield fresh
    logins = fresh.logins()
    execute(server, "DROP DATABASE {} WITH (FORCE)", sql.Identifier(name))
    for role in (*logins, fresh.reporter, fresh.operator):
        execute(server, "DROP ROLE IF EXISTS {}", sql.Identifier(role))


def execute(url: str, text: str, *names: sql.Composable) -> None:
    connection = psycopg2.connect(url)
    connection.autocommit = True
    try:
        connection.cursor().execute(sql.SQL(text).format(*names))
    finally:
        connection.close()

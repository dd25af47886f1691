"""The database's migration, and what the reporter may do in it afterwards."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

import optuna
import psycopg2
import pytest
from database import TestDatabase, settings_for
from faults import Died
from psycopg2 import sql

from study_operator.settings import Settings
from study_operator.storage.database import Database, StorageError
from study_operator.storage.migrate import OPTUNA_SCHEMA, REPORTING_SCHEMA, migrate, renew_reporter
from study_operator.storage.studies import Studies


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
        return settings_for(self.database, DATABASE_URL=urlunsplit(url), REPORTER_USER=self.reporter, **more)

    def create_role(self, name: str, rights: str = "") -> None:
        """A login whose password is its name."""
        self.execute(f"CREATE ROLE {{}} LOGIN {rights} PASSWORD {{}}", sql.Identifier(name), sql.Literal(name))

    def execute(self, text: str, *names: sql.Composable) -> None:
        _execute(self.database.url, text, *names)

    def connect(self, user: str, password: str) -> psycopg2.extensions.connection:
        return psycopg2.connect(self.database.url, user=user, password=password)


@pytest.fixture
def fresh(services: dict[str, str]) -> Iterator[Fresh]:
    name = f"fresh_{uuid.uuid4().hex[:8]}"
    server = services["database_url"]
    _execute(server, "CREATE DATABASE {}", sql.Identifier(name))
    fresh = Fresh(TestDatabase(server, name), f"{name}_operator", f"{name}_reporter")
    yield fresh
    _execute(server, "DROP DATABASE {} WITH (FORCE)", sql.Identifier(name))
    for role in (fresh.reporter, fresh.operator):
        _execute(server, "DROP ROLE IF EXISTS {}", sql.Identifier(role))


def _execute(url: str, text: str, *names: sql.Composable) -> None:
    connection = psycopg2.connect(url)
    connection.autocommit = True
    try:
        connection.cursor().execute(sql.SQL(text).format(*names))
    finally:
        connection.close()


def test_a_second_migration_changes_nothing(fresh):
    settings = fresh.settings()
    migrate(settings)
    trial = fresh.database.running_trial("key")
    before = _schema(fresh.database)
    migrate(settings)
    assert _schema(fresh.database) == before
    assert fresh.database.query("SELECT trial_id, state::text FROM trials") == [(trial, "RUNNING")]
    with psycopg2.connect(settings.reporter_url, options="-c study_operator.key=key") as reporter:
        reporter.cursor().execute("SELECT study_operator.report(%s, 1, 0.5)", (trial,))
    reporter.close()
    Studies(Database(settings.dsn), "cluster").check()


def _schema(database: TestDatabase) -> list[tuple]:
    """Every relation and function of the database with its rights, and the versions."""
    return [
        *database.query(
            "SELECT relname, relkind::text, relacl::text FROM pg_class"
            " WHERE relnamespace IN ('public'::regnamespace, 'study_operator'::regnamespace) ORDER BY 1"
        ),
        *database.query(
            "SELECT oid::regprocedure::text, prosecdef, proacl::text FROM pg_proc"
            " WHERE pronamespace = 'study_operator'::regnamespace ORDER BY 1"
        ),
        *database.query("SELECT version FROM study_operator.schema_version"),
        *database.query("SELECT version_num FROM alembic_version"),
    ]


def test_concurrent_migrations_wait_for_each_other(fresh):
    settings = fresh.settings()
    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(migrate, settings) for _ in range(4)]:
            done.result()
    assert fresh.database.query("SELECT version FROM study_operator.schema_version") == [(REPORTING_SCHEMA,)]
    assert fresh.database.query("SELECT version_num FROM alembic_version") == [(OPTUNA_SCHEMA,)]


def test_a_migration_killed_at_any_commit_is_completed_by_the_next(fresh, services, monkeypatch):
    commits, at = 0, None

    class Dying(psycopg2.extensions.connection):
        def commit(self) -> None:
            nonlocal commits
            commits += 1
            if commits == at:
                raise Died
            super().commit()

    def connect(database: Database) -> Dying:
        return psycopg2.connect(database._dsn, connection_factory=Dying)

    monkeypatch.setattr(Database, "connect", connect)
    settings = fresh.settings()
    migrate(settings)
    complete, most = _schema(fresh.database), commits
    assert most > 3
    name = sql.Identifier(fresh.database.name)
    for doomed in range(1, most + 1):
        commits, at = 0, doomed
        _execute(services["database_url"], "DROP DATABASE {} WITH (FORCE)", name)
        _execute(services["database_url"], "CREATE DATABASE {}", name)
        with pytest.raises(Died):
            migrate(settings)
        at = None
        migrate(settings)
        assert _schema(fresh.database) == complete


def test_another_version_of_optunas_tables_is_refused(database):
    database.query("UPDATE alembic_version SET version_num = 'v9.0.0'")
    before = _schema(database)
    message = (
        f"the database's Optuna tables have version v9.0.0, this operator is tested with {OPTUNA_SCHEMA}. Run "
        "`study-operator migrate` on a new database, upgrade an older one with `optuna storage upgrade`, or give the "
        "operator a database of its own (MLflow's alembic_version table clashes with Optuna's)"
    )
    for refused in (lambda: migrate(settings_for(database)), database.studies().check):
        with pytest.raises(StorageError) as caught:
            refused()
        assert str(caught.value) == message
    assert _schema(database) == before


def test_a_newer_reporting_schema_is_refused(database):
    database.query("INSERT INTO study_operator.schema_version (version) VALUES (%s)", REPORTING_SCHEMA + 1)
    message = (
        f"the database's study_operator schema has version {REPORTING_SCHEMA + 1}, newer than this operator's "
        f"{REPORTING_SCHEMA}: a newer operator has run here. Install that version again, or restore a backup"
    )
    for refused in (lambda: migrate(settings_for(database)), database.studies().check):
        with pytest.raises(StorageError) as caught:
            refused()
        assert str(caught.value) == message


def test_a_database_without_tables_is_refused_by_an_operator(fresh):
    with pytest.raises(StorageError, match=r"Optuna tables have version None.* Run `study-operator migrate`"):
        fresh.database.studies().check()


def test_a_database_with_optunas_tables_alone_is_refused_by_an_operator(fresh):
    optuna.storages.RDBStorage(fresh.database.url.replace("postgresql:", "postgresql+psycopg2:")).engine.dispose()
    message = f"schema has version 0, this operator needs {REPORTING_SCHEMA}: run `study-operator migrate`"
    with pytest.raises(StorageError, match=message):
        fresh.database.studies().check()
    migrate(fresh.settings())
    fresh.database.studies().check()


def test_a_reporter_prepared_by_an_administrator_is_left_as_it_is(fresh):
    fresh.create_role(fresh.operator)
    fresh.execute("ALTER DATABASE {} OWNER TO {}", sql.Identifier(fresh.database.name), sql.Identifier(fresh.operator))
    fresh.create_role(fresh.reporter)
    migrate(fresh.settings(fresh.operator, MANAGE_REPORTER="false"))
    trial = fresh.database.running_trial("key")
    with psycopg2.connect(
        fresh.database.url, user=fresh.reporter, password=fresh.reporter, options="-c study_operator.key=key"
    ) as reporter:
        reporter.cursor().execute("SELECT study_operator.finish(%s, '{0.5}')", (trial,))
    reporter.close()
    assert fresh.database.query("SELECT vals FROM study_operator.results") == [([0.5],)]


def test_a_reporter_that_nobody_has_prepared_is_asked_for(fresh):
    with pytest.raises(StorageError) as caught:
        migrate(fresh.settings(MANAGE_REPORTER="false"))
    assert str(caught.value) == (
        f'role "{fresh.reporter}" does not exist. With MANAGE_REPORTER=false an administrator creates that login '
        "first: see docs/install.md"
    )


def test_a_login_that_may_not_create_roles_learns_what_to_do(fresh):
    fresh.create_role(fresh.operator)
    fresh.execute("ALTER DATABASE {} OWNER TO {}", sql.Identifier(fresh.database.name), sql.Identifier(fresh.operator))
    with pytest.raises(StorageError) as caught:
        migrate(fresh.settings(fresh.operator))
    assert str(caught.value) == (
        "the operator's database login lacks a right: permission denied to create role. Make it the owner of the "
        "database, or prepare the reporter's login as docs/install.md says and set MANAGE_REPORTER=false"
    )


def test_a_login_that_does_not_own_the_database_learns_what_to_do(fresh):
    fresh.create_role(fresh.operator, "CREATEROLE")
    with pytest.raises(StorageError, match=r"lacks a right: permission denied for schema public\. Make it the owner"):
        migrate(fresh.settings(fresh.operator))


def test_a_login_with_createrole_is_enough(fresh):
    fresh.create_role(fresh.operator, "CREATEROLE")
    fresh.execute("ALTER DATABASE {} OWNER TO {}", sql.Identifier(fresh.database.name), sql.Identifier(fresh.operator))
    settings = fresh.settings(fresh.operator)
    migrate(settings)
    psycopg2.connect(settings.reporter_url).close()


def test_what_a_pod_does_to_the_shared_login_is_made_good(fresh):
    settings = fresh.settings()
    migrate(settings)
    pod = psycopg2.connect(settings.reporter_url)
    with pod, pod.cursor() as cursor:
        cursor.execute("ALTER ROLE CURRENT_USER SET default_transaction_read_only = on")
        cursor.execute("ALTER ROLE CURRENT_USER SET statement_timeout = 0")
        cursor.execute("ALTER ROLE CURRENT_USER PASSWORD 'mine'")
    pod.close()
    with pytest.raises(psycopg2.OperationalError):
        psycopg2.connect(settings.reporter_url)
    renew_reporter(Database(settings.dsn), settings)
    pod = psycopg2.connect(settings.reporter_url)
    with pod, pod.cursor() as cursor:
        cursor.execute("SELECT current_setting('default_transaction_read_only'), current_setting('statement_timeout')")
        assert cursor.fetchone() == ("off", "10s")
    pod.close()


# What a pod can do with the reporter's login, beyond reporting


FORBIDDEN = """
SELECT * FROM trials
SELECT * FROM studies
SELECT * FROM trial_params
SELECT * FROM trial_system_attributes
SELECT * FROM alembic_version
SELECT * FROM study_operator.access
SELECT * FROM study_operator.results
SELECT * FROM study_operator.schema_version
UPDATE trials SET state = 'COMPLETE'
INSERT INTO trials (study_id, number, state) VALUES (1, 99, 'RUNNING')
INSERT INTO trial_system_attributes (trial_id, key, value_json) VALUES (1, 'cma:optimizer', '"pickle"')
INSERT INTO study_operator.results VALUES (1, '{1}', false)
INSERT INTO study_operator.bad_reports VALUES (1, 1, 1, 'x')
UPDATE study_operator.access SET key_hash = NULL
DELETE FROM trials
TRUNCATE trials
DO $$ BEGIN LOCK TABLE public.trials; END $$
DROP TABLE trials
ALTER TABLE trials ADD COLUMN x int
CREATE INDEX ON trials (state)
SELECT nextval('trials_trial_id_seq')
SELECT study_operator.by_setting(1)
SELECT study_operator.store_result(NULL, '{1}', false, NULL, NULL, false)
SELECT * FROM study_operator.bad_reports
CREATE TABLE public.mine (x int)
CREATE TABLE study_operator.mine (x int)
CREATE TEMPORARY TABLE mine (x int)
CREATE VIEW public.mine AS SELECT 1
CREATE SCHEMA mine
CREATE FUNCTION public.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'
CREATE OR REPLACE FUNCTION study_operator.report(integer, bigint, double precision) RETURNS boolean LANGUAGE sql AS ''
CREATE FUNCTION pg_temp.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'
CREATE EXTENSION dblink
CREATE ROLE mine
CREATE DATABASE mine
ALTER SYSTEM SET work_mem = '1GB'
ALTER ROLE postgres PASSWORD 'mine'
SET ROLE postgres
SET SESSION AUTHORIZATION postgres
GRANT SELECT ON trials TO PUBLIC
SELECT * FROM pg_authid
SELECT * FROM pg_shadow
SELECT * FROM pg_largeobject
SELECT * FROM pg_statistic
SELECT * FROM pg_hba_file_rules
SELECT pg_read_file('/etc/passwd')
SELECT pg_ls_dir('.')
COPY trials TO STDOUT
COPY (SELECT 1) TO '/tmp/mine'
COPY (SELECT 1) TO PROGRAM 'cat'
DO LANGUAGE plpgsql $$ BEGIN PERFORM 1 FROM public.trials; END $$
SELECT lo_create(0)
SELECT lo_creat(-1)
SELECT lo_from_bytea(0, 'x')
SELECT lo_import('/etc/passwd')
SELECT lo_export(1, '/tmp/mine')
SELECT * FROM pg_stat_activity
SELECT pg_stat_get_backend_activity(1)
SELECT pg_terminate_backend(pg_backend_pid())
SELECT pg_cancel_backend(pg_backend_pid())
SELECT pg_reload_conf()
SELECT pg_switch_wal()
"""


def test_the_reporter_can_do_nothing_but_report(fresh):
    migrate(fresh.settings())  # here and not in a copied database, whose own rights are not copied with it
    trial = fresh.database.running_trial("key")
    connection = psycopg2.connect(fresh.settings().reporter_url, options="-c study_operator.key=key")
    connection.autocommit = True
    answers = {}
    with connection.cursor() as cursor:
        for statement in filter(None, FORBIDDEN.splitlines()):
            try:
                cursor.execute(statement)
                answers[statement] = "done"
            except psycopg2.Error as error:
                answers[statement] = error.pgcode
        cursor.execute("SELECT study_operator.report(%s, 1, 0.5)", (trial,))
        assert cursor.fetchone() == (False,)
        cursor.execute("SELECT count(*) FROM pg_stats WHERE schemaname IN ('public', 'study_operator')")
        assert cursor.fetchone() == (0,), "statistics hold values of the tables"
    connection.close()
    assert {statement: code for statement, code in answers.items() if code != "42501"} == {}

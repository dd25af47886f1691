"""The database's migration, and what the reporter may do in it afterwards."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing

import optuna
import psycopg2
import pytest
from database import KEY, TestDatabase, TrialPod, prove, settings_for
from faults import Died
from fresh import execute
from psycopg2 import sql
from waiting import until

from study_operator.storage.database import Database, StorageError
from study_operator.storage.migrate import OPTUNA_SCHEMA, REPORTING_SCHEMA, migrate
from study_operator.storage.reporter import Guard
from study_operator.storage.studies import Studies


async def test_operators_of_the_version_before_are_waited_for(fresh):
    """They end by themselves: until then, two that know nothing of each other would serve the same studies."""
    settings = fresh.settings()
    migrate(settings)
    fresh.execute("UPDATE study_operator.schema_version SET version = version - 1")
    earlier = Database(settings.dsn).connect()
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(migrate, settings) for _ in range(2)]  # one works, the other waits for its lock
        await until(lambda: _versions(fresh) == [REPORTING_SCHEMA - 1, REPORTING_SCHEMA])
        assert not wait(both, timeout=1).done
        earlier.close()
        for done in both:
            done.result(20)


def _versions(fresh) -> list[int]:
    found = fresh.database.query("SELECT version FROM study_operator.schema_version ORDER BY 1")
    return [version for (version,) in found]


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
        execute(services["database_url"], "DROP DATABASE {} WITH (FORCE)", name)
        execute(services["database_url"], "CREATE DATABASE {}", name)
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


def test_a_pod_that_holds_a_lock_for_ever_does_not_hold_up_a_migration(fresh):
    settings = fresh.settings()
    migrate(settings)
    trial = TrialPod(fresh.database, KEY, fresh.database.running_trial())
    message = trial.message("report", 1, 0.5)
    pod = psycopg2.connect(settings.reporter_url)
    with closing(pod), pod.cursor() as cursor:
        cursor.execute("SET idle_in_transaction_session_timeout = 0")
        cursor.execute("SELECT study_operator.submit(%s, %s)", (message, prove(KEY, message)))
        with ThreadPoolExecutor(1) as thread:
            thread.submit(migrate, settings).result(timeout=180)
        with pytest.raises(psycopg2.OperationalError):
            cursor.execute("SELECT 1")


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
    Guard(settings).renew()
    pod = psycopg2.connect(settings.reporter_url)
    with pod, pod.cursor() as cursor:
        cursor.execute("SELECT current_setting('default_transaction_read_only'), current_setting('statement_timeout')")
        assert cursor.fetchone() == ("off", "10s")
    pod.close()

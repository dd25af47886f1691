"""What the login of the trials API may do, and that it stays as it must be."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
from database import KEY, REPORTER_PASSWORD, SEED
from fresh import fresh_database
from psycopg2 import sql
from reading import READER_PASSWORD, Reading, reading_database
from waiting import until

from study_operator.controller import reporter_guard
from study_operator.settings import reader_dsn
from study_operator.storage.database import Database, StorageError, StorageUnavailable
from study_operator.storage.migrate import migrate
from study_operator.storage.readable_trials import ReadableTrials
from study_operator.storage.reader_login import heal_reader
from study_operator.storage.reader_pool import ReaderPool

ROOT = Path(__file__).resolve().parents[2]
# Statements that no walk finds. Each must be refused for want of a right.
FORBIDDEN = """
SELECT * FROM public.trials
SELECT * FROM public.trial_system_attributes
SELECT * FROM study_operator.access
SELECT * FROM study_operator.logins
SELECT * FROM study_operator.installation
SELECT study_operator.prune_changes(1)
SELECT study_operator.note_changes()
SELECT study_operator.submit('{}', '')
SELECT * FROM study_operator.here()
CREATE TABLE study_reading.mine (x int)
CREATE VIEW study_reading.mine AS SELECT 1
CREATE OR REPLACE VIEW study_reading.reports AS SELECT 1
CREATE TEMPORARY TABLE mine (x int)
CREATE TABLE public.mine (x int)
CREATE ROLE mine
SET ROLE postgres
SELECT * FROM pg_authid
SELECT pg_read_file('/etc/passwd')
COPY (SELECT 1) TO PROGRAM 'cat'
COPY study_reading.trials FROM STDIN
"""


@pytest.fixture(scope="module")
def reading(services) -> Iterator[Reading]:
    with reading_database(services["database_url"]) as opened:
        opened.database.running_trial(study_name="digits")
        yield opened


@pytest.fixture
def login(reading) -> Iterator[psycopg2.extensions.connection]:
    """A session of the reader that has lifted the limit of reading, which is a limit and no right."""
    with closing(psycopg2.connect(reading.dsn)) as opened:
        opened.autocommit = True
        opened.cursor().execute("SET default_transaction_read_only = off")
        yield opened


def attempt(login: psycopg2.extensions.connection, statement: str | sql.Composable) -> str:
    """The SQLSTATE of a statement, or `done`."""
    with login.cursor() as cursor:
        try:
            cursor.execute(statement)
        except psycopg2.Error as error:
            return str(error.pgcode)
    return "done"


def read(login: psycopg2.extensions.connection, statement: str) -> list[tuple]:
    with login.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall()


def test_what_needs_a_right_is_refused(login):
    answers = {statement: attempt(login, statement) for statement in filter(None, FORBIDDEN.splitlines())}
    assert {statement: code for statement, code in answers.items() if code != "42501"} == {}


def test_of_all_relations_it_reads_the_views(reading, login):
    relations = reading.database.query(
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname IN ('public', 'study_operator', 'study_reading') AND c.relkind IN ('r', 'p', 'v', 'm', 'S')"
    )
    done = []
    for schema, name in relations:
        for statement in (
            "SELECT * FROM {}",
            "INSERT INTO {} DEFAULT VALUES",
            "DELETE FROM {}",
            "TRUNCATE {}",
            "DROP TABLE {}",
        ):
            code = attempt(login, sql.SQL(statement).format(sql.Identifier(schema, name)))
            if code == "done":
                done.append((schema, name, statement))
            # An aggregate makes some views ones that nobody could write to, which is found before the right is.
            assert code in ("done", "42501", "55000", "42809"), (name, statement)
    views = {"changes", "numbers", "params", "reports", "studies", "trials"}
    assert sorted(done) == [("study_reading", name, "SELECT * FROM {}") for name in sorted(views)]


def test_of_our_functions_it_may_call_three(login):
    assert read(
        login,
        "SELECT n.nspname, p.proname FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace"
        " WHERE has_function_privilege(p.oid, 'EXECUTE') AND n.nspname NOT IN ('pg_catalog', 'information_schema')"
        " ORDER BY 2",
    ) == [("study_reading", name) for name in ("number_changes", "purge_study", "stop_trial")]


def test_the_views_tell_no_secret(reading, login):
    ((stored_hash, channel),) = reading.database.query(
        "SELECT encode(a.key_hash, 'hex'), i.channel FROM study_operator.access a, study_operator.installation i"
    )
    verifiers = reading.database.query("SELECT rolpassword FROM pg_authid WHERE rolpassword IS NOT NULL")
    secrets = [KEY, stored_hash, channel, SEED, REPORTER_PASSWORD, READER_PASSWORD, *(one for (one,) in verifiers)]
    for view in ("changes", "numbers", "params", "reports", "studies", "trials"):
        text = str(read(login, f"SELECT t::text FROM study_reading.{view} t"))
        assert [secret for secret in secrets if secret in text] == []


def test_it_owns_nothing_and_is_member_of_nothing(login):
    assert read(login, "SELECT FROM pg_shdepend WHERE refobjid = current_user::regrole AND deptype = 'o'") == []
    assert read(login, "SELECT FROM pg_auth_members WHERE member = current_user::regrole") == []
    ((*rights, most),) = read(
        login,
        "SELECT rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls, rolinherit, rolconnlimit"
        " FROM pg_roles WHERE rolname = current_user",
    )
    assert (rights, most) == ([False] * 6, 12)


def test_a_session_begins_with_limits(reading):
    with closing(psycopg2.connect(reading.dsn)) as opened:
        has_limits(opened)


def has_limits(opened: psycopg2.extensions.connection) -> None:
    names = "'statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout', 'idle_session_timeout'"
    found = read(opened, f"SELECT current_setting(n) FROM unnest(ARRAY[{names}]) n")
    assert [one for (one,) in found] == ["10s", "5s", "30s", "1min"]
    assert read(opened, "SHOW transaction_read_only") == [("on",)]
    opened.rollback()


@pytest.mark.parametrize(
    "change",
    [
        "ALTER ROLE {} PASSWORD 'another'",
        "ALTER ROLE {} CONNECTION LIMIT 1",
        "ALTER ROLE {} SET statement_timeout = 0",
        "ALTER ROLE {} RESET default_transaction_read_only",
        "REVOKE SELECT ON study_reading.trials FROM {}",
        "REVOKE USAGE ON SCHEMA study_reading FROM {}",
        "ALTER ROLE {} NOLOGIN",
    ],
)
def test_what_somebody_changes_is_made_good(reading, change):
    settings, database = reading.settings(), Database(reading.settings().dsn)
    assert heal_reader(database, settings) == ()
    reading.fresh.execute(change, sql.Identifier(reading.reader))
    assert heal_reader(database, settings) != ()
    assert heal_reader(database, settings) == ()
    pool = ReaderPool(reading.dsn)
    ReadableTrials(pool, "any").check()
    pool.close()


async def test_the_operator_looks_at_it_again_and_again(reading, monkeypatch):
    """And forgets old changes, both as the replica that leads."""
    monkeypatch.setattr(reporter_guard, "INTERVAL_SECONDS", 0.05)
    monkeypatch.setattr(reporter_guard, "_SECONDS_PER_LOGIN", 0.05)
    reading.trials.number()
    reading.database.query("UPDATE study_operator.numbered_changes SET at = at - interval '1 hour'")
    reading.fresh.execute("ALTER ROLE {} CONNECTION LIMIT 3", sql.Identifier(reading.reader))
    told: list[str] = []

    async def tell(text: str) -> None:
        told.append(text)

    asked = [False, False, False]  # whether it leads: at first it does not

    def leads() -> bool:
        return asked.pop() if asked else True

    watching = asyncio.create_task(reporter_guard.guard(reading.settings(), "cluster", leads, tell))
    try:
        await until(lambda: not asked or told)
        assert told == []
        await until(lambda: told)
    finally:
        watching.cancel()
    assert told[0].startswith("the login of the trials API was not as it must be, and has been set right: its CONN")
    assert reading.database.query("SELECT number FROM study_operator.numbered_changes") == []


def test_a_new_password_is_that_of_the_settings(reading):
    """As after `helm upgrade` with another Secret."""
    migrate(reading.settings())
    settings = reading.settings(READER_PASSWORD="another of the component tests")
    migrate(settings)
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(reading.dsn)
    migrate(reading.settings())
    psycopg2.connect(reading.dsn).close()


def test_where_no_role_may_be_made_an_administrator_makes_it(services):
    """By docs/install.md. The migration gives it its rights, as a login that is no superuser."""
    with fresh_database(services["database_url"]) as fresh:
        reader = f"{fresh.database.name}_reader"
        fresh.create_role(fresh.operator)
        fresh.create_role(fresh.reporter)
        owner = sql.Identifier(fresh.operator)
        fresh.execute("ALTER DATABASE {} OWNER TO {}", sql.Identifier(fresh.database.name), owner)
        given = {"READER_USER": reader, "READER_PASSWORD": "given"}
        settings = fresh.settings(fresh.operator, MANAGE_REPORTER="false", **given)
        with pytest.raises(StorageError, match="MANAGE_REPORTER=false an administrator creates that login"):
            migrate(settings)
        blocks = re.findall(r"```sql\n(.*?)```", (ROOT / "docs/install.md").read_text(), re.DOTALL)
        (text,) = [block for block in blocks if "CREATE ROLE study_reader" in block]
        text = text.replace("study_operator", fresh.operator).replace("study_reader", reader)
        fresh.database.query(text.replace("'...'", "'given'"))
        try:
            migrate(settings)
            with closing(psycopg2.connect(reader_dsn({"DATABASE_URL": fresh.database.url, **given}))) as login:
                has_limits(login)
                login.autocommit = True
                login.cursor().execute("SET default_transaction_read_only = off")
                test_what_needs_a_right_is_refused(login)
                test_of_our_functions_it_may_call_three(login)
            pool = ReaderPool(reader_dsn({"DATABASE_URL": fresh.database.url, **given}))
            ReadableTrials(pool, "any").check()
            pool.close()
            assert heal_reader(Database(settings.dsn), settings) == ()
        finally:
            fresh.execute("DROP OWNED BY {}", sql.Identifier(reader))
            fresh.execute("DROP ROLE {}", sql.Identifier(reader))


def test_connections_are_bounded_and_waited_for(reading, monkeypatch):
    monkeypatch.setattr("study_operator.storage.reader_pool._WAIT_SECONDS", 0.05)
    pool = ReaderPool(reading.dsn, size=1)
    with pool.lend(), pytest.raises(StorageUnavailable, match="try again"), pool.lend():
        pass
    with pool.lend() as opened, opened, opened.cursor() as cursor:
        cursor.execute("SELECT 1")
    pool.close()


def test_a_connection_that_the_server_has_ended_is_replaced(reading):
    pool = ReaderPool(reading.dsn, size=1)
    trials = ReadableTrials(pool, "any")
    trials.check()
    reading.database.query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s AND pid <> pg_backend_pid()",
        reading.reader,
    )
    with pytest.raises(StorageUnavailable):
        trials.check()
    trials.check()
    pool.close()


def test_a_question_that_takes_too_long_says_so(reading):
    pool = ReaderPool(reading.dsn, statement_seconds=0.05)
    with pytest.raises(StorageError, match="takes too long"), pool.lend() as opened:  # noqa: SIM117
        with opened, opened.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(10)")
    ReadableTrials(pool, "any").check()
    pool.close()

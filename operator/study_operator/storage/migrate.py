"""Creates and migrates what the database must hold: Optuna's tables, and the reporting schema beside them."""

from __future__ import annotations

import logging
import time
from importlib import resources

import optuna
import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection, cursor, encrypt_password, quote_ident
from sqlalchemy.exc import DBAPIError

from study_operator.settings import Settings
from study_operator.storage.database import Database, StorageError, StorageUnavailable

# The revision of Optuna's tables that reporting.sql and trials.py were written for and are tested with.
OPTUNA_SCHEMA = "v3.2.0.a"
REPORTING_SCHEMA = 3
# Any number that no other program takes in this database; it spells "study" in ASCII.
ADVISORY_LOCK = 0x7374756479

log = logging.getLogger(__name__)


def migrate(settings: Settings, patience: float = 600.0) -> None:
    """Brings the database to the state that `study-operator run` needs. May be run any number of times, and
    by several processes at once: one works, the others wait.

    Args:
        patience: how long to wait for a database that does not answer, in seconds.

    Raises:
        StorageUnavailable: when the database does not answer in that time.
        StorageError: when it holds something that this version must not touch, or the login lacks a right.
    """
    database = Database(settings.dsn)
    lock = _connect_patiently(database, patience)
    try:
        with lock, lock.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", (ADVISORY_LOCK,))
            check_versions(cursor, may_be_empty=True)
        try:
            _create_optuna_tables(database)
            with lock, lock.cursor() as cursor:
                if settings.manage_reporter:
                    _manage_reporter(cursor, settings)
                _restrict_public(cursor, settings.reporter_user)
                _apply_reporting_schema(cursor, settings.reporter_user)
        except psycopg2.errors.InsufficientPrivilege as error:
            raise StorageError(
                f"the operator's database login lacks a right: {error.diag.message_primary}. Make it the owner of "
                "the database, or prepare the reporter's login as docs/install.md says and set MANAGE_REPORTER=false"
            ) from None
        except psycopg2.errors.UndefinedObject as error:
            raise StorageError(
                f"{error.diag.message_primary}. With MANAGE_REPORTER=false an administrator creates that login "
                "first: see docs/install.md"
            ) from None
    finally:
        lock.close()  # ends the advisory lock too
    log.info("the database is ready: Optuna's tables %s, reporting schema %d", OPTUNA_SCHEMA, REPORTING_SCHEMA)


def check_versions(cursor: cursor, may_be_empty: bool = False) -> None:
    """Refuses a database whose tables are not those that this version knows.

    Raises:
        StorageError: saying which version was found, which is needed, and what to do.
    """
    cursor.execute("SELECT to_regclass('public.alembic_version'), to_regclass('study_operator.schema_version')")
    optuna_table, reporting_table = cursor.fetchone()
    found = None
    if optuna_table:
        cursor.execute("SELECT version_num FROM public.alembic_version")
        found = ", ".join(row[0] for row in cursor.fetchall()) or None
    if found != OPTUNA_SCHEMA and not (found is None and may_be_empty):
        raise StorageError(
            f"the database's Optuna tables have version {found}, this operator is tested with {OPTUNA_SCHEMA}. "
            "Run `study-operator migrate` on a new database, upgrade an older one with `optuna storage upgrade`, "
            "or give the operator a database of its own (MLflow's alembic_version table clashes with Optuna's)"
        )
    version = 0
    if reporting_table:
        cursor.execute("SELECT coalesce(max(version), 0) FROM study_operator.schema_version")
        (version,) = cursor.fetchone()
    if version > REPORTING_SCHEMA:
        raise StorageError(
            f"the database's study_operator schema has version {version}, newer than this operator's "
            f"{REPORTING_SCHEMA}: a newer operator has run here. Install that version again, or restore a backup"
        )
    if version < REPORTING_SCHEMA and not may_be_empty:
        raise StorageError(
            f"the database's study_operator schema has version {version}, this operator needs {REPORTING_SCHEMA}: "
            "run `study-operator migrate`"
        )


def _connect_patiently(database: Database, patience: float) -> connection:
    deadline = time.monotonic() + patience
    while True:
        try:
            return database.connect()
        except StorageUnavailable as error:
            left = deadline - time.monotonic()
            if left <= 0:
                raise
            log.info("waiting for the database, %d s more at most: %s", left, error)
            time.sleep(min(2.0, left))


def renew_reporter(database: Database, settings: Settings) -> None:
    """Makes good what a pod may have done to the role that it shares with the others: PostgreSQL lets every login
    change its own password and settings.

    Raises:
        StorageUnavailable: when the database does not answer.
        StorageError: when the role cannot be changed: the login has lost the right, or somebody else is changing it.
    """
    try:
        with database.transaction() as cursor:
            _manage_reporter(cursor, settings)
    except StorageError as error:
        raise StorageError(f"the login {settings.reporter_user} could not be renewed: {error}") from None


def _create_optuna_tables(database: Database) -> None:
    """Optuna's own code creates its tables and stamps their version."""
    try:
        storage = optuna.storages.RDBStorage(
            "postgresql+psycopg2://", engine_kwargs={"creator": database.connect, "pool_size": 1}
        )
    except DBAPIError as error:
        raise error.orig from None
    storage.engine.dispose()


def _manage_reporter(cursor: cursor, settings: Settings) -> None:
    """Creates the reporter's login, or sets its password and limits anew."""
    role = sql.Identifier(settings.reporter_user)
    # The verifier is computed here, so that the password itself never reaches the server's log.
    verifier = encrypt_password(settings.reporter_password, settings.reporter_user, cursor.connection, "scram-sha-256")
    cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (settings.reporter_user,))
    verb = sql.SQL("ALTER" if cursor.fetchone() else "CREATE")
    cursor.execute(sql.SQL("{} ROLE {} WITH LOGIN NOINHERIT PASSWORD {}").format(verb, role, sql.Literal(verifier)))
    cursor.execute(sql.SQL("ALTER ROLE {} RESET ALL").format(role))
    # A pod that hangs, on purpose or not, must not hold locks or connections for long.
    for name, value in {
        "statement_timeout": "10s",
        "lock_timeout": "5s",
        "idle_in_transaction_session_timeout": "10s",
        "idle_session_timeout": "60s",
    }.items():
        cursor.execute(sql.SQL("ALTER ROLE {} SET {} = {}").format(role, sql.Identifier(name), sql.Literal(value)))


# What PUBLIC may execute and only a superuser can revoke: watching and ending other connections of the same role, and
# large objects, which would fill the disk.
_FUNCTIONS = """
    pg_stat_get_activity(int), pg_stat_get_backend_activity(int), pg_terminate_backend(int, bigint),
    pg_cancel_backend(int), lo_create(oid), lo_creat(int), lo_from_bytea(oid, bytea), lo_import(text),
    lo_import(text, oid)
"""


def _restrict_public(cursor: cursor, reporter: str) -> None:
    """Takes from PUBLIC, and so from the reporter, what PostgreSQL gives everybody, as far as this login's rights go;
    of the rest the administrator is told."""
    cursor.execute(
        "SELECT current_database(), pg_has_role(d.datdba, 'USAGE'), pg_has_role(n.nspowner, 'USAGE'),"
        " (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)"
        " FROM pg_database d, pg_namespace n WHERE d.datname = current_database() AND n.nspname = 'public'"
    )
    name, owns_database, owns_schema, superuser = cursor.fetchone()
    role, database = sql.Identifier(reporter), sql.Identifier(name)
    if owns_database:
        cursor.execute(sql.SQL("REVOKE TEMPORARY ON DATABASE {} FROM PUBLIC").format(database))
        cursor.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(database, role))
    if owns_schema:
        cursor.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    if superuser:
        cursor.execute(f"REVOKE EXECUTE ON FUNCTION {_FUNCTIONS} FROM PUBLIC")
    if not (owns_database and owns_schema and superuser):
        log.warning("not all rights of PUBLIC could be revoked; docs/install.md has the SQL for an administrator")


def _apply_reporting_schema(cursor: cursor, reporter: str) -> None:
    text = resources.files(__package__).joinpath("reporting.sql").read_text(encoding="utf-8")
    # psql's notation for an identifier, so that an administrator can run the file by hand as well.
    cursor.execute(text.replace(':"reporter"', quote_ident(reporter, cursor)))
    cursor.execute(
        "INSERT INTO study_operator.schema_version (version) SELECT %s"
        " WHERE NOT EXISTS (SELECT FROM study_operator.schema_version WHERE version = %s)",
        (REPORTING_SCHEMA, REPORTING_SCHEMA),
    )

"""Create and migrate the tables and functions in the database: Optuna's tables, and the operator's own schema."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from importlib import resources

import psycopg2
from psycopg2.extensions import connection, cursor, quote_ident

from study_operator.settings import Settings
from study_operator.storage.blockers import without_blockers
from study_operator.storage.database import Database, StorageError, StorageUnavailable, one_row
from study_operator.storage.logins import let_pooler_ask, prepare_logins
from study_operator.storage.predecessors import wait_for_earlier_operators
from study_operator.storage.public_rights import restrict_public
from study_operator.storage.reader_login import note_changes, prepare_reader

# The revision of Optuna's tables that the .sql files and this package are written for and tested with.
OPTUNA_SCHEMA = "v3.2.0.a"
# The version of the schema study_operator. An operator does not run with another version than its own.
REPORTING_SCHEMA = 3
# The lock that one migration at a time holds. The number spells "study" in ASCII; no other program may use it here.
ADVISORY_LOCK = 0x7374756479

log = logging.getLogger(__name__)


def migrate(settings: Settings, patience: float = 600.0) -> None:
    """Bring the database to the state that `study-operator run` needs.

    May be run any number of times, and by several processes at once: one works while the others wait for it.

    Args:
        settings: the database, and the reporter's login.
        patience: how long to wait for a database that does not answer, in seconds.

    Raises:
        StorageUnavailable: when the database does not answer in that time.
        StorageError: when the tables have a version that this operator must not touch, or the operator's login lacks
            a right, or the reporter's login does not exist and the operator may not create it.
    """
    database = Database(settings.dsn)
    lock = _connect_patiently(database, patience)
    try:
        with lock, lock.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", (ADVISORY_LOCK,))
            before = check_versions(cursor, may_be_empty=True)
        try:
            with without_blockers(database, settings.reporter_user, settings.reader_user):
                _create_optuna_tables(database)
                _apply(lock, settings)
                note_changes(lock, settings)
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
        if 0 < before < REPORTING_SCHEMA:
            wait_for_earlier_operators(lock)
    finally:
        lock.close()  # ends the advisory lock too
    log.info("the database is ready: Optuna's tables %s, reporting schema %d", OPTUNA_SCHEMA, REPORTING_SCHEMA)


def _apply(connection: connection, settings: Settings) -> None:
    """Create or renew everything beside Optuna's tables, in one transaction.

    Raises:
        StorageError: as `migrate`.
        psycopg2.Error: when the database refuses.
    """
    limits = settings.limits
    with connection, connection.cursor() as cursor:
        _run_file(cursor, "tables.sql")
        _run_file(cursor, "identity.sql")
        grantees = prepare_logins(cursor, settings)
        restrict_public(cursor, settings.reporter_user)
        _apply_reporting_schema(cursor, grantees)
        prepare_reader(cursor, settings)
        if settings.pooler_user:
            let_pooler_ask(cursor, settings.pooler_user)
        cursor.execute(
            "UPDATE study_operator.limits SET (reports_per_trial, bytes_per_study, bytes_per_namespace) = (%s, %s, %s)",
            (limits.reports_per_trial, limits.bytes_per_study, limits.bytes_per_namespace),
        )


def check_versions(cursor: cursor, may_be_empty: bool = False) -> int:
    """Refuse a database whose tables have other versions than this operator knows.

    Args:
        cursor: a transaction in the database.
        may_be_empty: accept a database without tables, and one whose schema study_operator is older.

    Returns:
        The version of the schema study_operator, 0 when there is none.

    Raises:
        StorageError: when a version does not fit. The message names the version that was found, the version that is
            needed, and what to do.
    """
    cursor.execute("SELECT to_regclass('public.alembic_version'), to_regclass('study_operator.schema_version')")
    optuna_table, reporting_table = one_row(cursor)
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
        (version,) = one_row(cursor)
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
    return version


def _connect_patiently(database: Database, patience: float) -> connection:
    """Connect to the database, and try again for so many seconds when it cannot be reached.

    Raises:
        StorageUnavailable: when it still cannot be reached then.
    """
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


def _create_optuna_tables(database: Database) -> None:
    """Let Optuna's own code create its tables and note their version.

    Optuna is imported here, because a process that serves Studies must not: it checks the tables' version, too.

    Raises:
        psycopg2.Error: when the database refuses, for example because the operator's login lacks a right.
        StorageUnavailable: when the database cannot be reached.
    """
    import optuna
    from sqlalchemy.exc import DBAPIError

    try:
        storage = optuna.storages.RDBStorage(
            "postgresql+psycopg2://", engine_kwargs={"creator": database.connect, "pool_size": 1}
        )
    except DBAPIError as error:
        raise (error if error.orig is None else error.orig) from None
    storage.engine.dispose()


def _apply_reporting_schema(cursor: cursor, grantees: Sequence[str]) -> None:
    """Create the functions, let these roles connect and report, and note the schema's version."""
    # The files have psql's notation for an identifier, so that an administrator can run them by hand as well.
    roles = ", ".join(quote_ident(role, cursor) for role in grantees)
    _run_file(cursor, "reporting.sql", roles)
    _run_file(cursor, "mirror.sql")
    _run_file(cursor, "reading.sql")
    _run_file(cursor, "wishes.sql")
    cursor.execute(
        "SELECT quote_ident(datname), pg_has_role(datdba, 'USAGE') FROM pg_database WHERE datname = current_database()"
    )
    name, is_owner = one_row(cursor)
    if is_owner:
        cursor.execute(f"GRANT CONNECT ON DATABASE {name} TO {roles}")
    cursor.execute(
        "INSERT INTO study_operator.schema_version (version) SELECT %s"
        " WHERE NOT EXISTS (SELECT FROM study_operator.schema_version WHERE version = %s)",
        (REPORTING_SCHEMA, REPORTING_SCHEMA),
    )


def _run_file(cursor: cursor, name: str, reporters: str = "") -> None:
    """Run a .sql file of this package. The order is tables, identity, reporting, mirror, reading, wishes."""
    text = resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
    cursor.execute(text.replace(':"reporter"', reporters) if reporters else text)

"""The reader: the login by which the trials API reads what people may see, and nothing else.

Its password is known to the trials API alone, and not to any pod of a tenant. All the same it is kept as the logins of
trials' pods are: PostgreSQL lets every login change its own password and lift its own limits.
"""

from __future__ import annotations

import logging

from psycopg2 import sql
from psycopg2.extensions import connection, cursor

from study_operator.settings import Settings
from study_operator.storage.database import Database, one_row
from study_operator.storage.roles import (
    Login,
    changes,
    end_sessions_of,
    has_known_verifier,
    is_superuser,
    opens,
    set_role,
    verifier,
)

# People who read must not hold connections, locks or old rows for long. Two replicas and a third in a rolling update.
LIMITS = {
    "statement_timeout": "10s",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "30s",
    "idle_session_timeout": "60s",
    "default_transaction_read_only": "on",
}
CONNECTIONS = 12
# What it may execute: it numbers changes, and notes what people wish for. Nothing else of its writes.
_FUNCTIONS = (
    "study_reading.number_changes()",
    "study_reading.stop_trial(text, integer, text, text)",
    "study_reading.purge_study(text, integer, text)",
)
# The log of changes is pruned in so many pieces at most, each time that it is looked at.
_PIECE, _PIECES = 10_000, 20

log = logging.getLogger(__name__)


def prepare_reader(cursor: cursor, settings: Settings) -> None:
    """Create the reader and give it its rights. Do nothing if there is no trials API.

    Args:
        cursor: the migration's transaction, after wishes.sql.
        settings: the reader's name and password, and whether roles are the operator's to make.

    Raises:
        psycopg2.Error: when the database refuses, for example because there is no such role and none may be created.
    """
    if settings.reader_password is None:
        return
    if settings.manage_reporter:
        set_role(cursor, _login(settings, settings.reader_password), CONNECTIONS, own=LIMITS)
    _grant(cursor, settings.reader_user)


def note_changes(connection: connection, settings: Settings) -> None:
    """Let changes be noted from now on. Do nothing if there is no trials API.

    Args:
        connection: the migration's, after its own transaction.
        settings: say whether there is one.

    Raises:
        psycopg2.Error: when the database refuses.
    """
    if settings.reader_password is None:
        return
    made = True
    while made:
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT study_operator.note_changes()")
            (made,) = one_row(cursor)
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT study_operator.prune_changes(%s)", (_PIECE,))


def prune_changes(database: Database) -> None:
    """Forget changes that are older than ten minutes, and let changes be noted for another hour.

    Raises:
        StorageUnavailable, StorageError: as `Database.transaction`.
    """
    for _ in range(_PIECES):
        with database.transaction() as cursor:
            cursor.execute("SELECT study_operator.prune_changes(%s)", (_PIECE,))
            if not one_row(cursor)[0]:
                return


def heal_reader(database: Database, settings: Settings) -> tuple[str, ...]:
    """Set the reader right if it is not as it must be: password, limits, settings and rights.

    Returns:
        How it differed, in words; empty if it did not.

    Raises:
        StorageUnavailable, StorageError: as `Database.transaction`.
    """
    if settings.reader_password is None or not settings.manage_reporter:
        return ()
    login = _login(settings, settings.reader_password)
    with database.transaction() as cursor:
        told = changes(cursor, {login.user: CONNECTIONS}, LIMITS)[login.user]
        if not told and not _has_rights(cursor, login.user):
            told.append("it lacks a right")
        compared = is_superuser(cursor) and has_known_verifier(login)
        if compared:
            cursor.execute("SELECT rolpassword FROM pg_authid WHERE rolname = %s", (login.user,))
            if cursor.fetchone() != (verifier(cursor, login),):
                told.append("its password is another")
    if not told and not compared and not opens(settings.dsn, login):
        told.append("its password is another")
    if told:
        log.warning("the login of the trials API (%s) was not as it must be: %s", login.user, "; ".join(told))
        with database.transaction() as cursor:
            set_role(cursor, login, CONNECTIONS, own=LIMITS)
            _grant(cursor, login.user)
        with database.transaction() as cursor:
            end_sessions_of(cursor, login.user)
    return tuple(told)


def _login(settings: Settings, password: str) -> Login:
    return Login(settings.reader_user, password)


def _grant(cursor: cursor, reader: str) -> None:
    """Give the reader the views and the functions, and take everything else that the operator's login has given."""
    cursor.execute(
        "SELECT current_database(), pg_has_role(datdba, 'USAGE') FROM pg_database WHERE datname = current_database()"
    )
    name, is_owner = one_row(cursor)
    names = {"reader": sql.Identifier(reader), "database": sql.Identifier(name)}
    for right in (
        "REVOKE ALL ON ALL TABLES IN SCHEMA public, study_operator, study_reading FROM {reader}",
        "REVOKE ALL ON ALL FUNCTIONS IN SCHEMA study_operator, study_reading FROM {reader}",
        "REVOKE ALL ON SCHEMA study_operator FROM {reader}",
        *(["GRANT CONNECT ON DATABASE {database} TO {reader}"] if is_owner else []),
        "GRANT USAGE ON SCHEMA study_reading TO {reader}",
        "GRANT SELECT ON ALL TABLES IN SCHEMA study_reading TO {reader}",
        f"GRANT EXECUTE ON FUNCTION {', '.join(_FUNCTIONS)} TO {{reader}}",
    ):
        cursor.execute(sql.SQL(right).format(**names))


def _has_rights(cursor: cursor, reader: str) -> bool:
    """Return whether the reader may select from every view and call the functions."""
    cursor.execute(
        "SELECT bool_and(has_table_privilege(r.oid, c.oid, 'SELECT'))"
        " AND (SELECT bool_and(has_function_privilege(r.oid, f, 'EXECUTE')) FROM unnest(%s) f)"
        " AND has_schema_privilege(r.oid, 'study_reading', 'USAGE')"
        " FROM pg_roles r, pg_class c WHERE r.rolname = %s AND c.relnamespace = 'study_reading'::regnamespace"
        " GROUP BY r.oid",
        ([*_FUNCTIONS], reader),
    )
    return cursor.fetchone() == (True,)

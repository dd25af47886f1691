"""The rights that PostgreSQL gives to every login (PUBLIC), and that trials' pods must not have."""

from __future__ import annotations

import logging

from psycopg2 import sql
from psycopg2.extensions import cursor

from study_operator.storage.database import one_row
from study_operator.storage.roles import is_superuser

# Functions that PUBLIC may execute unless a superuser revokes it. By them a pod could watch and end other pods'
# connections, fill the disk with large objects or messages in the write-ahead log, or take locks that the operator
# waits for.
FUNCTIONS = (
    r"^(pg_stat_get_activity|pg_stat_get_backend_activity|pg_terminate_backend|pg_cancel_backend"
    r"|lo_create|lo_creat|lo_from_bytea|lo_import|pg_logical_emit_message|pg_(try_)?advisory_(xact_)?lock(_shared)?)$"
)
# Databases that every server has, and no trial needs.
_MAINTENANCE = ("postgres", "template1")

log = logging.getLogger(__name__)


def restrict_public(cursor: cursor, reporter: str) -> None:
    """Revoke from PUBLIC, and so from trials' pods, what the operator's own login may revoke.

    Logs one warning that names the rights that are left, if any are.

    Args:
        cursor: a transaction of the operator's own login.
        reporter: a login of trials' pods.

    Raises:
        psycopg2.Error: when the database refuses.
    """
    cursor.execute(
        "SELECT current_database(), pg_has_role(d.datdba, 'USAGE'), pg_has_role(n.nspowner, 'USAGE')"
        " FROM pg_database d, pg_namespace n WHERE d.datname = current_database() AND n.nspname = 'public'"
    )
    name, owns_database, owns_schema = one_row(cursor)
    if owns_database:
        cursor.execute(sql.SQL("REVOKE TEMPORARY ON DATABASE {} FROM PUBLIC").format(sql.Identifier(name)))
    if owns_schema:
        cursor.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    if is_superuser(cursor):
        if functions := _open_functions(cursor):
            cursor.execute(f"REVOKE EXECUTE ON FUNCTION {', '.join(functions)} FROM PUBLIC")
        for database in _open_databases(cursor):
            if database in _MAINTENANCE:
                cursor.execute(sql.SQL("REVOKE CONNECT ON DATABASE {} FROM PUBLIC").format(sql.Identifier(database)))
    left = rights_left(cursor)
    if left:
        log.warning(
            "every login of the server may still %s; docs/install.md has the SQL for an administrator", "; ".join(left)
        )
    cursor.execute(
        "SELECT current_setting('max_prepared_transactions'),"
        " (SELECT pg_has_role(current_user, oid, 'USAGE') FROM pg_roles WHERE rolname = %s)",
        (reporter,),
    )
    prepared, member = one_row(cursor)
    if prepared != "0":
        log.warning("the server allows prepared transactions, whose locks outlive their session: docs/security.md")
    if member is False:
        log.warning(
            "the operator's login may not end sessions of %s that hold locks or connections for too long; an "
            "administrator lets it by GRANT %s TO the operator's login: docs/install.md",
            reporter,
            reporter,
        )


def rights_left(cursor: cursor) -> list[str]:
    """Return what PUBLIC may do although no trial needs it, in words; empty where an administrator has revoked all."""
    left = []
    if functions := _open_functions(cursor):
        names = sorted({name.partition("(")[0] for name in functions})
        left.append(f"execute {', '.join(names)}")
    cursor.execute(
        "SELECT has_database_privilege('public', current_database(), 'TEMPORARY'),"
        " has_schema_privilege('public', 'public', 'CREATE')"
    )
    temporary, create = one_row(cursor)
    if temporary:
        left.append("create temporary tables")
    if create:
        left.append("create tables in schema public")
    if databases := _open_databases(cursor):
        left.append(f"connect to {', '.join(databases)}")
    return left


def _open_functions(cursor: cursor) -> list[str]:
    """Return the signatures of those functions that PUBLIC may execute."""
    cursor.execute(
        "SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace"
        " AND proname ~ %s AND has_function_privilege('public', oid, 'EXECUTE') ORDER BY 1",
        (FUNCTIONS,),
    )
    return [name for (name,) in cursor.fetchall()]


def _open_databases(cursor: cursor) -> list[str]:
    """Return the other databases of the server that PUBLIC may connect to."""
    cursor.execute(
        "SELECT datname FROM pg_database WHERE datname <> current_database() AND datallowconn"
        " AND has_database_privilege('public', oid, 'CONNECT') ORDER BY 1"
    )
    return [name for (name,) in cursor.fetchall()]

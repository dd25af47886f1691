"""The login that all trials' pods share: its limits, what is taken from it, and what it can give itself again.

PostgreSQL lets every login change its own password and settings, and each of its sessions lift the limits that the
settings are. So the operator looks every few seconds: `Guard`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
from typing import NamedTuple

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import cursor, encrypt_password, make_dsn

from study_operator.settings import Settings
from study_operator.storage.database import Database, StorageError

# A pod that hangs, on purpose or not, must not hold locks or connections for long.
LIMITS = {
    "statement_timeout": "10s",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "10s",
    "idle_session_timeout": "60s",
}
# These only a superuser can set, and a session cannot lift them. What a pod sends, and fails, fills no log: each
# refusal is counted instead, and the pod is told.
_SUPERUSERS_LIMITS = {"log_min_messages": "fatal", "log_min_error_statement": "panic", "temp_file_limit": "65536"}
# A session breaks the limits, and is ended, after so many seconds; reports take milliseconds.
LONGEST_TRANSACTION, LONGEST_IDLE = 20, 120
_ITERATIONS = 4096  # PostgreSQL's default
# What PUBLIC may execute and only a superuser can revoke: watching and ending other connections of the same role; large
# objects and messages in the write-ahead log, which fill the disk; locks that the operator's own work waits for.
_FUNCTIONS = (
    r"^(pg_stat_get_activity|pg_stat_get_backend_activity|pg_terminate_backend|pg_cancel_backend"
    r"|lo_create|lo_creat|lo_from_bytea|lo_import|pg_logical_emit_message|pg_(try_)?advisory_(xact_)?lock(_shared)?)$"
)

log = logging.getLogger(__name__)


def manage_reporter(cursor: cursor, settings: Settings) -> None:
    """Creates the reporter's login, or sets its password and limits anew."""
    role = sql.Identifier(settings.reporter_user)
    # The verifier is computed here, so that the password itself never reaches the server's log.
    verifier = _verifier(cursor, settings.reporter_user, settings.reporter_password)
    cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (settings.reporter_user,))
    verb = sql.SQL("ALTER" if cursor.fetchone() else "CREATE")
    cursor.execute(
        sql.SQL("{} ROLE {} WITH LOGIN NOINHERIT CONNECTION LIMIT {} PASSWORD {}").format(
            verb, role, sql.Literal(_connections(cursor)), sql.Literal(verifier)
        )
    )
    cursor.execute(sql.SQL("ALTER ROLE {} RESET ALL").format(role))
    superuser = _is_superuser(cursor)
    for name, value in (LIMITS | (_SUPERUSERS_LIMITS if superuser else {})).items():
        cursor.execute(sql.SQL("ALTER ROLE {} SET {} = {}").format(role, sql.Identifier(name), sql.Literal(value)))
    cursor.execute("SELECT pg_has_role(current_user, %s, 'USAGE')", (settings.reporter_user,))
    if not cursor.fetchone()[0]:  # who has the role may see and end its sessions
        cursor.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(role))


def restrict_public(cursor: cursor, reporter: str) -> None:
    """Takes from PUBLIC, and so from the reporter, what PostgreSQL gives everybody, as far as this login's rights go;
    of the rest the administrator is told."""
    cursor.execute(
        "SELECT current_database(), pg_has_role(d.datdba, 'USAGE'), pg_has_role(n.nspowner, 'USAGE')"
        " FROM pg_database d, pg_namespace n WHERE d.datname = current_database() AND n.nspname = 'public'"
    )
    name, owns_database, owns_schema = cursor.fetchone()
    role, database = sql.Identifier(reporter), sql.Identifier(name)
    if owns_database:
        cursor.execute(sql.SQL("REVOKE TEMPORARY ON DATABASE {} FROM PUBLIC").format(database))
        cursor.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(database, role))
    if owns_schema:
        cursor.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    superuser = _is_superuser(cursor)
    if superuser:
        cursor.execute(
            "SELECT string_agg(oid::regprocedure::text, ', ') FROM pg_proc"
            " WHERE pronamespace = 'pg_catalog'::regnamespace AND proname ~ %s",
            (_FUNCTIONS,),
        )
        cursor.execute(f"REVOKE EXECUTE ON FUNCTION {cursor.fetchone()[0]} FROM PUBLIC")
    if not (owns_database and owns_schema and superuser):
        log.warning("not all rights of PUBLIC could be revoked; docs/install.md has the SQL for an administrator")
    cursor.execute(
        "SELECT current_setting('max_prepared_transactions'), pg_has_role(current_user, %s, 'USAGE')", (reporter,)
    )
    prepared, member = cursor.fetchone()
    if prepared != "0":
        log.warning("the server allows prepared transactions, whose locks outlive their session: docs/security.md")
    if not member:
        log.warning(
            "the operator's login may not end sessions of %s that hold locks or connections for too long; an "
            "administrator lets it by GRANT %s TO the operator's login: docs/install.md",
            reporter,
            reporter,
        )


def renew_reporter(database: Database, settings: Settings) -> None:
    """Makes good what a pod may have done to the role that it shares with the others.

    Raises:
        StorageUnavailable: when the database does not answer.
        StorageError: when the role cannot be changed: the login has lost the right, or somebody else is changing it.
    """
    try:
        with database.transaction() as cursor:
            manage_reporter(cursor, settings)
    except StorageError as error:
        raise StorageError(f"the login {settings.reporter_user} could not be renewed: {error}") from None


class Ended(NamedTuple):
    """A session that was ended: its client's address, and why."""

    address: str
    why: str


class Guard:
    """Watches the reporter's login, in every database of the server. Methods block; call them from one thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._database = Database(settings.dsn)

    def end_sessions(self) -> list[Ended]:
        """Ends the sessions that have lifted a limit, or hold a lock of a kind that no report needs.

        Raises:
            StorageUnavailable: when the database does not answer.
            StorageError: when the operator's login may not see or end them.
        """
        with self._database.transaction() as cursor:
            cursor.execute(
                "WITH session AS (SELECT pid, coalesce(host(client_addr), 'the server itself') AS address, CASE"
                " WHEN state <> 'idle'"
                " AND least(xact_start, query_start) < clock_timestamp() - %(busy)s * interval '1 s'"
                " THEN 'a transaction of more than ' || %(busy)s || ' s'"
                " WHEN state = 'idle' AND state_change < clock_timestamp() - %(idle)s * interval '1 s'"
                " THEN 'been idle for more than ' || %(idle)s || ' s'"
                " WHEN EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.locktype = 'advisory')"
                " THEN 'an advisory lock' END AS why"
                " FROM pg_stat_activity a WHERE usename = %(role)s)"
                " SELECT address, why FROM session WHERE why IS NOT NULL AND pg_terminate_backend(pid)",
                {"role": self._settings.reporter_user, "busy": LONGEST_TRANSACTION, "idle": LONGEST_IDLE},
            )
            return [Ended(*row) for row in cursor.fetchall()]

    def is_changed(self) -> bool:
        """Whether somebody has changed the role's password or limits.

        Raises:
            StorageUnavailable, StorageError: as their names say.
        """
        with self._database.transaction() as cursor:
            cursor.execute(
                "SELECT rolconfig, rolconnlimit, rolcanlogin FROM pg_roles WHERE rolname = %s",
                (self._settings.reporter_user,),
            )
            found = cursor.fetchone()
            expected = {f"{name}={value}" for name, value in LIMITS.items()}
            if _is_superuser(cursor):
                expected |= {f"{name}={value}" for name, value in _SUPERUSERS_LIMITS.items()}
            if found is None or (set(found[0] or ()), found[1], found[2]) != (expected, _connections(cursor), True):
                return True
        try:
            psycopg2.connect(self._own_login()).close()
        except psycopg2.OperationalError as error:
            # Other reasons not to be let in are not in the role. libpq keeps no SQLSTATE of this, only the words.
            return "password authentication failed" in str(error)
        return False

    def renew(self) -> None:
        """As `renew_reporter`."""
        renew_reporter(self._database, self._settings)

    def _own_login(self) -> str:
        """Where the operator connects, as a pod."""
        login = {"user": self._settings.reporter_user, "password": self._settings.reporter_password}
        return make_dsn(self._settings.dsn, **login, application_name="study-operator-guard")


def _verifier(cursor: cursor, role: str, password: str) -> str:
    """What PostgreSQL stores of a password (RFC 5802, as libpq's PQencryptPasswordConn makes it). The salt is made from
    the password, and not at random: PgBouncer's copy of the verifier stays right when the password is set again."""
    if not password.isascii() or not password.isprintable():  # libpq has the normal form of other characters
        return encrypt_password(password, role, cursor.connection, "scram-sha-256")
    salt = hmac.digest(password.encode(), f"salt of {role}".encode(), "sha256")[:16]
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, _ITERATIONS)
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    salt, stored_key, server_key = (base64.b64encode(part).decode() for part in (salt, stored_key, server_key))
    return f"SCRAM-SHA-256${_ITERATIONS}:{salt}${stored_key}:{server_key}"


def _is_superuser(cursor: cursor) -> bool:
    cursor.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
    return cursor.fetchone()[0]


def _connections(cursor: cursor) -> int:
    """How many connections the reporter may have: the operator, and an administrator, always find one."""
    cursor.execute("SELECT current_setting('max_connections')::int")
    (most,) = cursor.fetchone()
    return max(most // 2, most - max(40, most // 5))

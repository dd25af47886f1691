"""The reporter, the login that all trials' pods share: its password, its limits, and the rights that it must not have.

PostgreSQL lets every login change its own password and settings, and every session lift the limits that come from
these settings. So the operator checks the login and its sessions every few seconds, by `Guard`.
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
from study_operator.storage.database import Database, StorageError, one_row

# A pod that hangs, by accident or on purpose, must not hold locks or connections for long.
LIMITS = {
    "statement_timeout": "10s",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "10s",
    "idle_session_timeout": "60s",
}
# Only a superuser can set these, and no session can lift them. A failed statement of a pod does not fill the server's
# log, because each refusal is counted, and the pod gets the error. temp_file_limit is in kB.
_SUPERUSERS_LIMITS = {"log_min_messages": "fatal", "log_min_error_statement": "panic", "temp_file_limit": "65536"}
# The operator ends a session whose transaction or idle time lasts longer. Reports take milliseconds.
LONGEST_TRANSACTION_SECONDS, LONGEST_IDLE_SECONDS = 20, 120
_SCRAM_ITERATIONS = 4096  # PostgreSQL's default
# Functions that PUBLIC may execute unless a superuser revokes it. By them a pod could watch and end other pods'
# connections, fill the disk with large objects or messages in the write-ahead log, or take locks that the operator
# waits for.
_FUNCTIONS = (
    r"^(pg_stat_get_activity|pg_stat_get_backend_activity|pg_terminate_backend|pg_cancel_backend"
    r"|lo_create|lo_creat|lo_from_bytea|lo_import|pg_logical_emit_message|pg_(try_)?advisory_(xact_)?lock(_shared)?)$"
)

log = logging.getLogger(__name__)


def manage_reporter(cursor: cursor, settings: Settings) -> None:
    """Create the reporter's login, or set its password and limits again.

    Raises:
        psycopg2.Error: when the database refuses, for example because the operator's login may not create roles.
    """
    role = sql.Identifier(settings.reporter_user)
    # The verifier is computed here, so that the password itself cannot reach the server's log.
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
    (is_member,) = one_row(cursor)
    if not is_member:  # a member of the role may see and end its sessions
        cursor.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(role))


def restrict_public(cursor: cursor, reporter: str) -> None:
    """Revoke from PUBLIC, and so from the reporter, the rights that PostgreSQL grants to every login.

    Revokes what the operator's own login may revoke, and logs a warning about the rest.

    Args:
        cursor: a transaction of the operator's own login.
        reporter: the name of the reporter's login.

    Raises:
        psycopg2.Error: when the database refuses.
    """
    cursor.execute(
        "SELECT current_database(), pg_has_role(d.datdba, 'USAGE'), pg_has_role(n.nspowner, 'USAGE')"
        " FROM pg_database d, pg_namespace n WHERE d.datname = current_database() AND n.nspname = 'public'"
    )
    name, owns_database, owns_schema = one_row(cursor)
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
        (functions,) = one_row(cursor)
        cursor.execute(f"REVOKE EXECUTE ON FUNCTION {functions} FROM PUBLIC")
    if not (owns_database and owns_schema and superuser):
        log.warning("not all rights of PUBLIC could be revoked; docs/install.md has the SQL for an administrator")
    cursor.execute(
        "SELECT current_setting('max_prepared_transactions'), pg_has_role(current_user, %s, 'USAGE')", (reporter,)
    )
    prepared, member = one_row(cursor)
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
    """Set the reporter's password and limits again, because a pod may have changed them.

    Raises:
        StorageUnavailable: when the database cannot be reached.
        StorageError: when the role cannot be changed, because the operator's login has lost the right, or because
            another session is changing the role.
    """
    try:
        with database.transaction() as cursor:
            manage_reporter(cursor, settings)
    except StorageError as error:
        raise StorageError(f"the login {settings.reporter_user} could not be renewed: {error}") from None


class Ended(NamedTuple):
    """A session of the reporter that the operator has ended: its client's address, and why."""

    address: str
    why: str


class Guard:
    """Watch the reporter's login, in every database of the server. The methods block, so call them from one thread.

    Args:
        settings: the operator's own login, and the reporter's.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._database = Database(settings.dsn)

    def end_sessions(self) -> list[Ended]:
        """End the sessions that have lifted a limit, or hold an advisory lock, which no report needs.

        Returns:
            The sessions that were ended.

        Raises:
            StorageUnavailable: when the database cannot be reached.
            StorageError: when the operator's login may not see or end the sessions.
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
                {
                    "role": self._settings.reporter_user,
                    "busy": LONGEST_TRANSACTION_SECONDS,
                    "idle": LONGEST_IDLE_SECONDS,
                },
            )
            return [Ended(*row) for row in cursor.fetchall()]

    def is_changed(self) -> bool:
        """Return whether the role's password or limits are other than the operator has set them.

        Raises:
            StorageUnavailable: when the database cannot be reached.
            StorageError: when the database refuses the query.
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
            # Other reasons for a refused login do not lie in the role. libpq keeps only the message, no SQLSTATE.
            return "password authentication failed" in str(error)
        return False

    def renew(self) -> None:
        """Call `renew_reporter` for this login."""
        renew_reporter(self._database, self._settings)

    def _own_login(self) -> str:
        """Return a connection string to the operator's own database with the reporter's login."""
        login = {"user": self._settings.reporter_user, "password": self._settings.reporter_password}
        return make_dsn(self._settings.dsn, **login, application_name="study-operator-guard")


def _verifier(cursor: cursor, role: str, password: str) -> str:
    """Return the SCRAM-SHA-256 verifier that PostgreSQL stores of a password.

    It is made as libpq's PQencryptPasswordConn makes it; see RFC 5802 for the salt and the keys. The salt is derived
    from the password instead of drawn at random. So PgBouncer's copy of the verifier stays right when the same password
    is set again.
    """
    if not password.isascii() or not password.isprintable():  # libpq normalises other characters (SASLprep)
        return encrypt_password(password, role, cursor.connection, "scram-sha-256")
    salt = hmac.digest(password.encode(), f"salt of {role}".encode(), "sha256")[:16]
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, _SCRAM_ITERATIONS)
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    salt_text, stored_text, server_text = (base64.b64encode(part).decode() for part in (salt, stored_key, server_key))
    return f"SCRAM-SHA-256${_SCRAM_ITERATIONS}:{salt_text}${stored_text}:{server_text}"


def _is_superuser(cursor: cursor) -> bool:
    cursor.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
    return bool(one_row(cursor)[0])


def _connections(cursor: cursor) -> int:
    """Return how many connections the reporter may have, so that the operator and an administrator always get one."""
    cursor.execute("SELECT current_setting('max_connections')::int")
    (most,) = one_row(cursor)
    return max(most // 2, most - max(40, most // 5))

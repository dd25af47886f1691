"""The logins of trials' pods as roles of PostgreSQL: password, limits and settings, and what a pod has changed of them.

PostgreSQL lets every login change its own password and its own settings, for all databases and for each. It also lets
every session lift the limits that come from these settings.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import cursor, encrypt_password, make_dsn

from study_operator.storage.database import one_row

# A pod that hangs, by accident or on purpose, must not hold locks or connections for long.
LIMITS = {
    "statement_timeout": "10s",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "10s",
    "idle_session_timeout": "60s",
}
# Only a superuser can set these, and no session can lift them. A failed statement of a pod does not fill the server's
# log, because each refusal is counted, and the pod gets the error. temp_file_limit is in kB.
SUPERUSERS_LIMITS = {"log_min_messages": "fatal", "log_min_error_statement": "panic", "temp_file_limit": "65536"}
# The client of a session in pg_stat_activity. A pooler has no address, but may add its client's to the session's name.
ADDRESS = (
    "coalesce(host(client_addr), nullif('the server itself (' || left(application_name, 100) || ')',"
    " 'the server itself ()'), 'the server itself')"
)
_SCRAM_ITERATIONS = 4096  # PostgreSQL's default
# The settings of roles, for all databases (NULL) and for each, and whether only a superuser can make such a setting. A
# name with a dot that PostgreSQL does not know is of that kind.
_SETTINGS = """
SELECT r.rolname, d.datname, split_part(c, '=', 1), substr(c, strpos(c, '=') + 1),
       coalesce(p.context = 'superuser', split_part(c, '=', 1) LIKE '%%.%%')
FROM pg_db_role_setting s
JOIN pg_roles r ON r.oid = s.setrole
LEFT JOIN pg_database d ON d.oid = s.setdatabase
CROSS JOIN unnest(s.setconfig) AS c
LEFT JOIN pg_settings p ON lower(p.name) = lower(split_part(c, '=', 1))
WHERE r.rolname = ANY (%s)
ORDER BY 1, 2 NULLS FIRST, 3
"""


class Login(NamedTuple):
    """A role that pods log in as, and its password."""

    user: str
    password: str

    def __repr__(self) -> str:
        return f"Login({self.user!r})"


def set_role(
    cursor: cursor, login: Login, connections: int, inherit: bool = False, own: Mapping[str, str] = LIMITS
) -> None:
    """Create a login, or set its password, its limits and its settings again.

    Settings that only a superuser can make stay as they are.

    Args:
        cursor: a transaction of the operator's own login.
        login: the role's name and password.
        connections: how many sessions it may have at once.
        inherit: whether it has the rights of the roles that it is a member of.
        own: its limits and settings, beside those that only a superuser can make.

    Raises:
        psycopg2.Error: when the database refuses, for example because the operator's login may not create roles.
    """
    role = sql.Identifier(login.user)
    # The verifier is computed here, so that the password itself cannot reach the server's log.
    cursor.execute(
        sql.SQL("{} ROLE {} WITH LOGIN {} CONNECTION LIMIT {} PASSWORD {}").format(
            sql.SQL("ALTER" if exists(cursor, login.user) else "CREATE"),
            role,
            sql.SQL("INHERIT" if inherit else "NOINHERIT"),
            sql.Literal(connections),
            sql.Literal(verifier(cursor, login)),
        )
    )
    limits = _limits(cursor, own)
    for _, database, name, value, is_superusers in _settings(cursor, [login.user]):
        if not is_superusers and (database is not None or limits.get(name) != value):
            where = sql.SQL("IN DATABASE {} ").format(sql.Identifier(database)) if database else sql.SQL("")
            cursor.execute(sql.SQL("ALTER ROLE {} {}RESET {}").format(role, where, sql.Identifier(*name.split("."))))
    for name, value in limits.items():
        cursor.execute(sql.SQL("ALTER ROLE {} SET {} = {}").format(role, sql.Identifier(name), sql.Literal(value)))
    cursor.execute("SELECT pg_has_role(current_user, %s, 'USAGE')", (login.user,))
    if not one_row(cursor)[0]:  # a member of the role may see and end its sessions
        cursor.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(role))


def changes(cursor: cursor, connections: Mapping[str, int], own: Mapping[str, str] = LIMITS) -> dict[str, list[str]]:
    """Return how logins differ from what they must be.

    More than a login must have is a change only if a session of it could have made it. What a superuser has added is no
    change. The password is not looked at: see `Guard`.

    Args:
        cursor: a transaction of the operator's own login.
        connections: how many sessions each login may have, by the login's name.
        own: as in `set_role`.

    Returns:
        For each login's name the changes, in words for the log; none for a login that is as it must be.

    Raises:
        psycopg2.Error: when the database refuses the query.
    """
    cursor.execute(
        "SELECT rolname, rolconnlimit, rolcanlogin FROM pg_roles WHERE rolname = ANY (%s)", ([*connections],)
    )
    found = {name: (limit, may) for name, limit, may in cursor.fetchall()}
    limits = _limits(cursor, own)
    unset = {user: dict(limits) for user in connections}
    told: dict[str, list[str]] = {user: [] for user in connections}
    for user, database, name, value, is_superusers in _settings(cursor, [*connections]):
        if database is None and unset[user].get(name) == value:
            del unset[user][name]
        elif not is_superusers:
            told[user].append(f"{name} is set to {value[:40]!r}" + (f" in database {database}" if database else ""))
    for user, most in connections.items():
        if user not in found:
            told[user] = ["it does not exist"]
            continue
        limit, may_log_in = found[user]
        if not may_log_in:
            told[user].append("it may not log in")
        if limit != most:
            told[user].append(f"its CONNECTION LIMIT is {limit}")
        told[user] += [f"{name} is not {limits[name]}" for name in unset[user]]
    return told


def _settings(cursor: cursor, users: list[str]) -> list[tuple[str, str | None, str, str, bool]]:
    """Return user, database (None: all), name and value of settings, and whether only a superuser can make such."""
    cursor.execute("DO $$ BEGIN END $$")  # lets this session know the settings of plpgsql
    cursor.execute(_SETTINGS, (users,))
    return cursor.fetchall()


def _limits(cursor: cursor, own: Mapping[str, str]) -> dict[str, str]:
    """Return a login's own settings, and those of `SUPERUSERS_LIMITS` that the operator's login may give to it."""
    if is_superuser(cursor):
        return {**own, **SUPERUSERS_LIMITS}
    if cursor.connection.server_version < 15_00_00:
        return dict(own)
    cursor.execute(
        "SELECT n FROM unnest(%s) n WHERE has_parameter_privilege(current_user, n, 'SET')", ([*SUPERUSERS_LIMITS],)
    )
    return {**own, **{name: SUPERUSERS_LIMITS[name] for (name,) in cursor.fetchall()}}


def opens(dsn: str, login: Login) -> bool:
    """Return whether the server accepts a login's password."""
    given = {"user": login.user, "password": login.password, "application_name": "study-operator-guard"}
    try:
        psycopg2.connect(make_dsn(dsn, **given)).close()
    except psycopg2.OperationalError as error:
        # Other reasons for a refused login do not lie in the role. libpq keeps only the message, no SQLSTATE.
        return "password authentication failed" not in str(error)
    return True


def end_sessions_of(cursor: cursor, user: str) -> list[str]:
    """End all sessions of a login. Return the addresses of their clients.

    Raises:
        psycopg2.Error: when the operator's login may not end them.
    """
    # MATERIALIZED: else the planner may end sessions before it looks at whose they are.
    cursor.execute(
        f"WITH session AS MATERIALIZED (SELECT pid, {ADDRESS} AS address FROM pg_stat_activity WHERE usename = %s)"
        " SELECT address FROM session WHERE pg_terminate_backend(pid)",
        (user,),
    )
    return [address for (address,) in cursor.fetchall()]


def exists(cursor: cursor, user: str) -> bool:
    """Return whether there is a role of that name."""
    cursor.execute("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = %s)", (user,))
    return bool(one_row(cursor)[0])


def is_superuser(cursor: cursor) -> bool:
    """Return whether the operator's own login is a superuser."""
    cursor.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
    return bool(one_row(cursor)[0])


def most_connections(cursor: cursor) -> int:
    """Return how many connections pods may have, so that the operator and an administrator always get one."""
    cursor.execute("SELECT current_setting('max_connections')::int")
    (most,) = one_row(cursor)
    return max(most // 2, most - max(40, most // 5))


def verifier(cursor: cursor, login: Login) -> str:
    """Return the SCRAM-SHA-256 verifier that PostgreSQL stores of the login's password.

    The salt is derived from the password instead of drawn at random. So PgBouncer's copy of the verifier stays right
    when the same password is set again.
    """
    if not has_known_verifier(login):
        return encrypt_password(login.password, login.user, cursor.connection, "scram-sha-256")
    return _known_verifier(login)


def has_known_verifier(login: Login) -> bool:
    """Return whether `verifier` always gives the same one. libpq normalises other characters (SASLprep)."""
    return login.password.isascii() and login.password.isprintable()


@lru_cache(4096)  # each costs milliseconds, and the guard compares them again and again
def _known_verifier(login: Login) -> str:
    """Return the verifier as libpq's PQencryptPasswordConn makes it; see RFC 5802 for the salt and the keys."""
    password = login.password.encode()
    salt = hmac.digest(password, f"salt of {login.user}".encode(), "sha256")[:16]
    salted = hashlib.pbkdf2_hmac("sha256", password, salt, _SCRAM_ITERATIONS)
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    salt_text, stored_text, server_text = (base64.b64encode(part).decode() for part in (salt, stored_key, server_key))
    return f"SCRAM-SHA-256${_SCRAM_ITERATIONS}:{salt_text}${stored_text}:{server_text}"

"""The logins of trials' pods: one for each namespace where PostgreSQL allows it, or else one that all share.

A namespace's login is a member of a group that may execute the reporting functions, so what its pods do to it hurts
that namespace alone. PostgreSQL must be 16 or later, where a login with CREATEROLE has power over the roles only that
it has created, or the operator's login must be a superuser, as with the embedded database.

A password follows from the installation's seed and a salt in the database. So neither a restart nor a backup loses it,
and the database alone does not tell it. Another seed, or another password of the shared login, gets all another salt:
so one act rotates every login, and a former password never comes back.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time

from psycopg2 import sql
from psycopg2.extensions import cursor

from study_operator.settings import Settings
from study_operator.storage.database import Database, StorageError, one_row
from study_operator.storage.roles import Login, end_sessions_of, exists, is_superuser, most_connections, set_role

_FIRST_SERVER = 16_00_00
_REMEMBERED_SECONDS = 30.0
# A login is dropped when no Study of its namespace has needed it for so long.
_KEPT = "interval '1 hour'"
# Until then after a migration, an operator of a former version may still start trials with the shared login.
_OVERLAP = "interval '10 minutes'"


def given_by_namespace(cursor: cursor, settings: Settings) -> bool:
    """Return whether each namespace has a login of its own; otherwise all pods share one.

    Raises:
        StorageError: when the settings demand it, and the operator's login may not create such logins.
    """
    if settings.reporter_logins == "shared" or not settings.manage_reporter:
        return False
    cursor.execute("SELECT rolcreaterole FROM pg_roles WHERE rolname = current_user")
    (may_create,) = one_row(cursor)
    able = is_superuser(cursor) or (may_create and cursor.connection.server_version >= _FIRST_SERVER)
    if settings.reporter_logins == "auto":
        return able
    if not able:
        raise StorageError(
            "REPORTER_LOGINS is namespace, but a login for each namespace needs PostgreSQL 16 or later and CREATEROLE "
            "for the operator's login: set it to shared, or see docs/install.md"
        )
    return True


def group_of(cursor: cursor) -> str:
    """Return the name of the role whose members are the namespaces' logins. Each installation has its own."""
    cursor.execute("SELECT 'study_reporters_' || substr(channel, 7, 8) FROM study_operator.installation")
    return str(one_row(cursor)[0])


def prepare_logins(cursor: cursor, settings: Settings) -> list[str]:
    """Create the roles that reporting.sql grants to, or set the shared login's password and limits again.

    Returns:
        The names of these roles.

    Raises:
        StorageError: as `given_by_namespace`.
        psycopg2.Error: when the database refuses, for example because the operator's login may not create roles.
    """
    if not settings.manage_reporter:
        return [settings.reporter_user]
    shared = Login(settings.reporter_user, settings.reporter_password)
    if not given_by_namespace(cursor, settings):
        set_role(cursor, shared, most_connections(cursor))
        return [shared.user]
    group = group_of(cursor)
    if not exists(cursor, group):
        cursor.execute(sql.SQL("CREATE ROLE {} NOLOGIN NOINHERIT").format(sql.Identifier(group)))
    if not is_in_use(cursor, shared.user):
        return [group]
    # Pods of before still report by it.
    set_role(cursor, shared, most_connections(cursor))
    cursor.execute(
        "INSERT INTO study_operator.shared_login AS l (role) VALUES (%s)"
        " ON CONFLICT (role) DO UPDATE SET superseded_at = clock_timestamp(), last_trial = NULL",
        (shared.user,),
    )
    return [group, shared.user]


def let_pooler_ask(cursor: cursor, pooler: str) -> None:
    """Let a pooler's login read what is stored of the passwords of pods' logins, and of no other.

    Raises:
        psycopg2.Error: when the database refuses, because the operator's login is no superuser.
    """
    if not exists(cursor, pooler):
        # Without a password: the server's own rules (pg_hba.conf) say from where it may come.
        cursor.execute(sql.SQL("CREATE ROLE {} LOGIN NOINHERIT").format(sql.Identifier(pooler)))
    cursor.execute(
        "CREATE OR REPLACE FUNCTION study_operator.pooled_logins() RETURNS TABLE (login text, secret text)"
        " LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$"
        " SELECT r.rolname, r.rolpassword FROM pg_authid r WHERE r.rolcanlogin AND NOT r.rolsuper"
        " AND r.rolpassword LIKE 'SCRAM-SHA-256$%'"
        " AND (has_function_privilege(r.oid, 'study_operator.submit(text, text)', 'EXECUTE')"
        " OR EXISTS (SELECT FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid"
        " WHERE m.member = r.oid AND g.rolname LIKE 'study\\_reporters\\_%'))"
        " AND NOT pg_has_role(r.oid, (SELECT datdba FROM pg_database WHERE datname = current_database()), 'USAGE') $$"
    )
    cursor.execute("REVOKE ALL ON FUNCTION study_operator.pooled_logins() FROM PUBLIC")
    cursor.execute("SELECT current_database()")
    names = {"database": sql.Identifier(one_row(cursor)[0]), "pooler": sql.Identifier(pooler)}
    for right in (
        "CONNECT ON DATABASE {database}",
        "USAGE ON SCHEMA study_operator",
        "EXECUTE ON FUNCTION study_operator.pooled_logins()",
    ):
        cursor.execute(sql.SQL(f"GRANT {right} TO {{pooler}}").format(**names))


def is_in_use(cursor: cursor, shared: str) -> bool:
    """Return whether the shared login exists and may report in this database."""
    cursor.execute(
        "SELECT has_schema_privilege(oid, 'study_operator', 'USAGE') FROM pg_roles WHERE rolname = %s"
        " AND to_regnamespace('study_operator') IS NOT NULL",
        (shared,),
    )
    return cursor.fetchone() == (True,)


class Logins:
    """The logins of one cluster's namespaces. Safe to use from several threads. The methods block.

    Args:
        database: as the operator's own login.
        settings: the seed, and the shared login.
        cluster_id: the UID of the cluster's kube-system namespace.
    """

    def __init__(self, database: Database, settings: Settings, cluster_id: str) -> None:
        self._database, self._settings, self._cluster_id = database, settings, cluster_id
        secret = f"logins {settings.study_key_seed} {settings.reporter_password}"
        self._seed_hash = hashlib.sha256(secret.encode()).digest()
        self._shared = Login(settings.reporter_user, settings.reporter_password)
        self._remembered: dict[str, tuple[Login, float]] = {}

    def login_of(self, namespace: str) -> Login:
        """Return the login of a namespace's pods. Create it if there is none.

        Raises:
            StorageUnavailable: when the database cannot be reached.
            StorageError: when the login cannot be created.
        """
        found = self._remembered.get(namespace)
        if found is not None and time.monotonic() - found[1] < _REMEMBERED_SECONDS:
            return found[0]
        with self._database.transaction() as cursor:
            login = self._ensure(cursor, namespace) if given_by_namespace(cursor, self._settings) else self._shared
        self._remembered[namespace] = login, time.monotonic()
        return login

    def url_of(self, namespace: str) -> str:
        """Return the url that a namespace's pods connect to, with its login. Raises as `login_of`."""
        return self._settings.url_of(*self.login_of(namespace))

    def all(self, cursor: cursor) -> dict[Login, str]:
        """Return the logins that this operator keeps right, each with words for it.

        Raises:
            psycopg2.Error: when the database refuses the query.
        """
        if not given_by_namespace(cursor, self._settings):
            return {self._shared: "the shared login"} if self._settings.manage_reporter else {}
        cursor.execute(
            "SELECT role, salt, namespace FROM study_operator.logins WHERE cluster_id = %s AND seed_hash = %s",
            (self._cluster_id, self._seed_hash),
        )
        found = {self._login(role, salt): f"the login of namespace {name}" for role, salt, name in cursor.fetchall()}
        if is_in_use(cursor, self._shared.user):
            found[self._shared] = "the shared login"
        return found

    def renew(self, cursor: cursor, login: Login) -> None:
        """Set a login's password, limits and membership again.

        Raises:
            psycopg2.Error: when the database refuses.
        """
        most = self.connections(most_connections(cursor), login)
        if login == self._shared:
            set_role(cursor, login, most)
            return
        set_role(cursor, login, most, inherit=True)
        member = "GRANT {} TO {}" + (" WITH SET FALSE" if cursor.connection.server_version >= _FIRST_SERVER else "")
        cursor.execute(sql.SQL(member).format(sql.Identifier(group_of(cursor)), sql.Identifier(login.user)))

    def connections(self, most: int, login: Login) -> int:
        """Return how many connections a login may have, of the `most` of all pods. A namespace leaves half of them."""
        return most if login == self._shared else most // 2

    def drop_unused(self) -> list[str]:
        """Drop the logins of namespaces without Studies, and the shared login when no pod uses it any more.

        Returns:
            The names of the roles that were dropped.

        Raises:
            StorageUnavailable: when the database cannot be reached.
            StorageError: when the database refuses.
        """
        with self._database.transaction() as cursor:
            if not given_by_namespace(cursor, self._settings):
                return []
            cursor.execute(
                "DELETE FROM study_operator.logins WHERE role IN (SELECT role FROM study_operator.logins l"
                f" WHERE cluster_id = %s AND used_at < clock_timestamp() - {_KEPT} AND NOT EXISTS ("
                " SELECT FROM study_operator.access a WHERE a.cluster_id = l.cluster_id"
                " AND a.namespace = l.namespace AND a.key_hash IS NOT NULL) FOR UPDATE SKIP LOCKED)"
                " RETURNING namespace, role",
                (self._cluster_id,),
            )
            dropped = []
            for namespace, role in cursor.fetchall():
                self._remembered.pop(namespace, None)
                if exists(cursor, role):
                    end_sessions_of(cursor, role)
                    cursor.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))
                dropped.append(role)
            return dropped + self._retire_shared(cursor)

    def _ensure(self, cursor: cursor, namespace: str) -> Login:
        cursor.execute("SELECT current_database()")
        told = f"{one_row(cursor)[0]}/{self._cluster_id}/{namespace}"
        role, salt = f"study_{hashlib.sha256(told.encode()).hexdigest()[:16]}", secrets.token_hex(16)
        # The row stays locked until the role is there, so that replicas create it one after the other.
        cursor.execute(
            "INSERT INTO study_operator.logins AS l (role, cluster_id, namespace, salt, seed_hash)"
            " VALUES (%(role)s, %(cluster)s, %(namespace)s, %(salt)s, %(seed)s)"
            " ON CONFLICT (cluster_id, namespace) DO UPDATE SET used_at = clock_timestamp(), role = excluded.role,"
            " seed_hash = excluded.seed_hash,"
            " salt = CASE WHEN l.seed_hash = excluded.seed_hash AND l.role = excluded.role THEN l.salt"
            " ELSE excluded.salt END RETURNING salt, salt = %(salt)s",
            {
                "role": role,
                "cluster": self._cluster_id,
                "namespace": namespace,
                "salt": salt,
                "seed": self._seed_hash,
            },
        )
        salt, is_new = one_row(cursor)
        login = self._login(role, salt)
        if is_new or not exists(cursor, role):
            self.renew(cursor, login)
        return login

    def _login(self, role: str, salt: str) -> Login:
        code = hmac.digest(self._settings.study_key_seed.encode(), f"login {role} {salt}".encode(), "sha256")
        return Login(role, base64.urlsafe_b64encode(code).decode().rstrip("="))

    def _retire_shared(self, cursor: cursor) -> list[str]:
        """Take the shared login's rights, once every trial that an operator started with it has ended."""
        shared = self._shared.user
        if not is_in_use(cursor, shared):
            return []
        cursor.execute(
            "UPDATE study_operator.shared_login SET last_trial = (SELECT coalesce(max(trial_id), 0) FROM public.trials)"
            f" WHERE role = %s AND last_trial IS NULL AND superseded_at < clock_timestamp() - {_OVERLAP}",
            (shared,),
        )
        cursor.execute(
            "SELECT FROM study_operator.shared_login l WHERE role = %s AND last_trial IS NOT NULL AND NOT EXISTS ("
            "SELECT FROM public.trials t WHERE t.trial_id <= l.last_trial AND t.state = 'RUNNING')",
            (shared,),
        )
        if cursor.fetchone() is None:
            return []
        cursor.execute("SELECT current_database()")
        names = {"role": sql.Identifier(shared), "database": sql.Identifier(one_row(cursor)[0])}
        for statement in (
            "REVOKE ALL ON ALL FUNCTIONS IN SCHEMA study_operator FROM {role}",
            "REVOKE ALL ON SCHEMA study_operator FROM {role}",
            "REVOKE ALL ON DATABASE {database} FROM {role}",
        ):
            cursor.execute(sql.SQL(statement).format(**names))
        cursor.execute("DELETE FROM study_operator.shared_login WHERE role = %s", (shared,))
        # Another installation of this server may use it for another database.
        cursor.execute(
            "SELECT EXISTS (SELECT FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass"
            " AND refobjid = (SELECT oid FROM pg_roles WHERE rolname = %s))",
            (shared,),
        )
        if not one_row(cursor)[0]:
            end_sessions_of(cursor, shared)
            cursor.execute(sql.SQL("DROP ROLE {role}").format(**names))
        return [shared]

"""The guard: keeps the logins of trials' pods as they must be, and ends sessions that no report needs.

PostgreSQL lets every login change its own password and settings, and every session lift the limits that come from
these settings. So the operator checks logins and sessions every few seconds, by `Guard`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import NamedTuple

from psycopg2.extensions import cursor

from study_operator.settings import Settings
from study_operator.storage.database import Database, StorageError, StorageUnavailable
from study_operator.storage.logins import Logins
from study_operator.storage.roles import (
    ADDRESS,
    Login,
    changes,
    end_sessions_of,
    has_known_verifier,
    is_superuser,
    most_connections,
    opens,
    verifier,
)

# The operator ends a session whose transaction or idle time lasts longer. Reports take milliseconds.
LONGEST_TRANSACTION_SECONDS, LONGEST_IDLE_SECONDS = 20, 120
# A login costs both sides some milliseconds of computing. So many logins of namespaces are tried in one round, where
# the operator's login is no superuser and may not compare what the server has stored.
_LOGINS_TRIED = 5
_ATTEMPTS = 3

log = logging.getLogger(__name__)


class Ended(NamedTuple):
    """A session of a pod that the operator has ended: its client's address, and why."""

    address: str
    why: str


class Healed(NamedTuple):
    """A login that the operator has set right.

    Attributes:
        words: which login it is.
        namespace: whose login it is, empty for the shared one.
        changes: how it differed from what it must be.
        addresses: the clients of the sessions that were ended with it, one of which has changed it.
    """

    words: str
    namespace: str
    changes: tuple[str, ...]
    addresses: tuple[str, ...]


class Guard:
    """Watch the logins of trials' pods, in every database of the server. Call the methods from one thread: they block.

    Args:
        settings: the operator's own login, and the reporter's.
        cluster_id: the UID of the cluster's kube-system namespace.
    """

    def __init__(self, settings: Settings, cluster_id: str = "") -> None:
        self._settings = settings
        self._database = Database(settings.dsn)
        self._logins = Logins(self._database, settings, cluster_id)
        self._tried = 0
        self._unhealed: dict[str, frozenset[str]] = {}

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
                f"WITH session AS MATERIALIZED (SELECT pid, usename, {ADDRESS} AS address, CASE"
                " WHEN state <> 'idle'"
                " AND least(xact_start, query_start) < clock_timestamp() - %(busy)s * interval '1 s'"
                " THEN 'a transaction of more than ' || %(busy)s || ' s'"
                " WHEN state = 'idle' AND state_change < clock_timestamp() - %(idle)s * interval '1 s'"
                " THEN 'been idle for more than ' || %(idle)s || ' s'"
                " WHEN EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.locktype = 'advisory')"
                " THEN 'an advisory lock' END AS why"
                " FROM pg_stat_activity a WHERE usename = %(role)s"
                " OR usename IN (SELECT role FROM study_operator.logins))"
                " SELECT usename, address, why FROM session WHERE why IS NOT NULL AND pg_terminate_backend(pid)",
                {
                    "role": self._settings.reporter_user,
                    "busy": LONGEST_TRANSACTION_SECONDS,
                    "idle": LONGEST_IDLE_SECONDS,
                },
            )
            ended = []
            for user, address, why in cursor.fetchall():
                log.warning("ended a session of %s from %s: it had %s", user, address, why)
                ended.append(Ended(address, why))
            return ended

    def is_changed(self) -> bool:
        """Return whether a login's password, limits or settings are other than the operator has set them.

        Raises:
            StorageUnavailable: when the database cannot be reached.
            StorageError: when the database refuses the query.
        """
        return bool(self._changed())

    def heal(self) -> list[Healed]:
        """Set right the logins that have been changed, and end their sessions, one of which has changed them.

        Returns:
            The logins that were set right.

        Raises:
            StorageUnavailable, StorageError: as `renew`.
        """
        healed, failed = [], []
        for login, (words, told) in self._changed().items():
            try:
                healed.append(self._heal(login, words, told))
            except StorageError as error:  # one that is being changed at this moment keeps none of the others waiting
                failed.append(error)
                log.warning("%s", error)
        if failed and not healed:
            raise failed[0]
        return healed

    def renew(self) -> None:
        """Set all logins right, changed or not.

        Raises:
            StorageUnavailable: when the database cannot be reached.
            StorageError: when a role cannot be changed, because the operator's login has lost the right, or because
                another session is changing the role all the time.
        """
        with self._database.transaction() as cursor:
            logins = self._logins.all(cursor)
        for login, words in logins.items():
            self._heal(login, words, ())

    def drop_unused(self) -> list[str]:
        """Call `Logins.drop_unused`, as it says."""
        return self._logins.drop_unused()

    def _changed(self) -> dict[Login, tuple[str, tuple[str, ...]]]:
        """Return the logins that have been changed, with words for each and for each change."""
        found = {}
        with self._database.transaction() as cursor:
            logins = self._logins.all(cursor)
            stored = self._stored(cursor, logins)
            most = most_connections(cursor)
            differences = changes(cursor, {login.user: self._logins.connections(most, login) for login in logins})
            for login, words in logins.items():
                told = [one for one in differences[login.user] if one not in self._unhealed.get(login.user, ())]
                if login.user in stored and stored[login.user] != verifier(cursor, login):
                    told.append("its password is another")
                if told:
                    found[login] = words, tuple(told)
        for login in self._to_try([login for login in logins if login.user not in stored]):
            if login not in found and not opens(self._settings.dsn, login):
                found[login] = logins[login], ("its password is another",)
        return found

    def _stored(self, cursor: cursor, logins: Iterable[Login]) -> dict[str, str | None]:
        """Return what the server has stored of the passwords, where that can be compared."""
        if not is_superuser(cursor):
            return {}
        names = [login.user for login in logins if has_known_verifier(login)]
        cursor.execute("SELECT rolname, rolpassword FROM pg_authid WHERE rolname = ANY (%s)", (names,))
        return dict(cursor.fetchall())

    def _to_try(self, logins: list[Login]) -> list[Login]:
        """Return the shared login, and some of the others: each in its turn."""
        shared = [login for login in logins if login.user == self._settings.reporter_user]
        others = [login for login in logins if login.user != self._settings.reporter_user]
        chosen = [others[(self._tried + n) % len(others)] for n in range(min(_LOGINS_TRIED, len(others)))]
        self._tried += len(chosen)
        return shared + chosen

    def _heal(self, login: Login, words: str, told: tuple[str, ...]) -> Healed:
        """Set one login right. Its sessions are ended before, so that none of them changes it meanwhile, and after."""
        addresses: set[str] = set()
        for attempt in range(_ATTEMPTS):
            addresses |= self._end_all(login)
            try:
                with self._database.transaction() as cursor:
                    self._logins.renew(cursor, login)
                    most = self._logins.connections(most_connections(cursor), login)
                    left = frozenset(changes(cursor, {login.user: most})[login.user])
                break
            except StorageError as error:  # perhaps a session has changed the role at the same moment
                if attempt + 1 == _ATTEMPTS:
                    raise StorageError(f"{words} ({login.user}) could not be set right: {error}") from None
        if left and left != self._unhealed.get(login.user):
            log.warning("of %s (%s) the operator's login may not set right: %s", words, login.user, "; ".join(left))
        self._unhealed[login.user] = left
        if told:
            addresses |= self._end_all(login)
        namespace = words.removeprefix("the login of namespace ") if login.user != self._settings.reporter_user else ""
        return Healed(words, namespace, told, tuple(sorted(addresses)))

    def _end_all(self, login: Login) -> set[str]:
        """End all sessions of a login that is being set right. Return the addresses of their clients."""
        try:
            with self._database.transaction() as cursor:
                return set(end_sessions_of(cursor, login.user))
        except StorageUnavailable:
            raise
        except StorageError:  # it may not end them before it is a member of the role
            return set()

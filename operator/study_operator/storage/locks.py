"""The advisory locks of one replica in PostgreSQL, on a connection that does nothing else.

The locks belong to a session, so they end with it, whatever ends it. The server itself ends a session that has been
silent for `fence.SESSION_TIMEOUT_SECONDS`. So a stopped process loses its locks too, and so does a process behind a
dead network. See https://www.postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS
"""

from __future__ import annotations

import asyncio
import random
import select
import time
from collections.abc import Collection
from concurrent.futures import Executor
from typing import Any

import psycopg2
from psycopg2.extensions import POLL_OK, POLL_READ, connection

from study_operator.fence import SESSION_TIMEOUT_SECONDS, Lease
from study_operator.storage.database import Database, StorageError, StorageUnavailable, one_line
from study_operator.storage.listen import CHANNEL

_CONNECT_SECONDS = 5.0
_OLDEST_SERVER = 14_00_00  # idle_session_timeout came with PostgreSQL 14

# The members, whether each is this session, and for how many seconds each has been silent. Any login can take an
# advisory lock, even the pods' login, so only locks of the operator's own login count. The view pg_stat_activity would
# need a function that docs/install.md revokes from PUBLIC.
_MEMBERS = """
SELECT l.objid::bigint, l.pid = pg_backend_pid(),
       coalesce(extract(epoch FROM clock_timestamp() - pg_stat_get_backend_activity_start(b.id)), 0)::float8
FROM pg_locks l
JOIN (SELECT id, pg_stat_get_backend_pid(id) AS pid, pg_stat_get_backend_userid(id) AS role
      FROM pg_stat_get_backend_idset() AS backends(id)) b USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.classid = %s AND l.objsubid = 2
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND b.role = (SELECT oid FROM pg_roles WHERE rolname = session_user)
"""


class Locks:
    """Take and release the locks of one session. Call its coroutines from one task, one at a time.

    Every coroutine raises `StorageUnavailable` when the connection is lost, and all locks are lost with it. After an
    exception the object cannot be used again.

    Attributes:
        member: this replica's number in the group, from 1 to 2**31 - 1; 0 before it has joined.
        lease: how long the locks are certain to be held.
        server_age: how many seconds the server had been running when the session was opened.
    """

    def __init__(self, opened: connection, group: int) -> None:
        self._connection, self._group = opened, group
        self._cursor = opened.cursor()
        self._woken = asyncio.Event()
        self._channel = ""
        self.member = 0
        self.lease = Lease()
        self.server_age = 0.0

    @classmethod
    async def join(cls, database: Database, executor: Executor, group: int) -> Locks:
        """Open a session and become a member of a group. The other members see it at once.

        Args:
            database: where the locks are.
            executor: opens the connection, because resolving the server's name may block.
            group: the number that all replicas of one group know, within PostgreSQL's integer.

        Raises:
            StorageUnavailable: when the database cannot be reached, or does not answer within
                `fence.SESSION_TIMEOUT_SECONDS`.
            StorageError: when the database is older than PostgreSQL 14, or refuses a statement.
        """
        loop = asyncio.get_running_loop()
        opened = await loop.run_in_executor(executor, _open, database)
        locks = cls(opened, group)
        try:
            if opened.server_version < _OLDEST_SERVER:
                raise StorageError(
                    f"the database is PostgreSQL {opened.server_version // 10000}; the operator needs 14 or later, "
                    "which ends the sessions of replicas that have fallen silent (idle_session_timeout)"
                )
            await locks._run(
                f"SET idle_session_timeout = '{SESSION_TIMEOUT_SECONDS:.0f}s'; SET synchronous_commit = off;"
                " SET statement_timeout = 0"
            )
            locks._channel = f"{(await locks._run(CHANNEL))[0][0]}_replicas"
            await locks._run(f"LISTEN {locks._channel}")
            while not locks.member:
                number = random.SystemRandom().randrange(1, 2**31)
                if (await locks._run("SELECT pg_try_advisory_lock(%s, %s)", group, number))[0][0]:
                    locks.member = number
            age = "SELECT extract(epoch FROM clock_timestamp() - pg_postmaster_start_time())::float8"
            locks.server_age = (await locks._run(age))[0][0]
            await locks._run(f"NOTIFY {locks._channel}")
        except BaseException:
            locks.close()
            raise
        return locks

    async def members(self) -> dict[int, float]:
        """Return all members of the group.

        Returns:
            For each member's number, this replica's too, the seconds since its latest statement.

        Raises:
            StorageUnavailable: when the connection is lost.
            StorageError: when this replica is not among the members, because a pooler sends its statements to another
                session than the one that holds its locks.
        """
        found = await self._run(_MEMBERS, self._group)
        if (self.member, True) not in {(member, mine) for member, mine, _ in found}:
            raise StorageError(
                "the locks of this replica are not in the session that its statements reach: the operator's own "
                "connection must not go through a pooler in transaction mode, such as PgBouncer; only trials' may"
            )
        return {member: silent for member, _, silent in found}

    async def take(self, keys: Collection[int]) -> tuple[set[int], int]:
        """Take the locks that no session holds.

        Args:
            keys: the numbers of the locks, within PostgreSQL's bigint. This session may not hold any of them yet.

        Returns:
            The locks that were taken, and the epoch of the hold, a fencing token (0 if none was taken). The epoch is
            drawn after the locks were taken. So a replica that takes one of them later gets a higher epoch.

        Raises:
            StorageUnavailable: when the connection is lost.
            StorageError: when the database refuses a statement.
        """
        found = await self._run(
            "SELECT k FROM unnest(%s::bigint[]) AS wanted(k) WHERE pg_try_advisory_lock(k)", [*keys]
        )
        if not found:
            return set(), 0
        return {key for (key,) in found}, (await self._run("SELECT nextval('study_operator.holds')"))[0][0]

    async def release(self, keys: Collection[int]) -> None:
        """Release some locks, and notify the other replicas."""
        await self._run("SELECT pg_advisory_unlock(k) FROM unnest(%s::bigint[]) AS held(k)", [*keys])
        await self._run(f"NOTIFY {self._channel}")

    async def leave(self) -> None:
        """Release all locks, notify the other replicas, and close the session."""
        await self._run("SELECT pg_advisory_unlock_all()")
        await self._run(f"NOTIFY {self._channel}")
        self.close()

    def wake(self) -> None:
        """End the `pause` that is under way, or the next one."""
        self._woken.set()

    async def pause(self, seconds: float) -> bool:
        """Wait until the time is over, another replica joins, leaves or releases locks, or `wake` is called.

        Args:
            seconds: how long to wait at most.

        Returns:
            Whether another replica has notified this one.

        Raises:
            StorageUnavailable: when the connection is lost.
        """
        loop, descriptor = asyncio.get_running_loop(), self._connection.fileno()
        loop.add_reader(descriptor, self._woken.set)
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            pass
        finally:
            loop.remove_reader(descriptor)
        self._woken.clear()
        try:
            self._connection.poll()
        except psycopg2.Error as error:
            raise StorageUnavailable(one_line(error)) from None
        others = [notice for notice in self._connection.notifies if notice.pid != self._connection.get_backend_pid()]
        self._connection.notifies.clear()
        return bool(others)

    def close(self) -> None:
        """Close the session, and with it all its locks. May be called again."""
        self.lease.over = True
        self._connection.close()

    async def _run(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a statement and confirm the lease, because the answer shows that the server has heard this process.

        Returns:
            The rows of its answer, none for a statement without rows.

        Raises:
            StorageUnavailable: when the connection is lost, or the answer takes longer than
                `fence.SESSION_TIMEOUT_SECONDS`.
            StorageError: when the database refuses the statement.
        """
        sent = time.monotonic()
        try:
            self._cursor.execute(statement, values or None)
            async with asyncio.timeout(SESSION_TIMEOUT_SECONDS):
                while (state := self._connection.poll()) != POLL_OK:
                    await self._ready(reading=state == POLL_READ)
        except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
            self.close()
            raise StorageUnavailable(one_line(error)) from None
        except psycopg2.Error as error:
            self.close()
            raise StorageError(one_line(error)) from None
        except TimeoutError:
            self.close()
            raise StorageUnavailable(f"the database has not answered for {SESSION_TIMEOUT_SECONDS:.0f} s") from None
        except asyncio.CancelledError:
            self.close()  # the connection is in the middle of a statement, so the next one could not run
            raise
        self.lease.confirm(sent)
        return self._cursor.fetchall() if self._cursor.description else []

    async def _ready(self, reading: bool) -> None:
        """Wait until the connection's socket can be read, or else written."""
        loop, descriptor, ready = asyncio.get_running_loop(), self._connection.fileno(), asyncio.Event()
        (loop.add_reader if reading else loop.add_writer)(descriptor, ready.set)
        try:
            await ready.wait()
        finally:
            (loop.remove_reader if reading else loop.remove_writer)(descriptor)


def _open(database: Database) -> connection:
    """Open a connection that does not block from then on.

    Raises:
        StorageUnavailable: when it cannot be opened within `_CONNECT_SECONDS`.
    """
    deadline = time.monotonic() + _CONNECT_SECONDS
    opened = database.connect(
        async_=True,
        application_name="study-operator locks",
        keepalives_idle="2",
        keepalives_interval="2",
        keepalives_count="2",
        tcp_user_timeout=f"{SESSION_TIMEOUT_SECONDS * 1000:.0f}",
    )
    try:
        while (state := opened.poll()) != POLL_OK:
            readers, writers = ([opened], []) if state == POLL_READ else ([], [opened])
            if not any(select.select(readers, writers, [], max(0.0, deadline - time.monotonic()))):
                raise psycopg2.OperationalError(f"no answer for {_CONNECT_SECONDS:.0f} s")
    except psycopg2.Error as error:
        where = f'connection to server at "{opened.info.host}", port {opened.info.port} failed'  # as libpq puts it
        opened.close()
        raise StorageUnavailable(f"{where}: {one_line(error)}") from None
    return opened

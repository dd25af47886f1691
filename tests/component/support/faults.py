"""Writes of the operator that go wrong: it dies just before or after one, or gets another answer than it hoped for.

A write is a POST, PATCH or DELETE to the API server, or the commit of a transaction that has changed or locked
something.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from types import FrameType
from typing import Any

import aiohttp
import psycopg2
from inventory import CLIENT, PACKAGE
from kubernetes.aio import client
from psycopg2.extensions import cursor

from study_operator.kube.api_server import refusal, unreachable
from study_operator.kube.client import Cluster
from study_operator.storage.database import Database, StorageUnavailable


class Died(BaseException):
    """The operator's process was killed. Not an Exception: nothing in the operator may catch it."""


class Wrong(Enum):
    """How a write goes wrong: what the API server answers (status and reason), and the database (SQLSTATE)."""

    DIES_BEFORE = "the operator dies before it"
    DIES_AFTER = "the operator dies after it, before the answer"
    LOST_BEFORE = "the connection breaks before it"
    LOST_AFTER = "the connection breaks after it, before the answer"
    TIMES_OUT_BEFORE = "there is no answer, and it never happens"
    TIMES_OUT_AFTER = "there is no answer, but it has happened"
    TIMES_OUT_LATE = "there is no answer, and it happens after the operator has gone on"
    CONFLICT = (409, "Conflict", "40P01")  # deadlock_detected
    UNPROCESSABLE = (422, "Invalid", "23514")  # check_violation
    THROTTLED = (429, "TooManyRequests", "53300")  # too_many_connections
    SERVER_ERROR = (500, "InternalError", "53100")  # disk_full


_BEFORE = (Wrong.LOST_BEFORE, Wrong.TIMES_OUT_BEFORE)
_AFTER = (Wrong.LOST_AFTER, Wrong.TIMES_OUT_AFTER)
ANSWERS = (Wrong.CONFLICT, Wrong.UNPROCESSABLE, Wrong.THROTTLED, Wrong.SERVER_ERROR)
# How long a late commit waits: long enough to meet the operator's next attempt, which it then holds up. Seconds.
_CLIENT = frozenset(PACKAGE / file for file in CLIENT)
_LATE = 0.05


class Faults:
    """The writes of one operator process, and which of them go wrong.

    Args:
        rule: called with how many writes there were before, and the name of the write: such as "POST jobs",
            "PATCH studies/status" or "COMMIT Studies.ensure".
        read_fails: called before each GET and each transaction.

    Attributes:
        writes: names of all writes tried so far.
        sites: where in the operator's code they were made, as `inventory` names those places.
        struck: names of those that went wrong.
    """

    def __init__(
        self,
        rule: Callable[[int, str], Wrong | None] = lambda count, name: None,
        read_fails: Callable[[], bool] = lambda: False,
    ) -> None:
        self.writes: list[str] = []
        self.sites: set[str] = set()
        self.struck: list[str] = []
        self.read_fails = read_fails
        self._rule = rule
        self._dead = False
        self._lock = threading.Lock()  # several storage threads may commit at once

    def write(self, name: str, site: str) -> Wrong | None:
        """A write is about to happen."""
        self.check_alive()
        with self._lock:
            wrong = self._rule(len(self.writes), name)
            self.writes.append(name)
            self.sites.add(site)
            if wrong is not None:
                self.struck.append(name)
        if wrong is Wrong.DIES_BEFORE:
            self.die(name)
        return wrong

    def check_alive(self) -> None:
        """A dead process does nothing more."""
        if self._dead:
            raise Died

    def die(self, name: str) -> None:
        self._dead = True
        raise Died(name)


class FaultyCluster(Cluster):
    """The operator's client.

    Attributes:
        calls: how many are under way.
    """

    def __init__(self, configuration: client.Configuration) -> None:
        super().__init__(configuration)
        self.faults = Faults()
        self.calls = 0
        self._late: list[Callable[[], Awaitable[str]]] = []

    async def deliver_late(self) -> int:
        """Lets writes that the client has given up on arrive. Returns how many there were."""
        count = len(self._late)
        while self._late:
            with contextlib.suppress(Exception):  # whatever comes of it, nobody hears it
                await self._late.pop(0)()
        return count

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content: str = "application/json",
        accept: str = "application/json",
    ) -> bytes:
        site = _site_of_call(sys._getframe())
        call = super()._send
        self.calls += 1
        try:
            faults = self.faults
            faults.check_alive()
            if method == "GET":
                if faults.read_fails():
                    raise _answer(Wrong.SERVER_ERROR)
                return await call(method, path, query, body, content, accept)
            dry = "dryRun" in (query or ())
            name = f"{method} {resource_of(path)}{' (dry run)' if dry else ''}"
            await self.deliver_late()
            wrong = faults.write(name, site)
            if wrong in _BEFORE:
                raise _no_answer(wrong)
            if wrong in ANSWERS:
                raise _answer(wrong)
            if wrong is Wrong.TIMES_OUT_LATE:
                self._late.append(lambda: call(method, path, query, body, content, accept))
                raise _no_answer(wrong)
            answer = await call(method, path, query, body, content, accept)
            if wrong is Wrong.DIES_AFTER:
                faults.die(name)
            if wrong in _AFTER:
                raise _no_answer(wrong)
            return answer
        finally:
            self.calls -= 1


class FaultyDatabase(Database):
    """The operator's database. What goes wrong, PostgreSQL itself does.

    Attributes:
        sent, landed: how many commits have been sent whose answers nobody waits for, and how many of them have
            happened.
    """

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn)
        self.faults = Faults()
        self.sent = self.landed = 0
        self._late: list[threading.Thread] = []

    def wait_for_late(self) -> int:
        """Until no commit is on its way any more. Returns how many there were."""
        count = len(self._late)
        while self._late:
            self._late.pop().join()
        return count

    def write(self, study_id: int, statement: str, arguments: Sequence[Any]) -> tuple:
        """As the operator's own, which needs fewer round trips for the same."""
        site = _site_of_transaction(sys._getframe())
        with self._faulty(site, _written(statement, arguments), study_id) as found:
            found.execute(statement, arguments)
            return found.fetchone()

    @contextmanager
    def transaction(self, *study: Any, **more: Any) -> Iterator[cursor]:
        site = _site_of_transaction(sys._getframe())
        with self._faulty(site, "COMMIT " + site.partition(":")[2], *study, **more) as found:
            yield found

    @contextmanager
    def _faulty(self, site: str, name: str, *study: Any, **more: Any) -> Iterator[cursor]:
        faults, wrong = self.faults, None
        with super().transaction(*study, **more) as found:
            faults.check_alive()
            if faults.read_fails():
                raise StorageUnavailable("server closed the connection unexpectedly")
            yield found
            found.execute("SELECT pg_current_xact_id_if_assigned()")
            if found.fetchone()[0] is not None:  # it has written
                wrong = faults.write(name, site)
                if wrong is Wrong.LOST_BEFORE:
                    found.execute("SELECT pg_terminate_backend(pg_backend_pid())")
                elif wrong is Wrong.TIMES_OUT_BEFORE:
                    _fail(found, "57014")  # query_canceled: statement_timeout
                elif wrong in ANSWERS:
                    _fail(found, wrong.value[2])
                elif wrong is Wrong.TIMES_OUT_LATE:
                    self._commit_late(_prepare(found))
                    raise psycopg2.OperationalError("could not receive data from server: Connection timed out")
        if wrong is Wrong.DIES_AFTER:
            faults.die(name)
        if wrong in _AFTER:
            raise StorageUnavailable("server closed the connection unexpectedly")

    def _commit_late(self, name: str | None) -> None:
        """The server has got the commit and works on it, holding its locks, while nobody waits for it any more."""
        if name is None:
            return

        def commit() -> None:
            opened = self.connect()
            opened.autocommit = True
            opened.cursor().execute("COMMIT PREPARED %s", (name,))
            opened.close()
            self.landed += 1

        self.sent += 1
        timer = threading.Timer(_LATE, commit)
        timer.start()
        self._late.append(timer)


def _written(statement: str, arguments: Sequence[Any]) -> str:
    """What is stored of a study's trials."""
    if "study_operator.store" not in statement:
        return "STORE that changes have been read"
    kinds = set()
    for change in json.loads(arguments[1])["trials"]:
        if "id" not in change or "WAITING" in change["was"]:
            kinds.add("a trial's start")
        elif "state" in change:
            kinds.add("a trial's end")
        else:
            kinds.add("that a trial runs again" if "forget_result" in change else "notes of a trial")
    return "STORE " + (", ".join(sorted(kinds)) or "notes of the study")


def _prepare(found: cursor) -> str | None:
    """Leaves a transaction to be committed by somebody else; None where PostgreSQL cannot, because it has notified, and
    has rolled it back."""
    name = uuid.uuid4().hex
    try:
        found.execute("PREPARE TRANSACTION %s", (name,))
    except psycopg2.NotSupportedError:
        return None
    return name


def _fail(found: cursor, sqlstate: str) -> None:
    found.execute(f"DO $$ BEGIN RAISE EXCEPTION 'as the test wants it' USING ERRCODE = '{sqlstate}'; END $$")


def _answer(wrong: Wrong) -> Exception:
    """As the operator's own client reads what the API server answers."""
    status, reason, _ = wrong.value
    text = json.dumps({"kind": "Status", "reason": reason, "message": "as the test wants it", "code": status})
    return refusal(status, text)


def _no_answer(wrong: Wrong) -> Exception:
    """As the operator's own client takes a connection that breaks, or a server that is silent for too long."""
    lost = wrong in (Wrong.LOST_BEFORE, Wrong.LOST_AFTER)
    return unreachable(aiohttp.ServerDisconnectedError() if lost else TimeoutError())


def resource_of(path: str) -> str:
    """The resource that a path names: jobs, events, studies/status."""
    parts = path.split("/namespaces/")[1].split("/")  # namespace, plural, name, subresource
    return "/".join(parts[1:4:2])


def _site_of_call(frame: FrameType) -> str:
    """The function of the operator, outside its client, that makes a call."""
    return _site(frame, lambda path: path not in _CLIENT)


def _site_of_transaction(frame: FrameType) -> str:
    """The function of the operator's storage that opens a transaction."""
    return _site(frame, lambda path: path.name != "database.py")


def _site(frame: FrameType | None, wanted: Callable[[Path], bool]) -> str:
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if PACKAGE in path.parents and wanted(path):
            return f"{path.relative_to(PACKAGE)}:{frame.f_code.co_qualname.replace('.<locals>', '')}"
        frame = frame.f_back
    return "the test:itself"

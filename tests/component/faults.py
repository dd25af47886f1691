"""Writes of the operator that go wrong: it dies just before or after one, or gets another answer than it hoped for.

A write is a POST, PATCH or DELETE to the API server, or the commit of a transaction that has changed something.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import Any

from kubernetes.aio import client
from psycopg2.extensions import cursor

from study_operator.cluster import ApiError, Cluster
from study_operator.storage.database import Database, StorageUnavailable


class Died(BaseException):
    """The operator's process was killed. Not an Exception: nothing in the operator may catch it."""


class Wrong(Enum):
    """How a write goes wrong."""

    DIES_BEFORE = "the operator dies before it"
    DIES_AFTER = "the operator dies after it, before the answer"
    LOST_BEFORE = "the connection breaks before it"
    LOST_AFTER = "the connection breaks after it, before the answer"
    CONFLICT = (409, "Conflict")
    THROTTLED = (429, "TooManyRequests")
    SERVER_ERROR = (500, "InternalError")


class Faults:
    """The writes of one operator process, and which of them go wrong.

    Args:
        rule: called with how many writes there were before, and the name of the write: such as "POST jobs",
            "PATCH studies/status" or "COMMIT INSERT INTO trials".
        read_fails: called before each GET and each transaction.

    Attributes:
        writes: names of all writes tried so far.
        struck: names of those that went wrong.
    """

    def __init__(
        self,
        rule: Callable[[int, str], Wrong | None] = lambda count, name: None,
        read_fails: Callable[[], bool] = lambda: False,
    ) -> None:
        self.writes: list[str] = []
        self.struck: list[str] = []
        self.read_fails = read_fails
        self._rule = rule
        self._dead = False

    def write(self, name: str) -> Wrong | None:
        """A write is about to happen."""
        self.check_alive()
        wrong = self._rule(len(self.writes), name)
        self.writes.append(name)
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

    async def _call_text(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content: str = "application/json",
    ) -> str:
        self.calls += 1
        try:
            faults = self.faults
            faults.check_alive()
            if method == "GET":
                if faults.read_fails():
                    raise ApiError(*Wrong.SERVER_ERROR.value, "as the test wants it")
                return await super()._call_text(method, path, query, body, content)
            name = f"{method} {_resource(path)}{' (dry run)' if 'dryRun' in (query or ()) else ''}"
            wrong = faults.write(name)
            if wrong is Wrong.LOST_BEFORE:
                raise ApiError(0, "Unreachable", "the API server cannot be reached: TimeoutError")
            if wrong in (Wrong.CONFLICT, Wrong.THROTTLED, Wrong.SERVER_ERROR):
                raise ApiError(*wrong.value, "as the test wants it")
            answer = await super()._call_text(method, path, query, body, content)
            if wrong is Wrong.DIES_AFTER:
                faults.die(name)
            if wrong is Wrong.LOST_AFTER:
                raise ApiError(0, "Unreachable", "the API server cannot be reached: TimeoutError")
            return answer
        finally:
            self.calls -= 1


class FaultyDatabase(Database):
    """The operator's database."""

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn)
        self.faults = Faults()

    def write(self, study_id: int, statement: str, arguments: Sequence[Any]) -> tuple:
        faults, name = self.faults, _written(statement, arguments)
        wrong = faults.write(name)
        if wrong not in (None, Wrong.DIES_AFTER, Wrong.LOST_AFTER):  # an answer that only the API server gives
            raise StorageUnavailable("server closed the connection unexpectedly")
        answer = super().write(study_id, statement, arguments)
        if wrong is Wrong.DIES_AFTER:
            faults.die(name)
        if wrong is Wrong.LOST_AFTER:
            raise StorageUnavailable("server closed the connection unexpectedly")
        return answer

    @contextmanager
    def transaction(self, study_id: int | None = None, trial_id: int | None = None) -> Iterator[cursor]:
        faults, wrong, name = self.faults, None, ""
        with super().transaction(study_id, trial_id) as found:
            faults.check_alive()
            if faults.read_fails():
                raise StorageUnavailable("server closed the connection unexpectedly")
            yield found
            name = "COMMIT " + " ".join(found.query.decode().split()[:3])
            found.execute("SELECT pg_current_xact_id_if_assigned()")
            if found.fetchone()[0] is not None:  # it has written
                wrong = faults.write(name)
                if wrong not in (None, Wrong.DIES_AFTER, Wrong.LOST_AFTER):  # an answer that only the API server gives
                    raise StorageUnavailable("server closed the connection unexpectedly")
        if wrong is Wrong.DIES_AFTER:
            faults.die(name)
        if wrong is Wrong.LOST_AFTER:
            raise StorageUnavailable("server closed the connection unexpectedly")


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


def _resource(path: str) -> str:
    """The resource that a path names: jobs, events, studies/status."""
    parts = path.split("/namespaces/")[1].split("/")  # namespace, plural, name, subresource
    return "/".join(parts[1:4:2])

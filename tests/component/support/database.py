"""A migrated database, and what a test does in it as a trial's pod would."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import optuna
import psycopg2
from mirror import Mirror
from psycopg2.extensions import connection

from study_operator.model.actions import Tell
from study_operator.model.trial import Failure, Result, TrialRow, TrialState
from study_operator.settings import Settings
from study_operator.storage.database import Database
from study_operator.storage.studies import Studies
from study_operator.storage.trials import Trials

SEED = "the seed of the component tests, long enough"
REPORTER_PASSWORD = "reporter of the component tests"
KEY = hashlib.sha256(b"the key of these tests").hexdigest()
ANOTHER_KEY = hashlib.sha256(b"the key of another study").hexdigest()


@dataclass(frozen=True)
class TestDatabase:
    """`server` is the superuser's url of the server's maintenance database, `name` the database's."""

    __test__ = False
    server: str
    name: str

    @property
    def url(self) -> str:
        """The superuser's url of this database."""
        return urlunsplit(urlsplit(self.server)._replace(path=f"/{self.name}"))

    @property
    def reporter_url(self) -> str:
        return settings_for(self).reporter_url

    def trials(self) -> Trials:
        return Trials(Database(settings_for(self).dsn))

    def studies(self, cluster_id: str = "test-cluster") -> Studies:
        return Studies(Database(settings_for(self).dsn), cluster_id)

    def running_trial(self, key: str = KEY, study_name: str = "team/study", directions: int = 1) -> int:
        """A new RUNNING trial of the study of that name, which is made if need be. Returns its trial_id."""
        key_hash = hashlib.sha256(key.encode()).digest()
        study_id = self.studies().ensure(
            study_name, ["MAXIMIZE"] * directions, "team", study_name, study_name, "Retain", key_hash
        )
        mirror = self.mirror(study_id)
        with mirror.batch() as batch:
            trial_id = mirror.create_new_trial(study_id)
            mirror.set_trial_system_attr(trial_id, "study_operator:job", f"job-{mirror.size - 1}")
        return batch.ids[trial_id]

    def tell(
        self,
        trial_id: int,
        state: TrialState,
        values: Sequence[float] | None,
        failure: Failure | None = None,
        despite_result: bool = False,
    ) -> bool:
        """Ends a trial as the operator does when its study is not in memory.

        Args:
            despite_result: the caller has seen a result that holds by itself.
        """
        ((study_id, number),) = self.query("SELECT study_id, number FROM trials WHERE trial_id = %s", trial_id)
        row = TrialRow(trial_id, number, TrialState.RUNNING, {}, None, result=Result(()) if despite_result else None)
        (ended,) = self.trials().tell(study_id, [Tell(row, state, None if values is None else tuple(values), failure)])
        return ended

    def mirror(self, study_id: int) -> Mirror:
        return Mirror(Database(settings_for(self).dsn), study_id)

    @contextmanager
    def optuna_study(self, name: str) -> Iterator[optuna.Study]:
        """A study as stock Optuna loads it, in a notebook for example; it is made if there is none of that name."""
        storage = optuna.storages.RDBStorage(self.url.replace("postgresql:", "postgresql+psycopg2:"))
        yield optuna.create_study(study_name=name, storage=storage, load_if_exists=True)
        storage.engine.dispose()

    def query(self, text: str, *values: Any) -> list[tuple]:
        """Rows of one statement, run as the superuser."""
        return _query(psycopg2.connect(self.url), text, values)

    def query_as_reporter(self, text: str, *values: Any, key: str = "") -> list[tuple]:
        """Rows of one statement, run with the login of trials' pods and a study's key."""
        return _query(self.connect_as_reporter(key), text, values)

    def connect_as_reporter(self, key: str) -> connection:
        """A connection as a study's pods open it: the key goes with the login, so that no query shows it."""
        setting = key.replace("\\", "\\\\").replace(" ", "\\ ")
        return psycopg2.connect(self.reporter_url, options=f"-c study_operator.key={setting}")


# What a message has for the arguments of each function that finds the key in the connection's setting.
_FIELDS = {
    "report": ("step", "value"),
    "finish": ("values", "pruned", "constraints", "infeasible"),
    "other_end": ("values", "pruned", "constraints", "infeasible"),
    "candidate": ("values", "constraints"),
    "bad_report": ("message", "total"),
    "set_user_attr": ("name", "json"),
    "should_stop": (),
}
_numbers = itertools.count(time.time_ns() // 1000)


@dataclass(frozen=True)
class TrialPod:
    """What a trial's pod is to the database: a login, the study's key, and its trial. Its calls are messages, or with
    `by_setting` calls of the functions that pods of version 0.1 know."""

    database: TestDatabase
    key: str
    trial_id: int
    by_setting: bool = False
    job: str | None = None

    def call(self, function: str, *arguments: Any) -> Any:
        """Calls a reporting function. Returns its answer."""
        if not self.by_setting:
            return self.submit(self.message(function, *arguments))
        places = ", ".join(["%s"] * (1 + len(arguments)))
        (row,) = self.database.query_as_reporter(
            f"SELECT study_operator.{function}({places})", self.trial_id, *arguments, key=self.key
        )
        return row[0]

    def message(self, function: str, *arguments: Any) -> str:
        """The message for such a call. Constraints are JSON text, and go into it as they are."""
        given = dict(zip(_FIELDS[function], arguments, strict=False))
        if function in ("finish", "other_end"):
            given.setdefault("pruned", False)
        constraints = given.pop("constraints", None)
        message = {"call": function, "trial": self.trial_id, "number": next(_numbers), **_plain(given)}
        if self.job is not None:
            message["job"] = self.job
        return json.dumps(message)[:-1] + (f', "constraints": {constraints}}}' if constraints else "}")

    def submit(self, message: str, proof: str | None = None) -> Any:
        """Sends a message, with the right proof unless one is given. Returns the answer."""
        proof = prove(self.key, message) if proof is None else proof
        ((answer,),) = self.database.query_as_reporter("SELECT study_operator.submit(%s, %s)", message, proof)
        return answer

    def refusal(self, function: str, *arguments: Any) -> str | None:
        """The SQLSTATE with which a call is refused; None if it is not."""
        try:
            self.call(function, *arguments)
        except psycopg2.Error as error:
            return error.pgcode
        return None


def prove(key: str, message: str) -> str:
    """The proof of a message, written from is_proven() in reporting.sql and not from study_trial."""
    mask = hmac.new(hashlib.sha256(key.encode()).digest(), message.encode(), "sha256").hexdigest()
    return f"{int(key, 16) ^ int(mask, 16):064x}"


def _plain(value: Any) -> Any:
    """Numbers that JSON does not have as texts."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def settings_for(database: TestDatabase, **more: str) -> Settings:
    """The operator's settings for a database."""
    return Settings.from_environment(
        {
            "DATABASE_URL": database.url,
            "REPORTER_PASSWORD": REPORTER_PASSWORD,
            "REPORTER_LOGINS": "shared",  # roles belong to the whole server, and most tests need only one
            "STUDY_KEY_SEED": SEED,
            "HTTP_PORT": "0",
            **more,
        }
    )


class KeptConnection:
    """Queries of a superuser over a connection that stays open: to open one takes longer than most queries."""

    def __init__(self) -> None:
        self._url, self._opened = "", None

    def query(self, url: str, text: str, *values: Any) -> list[tuple]:
        """Rows of one statement that changes nothing: if the server has ended the connection, it is run again."""
        if self._opened is not None and not self._opened.closed and url == self._url:
            try:
                return _rows(self._opened, text, values)
            except psycopg2.Error:
                if not self._opened.closed:
                    raise
        self.close()
        self._url, self._opened = url, psycopg2.connect(url)
        return _rows(self._opened, text, values)

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()


def _query(opened: connection, text: str, values: tuple) -> list[tuple]:
    try:
        return _rows(opened, text, values)
    finally:
        opened.close()


def _rows(opened: connection, text: str, values: tuple) -> list[tuple]:
    with opened, opened.cursor() as cursor:
        cursor.execute(text, values or None)
        return cursor.fetchall() if cursor.description else []

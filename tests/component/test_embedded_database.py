"""The chart's embedded database: what a tenant does to it costs another namespace's reports less than a second."""

from __future__ import annotations

import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit

import psycopg2
import pytest
from database import KEY, TrialPod
from embedded import POOL_SIZE, Embedded

from study_operator.storage.database import Database
from study_operator.storage.logins import Logins
from study_operator.storage.migrate import migrate
from study_trial._channels import PodChannel
from study_trial._connection import Connection
from study_trial._delivery import Delivery
from study_trial._search_space import StudySpace
from study_trial._trial import Trial

CLUSTER, TENANT, NEIGHBOUR = "test-cluster", "team-a", "team-b"
# 8 GiB of texts that are all different, at once.
LARGE = "SELECT count(*) FROM (SELECT DISTINCT repeat('x', 8000) || g FROM generate_series(1, 1000000) g) s"


@pytest.fixture(scope="module")
def embedded() -> Iterator[Embedded]:
    embedded = Embedded()
    yield embedded
    embedded.close()


@pytest.fixture(scope="module")
def logins(embedded: Embedded) -> Logins:
    logins = Logins(Database(embedded.settings.dsn), embedded.settings, CLUSTER)
    for namespace in (TENANT, NEIGHBOUR):
        user = logins.login_of(namespace).user
        deadline = time.monotonic() + 30
        while not embedded.knows(user):
            assert time.monotonic() < deadline, embedded.log()
            time.sleep(0.05)
    return logins


def connect(url: str, database: str = "studies", **more: object) -> psycopg2.extensions.connection:
    opened = psycopg2.connect(urlunsplit(urlsplit(url)._replace(path=f"/{database}")), connect_timeout=20, **more)
    opened.autocommit = True
    return opened


@dataclass
class Neighbour:
    """Pods of another namespace, which report all the time: one that keeps its connection, one that opens new ones."""

    url: str
    kept: TrialPod
    opened: TrialPod
    took: list[float] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Reports all the time, at first undisturbed: what a report takes then is compared with what it takes later."""
        over = threading.Event()
        threads = [threading.Thread(target=self._report, args=(over, keep)) for keep in (True, False)]
        for thread in threads:
            thread.start()
        while len(self.took) < 20:
            time.sleep(0.05)
        idle = max(self.took)
        self.took.clear()
        try:
            yield
            while len(self.took) < 5:
                time.sleep(0.05)
        finally:
            over.set()
            for thread in threads:
                thread.join()
        assert self.lost == []
        assert max(self.took) < idle + 1.0, f"{max(self.took):.2f} s, undisturbed {idle:.2f} s"

    def _report(self, over: threading.Event, keep: bool) -> None:
        pod, step = (self.kept if keep else self.opened), 0
        connection, trial = None, None
        while not over.is_set():
            if trial is None or not keep:
                if connection is not None:
                    connection.close()
                connection = Connection(self.url, pod.key)
                delivery = Delivery(connection, 5.0, 30.0)
                trial = Trial(0, StudySpace({}, []), PodChannel(delivery, pod.trial_id, 0, "job-0"))
            begun = time.monotonic()
            trial.report(0.5, step)
            self.took.append(time.monotonic() - begun)
            if trial.undelivered:
                self.lost.append(f"step {step}")
            step += 1
            time.sleep(0.02)


@pytest.fixture
def neighbour(embedded: Embedded, logins: Logins) -> Neighbour:
    kept, opened = (
        embedded.database.running_trial(KEY, f"team/{name}-{time.time_ns()}") for name in ("kept", "opened")
    )
    pods = (TrialPod(embedded.database, KEY, trial_id) for trial_id in (kept, opened))
    return Neighbour(logins.url_of(NEIGHBOUR), *pods)


def test_no_other_database_and_no_other_login(embedded, logins):
    """The maintenance databases have every right of PUBLIC still: H1."""
    url = logins.url_of(TENANT)
    for database in ("postgres", "template1", "pgbouncer", "nothing"):
        with pytest.raises(psycopg2.OperationalError):
            connect(url, database)
    login = logins.login_of(TENANT)
    direct = embedded.server.url("studies")
    for database in ("studies", "postgres", "template1"):
        with pytest.raises(psycopg2.OperationalError, match="rejects connection"):
            psycopg2.connect(embedded.server.url(database), user=login.user, password=login.password)
    for user, password in (("study_pooler", ""), ("study_pooler", "x"), ("study_operator", embedded.server.password)):
        with pytest.raises(psycopg2.OperationalError):
            psycopg2.connect(url, user=user, password=password)
    with pytest.raises(psycopg2.OperationalError, match="rejects connection"):
        psycopg2.connect(direct, user="study_pooler", password="")
    assert embedded.database.query("SELECT has_database_privilege('public', 'postgres', 'CONNECT')") == [(False,)]


def test_a_query_without_bounds_fails_alone(embedded, logins, neighbour):
    """H2: all the sessions of one login together stay below what the container has, and the server lives."""
    before = embedded.database.query("SELECT pg_postmaster_start_time()")
    outcomes, most = [], 0

    def ask() -> None:
        with closing(connect(logins.url_of(TENANT))) as opened, opened.cursor() as cursor:
            try:
                cursor.execute(
                    "BEGIN; SET LOCAL work_mem = '2GB'; SET LOCAL hash_mem_multiplier = 1000;"
                    f" SET LOCAL max_parallel_workers_per_gather = 100; SET LOCAL statement_timeout = 0; {LARGE}"
                )
                outcomes.append("done")
            except psycopg2.Error as error:
                slow = error.pgcode is None and "query timeout" in str(error)  # the pooler's words, on a busy machine
                outcomes.append("53200" if slow else error.pgcode or str(error))

    with neighbour.reporting():
        threads = [threading.Thread(target=ask) for _ in range(POOL_SIZE)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            most = max(most, embedded.server.memory())
            time.sleep(0.1)
    assert set(outcomes) == {"53200"}, "out of memory, or of time, each of them"
    assert embedded.database.query("SELECT pg_postmaster_start_time()") == before
    assert most < 1536 << 20, f"{most >> 20} MiB of the 2 GiB that the chart's container has"


@pytest.mark.parametrize("user", ["nobody", "study_operator", "study_pooler"])
def test_half_open_logins_take_no_connection(embedded, neighbour, user):
    """H3: nobody needs a password for them."""
    message = b"user\0" + user.encode() + b"\0database\0studies\0\0"
    packet = struct.pack("!II", 8 + len(message), 196608) + message
    with neighbour.reporting(), ExitStack() as stack:
        for number in range(700):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", embedded.port), 10))
            if number % 2:
                client.sendall(packet)
        psycopg2.connect(embedded.settings.dsn).close()  # the operator's own
        time.sleep(1.0)


def test_idle_and_waiting_logins_hurt_their_own_namespace_alone(embedded, logins, neighbour):
    with neighbour.reporting(), ExitStack() as stack:
        idle = [stack.enter_context(closing(connect(logins.url_of(TENANT)))) for _ in range(100)]
        for opened in idle[:20]:  # each holds a session, as many as there are; the others wait
            threading.Thread(target=_hold, args=(opened,), daemon=True).start()
        psycopg2.connect(embedded.settings.dsn).close()
        time.sleep(2.0)
        held = embedded.database.query(
            "SELECT count(*) FROM pg_stat_activity WHERE usename = %s", logins.login_of(TENANT).user
        )
        assert held[0][0] <= POOL_SIZE


def _hold(opened: psycopg2.extensions.connection) -> None:
    with suppress(psycopg2.Error):
        opened.cursor().execute("BEGIN; SET LOCAL statement_timeout = 0; SELECT pg_sleep(60)")


def test_the_password_in_a_loop(embedded, logins, neighbour):
    """H4, through the pooler."""
    over = threading.Event()

    def change() -> None:
        while not over.is_set():
            try:
                with closing(connect(logins.url_of(TENANT))) as opened:
                    while not over.is_set():
                        opened.cursor().execute("ALTER ROLE CURRENT_USER PASSWORD 'mine'")
            except psycopg2.Error:
                time.sleep(0.05)

    thread = threading.Thread(target=change)
    with neighbour.reporting():
        thread.start()
        time.sleep(2.0)
        over.set()
        thread.join()


def test_people_read_by_the_operators_port(embedded):
    """The login of the trials API comes to PostgreSQL itself, with its password. PgBouncer does not know it."""
    migrate(embedded.settings_with(READER_PASSWORD="people"))
    given = {"user": "study_reader", "password": "people"}
    with closing(psycopg2.connect(embedded.server.url("studies"), **given)) as opened, opened.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM study_reading.numbers")
        assert cursor.fetchall() == [(1,)]
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(embedded.server.url("studies"), user="study_reader", password="another")
    with pytest.raises(psycopg2.OperationalError, match="rejects connection"):
        psycopg2.connect(embedded.server.url("postgres"), **given)
    with pytest.raises(psycopg2.OperationalError):
        psycopg2.connect(embedded.server.url("studies"), port=embedded.port, **given)


def test_the_documented_limits_are_those_of_the_chart():
    """docs/install.md has the same configuration for a PgBouncer of an administrator's own."""
    from embedded import FILES
    from pooler import ROOT

    def settings(text: str) -> dict[str, str]:
        return dict(re.findall(r"^(\w+) = (.*)$", text, re.MULTILINE))

    (documented,) = re.findall(r"```ini\n(\[databases\].*?)```", (ROOT / "docs/install.md").read_text(), re.DOTALL)
    chart, documented = settings((FILES / "pgbouncer.ini").read_text()), settings(documented)
    for name in (
        "query_wait_timeout",
        "query_timeout",
        "idle_transaction_timeout",
        "server_reset_query",
        "server_reset_query_always",
        "server_idle_timeout",
        "client_login_timeout",
        "pool_mode",
        "auth_type",
    ):
        assert chart[name] == documented[name], name

"""Trials that report through PgBouncer in transaction mode."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg2
import pytest
from database import ANOTHER_KEY, KEY, TestDatabase
from pooler import Pooler
from psycopg2 import sql
from psycopg2.extensions import ISOLATION_LEVEL_AUTOCOMMIT
from trial_pod import Pod

import study_trial
from study_operator.storage.migrate import migrate
from study_operator.storage.reporter import Guard
from study_trial._channels import PodChannel
from study_trial._connection import Connection
from study_trial._delivery import Delivery
from study_trial._search_space import StudySpace
from study_trial._trial import Trial

NO_TLS = {"client_tls_sslmode": "disable", "server_tls_sslmode": "disable"}


@pytest.fixture
def pooler(database: TestDatabase) -> Iterator[Pooler]:
    """One server connection for everybody."""
    pooler = Pooler(database.reporter_url, default_pool_size=1, **NO_TLS)
    yield pooler
    pooler.close()


class PooledTrial:
    """A running trial of a study of its own, whose program reports by way of the pooler."""

    def __init__(self, database: TestDatabase, pooler: Pooler, key: str) -> None:
        self.id = database.running_trial(key, f"team/{uuid.uuid4()}")
        self._url = pooler.url
        self.trial = self.program(key, self.id)

    def program(self, key: str, trial_id: int) -> Trial:
        """A program that has this key and reports for that trial."""
        delivery = Delivery(Connection(self._url, key), 30.0, 30.0)
        return Trial(0, StudySpace({}, []), PodChannel(delivery, trial_id, 0, "job-0"))


def reports(database: TestDatabase, trial_id: int) -> list[tuple[int, float]]:
    return database.query(
        "SELECT step, intermediate_value FROM trial_intermediate_values WHERE trial_id = %s ORDER BY 1", trial_id
    )


def sessions(database: TestDatabase) -> int:
    """How many server connections the reporter has."""
    ((count,),) = database.query(
        "SELECT count(*) FROM pg_stat_activity WHERE usename = 'study_reporter' AND datname = current_database()"
    )
    return count


def test_trials_of_two_studies_share_one_connection_and_write_only_their_own(database, pooler):
    one, two = PooledTrial(database, pooler, KEY), PooledTrial(database, pooler, ANOTHER_KEY)

    def run(pooled: PooledTrial, value: float) -> None:
        for step in range(20):
            pooled.trial.report(value, step)
        pooled.trial.set_user_attr("mine", value)
        pooled.trial.finish(value)

    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(run, one, 0.25), threads.submit(run, two, 0.75)]:
            done.result()
    for pooled, value in ((one, 0.25), (two, 0.75)):
        assert reports(database, pooled.id) == [(step, value) for step in range(20)]
        assert database.query("SELECT vals FROM study_operator.results WHERE trial_id = %s", pooled.id) == [([value],)]
    assert sessions(database) == 1

    three = PooledTrial(database, pooler, ANOTHER_KEY)
    one.program(KEY, database.running_trial(KEY, "team/warm")).report(0.5, 0)  # the connection has just served this key
    for write in (
        lambda trial: trial.report(0.5, 0),
        lambda trial: trial.finish(0.5),
        lambda trial: trial.set_user_attr("a", 1),
    ):
        with pytest.raises(study_trial.WrongKeyError):
            write(three.program(KEY, three.id))
    assert reports(database, three.id) == []
    assert sessions(database) == 1


def test_the_pooler_needs_no_password(fresh):
    """It has what PostgreSQL has stored, which is the same again when somebody has changed it and the operator has set
    it anew."""
    settings = fresh.settings()
    migrate(settings)
    ((stored,),) = fresh.database.query("SELECT rolpassword FROM pg_authid WHERE rolname = %s", fresh.reporter)
    assert stored.startswith("SCRAM-SHA-256$4096:")
    fresh.execute("ALTER ROLE {} PASSWORD 'mine'", sql.Identifier(fresh.reporter))
    Guard(settings).renew()
    pooler = Pooler(settings.reporter_url, stored, default_pool_size=1, **NO_TLS)
    try:
        PooledTrial(fresh.database, pooler, KEY).trial.report(0.5, 1)
    finally:
        pooler.close()
    assert fresh.database.query("SELECT step FROM trial_intermediate_values") == [(1,)]


@pytest.mark.parametrize("password", ["a b'c\"d\\", "größer", "x" * 100])
def test_a_password_of_any_characters_is_stored_right(fresh, password):
    settings = fresh.settings(REPORTER_PASSWORD=password)
    migrate(settings)
    psycopg2.connect(settings.reporter_url).close()


def test_more_clients_than_connections_lose_nothing(database):
    pooler = Pooler(database.reporter_url, default_pool_size=2, **NO_TLS)
    try:
        trials = [PooledTrial(database, pooler, KEY) for _ in range(24)]

        def run(pooled: PooledTrial) -> None:
            for step in range(10):
                pooled.trial.report(0.5, step)
                assert not pooled.trial.undelivered

        with ThreadPoolExecutor(len(trials)) as threads:
            list(threads.map(run, trials))
        assert [len(reports(database, pooled.id)) for pooled in trials] == [10] * len(trials)
        assert 1 <= sessions(database) <= 2
    finally:
        pooler.close()


def test_what_one_pod_sets_does_not_reach_the_next(database, pooler):
    hostile = psycopg2.connect(pooler.url)
    hostile.set_isolation_level(ISOLATION_LEVEL_AUTOCOMMIT)
    with hostile.cursor() as cursor:
        for statement in (
            "SET default_transaction_read_only = on",
            "SET statement_timeout = 1",
            "SET search_path = nowhere",
            "SET session_replication_role = replica",
            "LISTEN study_operator",
            "PREPARE mine AS SELECT 1",
        ):
            try:
                cursor.execute(statement)
            except psycopg2.errors.InsufficientPrivilege:
                continue
    pooled = PooledTrial(database, pooler, KEY)
    pooled.trial.report(0.5, 1)
    assert reports(database, pooled.id) == [(1, 0.5)]
    with hostile.cursor() as cursor:
        cursor.execute("SELECT current_setting('default_transaction_read_only'), current_setting('statement_timeout')")
        assert cursor.fetchone() == ("off", "10s")
    hostile.close()
    assert sessions(database) == 1


def test_the_pooler_ends_what_holds_a_connection(database):
    pooler = Pooler(database.reporter_url, default_pool_size=1, idle_transaction_timeout=1, query_timeout=1, **NO_TLS)
    try:
        pooled = PooledTrial(database, pooler, KEY)
        idle, busy = psycopg2.connect(pooler.url), psycopg2.connect(pooler.url)
        idle.cursor().execute("SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0")
        pooled.trial.report(0.5, 1)  # waits until the pooler has ended the transaction of the other
        with pytest.raises(psycopg2.OperationalError):
            busy.cursor().execute("SET LOCAL statement_timeout = 0; SELECT pg_sleep(600)")
        pooled.trial.report(0.5, 2)
        assert reports(database, pooled.id) == [(1, 0.5), (2, 0.5)]
    finally:
        pooler.close()


def test_the_command_reports_through_the_pooler(database, pooler):
    pod = Pod.create(database)
    done = pod.command("report", "--step", "3", "0.5", STUDY_STORAGE_URL=pooler.url)
    assert (done.returncode, done.stdout, done.stderr) == (0, "continue\n", "")
    assert pod.stored().intermediate_values == {3: 0.5}


def test_the_key_is_in_no_log_of_the_pooler(database, pooler):
    pooled = PooledTrial(database, pooler, KEY)
    pooled.trial.report(0.5, 1)
    with pytest.raises(study_trial.RefusedError):
        pooled.trial.finish([0.5, 0.6])
    assert "study_reporter" in pooler.log()
    assert KEY not in pooler.log()

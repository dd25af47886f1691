"""The database: its migration, what the reporter may do in it, and stock Optuna beside the operator."""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

import optuna
import psycopg2
import pytest
from database import TestDatabase, TrialPod, settings_for
from faults import Died
from optuna.trial import TrialState
from psycopg2 import sql
from waiting import until
from world import World, params_of

from study_operator.model.study import parse
from study_operator.model.trial import Report
from study_operator.settings import Settings
from study_operator.storage.database import Database, StorageError
from study_operator.storage.listen import listen
from study_operator.storage.migrate import OPTUNA_SCHEMA, REPORTING_SCHEMA, migrate, renew_reporter
from study_operator.storage.studies import Studies
from study_operator.storage.trials import Trials

# Migration


@dataclass(frozen=True)
class Fresh:
    """An empty database, and names of roles that nobody else uses: roles belong to the whole server."""

    database: TestDatabase
    operator: str
    reporter: str

    def settings(self, login: str | None = None, **more: str) -> Settings:
        """Settings of an operator; `login` is the one that it uses, the superuser's unless given."""
        url = urlsplit(self.database.url)
        if login:
            url = url._replace(netloc=f"{login}:{login}@{url.hostname}:{url.port}")
        return settings_for(self.database, DATABASE_URL=urlunsplit(url), REPORTER_USER=self.reporter, **more)

    def create_role(self, name: str, rights: str = "") -> None:
        """A login whose password is its name."""
        self.execute(f"CREATE ROLE {{}} LOGIN {rights} PASSWORD {{}}", sql.Identifier(name), sql.Literal(name))

    def execute(self, text: str, *names: sql.Composable) -> None:
        _execute(self.database.url, text, *names)

    def connect(self, user: str, password: str) -> psycopg2.extensions.connection:
        return psycopg2.connect(self.database.url, user=user, password=password)


@pytest.fixture
def fresh(services: dict[str, str]) -> Iterator[Fresh]:
    name = f"fresh_{uuid.uuid4().hex[:8]}"
    server = services["database_url"]
    _execute(server, "CREATE DATABASE {}", sql.Identifier(name))
    fresh = Fresh(TestDatabase(server, name), f"{name}_operator", f"{name}_reporter")
    yield fresh
    _execute(server, "DROP DATABASE {} WITH (FORCE)", sql.Identifier(name))
    for role in (fresh.reporter, fresh.operator):
        _execute(server, "DROP ROLE IF EXISTS {}", sql.Identifier(role))


def _execute(url: str, text: str, *names: sql.Composable) -> None:
    connection = psycopg2.connect(url)
    connection.autocommit = True
    try:
        connection.cursor().execute(sql.SQL(text).format(*names))
    finally:
        connection.close()


def test_a_second_migration_changes_nothing(fresh):
    settings = fresh.settings()
    migrate(settings)
    trial = fresh.database.running_trial("key")
    before = _schema(fresh.database)
    migrate(settings)
    assert _schema(fresh.database) == before
    assert fresh.database.query("SELECT trial_id, state::text FROM trials") == [(trial, "RUNNING")]
    with psycopg2.connect(settings.reporter_url, options="-c study_operator.key=key") as reporter:
        reporter.cursor().execute("SELECT study_operator.report(%s, 1, 0.5)", (trial,))
    reporter.close()
    Studies(Database(settings.dsn), "cluster").check()


def _schema(database: TestDatabase) -> list[tuple]:
    """Every relation and function of the database with its rights, and the versions."""
    return [
        *database.query(
            "SELECT relname, relkind::text, relacl::text FROM pg_class"
            " WHERE relnamespace IN ('public'::regnamespace, 'study_operator'::regnamespace) ORDER BY 1"
        ),
        *database.query(
            "SELECT oid::regprocedure::text, prosecdef, proacl::text FROM pg_proc"
            " WHERE pronamespace = 'study_operator'::regnamespace ORDER BY 1"
        ),
        *database.query("SELECT version FROM study_operator.schema_version"),
        *database.query("SELECT version_num FROM alembic_version"),
    ]


def test_concurrent_migrations_wait_for_each_other(fresh):
    settings = fresh.settings()
    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(migrate, settings) for _ in range(4)]:
            done.result()
    assert fresh.database.query("SELECT version FROM study_operator.schema_version") == [(REPORTING_SCHEMA,)]
    assert fresh.database.query("SELECT version_num FROM alembic_version") == [(OPTUNA_SCHEMA,)]


def test_a_migration_killed_at_any_commit_is_completed_by_the_next(fresh, services, monkeypatch):
    commits, at = 0, None

    class Dying(psycopg2.extensions.connection):
        def commit(self) -> None:
            nonlocal commits
            commits += 1
            if commits == at:
                raise Died
            super().commit()

    def connect(database: Database) -> Dying:
        return psycopg2.connect(database._dsn, connection_factory=Dying)

    monkeypatch.setattr(Database, "connect", connect)
    settings = fresh.settings()
    migrate(settings)
    complete, most = _schema(fresh.database), commits
    assert most > 3
    name = sql.Identifier(fresh.database.name)
    for doomed in range(1, most + 1):
        commits, at = 0, doomed
        _execute(services["database_url"], "DROP DATABASE {} WITH (FORCE)", name)
        _execute(services["database_url"], "CREATE DATABASE {}", name)
        with pytest.raises(Died):
            migrate(settings)
        at = None
        migrate(settings)
        assert _schema(fresh.database) == complete


def test_another_version_of_optunas_tables_is_refused(database):
    database.query("UPDATE alembic_version SET version_num = 'v9.0.0'")
    before = _schema(database)
    message = (
        f"the database's Optuna tables have version v9.0.0, this operator is tested with {OPTUNA_SCHEMA}. Run "
        "`study-operator migrate` on a new database, upgrade an older one with `optuna storage upgrade`, or give the "
        "operator a database of its own (MLflow's alembic_version table clashes with Optuna's)"
    )
    for refused in (lambda: migrate(settings_for(database)), database.studies().check):
        with pytest.raises(StorageError) as caught:
            refused()
        assert str(caught.value) == message
    assert _schema(database) == before


def test_a_newer_reporting_schema_is_refused(database):
    database.query("INSERT INTO study_operator.schema_version (version) VALUES (%s)", REPORTING_SCHEMA + 1)
    message = (
        f"the database's study_operator schema has version {REPORTING_SCHEMA + 1}, newer than this operator's "
        f"{REPORTING_SCHEMA}: a newer operator has run here. Install that version again, or restore a backup"
    )
    for refused in (lambda: migrate(settings_for(database)), database.studies().check):
        with pytest.raises(StorageError) as caught:
            refused()
        assert str(caught.value) == message


def test_a_database_without_tables_is_refused_by_an_operator(fresh):
    with pytest.raises(StorageError, match=r"Optuna tables have version None.* Run `study-operator migrate`"):
        fresh.database.studies().check()


def test_a_database_with_optunas_tables_alone_is_refused_by_an_operator(fresh):
    optuna.storages.RDBStorage(fresh.database.url.replace("postgresql:", "postgresql+psycopg2:")).engine.dispose()
    message = f"schema has version 0, this operator needs {REPORTING_SCHEMA}: run `study-operator migrate`"
    with pytest.raises(StorageError, match=message):
        fresh.database.studies().check()
    migrate(fresh.settings())
    fresh.database.studies().check()


def test_a_reporter_prepared_by_an_administrator_is_left_as_it_is(fresh):
    fresh.create_role(fresh.operator)
    fresh.execute("ALTER DATABASE {} OWNER TO {}", sql.Identifier(fresh.database.name), sql.Identifier(fresh.operator))
    fresh.create_role(fresh.reporter)
    migrate(fresh.settings(fresh.operator, MANAGE_REPORTER="false"))
    trial = fresh.database.running_trial("key")
    with psycopg2.connect(
        fresh.database.url, user=fresh.reporter, password=fresh.reporter, options="-c study_operator.key=key"
    ) as reporter:
        reporter.cursor().execute("SELECT study_operator.finish(%s, '{0.5}')", (trial,))
    reporter.close()
    assert fresh.database.query("SELECT vals FROM study_operator.results") == [([0.5],)]


def test_a_reporter_that_nobody_has_prepared_is_asked_for(fresh):
    with pytest.raises(StorageError) as caught:
        migrate(fresh.settings(MANAGE_REPORTER="false"))
    assert str(caught.value) == (
        f'role "{fresh.reporter}" does not exist. With MANAGE_REPORTER=false an administrator creates that login '
        "first: see docs/install.md"
    )


def test_a_login_that_may_not_create_roles_learns_what_to_do(fresh):
    fresh.create_role(fresh.operator)
    fresh.execute("ALTER DATABASE {} OWNER TO {}", sql.Identifier(fresh.database.name), sql.Identifier(fresh.operator))
    with pytest.raises(StorageError) as caught:
        migrate(fresh.settings(fresh.operator))
    assert str(caught.value) == (
        "the operator's database login lacks a right: permission denied to create role. Make it the owner of the "
        "database, or prepare the reporter's login as docs/install.md says and set MANAGE_REPORTER=false"
    )


def test_a_login_that_does_not_own_the_database_learns_what_to_do(fresh):
    fresh.create_role(fresh.operator, "CREATEROLE")
    with pytest.raises(StorageError, match=r"lacks a right: permission denied for schema public\. Make it the owner"):
        migrate(fresh.settings(fresh.operator))


def test_a_login_with_createrole_is_enough(fresh):
    fresh.create_role(fresh.operator, "CREATEROLE")
    fresh.execute("ALTER DATABASE {} OWNER TO {}", sql.Identifier(fresh.database.name), sql.Identifier(fresh.operator))
    settings = fresh.settings(fresh.operator)
    migrate(settings)
    psycopg2.connect(settings.reporter_url).close()


def test_what_a_pod_does_to_the_shared_login_is_made_good(fresh):
    settings = fresh.settings()
    migrate(settings)
    pod = psycopg2.connect(settings.reporter_url)
    with pod, pod.cursor() as cursor:
        cursor.execute("ALTER ROLE CURRENT_USER SET default_transaction_read_only = on")
        cursor.execute("ALTER ROLE CURRENT_USER SET statement_timeout = 0")
        cursor.execute("ALTER ROLE CURRENT_USER PASSWORD 'mine'")
    pod.close()
    with pytest.raises(psycopg2.OperationalError):
        psycopg2.connect(settings.reporter_url)
    renew_reporter(Database(settings.dsn), settings)
    pod = psycopg2.connect(settings.reporter_url)
    with pod, pod.cursor() as cursor:
        cursor.execute("SELECT current_setting('default_transaction_read_only'), current_setting('statement_timeout')")
        assert cursor.fetchone() == ("off", "10s")
    pod.close()


# What a pod can do with the reporter's login, beyond reporting


FORBIDDEN = """
SELECT * FROM trials
SELECT * FROM studies
SELECT * FROM trial_params
SELECT * FROM trial_system_attributes
SELECT * FROM alembic_version
SELECT * FROM study_operator.access
SELECT * FROM study_operator.results
SELECT * FROM study_operator.schema_version
UPDATE trials SET state = 'COMPLETE'
INSERT INTO trials (study_id, number, state) VALUES (1, 99, 'RUNNING')
INSERT INTO trial_system_attributes (trial_id, key, value_json) VALUES (1, 'cma:optimizer', '"pickle"')
INSERT INTO study_operator.results VALUES (1, '{1}', false)
UPDATE study_operator.access SET key_hash = NULL
DELETE FROM trials
TRUNCATE trials
DO $$ BEGIN LOCK TABLE public.trials; END $$
DROP TABLE trials
ALTER TABLE trials ADD COLUMN x int
CREATE INDEX ON trials (state)
SELECT nextval('trials_trial_id_seq')
SELECT study_operator.authorise(1)
CREATE TABLE public.mine (x int)
CREATE TABLE study_operator.mine (x int)
CREATE TEMPORARY TABLE mine (x int)
CREATE VIEW public.mine AS SELECT 1
CREATE SCHEMA mine
CREATE FUNCTION public.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'
CREATE OR REPLACE FUNCTION study_operator.report(integer, bigint, double precision) RETURNS boolean LANGUAGE sql AS ''
CREATE FUNCTION pg_temp.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'
CREATE EXTENSION dblink
CREATE ROLE mine
CREATE DATABASE mine
ALTER SYSTEM SET work_mem = '1GB'
ALTER ROLE postgres PASSWORD 'mine'
SET ROLE postgres
SET SESSION AUTHORIZATION postgres
GRANT SELECT ON trials TO PUBLIC
SELECT * FROM pg_authid
SELECT * FROM pg_shadow
SELECT * FROM pg_largeobject
SELECT * FROM pg_statistic
SELECT * FROM pg_hba_file_rules
SELECT pg_read_file('/etc/passwd')
SELECT pg_ls_dir('.')
COPY trials TO STDOUT
COPY (SELECT 1) TO '/tmp/mine'
COPY (SELECT 1) TO PROGRAM 'cat'
DO LANGUAGE plpgsql $$ BEGIN PERFORM 1 FROM public.trials; END $$
SELECT lo_create(0)
SELECT lo_creat(-1)
SELECT lo_from_bytea(0, 'x')
SELECT lo_import('/etc/passwd')
SELECT lo_export(1, '/tmp/mine')
SELECT * FROM pg_stat_activity
SELECT pg_stat_get_backend_activity(1)
SELECT pg_terminate_backend(pg_backend_pid())
SELECT pg_cancel_backend(pg_backend_pid())
SELECT pg_reload_conf()
SELECT pg_switch_wal()
"""


def test_the_reporter_can_do_nothing_but_report(fresh):
    migrate(fresh.settings())  # here and not in a copied database, whose own rights are not copied with it
    trial = fresh.database.running_trial("key")
    connection = psycopg2.connect(fresh.settings().reporter_url, options="-c study_operator.key=key")
    connection.autocommit = True
    answers = {}
    with connection.cursor() as cursor:
        for statement in filter(None, FORBIDDEN.splitlines()):
            try:
                cursor.execute(statement)
                answers[statement] = "done"
            except psycopg2.Error as error:
                answers[statement] = error.pgcode
        cursor.execute("SELECT study_operator.report(%s, 1, 0.5)", (trial,))
        assert cursor.fetchone() == (False,)
        cursor.execute("SELECT count(*) FROM pg_stats WHERE schemaname IN ('public', 'study_operator')")
        assert cursor.fetchone() == (0,), "statistics hold values of the tables"
    connection.close()
    assert {statement: code for statement, code in answers.items() if code != "42501"} == {}


# Stock Optuna beside the operator


def test_rows_are_those_that_optuna_would_write(database):
    trial = TrialPod(database, "key", database.running_trial("key"))
    reports = {3: math.nan, 1: math.inf, 2: -math.inf, 7: 0.1 + 0.2, 8: 5e-324, 9: 1.7976931348623157e308}
    with database.optuna_study("team/study") as study:
        theirs = study.ask()
        for step, value in reports.items():
            assert trial.call("report", step, value) is False
            theirs.report(value, step)
        trial.call("report", 7, 99.0)
        with pytest.warns(UserWarning, match="already reported"):
            theirs.report(99.0, 7)
        trial.call("set_user_attr", "epochs", '{"a": [1, null]}')
        theirs.set_user_attr("epochs", {"a": [1, None]})
        database.trials().tell(trial.trial_id, TrialState.COMPLETE, [math.inf])
        study.tell(theirs, math.inf)
        for table, columns in {
            "trial_intermediate_values": "step, intermediate_value, intermediate_value_type::text",
            "trial_values": "objective, value, value_type::text",
            "trial_user_attributes": "key, value_json",
        }.items():
            ours, optunas = (
                database.query(f"SELECT {columns} FROM {table} WHERE trial_id = %s ORDER BY 1", trial_id)
                for trial_id in (trial.trial_id, theirs._trial_id)
            )
            assert ours == optunas
            assert ours
        stored = database.trials().reports({trial.trial_id: 0})
        assert [(report.step, str(report.value)) for report in stored] == [(s, str(v)) for s, v in reports.items()]
        assert all(isinstance(report, Report) for report in stored)
        frozen, expected = study.trials
        assert repr(frozen.intermediate_values) == repr(expected.intermediate_values)


async def test_stock_optuna_reads_the_study(world):
    await world.apply(pruner={"name": "SuccessiveHalving", "options": {"min_resource": 1, "reduction_factor": 2}})
    await world.settle()
    params = {0: params_of(await world.job(0))}
    (await world.pod(0)).call("report", 1, 0.9)
    (await world.pod(1)).call("report", 1, 0.1)
    await world.settle()
    await world.end_job(1)
    await world.run_trials(lambda number: number / 10)
    status = (await world.study())["status"]
    with world.database.optuna_study(status["studyName"]) as study:
        trials = study.trials
        assert [trial.state.name for trial in trials] == ["COMPLETE", "PRUNED", "COMPLETE", "COMPLETE"]
        assert [trial.values for trial in trials] == [[0.0], [0.1], [0.2], [0.3]]
        assert [trial.intermediate_values for trial in trials] == [{1: 0.9}, {1: 0.1}, {}, {}]
        assert trials[0].params == params[0]
        assert study.best_trial.number == status["bestTrial"]["number"] == 3
        assert study.direction.name == "MAXIMIZE"
        for trial in trials:
            trial._validate()
            assert trial.datetime_start < trial.datetime_complete
        (summary,) = optuna.get_all_study_summaries(study._storage)
        assert (summary.study_name, summary.n_trials) == (status["studyName"], 4)
        # And it can go on from there: a sampler of its own learns from these trials.
        assert set(study.ask(dict(trials[0].distributions)).params) == {"x", "layers", "kind"}


async def test_a_trial_that_a_notebook_enqueues_runs_next(world):
    await world.apply()
    await world.settle()
    name = (await world.study())["status"]["studyName"]
    with world.database.optuna_study(name) as study:
        study.enqueue_trial({"x": 0.25, "layers": 3, "kind": "b"}, user_attrs={"by": "notebook"})
        study.enqueue_trial({"x": 0.75})
    await world.settle()
    assert await world.active() == [0, 1], "parallelism holds for them too"
    for number in (0, 1):
        await world.finish(number, 0.1)
        await world.end_job(number)
    await world.settle()
    assert params_of(await world.job(2)) == {"x": 0.25, "layers": 3, "kind": "b"}
    partly = params_of(await world.job(3))
    assert (partly["x"], set(partly)) == (0.75, {"x", "layers", "kind"})
    await world.run_trials(lambda number: number)
    assert (await world.study())["status"]["progress"] == "4/4"
    with world.database.optuna_study(name) as study:
        assert study.trials[2].user_attrs == {"by": "notebook"}
        assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 4


async def test_a_trial_that_a_notebook_runs_itself_is_left_alone(world):
    await world.apply(maxTrials=3)
    await world.settle()
    name = (await world.study())["status"]["studyName"]
    with world.database.optuna_study(name) as study:
        theirs = study.ask()
        assert theirs.number == 2
        await world.run_trials(lambda number: number / 10)
        assert world.rows() == [(0, "COMPLETE"), (1, "COMPLETE"), (2, "RUNNING")]
        assert {job["metadata"]["name"] for job in await world.jobs()} == {"study-0", "study-1"}
        study.tell(theirs, 0.9)
    await world.settle()
    status = (await world.study())["status"]
    assert (status["progress"], status["bestTrial"]["number"], "jobName" in status["bestTrial"]) == ("3/3", 2, False)
    assert (await world.condition("Complete"))["reason"] == "MaxTrialsReached"


@pytest.fixture
def somebody_else_adds(monkeypatch: pytest.MonkeyPatch) -> Callable[[World, str, int], None]:
    """Lets another program add a trial whenever the operator is about to store one, so many times."""

    def arrange(world: World, name: str, times: int) -> None:
        start, left = Trials.start, [times]

        def start_after_somebody_else(self: Trials, *arguments: object, **more: object) -> int | None:
            if left[0]:
                left[0] -= 1
                with world.database.optuna_study(name) as study:
                    study.add_trial(optuna.create_trial(value=0.5))
            return start(self, *arguments, **more)

        monkeypatch.setattr(Trials, "start", start_after_somebody_else)

    return arrange


async def test_a_trial_added_between_a_suggestion_and_its_row(world, somebody_else_adds):
    study = parse(await world.apply())
    somebody_else_adds(world, study.optuna_name, 1)
    assert not (await world.look()).failed
    assert world.rows() == [(0, "COMPLETE"), (1, "RUNNING"), (2, "RUNNING")]
    assert await world.active() == [1, 2]


async def test_a_trial_added_in_the_place_of_the_last_one(world, somebody_else_adds):
    study = parse(await world.apply(maxTrials=2))
    somebody_else_adds(world, study.optuna_name, 1)
    await world.look()
    assert world.rows() == [(0, "COMPLETE"), (1, "RUNNING")]
    assert await world.active() == [1]


async def test_trials_added_again_and_again(world, somebody_else_adds):
    study = parse(await world.apply(maxTrials=50))
    somebody_else_adds(world, study.optuna_name, 100)
    assert (await world.look()).failed
    condition = await world.condition("Progressing")
    message = "other programs keep adding trials to this study; the next attempt comes in a moment"
    assert (condition["reason"], condition["message"]) == ("TrialsCannotStart", message)
    assert not await world.jobs()


def test_a_trial_is_told_once(database):
    trial_id, trials = database.running_trial(), database.trials()
    assert trials.tell(trial_id, TrialState.COMPLETE, [0.5]) is True
    told = database.query("SELECT state::text, datetime_complete FROM trials")
    assert trials.tell(trial_id, TrialState.FAIL, None, user_attrs={"why": "too late"}, despite_result=True) is False
    assert trials.tell(trial_id, TrialState.COMPLETE, [0.6]) is False
    assert database.query("SELECT state::text, datetime_complete FROM trials") == told
    assert database.query("SELECT value FROM trial_values") == [(0.5,)]
    assert database.query("SELECT count(*) FROM trial_user_attributes") == [(0,)]


async def test_a_value_that_arrives_while_a_failure_is_told_is_kept(world, monkeypatch):
    await world.apply(maxTrials=1, parallelism=1)
    await world.settle()
    pod, tell = await world.pod(0), Trials.tell

    def tell_after_the_value_came(self: Trials, *arguments: object, **more: object) -> bool:
        monkeypatch.setattr(Trials, "tell", tell)
        assert pod.call("finish", [0.5]) is False
        return tell(self, *arguments, **more)

    monkeypatch.setattr(Trials, "tell", tell_after_the_value_came)
    await world.end_job(0, "BackoffLimitExceeded")
    await world.look()
    assert world.rows() == [(0, "RUNNING")]
    await world.settle()
    status = (await world.study())["status"]
    assert (status["phase"], status["bestTrial"]["values"], world.rows()) == ("Succeeded", ["0.5"], [(0, "COMPLETE")])


async def test_a_pruned_trial_is_told_to_stop_and_stores_nothing_more(world):
    await world.apply(pruner={"name": "SuccessiveHalving", "options": {"min_resource": 1, "reduction_factor": 2}})
    await world.settle()
    good, bad = await world.pod(0), await world.pod(1)
    good.call("report", 1, 0.9)
    assert bad.call("should_stop") is False
    assert bad.call("report", 1, 0.1) is False
    await world.settle()
    assert world.rows() == [(0, "RUNNING"), (1, "PRUNED")], "its Job may still end by itself"
    assert bad.call("should_stop") is True
    assert bad.call("report", 2, 0.9) is True
    assert bad.call("finish", [0.9]) is True
    assert world.database.query("SELECT step FROM trial_intermediate_values WHERE trial_id = %s", bad.trial_id) == [
        (1,)
    ]
    assert world.database.query("SELECT count(*) FROM study_operator.results") == [(0,)]


# Reports wake the operator


async def test_reports_are_heard_also_after_the_connection_was_lost(database):
    trial = TrialPod(database, "key", database.running_trial("key"))
    (study_id,) = database.query("SELECT study_id FROM studies")[0]
    heard: list[int] = []
    connected = asyncio.Event()
    with ThreadPoolExecutor(1) as executor:
        listening = asyncio.create_task(
            listen(Database(settings_for(database).dsn), executor, heard.append, connected.set)
        )
        listener = await until(lambda: _listeners(database))
        trial.call("report", 1, 0.5)
        await until(lambda: heard == [study_id], patience=2.0)
        trial.call("finish", [0.5])
        await until(lambda: heard == [study_id] * 2, patience=2.0)
        assert connected.is_set(), "reports from before are to be looked for"
        connected.clear()

        database.query("SELECT pg_terminate_backend(%s)", *listener[0])
        await asyncio.wait_for(connected.wait(), 10.0)
        assert await until(lambda: _listeners(database)) != listener
        database.query("NOTIFY study_operator, 'rubbish'")
        TrialPod(database, "key", database.running_trial("key")).call("report", 1, 0.5)
        await until(lambda: heard == [study_id] * 3, patience=2.0)
        assert not listening.done()
        listening.cancel()
        await asyncio.wait([listening])
    await until(lambda: not _listeners(database))


def _listeners(database: TestDatabase) -> list[tuple[int]]:
    return database.query(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query = 'LISTEN study_operator'"
        " AND state = 'idle'"
    )


# Removal


async def test_a_study_deleted_with_its_rows_leaves_none_in_any_table(world):
    for name in ("kept", "gone"):
        await world.apply(name, deletionPolicy="Delete", sampler={"name": "CmaES"})
        await world.settle(name)
        pod = await world.pod(0, name)
        pod.call("report", 1, 0.5)
        pod.call("set_user_attr", "a", "1")
        await world.finish(0, 0.5, study=name)
        await world.settle(name)
        status = (await world.study(name))["status"]
        with world.database.optuna_study(status["studyName"]) as study:
            study.set_user_attr("by", "notebook")
            study._storage.set_study_system_attr(study._study_id, "by", "notebook")
            study.enqueue_trial({"x": 0.5})
            study._storage.record_heartbeat(study.trials[1]._trial_id)
            study.trials[0]
    before = _rows_of_every_table(world.database)
    assert all(before.values()), "each table has rows to be removed"
    await world.delete_study("gone")
    await world.look("gone")
    after = _rows_of_every_table(world.database)
    kept = (await world.study("kept"))["status"]["studyName"]
    assert world.database.query("SELECT study_name FROM studies") == [(kept,)]
    assert {table: len(rows) * 2 for table, rows in after.items()} == {t: len(rows) for t, rows in before.items()}
    assert all(set(rows) <= set(before[table]) for table, rows in after.items())


def _rows_of_every_table(database: TestDatabase) -> dict[str, list[tuple]]:
    """The rows of every table that belong to a study or a trial."""
    tables = database.query(
        "SELECT DISTINCT format('%I.%I', table_schema, table_name) FROM information_schema.columns"
        " JOIN information_schema.tables USING (table_schema, table_name)"
        " WHERE table_schema IN ('public', 'study_operator') AND column_name IN ('study_id', 'trial_id')"
        " AND table_type = 'BASE TABLE'"
    )
    return {table: database.query(f"SELECT t::text FROM {table} t") for (table,) in tables}

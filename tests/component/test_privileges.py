"""What the reporter's login can do beside reporting, found out by trying all that there is: also what a new version of
PostgreSQL, of Optuna or of reporting.sql adds."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
from database import KEY, REPORTER_PASSWORD, SEED, TrialPod, prove
from fresh import Fresh
from psycopg2 import sql
from psycopg2.extensions import ISOLATION_LEVEL_AUTOCOMMIT, connection

from study_operator.storage import public_rights, reporter, roles
from study_operator.storage.database import StorageError
from study_operator.storage.migrate import migrate
from study_operator.storage.reporter import Guard

ROOT = Path(__file__).resolve().parents[2]
# Statements that no walk finds. Each must be refused for want of a right.
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
INSERT INTO study_operator.bad_reports VALUES (1, 1, 1, 'x')
UPDATE study_operator.access SET key_hash = NULL
DELETE FROM trials
TRUNCATE trials
DO $$ BEGIN LOCK TABLE public.trials; END $$
DROP TABLE trials
ALTER TABLE trials ADD COLUMN x int
CREATE INDEX ON trials (state)
SELECT nextval('trials_trial_id_seq')
SELECT study_operator.by_setting(1)
SELECT study_operator.store_result(NULL, '{1}', false, NULL, NULL, false)
SELECT * FROM study_operator.bad_reports
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


# The volatile functions that PUBLIC may execute and keeps, and why. Functions that are not volatile change nothing. One
# that is not in here, of a new version of PostgreSQL or of ours, is for somebody to judge.
HARMLESS = {
    "reads a clock or random numbers, or waits, for as long as statements may take": """
        clock_timestamp timeofday random setseed gen_random_uuid pg_sleep pg_sleep_for pg_sleep_until
        bernoulli system
        """,
    "concerns the session itself": """
        set_config currval lastval current_query cursor_to_xml cursor_to_xmlschema pg_stat_clear_snapshot
        pg_xact_status pg_stat_force_next_flush pg_export_snapshot pg_stat_get_xact_blocks_fetched
        pg_stat_get_xact_blocks_hit txid_status pg_stat_get_xact_function_calls
        pg_stat_get_xact_function_self_time pg_stat_get_xact_function_total_time pg_stat_get_xact_numscans
        pg_stat_get_xact_tuples_deleted pg_stat_get_xact_tuples_fetched pg_stat_get_xact_tuples_hot_updated
        pg_stat_get_xact_tuples_inserted pg_stat_get_xact_tuples_returned pg_stat_get_xact_tuples_updated
        pg_advisory_unlock pg_advisory_unlock_all pg_advisory_unlock_shared query_to_xml
        query_to_xml_and_xmlschema query_to_xmlschema ts_rewrite ts_stat plpgsql_inline_handler
        plpgsql_validator
        """,
    "asks for a right on the table, sequence or large object; there are no large objects": """
        nextval setval pg_sequence_last_value currtid2 brin_desummarize_range brin_summarize_new_values
        brin_summarize_range gin_clean_pending_list lo_close lo_get lo_lseek lo_lseek64 lo_open lo_put lo_tell
        lo_tell64 lo_truncate lo_truncate64 lo_unlink loread lowrite
        """,
    "asks for a superuser, a replication login, or pg_upgrade": """
        binary_upgrade_create_empty_extension binary_upgrade_set_missing_value
        binary_upgrade_set_next_array_pg_type_oid binary_upgrade_set_next_attribute_versions
        binary_upgrade_set_next_heap_pg_class_oid binary_upgrade_set_next_heap_relfilenode
        binary_upgrade_set_next_index_pg_class_oid binary_upgrade_set_next_index_relfilenode
        binary_upgrade_set_next_multirange_array_pg_type_oid binary_upgrade_set_next_multirange_pg_type_oid
        binary_upgrade_set_next_pg_authid_oid binary_upgrade_set_next_pg_enum_oid
        binary_upgrade_set_next_pg_tablespace_oid binary_upgrade_set_next_pg_type_oid
        binary_upgrade_set_next_toast_pg_class_oid binary_upgrade_set_next_toast_relfilenode
        binary_upgrade_set_record_init_privs pg_copy_logical_replication_slot
        pg_copy_physical_replication_slot pg_create_logical_replication_slot
        pg_create_physical_replication_slot pg_drop_replication_slot pg_logical_slot_get_binary_changes
        pg_logical_slot_get_changes pg_logical_slot_peek_binary_changes pg_logical_slot_peek_changes
        pg_replication_slot_advance pg_extension_config_dump pg_import_system_collations pg_nextoid
        pg_read_file_old pg_rotate_logfile_old pg_stop_making_pinned_objects
        """,
    "tells how large or how far something is, or who waits for whom, and no content": """
        amvalidate pg_blocking_pids pg_collation_actual_version pg_control_checkpoint pg_control_init
        pg_control_recovery pg_control_system pg_current_wal_flush_lsn pg_current_wal_insert_lsn
        pg_current_wal_lsn pg_database_size pg_database_collation_actual_version pg_get_multixact_members
        pg_get_wal_replay_pause_state pg_indexes_size pg_get_wal_resource_managers pg_is_in_recovery
        pg_is_wal_replay_paused pg_isolation_test_session_is_blocked pg_jit_available pg_last_committed_xact
        pg_last_wal_receive_lsn pg_last_wal_replay_lsn pg_prepared_xact pg_last_xact_replay_timestamp
        pg_lock_status pg_notification_queue_usage pg_partition_ancestors pg_partition_tree pg_relation_size
        pg_safe_snapshot_blocking_pids pg_stat_get_recovery_prefetch pg_table_size pg_tablespace_size
        pg_total_relation_size pg_xact_commit_timestamp pg_xact_commit_timestamp_origin
        """,
    "is a statement too, NOTIFY, which nobody can revoke: docs/security.md": "pg_notify",
}
# What only PostgreSQL itself can call.
INTERNAL = "trigger, event_trigger, language_handler, internal, table_am_handler, index_am_handler"


@pytest.fixture
def guarded(fresh: Fresh) -> Fresh:
    """A migrated database, and not a copied one: the rights on the database itself are not copied with it."""
    migrate(fresh.settings())
    return fresh


@pytest.fixture
def login(guarded: Fresh) -> Iterator[connection]:
    """A session of the reporter."""
    opened = connect(guarded)
    yield opened
    opened.close()


def connect(fresh: Fresh, **more: str) -> connection:
    opened = psycopg2.connect(fresh.settings().reporter_url, **more)
    opened.set_isolation_level(ISOLATION_LEVEL_AUTOCOMMIT)
    return opened


def attempt(login: connection, statement: str | sql.Composable) -> str:
    """The SQLSTATE of a statement, or `done`."""
    with login.cursor() as cursor:
        try:
            cursor.execute(statement)
        except psycopg2.Error as error:
            return error.pgcode
    return "done"


def read(login: connection, statement: str | sql.Composable) -> list[tuple]:
    with login.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall()


def test_what_needs_a_right_is_refused(guarded, login):
    pod = TrialPod(guarded.database, KEY, guarded.database.running_trial())
    answers = {statement: attempt(login, statement) for statement in filter(None, FORBIDDEN.splitlines())}
    assert {statement: code for statement, code in answers.items() if code != "42501"} == {}
    message = pod.message("report", 1, 0.5)
    assert read(login, f"SELECT study_operator.submit('{message}', '{prove(KEY, message)}')") == [(False,)]


def test_no_relation_can_be_touched(guarded, login):
    """Every table, view, sequence and index of every schema, by every statement that it could be touched with."""
    relations = guarded.database.query(
        "SELECT n.nspname, c.relname, c.relkind::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')"
        " AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')"
    )
    assert {"trials", "access", "last_messages", "refused_so001", "alembic_version"} <= {
        name for _, name, _ in relations
    }
    done = []
    for schema, name, kind in relations:
        relation = sql.Identifier(schema, name)
        statements = ["SELECT * FROM {}"]
        if kind == "S":
            statements += ["SELECT nextval('{}')", "SELECT setval('{}', 1)", "ALTER SEQUENCE {} RESTART"]
        else:
            statements += [
                "INSERT INTO {} DEFAULT VALUES",
                "DELETE FROM {}",
                "TRUNCATE {}",
                "BEGIN; LOCK TABLE {} IN ACCESS SHARE MODE",
                "COPY {} TO STDOUT",
                "ALTER TABLE {} ADD COLUMN mine int",
                "DROP TABLE {}",
                "ANALYZE {}",
            ]
        for statement in statements:
            code = attempt(login, sql.SQL(statement).format(relation))
            attempt(login, "ROLLBACK")
            # ANALYZE of somebody else's table does nothing, and says so in a warning.
            if code != "42501" and not statement.startswith("ANALYZE"):
                done.append((statement, name, code))
    assert done == []


def test_no_catalog_can_be_written(login):
    writable = read(
        login,
        "SELECT c.oid::regclass::text, r FROM pg_class c,"
        " unnest(ARRAY['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'TRIGGER']) r"
        " WHERE c.relkind IN ('r', 'p', 'v', 'm') AND has_table_privilege(c.oid, r)",
    )
    # A view whose rules turn an UPDATE of it into SET, for the session itself.
    assert [found for found in writable if found != ("pg_settings", "UPDATE")] == []


def test_no_catalog_tells_a_secret(guarded, login):
    """Reads every catalog and view that can be read, and looks for all that must not be found there."""
    pod = TrialPod(guarded.database, KEY, guarded.database.running_trial())
    for message in (
        pod.message("set_user_attr", "theirs", '"a text of somebody else"'),
        pod.message("report", 1, 0.123456789),
    ):
        guarded.database.query("SELECT study_operator.submit(%s, %s)", message, prove(KEY, message))
    guarded.database.query("ANALYZE")
    ((stored_hash,),) = guarded.database.query("SELECT encode(key_hash, 'hex') FROM study_operator.access")
    verifiers = guarded.database.query("SELECT rolpassword FROM pg_authid WHERE rolpassword IS NOT NULL")
    secrets = [
        KEY,
        stored_hash,
        SEED,
        REPORTER_PASSWORD,
        "a text of somebody else",
        "0.123456789",
        *(v for (v,) in verifiers),
    ]
    told, closed = [], set()
    attempt(login, "SET statement_timeout = 0")  # some views of information_schema take long on a busy machine
    relations = read(
        login,
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname IN ('pg_catalog', 'information_schema') AND c.relkind IN ('r', 'v')",
    )
    for schema, name in relations:
        with login.cursor() as cursor:
            try:
                cursor.execute(sql.SQL("SELECT t::text FROM {} t").format(sql.Identifier(schema, name)))
            except psycopg2.errors.InsufficientPrivilege:
                closed.add(name)
                continue
            text = "\n".join(row[0] or "" for row in cursor.fetchall())
        told += [(name, secret[:12]) for secret in secrets if secret in text]
    assert told == []
    assert closed >= {
        "pg_authid",
        "pg_shadow",
        "pg_statistic",
        "pg_statistic_ext_data",
        "pg_largeobject",
        "pg_user_mapping",
        "pg_subscription",
        "pg_hba_file_rules",
        "pg_file_settings",
        "pg_stat_activity",
    }


def test_no_function_is_left_that_does_something(login):
    found = read(
        login,
        "SELECT n.nspname, p.proname FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace"
        " WHERE has_function_privilege(p.oid, 'EXECUTE') AND has_schema_privilege(n.oid, 'USAGE')"
        " AND (p.provolatile = 'v' OR p.prosecdef OR n.nspname NOT IN ('pg_catalog', 'information_schema'))"
        f" AND p.prorettype <> ALL (string_to_array('{INTERNAL}', ', ')::regtype[])",
    )
    ours = {name for schema, name in found if schema == "study_operator"}
    assert ours == {"submit", "report", "finish", "candidate", "bad_report", "set_user_attr", "should_stop"}
    judged = {name for names in HARMLESS.values() for name in names.split()}
    others = {name for schema, name in found if schema != "study_operator"}
    assert others - judged == set(), "who may? Say why in HARMLESS, or revoke it in storage/public_rights.py"
    assert not [name for name in others if re.fullmatch(public_rights.FUNCTIONS, name)]


def test_it_owns_nothing_and_is_member_of_nothing(guarded, login):
    assert read(login, "SELECT count(*) FROM pg_shdepend WHERE refobjid = current_user::regrole AND deptype = 'o'") == [
        (0,)
    ]
    assert read(login, "SELECT count(*) FROM pg_auth_members WHERE member = current_user::regrole") == [(0,)]
    assert read(
        login,
        "SELECT rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls, rolinherit FROM pg_roles"
        " WHERE rolname = current_user",
    ) == [(False,) * 6]
    for schema, right in read(
        login,
        "SELECT nspname, r FROM pg_namespace, unnest(ARRAY['CREATE', 'USAGE']) r WHERE has_schema_privilege(oid, r)",
    ):
        assert (schema in ("pg_catalog", "information_schema", "public", "study_operator"), right) == (True, "USAGE")
    assert read(login, "SELECT has_database_privilege(current_database(), 'CREATE,TEMPORARY')") == [(False,)]


# Limits


def test_a_session_begins_with_limits(login):
    names = "ARRAY['statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout', 'idle_session_timeout']"
    assert read(login, f"SELECT current_setting(n) FROM unnest({names}) n") == [("10s",), ("5s",), ("10s",), ("1min",)]
    for name, value in (
        ("temp_file_limit", "64MB"),
        ("log_min_messages", "fatal"),
        ("log_min_error_statement", "panic"),
    ):
        assert read(login, f"SHOW {name}") == [(value,)]
        assert attempt(login, f"SET {name} TO DEFAULT") == "42501", "a session cannot lift it"
        assert attempt(login, f"ALTER ROLE CURRENT_USER SET {name} = -1") == "42501"


def test_statements_and_locks_have_an_end(guarded):
    login = connect(guarded)
    attempt(login, "SET statement_timeout = '200ms'")  # shorter than the role's, so that a test need not wait
    assert attempt(login, "SELECT count(*) FROM generate_series(1, 1000000000)") == "57014"
    assert attempt(login, "SELECT pg_sleep(600)") == "57014"
    assert attempt(login, "DO $$ BEGIN LOOP END LOOP; END $$") == "57014"
    login.close()
    pod = TrialPod(guarded.database, KEY, guarded.database.running_trial())
    message = pod.message("report", 1, 0.5)
    waiting = connect(guarded)
    attempt(waiting, "SET lock_timeout = '200ms'")
    holder = psycopg2.connect(guarded.database.url)
    holder.cursor().execute("SELECT 1 FROM trials FOR UPDATE")
    assert attempt(waiting, f"SELECT study_operator.submit('{message}', '{prove(KEY, message)}')") == "55P03"
    holder.close()
    assert attempt(waiting, f"SELECT study_operator.submit('{message}', '{prove(KEY, message)}')") == "done"
    waiting.close()


def test_a_spilling_query_fills_no_disk(login):
    attempt(login, "SET work_mem = '64kB'")
    assert (
        attempt(login, "SELECT count(*) FROM (SELECT g FROM generate_series(1, 5000000) g ORDER BY g::text DESC) s")
        == "53400"
    )


def test_the_operator_always_finds_a_connection(guarded):
    ((limit, most),) = guarded.database.query(
        "SELECT rolconnlimit, current_setting('max_connections')::int FROM pg_roles WHERE rolname = %s",
        guarded.reporter,
    )
    assert most // 2 <= limit <= most - 40
    name = sql.Identifier(guarded.reporter)
    guarded.execute("ALTER ROLE {} CONNECTION LIMIT 2", name)
    opened = [connect(guarded), connect(guarded)]
    with pytest.raises(psycopg2.OperationalError, match="too many connections for role"):
        connect(guarded)
    assert attempt(opened[0], "ALTER ROLE CURRENT_USER CONNECTION LIMIT -1") == "42501"
    for one in opened:
        one.close()
    Guard(guarded.settings()).renew()
    assert guarded.database.query("SELECT rolconnlimit FROM pg_roles WHERE rolname = %s", guarded.reporter) == [
        (limit,)
    ]


LIFTED = "; ".join(f"SET {name} = 0" for name in roles.LIMITS)


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("BEGIN", "a transaction of more than 1 s"),
        ("BEGIN; SELECT study_operator.submit({submit})", "a transaction of more than 1 s"),
        ("BEGIN; DECLARE mine CURSOR FOR SELECT generate_series(1, 1000000)", "a transaction of more than 1 s"),
        ("LISTEN study_operator; BEGIN; SELECT 1", "a transaction of more than 1 s"),
        ("SELECT 1", "been idle for more than 1 s"),
    ],
    ids=["idle in transaction", "holds a trial's row", "cursor", "notifications not taken", "idle"],
)
def test_a_session_that_lifts_its_limits_is_ended(guarded, monkeypatch, what, why):
    monkeypatch.setattr(reporter, "LONGEST_TRANSACTION_SECONDS", 1)
    monkeypatch.setattr(reporter, "LONGEST_IDLE_SECONDS", 1)
    pod = TrialPod(guarded.database, KEY, guarded.database.running_trial())
    message = pod.message("should_stop")
    guard = Guard(guarded.settings())
    hostile = connect(guarded)
    attempt(hostile, LIFTED)
    assert attempt(hostile, what.format(submit=f"'{message}', '{prove(KEY, message)}'")) == "done"
    assert until_ended(guard) == [("127.0.0.1", why)]
    assert attempt(hostile, "SELECT 1") in ("57P01", None)
    assert guarded.database.query("SELECT 1 FROM trials FOR UPDATE NOWAIT") == [(1,)], "and nothing is locked any more"
    hostile.close()


def test_a_session_that_holds_an_advisory_lock_is_ended(guarded):
    """Where the operator's login is no superuser, pods can take such locks; the operator waits for some itself."""
    guard, hostile = Guard(guarded.settings()), connect(guarded)
    assert attempt(hostile, "SELECT pg_try_advisory_lock(1)") == "42501"
    guarded.execute("GRANT EXECUTE ON FUNCTION pg_advisory_lock(bigint) TO {}", sql.Identifier(guarded.reporter))
    attempt(hostile, LIFTED)
    assert attempt(hostile, "SELECT pg_advisory_lock(1)") == "done"
    assert guard.end_sessions() == [("127.0.0.1", "an advisory lock")]
    hostile.close()


def test_reporting_sessions_are_left_alone(guarded, login):
    guard = Guard(guarded.settings())
    assert guard.end_sessions() == []
    assert read(login, "SELECT 1") == [(1,)]
    assert guard.is_changed() is False


@pytest.mark.parametrize(
    "change",
    [
        *(
            f"ALTER ROLE CURRENT_USER IN DATABASE {{database}} SET {name}"
            for name in (
                "default_transaction_read_only = on",
                "statement_timeout = 0",
                "idle_session_timeout = 0",
                "synchronous_commit = off",
                "plpgsql.extra_errors = 'all'",
                "\"TimeZone\" = 'UTC'",
            )
        ),
        "ALTER ROLE CURRENT_USER IN DATABASE postgres SET default_transaction_read_only = on",
        "ALTER ROLE CURRENT_USER PASSWORD 'mine'",
        "ALTER ROLE CURRENT_USER PASSWORD NULL",
        "ALTER ROLE CURRENT_USER SET default_transaction_read_only = on",
        "ALTER ROLE CURRENT_USER SET statement_timeout = 0",
        "ALTER ROLE CURRENT_USER RESET ALL",
    ],
)
def test_what_a_pod_does_to_the_shared_login_is_noticed_and_made_good(guarded, login, change):
    guard = Guard(guarded.settings())
    before = guarded.database.query("SELECT rolpassword FROM pg_authid WHERE rolname = %s", guarded.reporter)
    assert guard.is_changed() is False
    attempt(login, "DO $$ BEGIN END $$")  # knows plpgsql's settings now
    assert attempt(login, change.format(database=guarded.database.name)) == "done"
    assert guard.is_changed() is True
    (healed,) = guard.heal()
    assert healed.addresses == ("127.0.0.1",), "whoever has done it has been sent away, and is named"
    assert attempt(login, "SELECT 1") in ("57P01", None)
    assert guard.is_changed() is False
    again = connect(guarded)
    assert read(again, "SHOW statement_timeout") == [("10s",)]
    assert read(again, "SHOW default_transaction_read_only") == [("off",)]
    again.close()
    assert guarded.database.query("SELECT rolpassword FROM pg_authid WHERE rolname = %s", guarded.reporter) == before


def test_what_a_superuser_has_set_beside_is_left_alone(guarded):
    guard, name = Guard(guarded.settings()), sql.Identifier(guarded.reporter)
    guarded.execute("ALTER ROLE {} SET log_min_duration_statement = 0", name)
    guarded.execute("ALTER ROLE {} IN DATABASE {} SET pods.thing = 1", name, sql.Identifier(guarded.database.name))
    assert guard.is_changed() is False
    guard.renew()
    migrate(guarded.settings())
    found = guarded.database.query(
        "SELECT setconfig FROM pg_db_role_setting s JOIN pg_roles r ON r.oid = s.setrole"
        " WHERE rolname = %s ORDER BY setdatabase",
        guarded.reporter,
    )
    assert "log_min_duration_statement=0" in found[0][0]
    assert found[1][0] == ["pods.thing=1"]


def test_a_guard_that_is_no_superuser_settles(fresh):
    """It neither undoes what a superuser has set nor tells of it for ever: day two of an installation."""
    fresh.create_role(fresh.operator, "CREATEROLE")
    fresh.execute("ALTER DATABASE {} OWNER TO {}", sql.Identifier(fresh.database.name), sql.Identifier(fresh.operator))
    settings = fresh.settings(fresh.operator)
    migrate(settings)
    guard, name = Guard(settings), sql.Identifier(fresh.reporter)
    for limit, value in roles.SUPERUSERS_LIMITS.items():
        fresh.execute("ALTER ROLE {} SET {} = {}", name, sql.Identifier(limit), sql.Literal(value))
    assert guard.is_changed() is False
    hostile = psycopg2.connect(settings.reporter_url)
    hostile.autocommit = True
    assert attempt(hostile, "ALTER ROLE CURRENT_USER SET default_transaction_read_only = on") == "done"
    (healed,) = guard.heal()
    assert healed.addresses == ("127.0.0.1",)
    assert guard.is_changed() is False
    hostile.close()


def test_rights_that_are_missing_are_told_and_no_others(fresh, caplog):
    fresh.create_role(fresh.operator)
    fresh.execute("ALTER DATABASE {} OWNER TO {}", sql.Identifier(fresh.database.name), sql.Identifier(fresh.operator))
    fresh.create_role(fresh.reporter)
    settings = fresh.settings(fresh.operator, MANAGE_REPORTER="false")
    migrate(settings)
    assert "every login of the server may still execute lo_creat, " in caplog.text
    functions = ", ".join(
        name
        for (name,) in fresh.database.query(
            "SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace"
            " AND proname ~ %s",
            public_rights.FUNCTIONS,
        )
    )
    fresh.database.query(f"REVOKE EXECUTE ON FUNCTION {functions} FROM PUBLIC")
    fresh.database.query(f"GRANT EXECUTE ON FUNCTION {functions} TO {fresh.operator}")
    caplog.clear()
    migrate(settings)
    assert "execute" not in caplog.text


def test_a_login_with_createrole_can_end_sessions(fresh, monkeypatch):
    monkeypatch.setattr(reporter, "LONGEST_TRANSACTION_SECONDS", 1)
    fresh.create_role(fresh.operator, "CREATEROLE")
    fresh.execute("ALTER DATABASE {} OWNER TO {}", sql.Identifier(fresh.database.name), sql.Identifier(fresh.operator))
    settings = fresh.settings(fresh.operator)
    migrate(settings)
    hostile = psycopg2.connect(settings.reporter_url)
    hostile.cursor().execute("SET idle_in_transaction_session_timeout = 0")
    assert until_ended(Guard(settings)) == [("127.0.0.1", "a transaction of more than 1 s")]
    hostile.close()


def test_a_login_that_may_not_end_sessions_learns_it(fresh, caplog):
    fresh.create_role(fresh.operator)
    fresh.execute("ALTER DATABASE {} OWNER TO {}", sql.Identifier(fresh.database.name), sql.Identifier(fresh.operator))
    fresh.create_role(fresh.reporter)
    settings = fresh.settings(fresh.operator, MANAGE_REPORTER="false")
    migrate(settings)
    assert f"lets it by GRANT {fresh.reporter} TO" in caplog.text
    hostile = fresh.connect(fresh.reporter, fresh.reporter)
    hostile.cursor().execute("SELECT pg_advisory_lock(1)")
    with pytest.raises(StorageError):
        Guard(settings).end_sessions()
    fresh.execute("GRANT {} TO {}", sql.Identifier(fresh.reporter), sql.Identifier(fresh.operator))
    assert Guard(settings).end_sessions() == [("127.0.0.1", "an advisory lock")]
    hostile.close()


def test_what_an_administrator_does_by_the_documentation_is_enough(fresh):
    """The operator's login is no superuser and creates no roles; docs/install.md has the SQL for that."""
    _, logins, rights = re.findall(r"```sql\n(.*?)```", (ROOT / "docs/install.md").read_text(), re.DOTALL)[:3]
    rights, _, _ = rights.partition("REVOKE CONNECT")  # of databases that other tests use too
    fresh.create_role(fresh.operator)
    fresh.execute("ALTER DATABASE {} OWNER TO {}", sql.Identifier(fresh.database.name), sql.Identifier(fresh.operator))
    for text in (logins, rights):
        text = text.replace("study_operator", fresh.operator).replace("study_reporter", fresh.reporter)
        fresh.database.query(text.replace("'...'", f"'{fresh.reporter}'"))
    settings = fresh.settings(fresh.operator, MANAGE_REPORTER="false")
    migrate(settings)
    login = fresh.connect(fresh.reporter, fresh.reporter)
    login.set_isolation_level(ISOLATION_LEVEL_AUTOCOMMIT)
    test_no_function_is_left_that_does_something(login)
    test_a_session_begins_with_limits(login)
    login.close()
    hostile = fresh.connect(fresh.reporter, fresh.reporter)
    fresh.execute("GRANT EXECUTE ON FUNCTION pg_advisory_lock(bigint) TO {}", sql.Identifier(fresh.reporter))
    hostile.cursor().execute("SELECT pg_advisory_lock(1)")
    assert Guard(settings).end_sessions() == [("127.0.0.1", "an advisory lock")]
    hostile.close()


def until_ended(guard: Guard) -> list[tuple[str, str]]:
    """What the guard ends, as soon as it ends something."""
    deadline = time.monotonic() + 30
    while not (ended := guard.end_sessions()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return [tuple(one) for one in ended]

"""A login for each namespace: what one of them does hurts nobody else, and none outlives what it is for."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
from database import KEY, SEED, TrialPod, prove
from fresh import Fresh, fresh_database
from postgres_server import PostgresServer
from psycopg2 import sql

from study_operator.storage.database import Database, StorageError
from study_operator.storage.logins import Logins
from study_operator.storage.migrate import migrate
from study_operator.storage.reporter import Guard

CLUSTER = "test-cluster"
# Programs of a PostgreSQL 16 or later: there the operator's login need be no superuser.
NEWER = os.environ.get("STUDY_POSTGRES_BIN")


class Installation:
    """A migrated database whose operator gives each namespace a login of its own."""

    def __init__(self, fresh: Fresh, login: str | None = None, seed: str = SEED, **env: str) -> None:
        self.fresh = fresh
        self.settings = fresh.settings(login, REPORTER_LOGINS="namespace", STUDY_KEY_SEED=seed, **env)
        migrate(self.settings)
        self.logins = Logins(Database(self.settings.dsn), self.settings, CLUSTER)
        self.guard = Guard(self.settings, CLUSTER)
        self.trial = TrialPod(fresh.database, KEY, fresh.database.running_trial())

    def with_seed(self, seed: str, **env: str) -> Installation:
        return Installation(self.fresh, seed=seed, **env)

    def connect(self, namespace: str) -> psycopg2.extensions.connection:
        opened = psycopg2.connect(self.logins.url_of(namespace))
        opened.autocommit = True
        return opened

    def report(self, namespace: str, step: int) -> None:
        """As a new process in a pod of that namespace."""
        message = self.trial.message("report", step, 0.5)
        with closing(self.connect(namespace)) as opened, opened.cursor() as cursor:
            cursor.execute("SELECT study_operator.submit(%s, %s)", (message, prove(KEY, message)))


def superusers(server: str) -> Iterator[Installation]:
    with fresh_database(server) as fresh:
        yield Installation(fresh)


@pytest.fixture
def own_logins(services: dict[str, str]) -> Iterator[Installation]:
    """Of a superuser, as with the embedded database."""
    yield from superusers(services["database_url"])


@pytest.fixture(params=["superuser", pytest.param("createrole", marks=pytest.mark.skipif(not NEWER, reason="no 16"))])
def any_logins(request: pytest.FixtureRequest, services: dict[str, str]) -> Iterator[Installation]:
    """Of a superuser, and of a login with CREATEROLE on a newer PostgreSQL where STUDY_POSTGRES_BIN names one."""
    if request.param == "superuser":
        yield from superusers(services["database_url"])
        return
    newer = Path(NEWER or "")
    server = PostgresServer(newer, fsync="off")
    try:
        server.start()
        with fresh_database(server.url()) as fresh:
            fresh.create_role(fresh.operator, "CREATEROLE")
            name = sql.Identifier(fresh.database.name)
            fresh.execute("ALTER DATABASE {} OWNER TO {}", name, sql.Identifier(fresh.operator))
            yield Installation(fresh, fresh.operator)
    finally:
        server.remove()


def attempt(opened: psycopg2.extensions.connection, statement: str) -> str | None:
    try:
        opened.cursor().execute(statement)
    except psycopg2.Error as error:
        return error.pgcode or "lost"
    return "done"


def test_namespaces_have_nothing_in_common(any_logins):
    one, two = any_logins.logins.login_of("team-a"), any_logins.logins.login_of("team-b")
    assert one.user != two.user
    assert one.password != two.password
    assert "team" not in one.user + two.user
    any_logins.report("team-a", 1)
    any_logins.report("team-b", 2)
    with closing(any_logins.connect("team-a")) as a, closing(any_logins.connect("team-b")) as b:
        (pid,) = (b.info.backend_pid,)
        assert attempt(a, f"SELECT pg_terminate_backend({pid})") == "42501"
        with a.cursor() as cursor:
            if attempt(a, "SELECT 1 FROM pg_stat_activity") == "done":  # where no superuser has revoked it
                cursor.execute("SELECT query FROM pg_stat_activity WHERE pid = %s", (pid,))
                assert cursor.fetchall() == [("<insufficient privilege>",)]
        for statement in (
            f"ALTER ROLE {two.user} PASSWORD 'mine'",
            f"ALTER ROLE {two.user} SET work_mem = '1GB'",
            f"SET ROLE {two.user}",
            f"GRANT {two.user} TO {one.user}",
            "CREATE ROLE mine",
            "SELECT * FROM study_operator.logins",
            "SELECT * FROM study_operator.installation",
        ):
            assert attempt(a, statement) == "42501", statement
        # What it may do as the group changes nothing for anybody.
        group = any_logins.fresh.database.query(
            "SELECT g.rolname FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid"
            " JOIN pg_roles r ON r.oid = m.member WHERE r.rolname = %s",
            one.user,
        )[0][0]
        attempt(a, f"SET ROLE {group}")
        for statement in (
            f"DROP OWNED BY {group}",
            f"DROP OWNED BY {one.user}",
            f"ALTER ROLE {group} PASSWORD 'x'",
            f"ALTER ROLE {group} SET default_transaction_read_only = on",
            f"DROP ROLE {group}",
        ):
            attempt(a, statement)
    any_logins.report("team-b", 3)
    any_logins.report("team-a", 4)


@pytest.mark.parametrize("change", ["PASSWORD 'mine'", "IN DATABASE {database} SET default_transaction_read_only = on"])
def test_a_loop_of_changes_hurts_its_own_namespace_alone(own_logins, change):
    own_logins.report("team-b", 0)
    hostile, over = own_logins.connect("team-a"), threading.Event()
    statement = f"ALTER ROLE CURRENT_USER {change}".format(database=own_logins.fresh.database.name)
    threading.Thread(target=lambda: [attempt(hostile, statement) for _ in iter(over.is_set, True)], daemon=True).start()
    slowest = 0.0
    for step in range(1, 21):
        begun = time.monotonic()
        own_logins.report("team-b", step)
        slowest = max(slowest, time.monotonic() - begun)
    ended = {address for healed in own_logins.guard.heal() for address in healed.addresses}
    over.set()
    assert slowest < 1.0
    assert ended == {"127.0.0.1"}
    hostile.close()
    until(lambda: not own_logins.guard.heal())
    own_logins.report("team-a", 100)


def test_each_login_has_its_limits(own_logins):
    with closing(own_logins.connect("team-a")) as opened, opened.cursor() as cursor:
        cursor.execute("SHOW statement_timeout")
        assert cursor.fetchone() == ("10s",)
        cursor.execute(
            "SELECT rolconnlimit, current_setting('max_connections')::int FROM pg_roles WHERE rolname = current_user"
        )
        limit, most = cursor.fetchone()
    assert 0 < limit <= most * 2 // 5, "two namespaces leave the operator its fifth"


def test_a_former_password_never_comes_back(own_logins):
    first = own_logins.logins.login_of("team-a")
    assert Logins(Database(own_logins.settings.dsn), own_logins.settings, CLUSTER).login_of("team-a") == first, (
        "a restart loses none"
    )
    second = own_logins.with_seed("another seed, as it is after it has leaked").logins.login_of("team-a")
    again = own_logins.with_seed(SEED).logins.login_of("team-a")  # helm rollback
    assert len({first, second, again}) == 3
    for login in (first, second):
        with pytest.raises(psycopg2.OperationalError):
            psycopg2.connect(own_logins.settings.url_of(*login))
    psycopg2.connect(own_logins.settings.url_of(*again)).close()


def test_the_reporters_password_rotates_all_logins(own_logins):
    """What docs/backup.md names the trials' password is one value, whoever has a login."""
    first = own_logins.logins.login_of("team-a")
    rotated = own_logins.with_seed(SEED, REPORTER_PASSWORD="of-another-day")
    second = rotated.logins.login_of("team-a")
    assert (second.user, second.password == first.password) == (first.user, False)
    with pytest.raises(psycopg2.OperationalError):
        psycopg2.connect(own_logins.settings.url_of(*first))
    rotated.report("team-a", 1)
    assert rotated.guard.heal() == []


def test_a_login_that_is_lost_is_made_again(own_logins):
    """Roles are not in a dump of the database."""
    login = own_logins.logins.login_of("team-a")
    own_logins.fresh.execute("DROP ROLE {}", sql.Identifier(login.user))
    (healed,) = own_logins.guard.heal()
    assert healed.namespace == "team-a"
    own_logins.report("team-a", 1)


def test_logins_go_with_the_last_study_of_their_namespace(any_logins):
    database, logins = any_logins.fresh.database, any_logins.logins
    used, unused = logins.login_of("team"), logins.login_of("team-b")  # the trial's study is in `team`
    assert logins.drop_unused() == [], "a Study of the namespace may just begin"
    database.query("UPDATE study_operator.logins SET used_at = now() - interval '1 day'")
    assert logins.drop_unused() == [unused.user]
    assert database.query("SELECT role FROM study_operator.logins") == [(used.user,)]
    any_logins.report("team", 1)
    assert logins.login_of("team-b").user == unused.user
    any_logins.report("team-b", 2)


def test_the_shared_login_stays_until_the_last_trial_of_before_has_ended(services):
    with fresh_database(services["database_url"]) as fresh:
        migrate(fresh.settings())
        trial_id = fresh.database.running_trial()
        before = TrialPod(fresh.database, KEY, trial_id)
        installation = Installation(fresh)
        message = before.message("report", 1, 0.5)
        old = psycopg2.connect(installation.settings.reporter_url)
        old.cursor().execute("SELECT study_operator.submit(%s, %s)", (message, prove(KEY, message)))
        old.close()
        logins = installation.logins
        assert logins.drop_unused() == [], "an operator of before may still start trials"
        fresh.database.query("UPDATE study_operator.shared_login SET superseded_at = now() - interval '1 day'")
        assert logins.drop_unused() == [], "they report by it"
        fresh.database.query("UPDATE trials SET state = 'FAIL'")
        assert logins.drop_unused() == [fresh.reporter]
        assert fresh.database.query("SELECT 1 FROM pg_roles WHERE rolname = %s", fresh.reporter) == []
        migrate(installation.settings)
        assert fresh.database.query("SELECT 1 FROM pg_roles WHERE rolname = %s", fresh.reporter) == [], (
            "it is not made again"
        )


def test_two_installations_of_one_server_leave_each_other_alone(services):
    """Two guards set a shared login to and fro for ever."""
    server = services["database_url"]
    with fresh_database(server) as a, fresh_database(server) as b:
        one = Installation(Fresh(a.database, a.operator, "study_reporter_of_two"))
        two = Installation(
            Fresh(b.database, b.operator, "study_reporter_of_two"), seed="of the second installation's own"
        )
        assert one.logins.login_of("team").user != two.logins.login_of("team").user
        for _ in range(2):
            assert one.guard.heal() == two.guard.heal() == []
        one.report("team", 1)
        two.report("team", 1)


def test_two_clusters_share_a_database(own_logins):
    settings = own_logins.settings
    another = Logins(Database(settings.dsn), settings, "another-cluster")
    assert another.login_of("team-a").user != own_logins.logins.login_of("team-a").user
    assert own_logins.guard.heal() == Guard(settings, "another-cluster").heal() == []


def test_an_operator_that_may_not_create_roles_shares_one(fresh):
    fresh.create_role(fresh.operator, "CREATEROLE")  # next to superuser before PostgreSQL 16
    fresh.execute("ALTER DATABASE {} OWNER TO {}", sql.Identifier(fresh.database.name), sql.Identifier(fresh.operator))
    settings = fresh.settings(fresh.operator, REPORTER_LOGINS="auto")
    migrate(settings)
    logins = Logins(Database(settings.dsn), settings, CLUSTER)
    assert logins.url_of("team-a") == logins.url_of("team-b") == settings.reporter_url
    with pytest.raises(StorageError, match=r"REPORTER_LOGINS is namespace, but .* needs PostgreSQL 16"):
        migrate(fresh.settings(fresh.operator, REPORTER_LOGINS="namespace"))


def until(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)

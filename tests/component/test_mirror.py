"""The mirror of a study's rows: what a write costs, what others write meanwhile, and writes that go wrong."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit, urlunsplit

import optuna
import psycopg2
import pytest
from database import KEY, TestDatabase, TrialPod, settings_for
from faults import Died, Faults, FaultyDatabase, Wrong
from mirror import Mirror
from optuna.distributions import FloatDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial
from waiting import until

from study_operator import fence
from study_operator.model.batch import Full, StaleHistory
from study_operator.storage import history
from study_operator.storage.database import Database, StorageUnavailable
from study_operator.storage.history import forget_changes
from study_operator.storage.listen import listen

SPACE = {f"x{i}": FloatDistribution(0, 1) for i in range(10)}
STUDY = "team/study"


def new_study(database: TestDatabase, name: str = STUDY, directions: int = 1) -> int:
    return database.studies().ensure(name, ["MINIMIZE"] * directions, "team", name, name, "Retain", b"hash")


def asking(mirror: Mirror, seed: int = 1) -> optuna.Study:
    return optuna.Study(STUDY, mirror, TPESampler(seed=seed, n_startup_trials=3, multivariate=True))


def ask(mirror: Mirror, study: optuna.Study, most: int | None = None) -> int:
    """A trial as the operator starts it. Returns its id."""
    with mirror.batch(most) as batch:
        trial = study.ask(SPACE)
        mirror.set_trial_system_attr(trial._trial_id, "study_operator:job", "a job")
    return batch.ids.get(trial._trial_id, trial._trial_id)


def tell(mirror: Mirror, trial_id: int, value: float) -> None:
    with mirror.batch():
        mirror.set_trial_system_attr(trial_id, "constraints:ms", -1.0)
        mirror.set_trial_state_values(trial_id, TrialState.COMPLETE, [value])


def seen_by_optuna(database: TestDatabase, name: str = STUDY) -> list[FrozenTrial]:
    with database.optuna_study(name) as study:
        return study.trials


def same(mirror: Mirror, database: TestDatabase, name: str = STUDY) -> list[FrozenTrial]:
    """Memory has what stock Optuna reads, trial by trial, but for the users' attributes."""
    trials = mirror.get_all_trials(mirror.study_id)
    assert [without_users_attrs(trial) for trial in trials] == [
        without_users_attrs(trial) for trial in seen_by_optuna(database, name)
    ]
    return trials


def without_users_attrs(trial: FrozenTrial) -> FrozenTrial:
    trial = copy.deepcopy(trial)
    trial.user_attrs = {key: value for key, value in trial.user_attrs.items() if key.startswith("study_operator:")}
    return trial


# What it costs


class Relay:
    """Stands between a client and the server, and notes down what the client asks. libpq waits for the answer to each
    question, so that these are the round trips."""

    def __init__(self, database: TestDatabase) -> None:
        self._server = urlsplit(database.url)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = urlunsplit(
            self._server._replace(
                netloc=f"{self._server.username}:{self._server.password}@127.0.0.1:{self._listener.getsockname()[1]}"
            )
        )
        self.asked: list[bytes] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # until it is closed
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection((self._server.hostname, self._server.port))
                for source, target, note in ((client, server, True), (server, client, False)):
                    threading.Thread(target=self._pass_on, args=(source, target, note), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, note: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 20):
                if note and data[:1] == b"Q":  # a query begins; large ones come in several pieces
                    self.asked.append(data[5:100])
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def relay(database: TestDatabase) -> Iterator[Relay]:
    relay = Relay(database)
    yield relay
    relay.close()


def transactions(database: TestDatabase, trial_id: int) -> list[int]:
    """Those that have written what there is of a trial, the earliest first."""
    tables = ("trials", "trial_params", "trial_values", "trial_user_attributes", "trial_system_attributes")
    union = " UNION ".join(f"SELECT xmin::text::bigint FROM {table} WHERE trial_id = {trial_id}" for table in tables)
    return sorted(xid for (xid,) in database.query(union))


def test_a_suggestion_and_an_end_are_one_round_trip_and_one_commit_each(database, relay):
    study_id = new_study(database)
    mirror = Mirror(Database(relay.url), study_id)
    study = asking(mirror)
    for _ in range(5):
        tell(mirror, ask(mirror, study), 0.5)
    asked = len(relay.asked)
    trial_id = ask(mirror, study)
    (query,) = relay.asked[asked:]
    assert query.startswith(b"SELECT outcome, detail, at, ids FROM study_operator.store(")
    (start,) = transactions(database, trial_id)
    tell(mirror, trial_id, 0.25)
    assert len(relay.asked) == asked + 2
    assert len(transactions(database, trial_id)) == 2, "that of its parameters, and that of its end"
    assert start in transactions(database, trial_id)
    trials = same(mirror, database)
    assert len(trials[-1].params) == 10
    assert {name.split(":")[0] for name in trials[-1].system_attrs} >= {"study_operator", "constraints"}


def test_a_history_is_read_in_a_few_statements_however_long_it_is(database, relay):
    study_id = new_study(database)
    mirror = database.mirror(study_id)
    asked = []
    for trials in (1, 30):
        study = asking(mirror)
        for _ in range(trials):
            tell(mirror, ask(mirror, study), 0.5)
        before = len(relay.asked)
        again = Mirror(Database(relay.url), study_id)
        asked.append(len(relay.asked) - before)
        assert again.get_all_trials(study_id) == same(mirror, database)
    assert asked[0] == asked[1] <= 12, "of them three that open a connection"


# What others write meanwhile


def test_what_a_notebook_writes_is_read_and_nothing_else(database, monkeypatch):
    study_id = new_study(database)
    mirror = database.mirror(study_id)
    mine = [ask(mirror, asking(mirror)) for _ in range(4)]
    tell(mirror, mine[0], 0.5)
    assert mirror.catch_up() == []
    with database.optuna_study(STUDY) as notebook:
        notebook.enqueue_trial({"x0": 0.5}, user_attrs={"by": "hand"})
        notebook.add_trial(create_trial(value=0.25, params={"x0": 0.1}, distributions={"x0": FloatDistribution(0, 1)}))
        notebook.set_user_attr("owner", "me")
        notebook._storage.set_study_system_attr(notebook._study_id, "note", [1])
        notebook._storage.set_trial_user_attr(mine[1], "seen", True)
        notebook._storage.set_trial_system_attr(mine[2], "mark", {"a": None})
        theirs = notebook.ask(SPACE)  # the one that it has enqueued
    read: list[int] = []
    trials_of = history.trials
    monkeypatch.setattr(
        history, "trials", lambda cursor, study, only, *rest: read.extend(only) or trials_of(cursor, study, only, *rest)
    )
    assert {trial.number for trial in mirror.catch_up()} == {2, 4, 5}
    assert sorted(read)[0] == 0
    assert len(read) == 4
    trials = same(mirror, database)
    assert trials[4].user_attrs == {}, "the users' own are not read"
    assert (trials[4].params["x0"], trials[4].state, theirs.number) == (0.5, TrialState.RUNNING, 4)
    assert mirror.get_study_system_attrs(study_id)["note"] == [1]
    assert "owner" not in mirror.get_study_user_attrs(study_id)
    with database.optuna_study(STUDY) as notebook:
        notebook.tell(4, 0.75)
        notebook.tell(3, state=TrialState.FAIL)
    assert {trial.state for trial in mirror.catch_up()} == {TrialState.COMPLETE, TrialState.FAIL}
    same(mirror, database)
    assert mirror.catch_up() == []
    assert database.query("SELECT count(*) FROM study_operator.changes") == [(0,)]


def test_what_the_operator_and_the_pods_write_is_nobodys_change(database):
    pod = TrialPod(database, KEY, database.running_trial())
    pod.call("report", 1, 0.5)
    pod.call("finish", [0.5])
    database.tell(pod.trial_id, TrialState.COMPLETE, [0.5], despite_result=True)
    assert database.query("SELECT * FROM study_operator.changes") == []


def test_studies_that_the_operator_does_not_serve_are_not_watched(database):
    with database.optuna_study("somebody/else") as notebook:
        notebook.enqueue_trial({"x": 1})
        notebook.set_user_attr("a", 1)
    assert database.query("SELECT * FROM study_operator.changes") == []


async def test_a_notebook_wakes_the_operator(database):
    study_id, heard = new_study(database), []
    with ThreadPoolExecutor(1) as executor:
        listening = asyncio.create_task(
            listen(Database(settings_for(database).dsn), executor, heard.append, heard.append, lambda: None)
        )
        await until(
            lambda: database.query(
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle'"
                " AND query LIKE 'LISTEN study%'"
            )
        )
        with database.optuna_study(STUDY) as notebook:
            notebook.enqueue_trial({"x0": 0.5})
        await until(lambda: heard)
        listening.cancel()
        await asyncio.wait([listening])
    assert set(heard) == {study_id}


def test_a_login_without_rights_in_the_operators_schema_is_noticed(database):
    """As a data scientist's, who may use Optuna's tables."""
    study_id, role = new_study(database), f"notebook_{database.name}"
    database.query(f"CREATE ROLE {role} LOGIN PASSWORD 'notebook'")
    try:
        database.query(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
        database.query(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}")
        mirror = database.mirror(study_id)
        server = urlsplit(database.url)
        url = urlunsplit(server._replace(netloc=f"{role}:notebook@{server.hostname}:{server.port}"))
        with TestDatabase(url, database.name).optuna_study(STUDY) as notebook:
            notebook.enqueue_trial({"x0": 0.5})
        with pytest.raises(psycopg2.errors.InsufficientPrivilege), psycopg2.connect(url) as opened:
            opened.cursor().execute("SELECT * FROM study_operator.changes")
        assert [trial.state for trial in mirror.catch_up()] == [TrialState.WAITING]
    finally:
        database.query(f"DROP OWNED BY {role}")
        database.query(f"DROP ROLE {role}")


def test_a_change_that_commits_late_is_not_missed(database):
    """Transactions become visible in another order than they began in."""
    study_id = new_study(database)
    mirror = database.mirror(study_id)
    trial_id = ask(mirror, asking(mirror))
    insert = "INSERT INTO trial_system_attributes (trial_id, key, value_json) VALUES (%s, %s, '1')"
    with contextlib.closing(psycopg2.connect(database.url)) as slow:
        slow.cursor().execute(insert, (trial_id, "first"))
        database.query(insert + " RETURNING 1", trial_id, "second")
        assert [{"first", "second"} & set(trial.system_attrs) for trial in mirror.catch_up()] == [{"second"}]
        slow.commit()
    assert [{"first", "second"} & set(trial.system_attrs) for trial in mirror.catch_up()] == [{"first", "second"}]


# Numbers, and how many


def test_numbers_have_no_gaps_though_others_add_trials_at_the_same_moment(database):
    study_id = new_study(database)
    mirror = database.mirror(study_id)
    study, ids = asking(mirror), []

    def add() -> None:
        with database.optuna_study(STUDY) as notebook:
            for _ in range(12):
                notebook.enqueue_trial({"x0": 0.5})

    with ThreadPoolExecutor(2) as executor:
        adding = [executor.submit(add) for _ in range(2)]
        while len(ids) < 20:
            try:
                ids.append(ask(mirror, study, most=24))
            except StaleHistory:
                mirror.catch_up()
        for done in adding:
            done.result()
    mirror.catch_up()
    trials = same(mirror, database)
    assert [trial.number for trial in trials] == list(range(len(trials)))
    assert len(set(ids)) == 20
    started = sum(trial.state is not TrialState.WAITING for trial in trials)
    assert started == 20
    with contextlib.suppress(Full):
        while True:
            ask(mirror, study, most=24)
    assert database.query("SELECT count(*) FROM trials WHERE state <> 'WAITING'") == [(24,)]
    same(mirror, database)


def test_a_waiting_trial_that_a_notebook_has_taken_is_left_to_it(database):
    study_id = new_study(database)
    with database.optuna_study(STUDY) as notebook:
        notebook.enqueue_trial({"x0": 0.5})
        mirror = database.mirror(study_id)
        notebook.ask()
        with pytest.raises(StaleHistory, match="trial 0 is RUNNING"):
            ask(mirror, asking(mirror))
        (waiting,) = mirror.get_all_trials(study_id)
        assert (waiting.state, waiting.params) == (TrialState.WAITING, {}), "as it was before"
        # By itself the same write is Optuna's compare-and-set: it reads what has changed, and says so.
        assert mirror.set_trial_state_values(waiting._trial_id, TrialState.RUNNING) is False
        notebook.tell(0, 1.0)
        with pytest.raises(UpdateFinishedTrialError):
            mirror.set_trial_user_attr(waiting._trial_id, "late", 1)
    same(mirror, database)


# Writes that go wrong


def create(mirror: Mirror, study: optuna.Study, running: int) -> None:
    ask(mirror, study)


def end(mirror: Mirror, study: optuna.Study, running: int) -> None:
    tell(mirror, running, 0.5)


def note(mirror: Mirror, study: optuna.Study, running: int) -> None:
    mirror.set_trial_system_attr(running, "completed_rung_0", 0.5)


def catch_up(mirror: Mirror, study: optuna.Study, running: int) -> None:
    mirror.catch_up()


@pytest.mark.parametrize("wrong", [Wrong.DIES_BEFORE, Wrong.DIES_AFTER, Wrong.LOST_BEFORE, Wrong.LOST_AFTER])
@pytest.mark.parametrize("write", [create, end, note, catch_up])
def test_a_write_that_goes_wrong_leaves_nothing_in_memory_that_may_not_be_stored(database, write, wrong):
    study_id = new_study(database)
    faulty = FaultyDatabase(settings_for(database).dsn)
    mirror = Mirror(faulty, study_id)
    study = asking(mirror)
    running = ask(mirror, study)
    with database.optuna_study(STUDY) as notebook:
        notebook._storage.set_study_system_attr(study_id, "by", "hand")
    before = mirror.get_all_trials(study_id)
    faulty.faults = Faults(lambda count, name: wrong)
    with pytest.raises((Died, StorageUnavailable)):
        write(mirror, study, running)
    faulty.faults = Faults()
    assert mirror.get_all_trials(study_id) == before
    assert mirror.doubtful
    with pytest.raises(RuntimeError, match="load it again"):
        ask(mirror, study)
    again = Mirror(faulty, study_id)
    trials = same(again, database)
    assert again.get_study_system_attrs(study_id)["by"] == "hand"
    stored = wrong in (Wrong.DIES_AFTER, Wrong.LOST_AFTER)
    assert (trials != before) == (stored and write is not catch_up)
    tell(again, ask(again, asking(again)), 0.5)
    same(again, database)


def test_a_sampler_that_fails_half_way_leaves_nothing(database):
    study_id = new_study(database)
    mirror = database.mirror(study_id)

    def fail() -> None:
        with mirror.batch():
            trial = asking(mirror).ask(SPACE)
            mirror.set_study_system_attr(study_id, "note", trial.number)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (mirror.get_all_trials(study_id), mirror.get_study_system_attrs(study_id)) == ([], {})
    assert not mirror.doubtful
    ask(mirror, asking(mirror))
    assert len(same(mirror, database)) == 1


def test_a_replica_that_has_lost_the_study_writes_nothing(database):
    study_id = new_study(database)
    lease = fence.Lease()
    lease.confirm(time.monotonic() + 60)
    ours, theirs = fence.Hold(7, lease), fence.Hold(8, lease)
    database.query("UPDATE study_operator.access SET holder = 7 RETURNING 1")
    with fence.under(ours):
        mirror = database.mirror(study_id)
        study = asking(mirror)
        first = ask(mirror, study)
        database.query("UPDATE study_operator.access SET holder = 8 RETURNING 1")
        for write in (lambda: ask(mirror, study), lambda: forget_changes(mirror._database, study_id)):
            ours.superseded = False
            with pytest.raises(fence.NotHeld):
                write()
            assert ours.superseded
    with fence.under(theirs):
        again = database.mirror(study_id)
        assert [trial._trial_id for trial in again.get_all_trials(study_id)] == [first]
        tell(again, first, 0.5)
    same(again, database)

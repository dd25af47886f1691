"""Reports of intermediate values, stored through study_trial and through Optuna, on one PostgreSQL in the same run.

One report is one call by a client that has its connection open, until the value is committed:

  study_trial      its own connection class, as a trial's pod uses it
  function         study_operator.submit alone, on a psycopg2 connection with the pod's login
  function of 0.1  study_operator.report, which finds the key in the connection's setting
  Optuna           trial.report of stock Optuna, its RDBStorage on psycopg2 with the superuser's login
  plain INSERT     the same row inserted by the superuser: what PostgreSQL and the driver take

Each client is a process with a trial of its own. The ways take turns, several times. Somebody listens for the
notifications of the reporting function, as the operator does.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import secrets
import signal
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Barrier
from typing import NamedTuple
from urllib.parse import urlsplit, urlunsplit

import optuna
import psycopg2
from cluster import LOCAL_CLUSTER
from figures import command, heading, percentile, progress, spread, table, version
from optuna.storages import RDBStorage
from psycopg2 import sql
from psycopg2.extensions import connection

from study_operator.settings import Settings, reader_dsn
from study_operator.storage.database import Database
from study_operator.storage.listen import CHANNEL
from study_operator.storage.migrate import migrate
from study_operator.storage.studies import Studies
from study_trial._connection import Call, Connection
from study_trial._messages import Writer

KEY = secrets.token_hex(32)  # of the study, as long as a real one
SUBMIT = "SELECT study_operator.submit(%s, %s)"
REPORT = "SELECT study_operator.report(%s, %s, %s::float8)"
INSERT = (
    "INSERT INTO trial_intermediate_values (trial_id, step, intermediate_value, intermediate_value_type)"
    " VALUES (%s, %s, %s, 'FINITE')"
)
STUDY = "team/bench"
_processes = multiprocessing.get_context("fork")  # clients start with everything imported

Report = Callable[[int], object]


class Place(NamedTuple):
    """The database's urls: the superuser's, that of trials' pods, and the reader's if there is one."""

    superuser: str
    reporter: str
    reader: str = ""


def _study_trial(place: Place, trial_id: int) -> Report:
    opened = Connection(place.reporter, KEY)
    return lambda step: opened.call(Call(_content(trial_id, step), "a report"), 30.0)


def _content(trial_id: int, step: int) -> dict[str, object]:
    return {"call": "report", "trial": trial_id, "step": step, "value": 0.5}


def _function(place: Place, trial_id: int) -> Report:
    opened, writer = psycopg2.connect(place.reporter), Writer(KEY)
    opened.autocommit = True
    cursor = opened.cursor()
    return lambda step: cursor.execute(SUBMIT, writer.write(_content(trial_id, step)))


def _old_function(place: Place, trial_id: int) -> Report:
    opened = psycopg2.connect(place.reporter, options=f"-c study_operator.key={KEY}")
    return _executing(opened, REPORT, trial_id)


def _plain_insert(place: Place, trial_id: int) -> Report:
    return _executing(psycopg2.connect(place.superuser), INSERT, trial_id)


def _executing(opened: connection, statement: str, trial_id: int) -> Report:
    opened.autocommit = True
    cursor = opened.cursor()
    return lambda step: cursor.execute(statement, (trial_id, step, 0.5))


def _optuna(place: Place, trial_id: int) -> Report:
    study = optuna.load_study(study_name=STUDY, storage=_storage(place))
    trial = optuna.Trial(study, trial_id)
    return lambda step: trial.report(0.5, step)


WAYS = {
    "study_trial": _study_trial,
    "function": _function,
    "function of 0.1": _old_function,
    "Optuna": _optuna,
    "plain INSERT": _plain_insert,
}


def _storage(place: Place) -> RDBStorage:
    return RDBStorage(place.superuser.replace("postgresql:", "postgresql+psycopg2:"), skip_table_creation=True)


@contextmanager
def database(with_reader: bool = False) -> Iterator[Place]:
    """A migrated database with one study in it, on the PostgreSQL of the component tests; dropped at the end."""
    up = [*LOCAL_CLUSTER, "test-services", "up"]
    done = subprocess.run(up, stdout=subprocess.PIPE, text=True, check=True)
    server = json.loads(done.stdout.strip().splitlines()[-1])["database_url"]
    name = f"bench_{uuid.uuid4().hex[:8]}"  # and a login of that name, for the server's own may be in use
    superuser = urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
    reader = {"READER_USER": f"{name}_reader", "READER_PASSWORD": secrets.token_hex(16)} if with_reader else {}
    try:
        _administer(server, "CREATE DATABASE {}", name)
        settings = Settings.from_environment(
            {
                "DATABASE_URL": superuser,
                "REPORTER_USER": name,
                "REPORTER_PASSWORD": secrets.token_hex(16),
                "REPORTER_LOGINS": "shared",
                "STUDY_KEY_SEED": secrets.token_hex(16),
                **reader,
            }
        )
        migrate(settings, patience=60)
        studies = Studies(Database(settings.dsn), "bench")
        studies.ensure(STUDY, ["MAXIMIZE"], "team", "bench", "bench", "Retain", hashlib.sha256(KEY.encode()).digest())
        reads = reader_dsn({"DATABASE_URL": superuser, **reader}) if with_reader else ""
        yield Place(superuser, settings.reporter_url, reads)
    finally:
        _administer(server, "DROP DATABASE IF EXISTS {} WITH (FORCE)", name)
        for role in (name, f"{name}_reader"):
            _administer(server, "DROP ROLE IF EXISTS {}", role)


def _administer(server: str, statement: str, name: str) -> None:
    opened = psycopg2.connect(server)
    opened.autocommit = True
    with opened.cursor() as cursor:
        cursor.execute(sql.SQL(statement).format(sql.Identifier(name)))
    opened.close()


def _leave_signals() -> None:
    """In a child: who interrupts the benchmark interrupts its whole group, and the parent ends the children."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _listen(place: Place) -> None:
    """As the operator: is told of each report."""
    _leave_signals()
    opened = psycopg2.connect(place.superuser)
    opened.autocommit = True
    cursor = opened.cursor()
    cursor.execute(CHANNEL)
    cursor.execute(f"LISTEN {cursor.fetchone()[0]}")
    while True:
        opened.poll()
        opened.notifies.clear()
        time.sleep(0.001)


def _client(way: str, place: Place, trial_id: int, seconds: float, ready: Barrier, answers) -> None:
    """One process: reports for that long. Answers with the times that its reports took, in seconds."""
    _leave_signals()
    report = WAYS[way](place, trial_id)
    for step in range(10):  # connections and caches are made by the first ones
        report(step)
    took = []
    ready.wait(60)
    end = time.perf_counter() + seconds
    before = time.perf_counter()
    while before < end:
        report(step := step + 1)
        after = time.perf_counter()
        took.append(after - before)
        before = after
    answers.put(took)


def run(way: str, place: Place, trials: list[int], seconds: float) -> list[float]:
    """What each report took, in seconds, with one client for each of the trials."""
    ready, answers = _processes.Barrier(len(trials)), _processes.Queue()
    clients = [
        _processes.Process(target=_client, args=(way, place, trial_id, seconds, ready, answers), daemon=True)
        for trial_id in trials
    ]
    try:
        for process in clients:
            process.start()
        took = [one for _ in clients for one in answers.get(timeout=seconds + 90)]
        for process in clients:
            process.join(30)
    finally:
        for process in clients:
            process.terminate()
    return took


def new_trials(place: Place, count: int) -> list[int]:
    """RUNNING trials without reports: a step is stored once. Returns their trial_ids."""
    storage = _storage(place)
    try:
        study_id = storage.get_study_id_from_name(STUDY)
        return [storage.create_new_trial(study_id) for _ in range(count)]
    finally:
        storage.engine.dispose()


def measure(options: argparse.Namespace) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with database() as place:
        versions = {name: version(name.lower()) for name in ("Optuna", "SQLAlchemy", "psycopg2-binary")}
        heading("bench-report: intermediate values stored", PostgreSQL=_server_version(place), **versions)
        listener = _processes.Process(target=_listen, args=(place,), daemon=True)
        listener.start()
        try:
            for clients in (1, options.connections):
                _compare(place, clients, options.repetitions, options.seconds)
        finally:
            listener.terminate()
            listener.join()


def _compare(place: Place, clients: int, repetitions: int, seconds: float) -> None:
    took: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    for repetition in range(repetitions):
        progress(f"{clients} connection(s), repetition {repetition + 1} of {repetitions}")
        for way in WAYS:
            took[way].append(run(way, place, new_trials(place, clients), seconds))
    print(f"{clients} connection(s); median of {repetitions} repetitions of {seconds:g} s (least-most)\n")
    rows = []
    for way, runs in took.items():
        ratios = [
            statistics.median(peer) / statistics.median(own) for own, peer in zip(runs, took["Optuna"], strict=True)
        ]
        rows.append(
            (
                way,
                spread([len(times) / seconds for times in runs]),
                spread([statistics.median(times) for times in runs], " ms", 1000),
                spread([percentile(times, 99) for times in runs], " ms", 1000),
                spread(ratios, "x"),
            )
        )
    table(("way", "reports/s", "p50", "p99", "Optuna's p50 / this p50"), rows)
    print()


def _server_version(place: Place) -> str:
    opened = psycopg2.connect(place.superuser)
    text = opened.get_parameter_status("server_version")
    opened.close()
    return str(text).split()[0]


if __name__ == "__main__":
    sys.exit(
        command(
            __doc__ or "",
            measure,
            repetitions=(int, 5, "how often each way has its turn"),
            seconds=(float, 3.0, "how long each turn is"),
            connections=(int, 32, "clients at once, after one alone"),
        )
    )

"""Suggestions over the mirror of a study's rows, beside the same trials in Optuna's storages.

One suggestion is one `ask` of TPE for ten parameters, on a history that is in memory already, with everything that is
stored for it:

  process       as the operator does it: suggested in an optimizer process, stored in PostgreSQL
  mirror        the same in this process, as the operator did it before there were optimizer processes
  in memory     the same sampler over Optuna's InMemoryStorage, which stores nothing: the floor
  RDBStorage    stock Optuna with its own TPE on the same PostgreSQL, as several processes would share a study

The ways take turns, suggestion by suggestion. After each the trial is told, so that the sizes stay what they are.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import psycopg2
from figures import ROOT, command, heading, number, progress, spread, table, version
from growth import keep
from optuna.distributions import FloatDistribution
from optuna.samplers import TPESampler
from optuna.storages import InMemoryStorage, RDBStorage
from optuna.study import StudyDirection
from report import Place, database

sys.path.append(str(ROOT / "tests/support"))
from building import study

from study_operator.model.actions import Tell
from study_operator.model.batch import Batch
from study_operator.model.study import Study
from study_operator.model.trial import TrialRow, TrialState
from study_operator.optimizer import StudyOptimizer
from study_operator.optimizer.frozen_trials import frozen
from study_operator.optimizer.memory import Memory
from study_operator.optimizer.tpe import TPE
from study_operator.processes.client import Limits, Optimizers
from study_operator.processes.errors import OptimizerBusy
from study_operator.processes.launch import optimizer_process
from study_operator.storage import history
from study_operator.storage.batch_writer import store
from study_operator.storage.database import Database
from study_operator.storage.studies import Studies

OPTIMIZERS: list[Optimizers] = []  # the one that all measurements use
SPACE = {f"x{i}": FloatDistribution(0, 1) for i in range(10)}
_OPTIONS: dict[str, Any] = {"multivariate": True, "constant_liar": True}
_FILL = """
    INSERT INTO trials (number, study_id, state, datetime_start, datetime_complete)
    SELECT n, %(study)s, (CASE WHEN n < %(finished)s THEN 'COMPLETE' ELSE 'RUNNING' END)::trialstate, now(),
           CASE WHEN n < %(finished)s THEN now() END
    FROM generate_series(0, %(finished)s + %(running)s - 1) n;
    INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json)
    SELECT t.trial_id, 'x' || i, random(), %(distribution)s FROM trials t, generate_series(0, 9) i
    WHERE t.study_id = %(study)s ORDER BY t.number, i;
    INSERT INTO trial_values (trial_id, objective, value, value_type)
    SELECT t.trial_id, 0, (SELECT sum(p.param_value) FROM trial_params p WHERE p.trial_id = t.trial_id), 'FINITE'
    FROM trials t WHERE t.study_id = %(study)s AND t.state = 'COMPLETE';
    INSERT INTO trial_intermediate_values (trial_id, step, intermediate_value, intermediate_value_type)
    SELECT t.trial_id, s, random(), 'FINITE' FROM trials t, generate_series(1, %(reports)s) s
    WHERE t.study_id = %(study)s ORDER BY s, t.number;
"""

_COMMITTED = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"

Rows = list[dict[str, Any]]


class Way:
    """One way to ask and tell. Both return what they took, in seconds of wall clock and of this thread's CPU."""

    def __init__(self, study: optuna.Study) -> None:
        self.study = study
        self._trial: optuna.Trial | None = None

    def ask(self) -> tuple[float, float]:
        return _timed(self._ask)

    def tell(self) -> tuple[float, float]:
        return _timed(self._tell)

    def committed(self) -> int:
        """Transactions that the server has counted in this database, those of this way's connection among them."""
        with self.study._storage._backend.engine.begin() as opened:
            opened.exec_driver_sql("SELECT pg_stat_force_next_flush()")
        with self.study._storage._backend.engine.connect() as opened:
            return opened.exec_driver_sql(_COMMITTED).scalar_one()

    def _ask(self) -> None:
        self._trial = self.study.ask(SPACE)

    def _tell(self) -> None:
        self.study.tell(self._trial, 5.0)


class MirrorWay(Way):
    """As the operator does it: the optimizer suggests, the batch is stored, and the optimizer is told so.

    Attributes:
        storing: seconds that storing took since this was last set to 0.
    """

    def __init__(self, opened: Database, study_id: int, of: Study) -> None:
        self._database, self._study_id = opened, study_id
        read = history.load(opened, study_id)
        named = replace(read, study=replace(read.study, name=of.optuna_name))
        self._optimizer = StudyOptimizer.of(of, named, (), ())
        self.storing = 0.0

    def committed(self) -> int:
        with self._database.transaction() as cursor:
            cursor.execute("SELECT pg_stat_force_next_flush()")
        with closing(self._database.connect()) as opened, opened.cursor() as cursor:
            cursor.execute(_COMMITTED)
            return cursor.fetchone()[0]

    def _ask(self) -> None:
        (self._row,) = self._store(self._optimizer.suggest(1, 10**9))

    def _tell(self) -> None:
        self._store(self._optimizer.tell([Tell(self._row, TrialState.COMPLETE, (5.0,))]))

    def _store(self, batch: Batch) -> list[TrialRow]:
        before = time.perf_counter()
        stored = store(self._database, self._study_id, batch)
        self.storing += time.perf_counter() - before
        return self._optimizer.commit(stored)


class ProcessWay(MirrorWay):
    """As the operator does it: what suggests is in an optimizer process."""

    def __init__(self, opened: Database, study_id: int, of: Study, optimizers: Optimizers) -> None:
        self._database, self._study_id = opened, study_id
        read = history.load(opened, study_id)
        named = replace(read, study=replace(read.study, name=of.optuna_name))
        self._optimizer = optimizers.load(of, named, ())  # type: ignore[assignment]
        self.storing = 0.0


def _timed(work: Callable[[], None]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.thread_time()
    work()
    return time.perf_counter() - wall, time.thread_time() - cpu


def _filled(place: Place, name: str, finished: int, running: int, reports: int = 0) -> int:
    """A study with so many trials. Returns its study_id."""
    studies = Studies(Database(place.superuser), "bench")
    study_id = studies.ensure(name, ["MINIMIZE"], "team", name, name, "Retain", b"hash")
    with closing(psycopg2.connect(place.superuser)) as opened, opened, opened.cursor() as cursor:
        cursor.execute("SET LOCAL study_operator.own = 'on'")
        text = optuna.distributions.distribution_to_json(SPACE["x0"])
        cursor.execute(
            _FILL,
            {"study": study_id, "finished": finished, "running": running, "reports": reports, "distribution": text},
        )
    with closing(psycopg2.connect(place.superuser)) as opened:
        opened.autocommit = True
        opened.cursor().execute("ANALYZE")
    return study_id


def _rdb(place: Place) -> RDBStorage:
    return RDBStorage(place.superuser.replace("postgresql:", "postgresql+psycopg2:"), skip_table_creation=True)


def _study(name: str, namespace: str = "team") -> Study:
    return study(
        name=name.partition("/")[2],
        namespace=namespace,
        uid=name,
        objectives=[{"name": "loss", "direction": "Minimize"}],
        parameters=[{"name": parameter, "float": {"low": 0, "high": 1}} for parameter in SPACE],
        sampler={"name": "TPE", "seed": 1, "options": _OPTIONS},
    )


def _ways(place: Place, name: str, study_id: int, peer: str | None) -> dict[str, Way]:
    opened = Database(place.superuser)
    of = _study(name)
    memory = InMemoryStorage()
    there = memory.create_new_study([StudyDirection.MINIMIZE], name)
    for trial in frozen(history.load(opened, study_id).trials):
        memory.create_new_trial(there, trial)
    ways: dict[str, Way] = {
        "mirror": MirrorWay(opened, study_id, of),
        "in memory": Way(optuna.Study(name, memory, TPE(seed=1, **_OPTIONS))),
    }
    if OPTIMIZERS:  # in a study of its own, as the next one
        ways["process"] = ProcessWay(opened, _like(place, f"{name}-process", study_id), of, OPTIMIZERS[0])
    if peer is not None:  # in a study of its own: its trials would be news to the mirror
        ways["RDBStorage"] = Way(optuna.load_study(study_name=peer, storage=_rdb(place), sampler=TPESampler(seed=1)))
    return ways


def suggestions(place: Place, finished: int, running: int, repetitions: int, peer: bool) -> dict[str, Any]:
    """One size: what a suggestion takes each way, in milliseconds, and the ratios of mirror to memory, pair by pair."""
    progress(f"{finished} finished, {running} running")
    name = f"team/suggest-{finished}-{running}"
    study_id = _filled(place, name, finished, running)
    if peer:
        _filled(place, f"{name}-peer", finished, running)
    ways = _ways(place, name, study_id, f"{name}-peer" if peer else None)
    mirror = ways["mirror"]
    assert isinstance(mirror, MirrorWay)
    took: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    tells: list[float] = []
    storing = []
    gc.collect()
    for repetition in range(repetitions + 2):
        for way, each in ways.items():
            mirror.storing = 0.0
            asked = each.ask()
            stored, told = mirror.storing, each.tell()
            if repetition < 2:  # caches are filled by the first ones
                continue
            took[way].append(asked)
            if way == "mirror":
                storing.append(stored)
                tells.append(told[0])
    row: dict[str, Any] = {"finished": finished, "running": running, "storing_ms": [1000 * one for one in storing]}
    row["tell_ms"] = [1000 * one for one in tells]
    for way, times in took.items():
        row[f"{way}_wall_ms"] = [1000 * wall for wall, _ in times]
        row[f"{way}_cpu_ms"] = [1000 * cpu for _, cpu in times]
    for clock in ("wall", "cpu"):
        pairs = zip(row[f"mirror_{clock}_ms"], row[f"in memory_{clock}_ms"], strict=True)
        row[f"ratio_{clock}"] = [own / floor for own, floor in pairs]
    return row


def commits(place: Place) -> dict[str, Any]:
    """Transactions that the server counts for one suggestion and for one end, each way."""
    name = "team/commits"
    _filled(place, f"{name}-peer", 50, 0)
    ways = _ways(place, name, _filled(place, name, 50, 0), f"{name}-peer")
    found: dict[str, Any] = {}
    for way, times in (("mirror", 50), ("RDBStorage", 5)):
        each = ways[way]
        each.ask()
        each.tell()
        before = each.committed()
        for _ in range(times):
            each.ask()
            each.tell()
        both = each.committed() - before - 1  # the first question is one
        before = each.committed()
        for _ in range(times):
            each.ask()
        found[f"{way}_ask"] = (each.committed() - before - 1) / times
        found[f"{way}_tell"] = both / times - found[f"{way}_ask"]
    return found


def loading(place: Place, finished: int, reports: int, repetitions: int) -> dict[str, Any]:
    """Seconds, and resident memory in MB at the end and at its highest, that loading takes in a process of its own."""
    progress(f"loading {finished} trials with {reports} reports each")
    study_id = _filled(place, f"team/load-{finished}-{reports}", finished, 0, reports)
    found: dict[str, Any] = {"finished": finished, "reports": reports, "seconds": [], "kept_mb": [], "peak_mb": []}
    context = multiprocessing.get_context("spawn")
    for _ in range(repetitions):
        with context.Pool(1) as pool:
            seconds, kept, peak = pool.apply(_load, (place.superuser, study_id))
        found["seconds"].append(seconds)
        found["kept_mb"].append(kept)
        found["peak_mb"].append(peak)
    return found


def _load(dsn: str, study_id: int) -> tuple[float, float, float]:
    opened = Database(dsn)
    with opened.transaction() as cursor:
        cursor.execute("SELECT 1")
    before, begun = _memory("VmRSS"), time.perf_counter()
    loaded = Memory(study_id, "study", [StudyDirection.MINIMIZE], frozen(history.load(opened, study_id).trials))
    seconds = time.perf_counter() - begun
    assert loaded.size
    return seconds, _memory("VmRSS") - before, _memory("VmHWM") - before


def _memory(what: str) -> float:
    lines = Path(f"/proc/{os.getpid()}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith(f"{what}:"))


def _like(place: Place, name: str, study_id: int) -> int:
    """A study with as many trials as another one."""
    with Database(place.superuser).transaction() as cursor:
        cursor.execute(
            "SELECT count(*) FILTER (WHERE state = 'COMPLETE'), count(*) FILTER (WHERE state = 'RUNNING')"
            " FROM trials WHERE study_id = %s",
            (study_id,),
        )
        (counts,) = cursor.fetchall()
    return _filled(place, name, *counts)


def at_once(place: Place, studies: int, finished: int, repetitions: int) -> dict[str, Any]:
    """So many studies at once, each of another namespace and each in a thread: suggestions a second, and what one
    takes in milliseconds, in this process and in optimizer processes."""
    progress(f"{studies} studies at once")
    row: dict[str, Any] = {"studies": studies}
    for kind in ("mirror", "process"):
        ways: list[MirrorWay] = []
        for one in range(studies):
            name = f"team/at-once-{kind}-{studies}-{one}"
            study_id, of = _filled(place, name, finished, 0), _study(name, f"team-{one}")
            opened = Database(place.superuser)
            ways.append(
                MirrorWay(opened, study_id, of) if kind == "mirror" else ProcessWay(opened, study_id, of, OPTIMIZERS[0])
            )
        took: list[float] = []

        def work(way: MirrorWay, took: list[float] = took) -> None:
            for _ in range(repetitions):
                took.append(1000 * _patiently(way.ask))
                _patiently(way.tell)

        for way in ways:
            _patiently(way.ask)
            _patiently(way.tell)
        begun = time.perf_counter()
        with ThreadPoolExecutor(studies) as pool:
            list(pool.map(work, ways))
        row[f"{kind}_rate"] = studies * repetitions / (time.perf_counter() - begun)
        row[f"{kind}_ms"] = took
    return row


def _patiently(call: Callable[[], tuple[float, float]]) -> float:
    """Comes again while others compute, as the operator does. Returns the seconds with all waiting."""
    begun = time.perf_counter()
    while True:
        try:
            call()
            return time.perf_counter() - begun
        except OptimizerBusy as busy:
            time.sleep(busy.again)


def _show_at_once(rows: Rows, finished: int) -> None:
    print(f"\nSeveral studies at once, {finished} finished trials each, of a namespace each: ask and tell in turns\n")
    head = ("studies", "mirror: a second", "ask, ms", "process: a second", "ask, ms")
    table(
        head,
        [
            (
                str(row["studies"]),
                number(row["mirror_rate"]),
                spread(row["mirror_ms"]),
                number(row["process_rate"]),
                spread(row["process_ms"]),
            )
            for row in rows
        ],
    )


def measure(options: argparse.Namespace) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sizes = [int(size) for size in options.finished.split(",")]
    with database() as place, optimizer_process() as path:
        OPTIMIZERS.append(Optimizers(path, Limits()))
        while not OPTIMIZERS[0].answers():
            time.sleep(0.1)
        heading("bench-suggest: suggestions of TPE, ten parameters", Optuna=version("optuna"))
        rows = [
            suggestions(place, finished, running, options.repetitions, peer=finished + running <= options.peer)
            for finished in sizes
            for running in (int(size) for size in options.running.split(","))
        ]
        _show_suggestions(rows, options.repetitions)
        counts = commits(place)
        print("\nTransactions for one suggestion and one end, counted by the server\n")
        table(
            ("", "ask", "tell"),
            [(way, *(number(counts[f"{way}_{what}"]) for what in ("ask", "tell"))) for way in ("mirror", "RDBStorage")],
        )
        parallel = [at_once(place, count, 1000, options.repetitions) for count in (1, 2, 8)]
        _show_at_once(parallel, 1000)
        loads = [loading(place, finished, 20, options.loads) for finished in sizes]
        print("\nLoading a study with 20 reports for each trial; aims at 10,000: 3 s, 400 MB\n")
        table(
            ("trials", "seconds", "memory kept", "at most on the way"),
            [
                (str(x["finished"]), spread(x["seconds"]), spread(x["kept_mb"], " MB"), spread(x["peak_mb"], " MB"))
                for x in loads
            ],
        )
    if options.json:
        Path(options.json).write_text(
            json.dumps({"suggestions": rows, "commits": counts, "at_once": parallel, "loads": loads}, indent=1)
        )
    if options.keep:
        _keep(rows, loads)


def _show_suggestions(rows: Rows, repetitions: int) -> None:
    print(f"median of {repetitions} suggestions (least-most), in ms of wall clock; aim: mirror / in memory 1.3x\n")
    shown = []
    for row in rows:
        peer = row.get("RDBStorage_wall_ms")
        shown.append(
            (
                f"{row['finished']} + {row['running']}",
                *(spread(row[key]) for key in ("in memory_wall_ms", "mirror_wall_ms", "storing_ms", "process_wall_ms")),
                number(statistics.median(row["process_wall_ms"]) - statistics.median(row["mirror_wall_ms"])),
                number(statistics.median(row["ratio_wall"])) + "x",
                number(statistics.median(row["ratio_cpu"])) + "x",
                spread(row["tell_ms"]),
                spread(peer) if peer else "",
            )
        )
    head = ("finished + running", "in memory", "mirror", "of it storing", "process", "more than mirror")
    head = (*head, "wall", "CPU", "tell", "RDBStorage")
    table(head, shown)


def _keep(rows: Rows, loads: Rows) -> None:
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for way in ("mirror", "process", "in memory", "RDBStorage"):
            if f"{way}_wall_ms" in row:
                middle = statistics.median(row[f"{way}_wall_ms"])
                curves.setdefault(f"{way}, {row['running']} running", []).append((row["finished"], middle))
    keep("suggest", "One suggestion of TPE, ten parameters", "finished trials", "ms", curves)
    points = [(load["finished"], statistics.median(load["seconds"])) for load in loads]
    keep("load", "Loading a study with 20 reports for each trial", "trials", "s", {"mirror": points})


if __name__ == "__main__":
    sys.exit(
        command(
            __doc__ or "",
            measure,
            repetitions=(int, 15, "suggestions measured for each size and way"),
            finished=(str, "100,1000,10000", "how many trials have ended"),
            running=(str, "0,100,1000", "how many run"),
            peer=(
                int,
                1100,
                "the most trials at which RDBStorage is measured too: it takes a millisecond for each running one",
            ),
            loads=(int, 3, "how often each size is loaded"),
            json=(str, "", "a file for all figures"),
            keep=(bool, False, "keep the figures for the plots in docs/figures"),
        )
    )

"""What the log of changes costs those who write, and how long people wait who read, on one PostgreSQL in the same run.

Two kinds of writing take turns, without the log's triggers and with them:

  report   one intermediate value, by study_operator.submit, as a trial's pod sends it
  trial    a trial that is started with ten parameters, and told complete: the operator's two transactions

With the log somebody numbers changes four times a second, as a replica of the trials API does. Reading is measured
with the reader's own login, over a study with twenty reports a trial.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import psycopg2
from figures import command, heading, number, percentile, progress, spread, table
from psycopg2.extensions import connection
from report import STUDY, Place, database, new_trials, run

from study_operator.model.readable import ShownState, Where
from study_operator.storage.readable_trials import ReadableTrials
from study_operator.storage.reader_pool import ReaderPool

_TRIGGERS = "SELECT tgrelid::regclass::text, tgname FROM pg_trigger WHERE tgname LIKE 'study_reading_%'"
_PARAMETER = '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.0, "log": false}}'
_FILL = """
    SET LOCAL study_operator.own = 'on';
    WITH made AS (INSERT INTO trials (number, study_id, state, datetime_start, datetime_complete)
        SELECT n, %(study)s, 'COMPLETE', now(), now() FROM generate_series(%(from)s, %(to)s - 1) n RETURNING trial_id),
    named AS (INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json)
        SELECT trial_id, 'p' || p, 0.5, %(parameter)s FROM made, generate_series(1, 10) p),
    valued AS (INSERT INTO trial_values (trial_id, objective, value, value_type)
        SELECT trial_id, 0, 0.5, 'FINITE' FROM made)
    INSERT INTO trial_intermediate_values (trial_id, step, intermediate_value, intermediate_value_type)
    SELECT trial_id, s, 0.5, 'FINITE' FROM made, generate_series(1, 20) s
"""


@contextmanager
def _log(place: Place, noted: bool) -> Iterator[None]:
    """Switch the log's triggers on or off. While they are on, changes are numbered as by the trials API."""
    with closing(psycopg2.connect(place.superuser)) as opened, opened, opened.cursor() as cursor:
        cursor.execute(_TRIGGERS)
        for relation, trigger in cursor.fetchall():
            cursor.execute(f"ALTER TABLE {relation} {'ENABLE' if noted else 'DISABLE'} TRIGGER {trigger}")
    ended = threading.Event()
    pool = ReaderPool(place.reader)

    def follow() -> None:
        trials = ReadableTrials(pool, "bench")
        while noted and not ended.wait(0.25):
            trials.number()

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        pool.close()


def _lives(place: Place, seconds: float) -> list[float]:
    """What each life of a trial took, in seconds: started and told, one after the other."""
    with closing(psycopg2.connect(place.superuser)) as opened:
        opened.autocommit = True
        with opened.cursor() as cursor:
            cursor.execute("SELECT study_id FROM studies WHERE study_name = %s", (STUDY,))
            ((study_id,),) = cursor.fetchall()
        took, end = [], time.perf_counter() + seconds
        while (before := time.perf_counter()) < end:
            _life(opened, study_id)
            took.append(time.perf_counter() - before)
    return took


def _life(opened: connection, study_id: int) -> None:
    started = {
        "state": "RUNNING",
        "number": 0,
        "params": [[f"p{n}", 0.5, _PARAMETER] for n in range(10)],
        "system": [["study_operator:job", '"bench-0"']],
    }
    with opened.cursor() as cursor:
        cursor.execute("SELECT ids[1] FROM study_operator.store(%s, %s)", (study_id, json.dumps({"trials": [started]})))
        ((trial_id,),) = cursor.fetchall()
        told = {"id": trial_id, "number": 0, "was": ["RUNNING"], "state": "COMPLETE", "values": [[0.5, "FINITE"]]}
        cursor.execute("SELECT outcome FROM study_operator.store(%s, %s)", (study_id, json.dumps({"trials": [told]})))
        assert cursor.fetchall() == [("stored",)]


def _writing(place: Place, repetitions: int, seconds: float) -> None:
    ways: dict[str, Callable[[], list[float]]] = {
        "report": lambda: run("function", place, new_trials(place, 1), seconds),
        "trial": lambda: _lives(place, seconds),
    }
    took: dict[tuple[str, bool], list[list[float]]] = {(way, noted): [] for way in ways for noted in (False, True)}
    for repetition in range(repetitions):
        progress(f"writing, repetition {repetition + 1} of {repetitions}")
        for noted in (False, True):
            with _log(place, noted):
                for way, measured in ways.items():
                    took[way, noted].append(measured())
    rows = []
    for (way, noted), runs in took.items():
        pairs = zip(runs, took[way, False], strict=True)
        rows.append(
            (
                way,
                "with the log" if noted else "without",
                spread([statistics.median(times) for times in runs], " ms", 1000),
                spread([percentile(times, 99) for times in runs], " ms", 1000),
                spread([statistics.median(own) / statistics.median(bare) for own, bare in pairs], "x"),
            )
        )
    print(f"Writing; median of {repetitions} repetitions of {seconds:g} s (least-most)\n")
    table(("what", "log", "p50", "p99", "p50 / that without"), rows)
    print()


def _reading(place: Place, most: int) -> None:
    pool = ReaderPool(place.reader)
    trials = ReadableTrials(pool, "bench")
    rows, made = [], 0
    with closing(psycopg2.connect(place.superuser)) as opened, opened.cursor() as cursor:
        cursor.execute("DELETE FROM study_operator.unnumbered_changes; TRUNCATE trials CASCADE")
        cursor.execute("SELECT study_id FROM studies WHERE study_name = %s", (STUDY,))
        ((study_id,),) = cursor.fetchall()
        opened.commit()
        for size in (100, 1_000, 10_000, 100_000):
            if size > most:
                break
            progress(f"reading {size} trials")
            cursor.execute(_FILL, {"study": study_id, "from": made, "to": size, "parameter": _PARAMETER})
            opened.commit()
            made = size
            for _ in range(size // 10_000 + 1):  # all are numbered before the clock runs
                trials.number()
            rows.append((f"{size}", *(f"{number(1000 * one)} ms" for one in _times(trials))))
    pool.close()
    print("Reading; every page is of 500 trials\n")
    table(("trials", "a page, p50", "slowest page", "Running ones", "one trial", "whole", "whole, with reports"), rows)


def _times(trials: ReadableTrials) -> Iterator[float]:
    pages, after = [], None
    while True:
        before = time.perf_counter()
        page = trials.page(Where(), after=after)
        pages.append(time.perf_counter() - before)
        if (after := page.after) is None:
            break
    yield statistics.median(pages)
    yield max(pages)
    last = page.trials[-1]
    for read in (
        lambda: trials.page(Where(states=frozenset({ShownState.RUNNING}))),
        lambda: trials.trial(Where(namespace="team", study="bench", number=last.number)),
        lambda: _whole(trials, last.study, False),
        lambda: _whole(trials, last.study, True),
    ):
        before = time.perf_counter()
        read()
        yield time.perf_counter() - before


def _whole(trials: ReadableTrials, study, with_reports: bool) -> None:
    with trials.whole(study, with_reports) as chunks:
        for _ in chunks:
            pass


def measure(options: argparse.Namespace) -> None:
    with database(with_reader=True) as place:
        heading("bench-reading: the log of changes, and reading")
        _writing(place, options.repetitions, options.seconds)
        _reading(place, options.trials)


if __name__ == "__main__":
    sys.exit(
        command(
            __doc__ or "",
            measure,
            repetitions=(int, 5, "how often each kind of writing has its turn"),
            seconds=(float, 3.0, "how long each turn is"),
            trials=(int, 100_000, "the largest study that is read"),
        )
    )

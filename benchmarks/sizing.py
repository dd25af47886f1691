"""What trials take in PostgreSQL: bytes by table, and how long the operator's own statements take over them.

The database of the component tests gets one study with as many trials as are asked for, ten parameters each, made by
SQL in the shape in which the operator and the pods write them. Nothing of it is a latency of the operator; it says how
large a disk must be, and what grows with the number of trials.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from statistics import median

import psycopg2
from figures import command, heading, progress, spread, table
from optuna.distributions import FloatDistribution, distribution_to_json
from psycopg2.extensions import cursor
from report import STUDY, Place, database

from study_operator.storage.database import Database
from study_operator.storage.trials import Trials

PARAMETERS = 10
_TABLES = (
    "trials",
    "trial_params",
    "trial_values",
    "trial_intermediate_values",
    "trial_system_attributes",
    "study_operator.results",
)


def fill(cursor: cursor, trials: int, reports: int, running: int) -> int:
    """Adds so many COMPLETE trials, and RUNNING ones beside them. Returns the study's id."""
    cursor.execute("SELECT study_id FROM studies WHERE study_name = %s", (STUDY,))
    (study_id,) = cursor.fetchone()
    now = "timezone('utc', clock_timestamp())"
    cursor.execute(
        "INSERT INTO trials (number, study_id, state, datetime_start, datetime_complete)"
        f" SELECT n, %s, CASE WHEN n < %s THEN 'COMPLETE' ELSE 'RUNNING' END::trialstate, {now},"
        f" CASE WHEN n < %s THEN {now} END FROM generate_series(0, %s) n",
        (study_id, trials, trials, trials + running - 1),
    )
    distribution = distribution_to_json(FloatDistribution(1e-5, 1e-1, log=True))
    cursor.execute(
        "INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json)"
        " SELECT trial_id, 'parameter_' || p, random(), %s FROM trials, generate_series(1, %s) p ORDER BY trial_id, p",
        (distribution, PARAMETERS),
    )
    cursor.execute(
        "INSERT INTO trial_system_attributes (trial_id, key, value_json)"
        " SELECT trial_id, 'study_operator:job', to_json('digits-' || number) FROM trials"
    )
    cursor.execute(
        "INSERT INTO trial_intermediate_values (trial_id, step, intermediate_value, intermediate_value_type)"
        " SELECT trial_id, s, random(), 'FINITE' FROM trials, generate_series(1, %s) s ORDER BY trial_id, s",
        (reports,),
    )
    cursor.execute(
        "INSERT INTO study_operator.results (trial_id, vals, pruned)"
        " SELECT trial_id, ARRAY[random()], false FROM trials WHERE state = 'COMPLETE'"
    )
    cursor.execute(
        "INSERT INTO trial_values (trial_id, objective, value, value_type)"
        " SELECT trial_id, 0, vals[1], 'FINITE' FROM study_operator.results"
    )
    return study_id


def timed(call: Callable[[], object], times: int = 9) -> list[float]:
    """Seconds of each of so many calls, after one that is not counted."""
    call()
    took = []
    for _ in range(times):
        begun = time.perf_counter()
        call()
        took.append(time.perf_counter() - begun)
    return took


def _size(place: Place, trials: int, options: argparse.Namespace) -> None:
    opened = psycopg2.connect(place.superuser)
    opened.autocommit = True
    with opened.cursor() as cursor:
        progress(f"writing {trials} trials with {options.reports} reports each, {options.running} of them running")
        study_id = fill(cursor, trials, options.reports, options.running)
        cursor.execute("VACUUM ANALYZE")
        rows, total, written = [], 0, trials + options.running
        for name in _TABLES:
            cursor.execute("SELECT pg_table_size(%s::regclass), pg_indexes_size(%s::regclass)", (name, name))
            data, indexes = cursor.fetchone()
            total += data + indexes
            rows.append((name, f"{data / 2**20:.1f}", f"{indexes / 2**20:.1f}", f"{(data + indexes) / written:.0f}"))
        rows.append(("all", "", f"{total / 2**20:.0f}", f"{total / written:.0f}"))
        print(f"{trials} trials, {PARAMETERS} parameters and {options.reports} reports each\n")
        table(("table", "data, MiB", "indexes, MiB", "bytes for each trial"), rows)
    opened.close()
    storage = Trials(Database(place.superuser))
    took = timed(lambda: storage.observe(study_id))
    print(f"\none look's queries, with {options.running} running: {spread(took, ' ms', 1000)}\n")
    if options.json:
        with open(options.json, "a", encoding="utf-8") as file:
            file.write(json.dumps({"trials": trials, "bytes": total, "observe_seconds": median(took)}) + "\n")


def measure(options: argparse.Namespace) -> None:
    heading("bench-sizing: what trials take in PostgreSQL")
    for trials in map(int, options.trials.split(",")):
        with database() as place:
            _size(place, trials, options)


if __name__ == "__main__":
    sys.exit(
        command(
            __doc__ or "",
            measure,
            trials=(str, "1000,10000,100000", "how many trials, separated by commas"),
            reports=(int, 20, "reports of each trial"),
            running=(int, 1000, "trials that run beside those that have ended"),
            json=(str, "", "a file that gets a line of figures for each number of trials"),
        )
    )

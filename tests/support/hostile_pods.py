"""Programs in pods that once stopped everybody, by what they report or do with their login."""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
import threading
from contextlib import ExitStack, closing

import psycopg2
from neighbours import Neighbour, one, several
from played_pod import PlayedPod, Program
from psycopg2.extensions import parse_dsn

_PAUSE_SECONDS = 0.05


def reports(count: int) -> Program:
    """Report so many values as fast as that goes, and then the final value."""

    def program(pod: PlayedPod) -> None:
        with closing(pod.connect_with_key()) as opened:
            for first in range(0, count, 5_000):
                steps = (pod.trial_id, first, min(first + 5_000, count) - 1)
                _quietly(
                    opened,
                    "SELECT count(study_operator.report(%s, n, random())) FROM generate_series(%s, %s) n",
                    *steps,
                )
            pod.finish(opened, pod.value())

    return program


def attributes(count: int, pods: int) -> Program:
    """Set so many user attributes of 64 KiB, in each of so many pods, and run on."""
    blob, done = "[" + ",".join(["[]"] * 16_300) + "]", itertools.count(1)
    statement = "SELECT count(study_operator.set_user_attr(%s, 'a' || n, %s::jsonb)) FROM generate_series(1, %s) n"

    def program(pod: PlayedPod) -> None:
        with closing(pod.connect_with_key()) as opened:
            _quietly(opened, statement, pod.trial_id, blob, count)
        if next(done) % pods == 0:
            pod.at_work.set()
        pod.over.wait()

    return program


def open_transactions(pods: int) -> Program:
    """Report in a transaction that stays open though the Job ends, in each of so many pods."""
    done = itertools.count(1)

    def keep_open(pod: PlayedPod, held: threading.Event) -> None:
        with closing(pod.connect_with_key()) as opened:
            for setting in ("idle_in_transaction_session_timeout", "statement_timeout", "lock_timeout"):
                _quietly(opened, f"SET {setting} = 0")
            _quietly(opened, "BEGIN")
            _quietly(opened, "SELECT study_operator.report(%s, 1, 0.5)", pod.trial_id)
            held.set()
            if next(done) % pods == 0:
                pod.at_work.set()
            pod.over.wait()

    def program(pod: PlayedPod) -> None:
        held = threading.Event()
        threading.Thread(target=keep_open, args=(pod, held), daemon=True).start()
        held.wait(10)

    return program


def statements(*text: str, again: bool = False, afterwards: str = "", database: str | None = None) -> Program:
    """Run statements, with the pod's login.

    Args:
        again: once more, and once more.
        afterwards: undoes what they have done, where that is possible.
        database: that it logs in to, instead of its own.
    """

    def program(pod: PlayedPod) -> None:
        parameters = {} if database is None else {"dbname": database}
        try:
            opened = pod.connect(**parameters)
        except psycopg2.Error:  # it may not log in there
            pod.at_work.set()
            pod.over.wait()
            return
        with closing(opened):
            while True:
                for one in text:
                    _quietly(opened, one)
                pod.at_work.set()
                if pod.over.wait(_PAUSE_SECONDS if again else None):
                    break
            if afterwards:
                _quietly(opened, afterwards)

    return program


def half_open(count: int) -> Program:
    """Hold so many connections that have said who they are, and no more. It needs no password."""

    def program(pod: PlayedPod) -> None:
        given = parse_dsn(pod.url)
        words = b"".join(word.encode() + b"\0" for word in ("user", "nobody", "database", given["dbname"], ""))
        packet = struct.pack("!II", 8 + len(words), 196608) + words
        with ExitStack() as opened:
            while not pod.over.is_set():  # the server ends each after a while
                with ExitStack() as more:
                    for _ in range(count):
                        with contextlib.suppress(OSError):
                            one = socket.create_connection((given["host"], int(given["port"])), timeout=1)
                            more.enter_context(one).sendall(packet)
                    pod.at_work.set()
                    opened.close()
                    opened.push(more.pop_all())
                pod.over.wait(1)

    return program


def _quietly(opened: psycopg2.extensions.connection, statement: str, *values: object) -> None:
    """Run a statement. What it is refused is the point of the test elsewhere."""
    with contextlib.suppress(psycopg2.Error), opened.cursor() as cursor:
        cursor.execute(statement, values or None)


def _attack(name: str, program: Program, **spec: object) -> Neighbour:
    return Neighbour(name, one(**{"parallelism": 1, **spec}), 1, program, attacks=True)


def _login(name: str, *text: str, **more: object) -> Neighbour:
    return _attack(name, statements(*text, **more))  # type: ignore[arg-type]


_RESET = "SET default_transaction_read_only = off; ALTER ROLE CURRENT_USER IN DATABASE studies RESET ALL"

REPORTS = (
    Neighbour(
        "two trials with 100,000 reports, and the pruner Threshold",
        one(maxTrials=2, pruner={"name": "Threshold", "options": {"lower": -1}}),
        jobs=0,
        program=reports(100_000),
        patience=90.0,
    ),
)
ATTRIBUTES = (_attack("ten trials with 100 attributes of 64 KiB", attributes(100, 10), parallelism=10),)
LOCKS = (
    Neighbour(
        "sixteen Studies whose pods hold locks on their trials",
        several(16, parallelism=1, maxTrials=1),
        program=open_transactions(8),  # its own locks may keep the others from being started
        attacks=True,
    ),
)
LOGIN = (
    _login(
        "a pod that makes its login read-only in this database",
        "ALTER ROLE CURRENT_USER IN DATABASE studies SET default_transaction_read_only = on",
        afterwards=_RESET,
    ),
    _login("a pod that changes its password again and again", "ALTER ROLE CURRENT_USER PASSWORD 'mine'", again=True),
    _login(
        "a pod that ends others' sessions by way of the database postgres",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()",
        again=True,
        database="postgres",
    ),
)

# What the chart's embedded database withstands: PgBouncer is in front of it, and a session's memory is bounded.
EMBEDDED = (
    _attack("500 connections that never log in", half_open(500)),
    _login(
        "a query that takes all memory",
        "SET work_mem = '4GB'; SET hash_mem_multiplier = 1000; SELECT count(*) FROM (SELECT DISTINCT g, md5(g::text),"
        " repeat('x', 200) FROM generate_series(1, 12000000) g) s",
    ),
)


def _forge(pod: PlayedPod) -> None:
    text = "x\nFORGED line\r\nFORGED \x1b[31m\x07\u202eback\u2028FORGED\x85FORGED"
    with closing(pod.connect()) as opened:
        with contextlib.suppress(psycopg2.Error):
            pod.call(opened, "bad_report", message=text, total=1)
        with contextlib.suppress(psycopg2.Error):
            pod.call(opened, "finish", values=[], pruned=False, constraints={}, infeasible=text)


FORGED = Neighbour("text that forges lines of the log", one(), 3, _forge)

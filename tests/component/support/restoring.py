"""Dumps of a test's database by PostgreSQL's own tools, and what becomes of the trials in them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import psycopg2
from database import TestDatabase, TrialPod
from psycopg2 import sql
from world import World, has_ended

from study_operator.model.study import TRIAL_ID_ANNOTATION

PROGRAMS = Path("/usr/lib/postgresql/15/bin")


def dump(database: TestDatabase) -> bytes:
    return _run("pg_dump", "--no-owner", "--dbname", database.url)


def restore(database: TestDatabase, text: bytes, name: str | None = None) -> TestDatabase:
    """Puts a dump in the place of the database, or into a new one."""
    target = TestDatabase(database.server, name or database.name)
    connection = psycopg2.connect(database.server)
    connection.autocommit = True
    identifier = sql.Identifier(target.name)
    if name is None:
        connection.cursor().execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(identifier))
    connection.cursor().execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(identifier))
    connection.close()
    _run("psql", "--quiet", "-X", "-v", "ON_ERROR_STOP=1", "--single-transaction", "--dbname", target.url, text=text)
    return target


def _run(program: str, *arguments: str, text: bytes | None = None) -> bytes:
    path = PROGRAMS / program
    command = [str(path) if path.exists() else program, *arguments]
    done = subprocess.run(command, input=text, capture_output=True, env=os.environ, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def incidents(world: World) -> list[tuple[int, str, str]]:
    """Number of the trial, class and reason."""
    return world.database.query(
        "SELECT t.number, i.kind, i.reason FROM study_operator.incidents i JOIN trials t USING (trial_id) ORDER BY 1"
    )


def jobs_of_rows(world: World) -> dict[int, str]:
    return dict(
        world.database.query(
            "SELECT t.number, a.value_json::jsonb #>> '{}'"
            " FROM trials t JOIN trial_system_attributes a USING (trial_id) WHERE a.key = 'study_operator:job'"
        )
    )


async def pod_of(world: World, job: str) -> TrialPod:
    """The pod of the Job of this name, as study_trial of now reports."""
    (found,) = [one for one in await world.jobs() if one["metadata"]["name"] == job]
    key = world.reporting(await world.study()).key
    return TrialPod(world.database, key, int(found["metadata"]["annotations"][TRIAL_ID_ANNOTATION]), job=job)


async def end(world: World, job: str, value: float) -> None:
    """The pod stores its value and ends, and so does the Job."""
    (await pod_of(world, job)).call("finish", [value])
    await complete(world, job)


async def complete(world: World, job: str, failed: str | None = None) -> None:
    """Ends a Job by name: several attempts of a trial may be there."""
    before = world.job

    async def named(number: int, study: str = "study") -> dict:
        (found,) = [one for one in await world.jobs() if one["metadata"]["name"] == job]
        return found

    world.job = named  # type: ignore[method-assign]
    try:
        await world.end_job(0, failed)
    finally:
        world.job = before  # type: ignore[method-assign]


async def run_to_the_end(world: World) -> None:
    for _ in range(30):
        await world.settle()
        await world.remove_finalizers()
        active = [job["metadata"]["name"] for job in await world.jobs() if not has_ended(job)]
        if not active:
            return
        for job in active:
            await end(world, job, 0.5)
    raise AssertionError("the study does not end")

"""Honest neighbours that ask for much: long histories, slow samplers, large grids, many reports, many studies."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import time
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg2
from figures import Failed
from neighbours import Neighbour, one, several
from played_pod import PlayedPod, Program, succeeds
from raw_api import MERGE

if TYPE_CHECKING:
    from neighbourhood import Neighbourhood

_FINISHED = 10_000
_PARAMETERS = [{"name": f"x{n}", "float": {"low": 0, "high": 1}} for n in range(10)]
_REPORTS_A_SECOND, _REPORTING = 1_000, 10
_FILL = """
    INSERT INTO trials (number, study_id, state, datetime_start, datetime_complete)
    SELECT n, %(study)s, 'COMPLETE', now(), now() FROM generate_series(0, %(finished)s - 1) n;
    INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json)
    SELECT t.trial_id, 'x' || i, random(), %(distribution)s FROM trials t, generate_series(0, 9) i
    WHERE t.study_id = %(study)s ORDER BY t.number, i;
    INSERT INTO trial_values (trial_id, objective, value, value_type)
    SELECT t.trial_id, 0, random(), 'FINITE' FROM trials t WHERE t.study_id = %(study)s;
"""


def lasts(seconds: float) -> Program:
    """A trial of so many seconds."""

    def program(pod: PlayedPod) -> None:
        pod.over.wait(seconds)
        succeeds(pod)

    return program


def reports_every_moment(pod: PlayedPod) -> None:
    """Report until it is over: this pod's share of `_REPORTS_A_SECOND`, in ten transactions a second.

    Each transaction has several reports, because the pods of this benchmark share one process.
    """
    many, step = _REPORTS_A_SECOND // _REPORTING // 10, 0
    statement = "SELECT count(study_operator.report(%s, n, random())) FROM generate_series(%s, %s) n"
    with closing(pod.connect_with_key()) as opened:
        due = time.monotonic()
        while not pod.over.wait(max(0.0, due - time.monotonic())):
            with opened.cursor() as cursor:
                cursor.execute(statement, (pod.trial_id, step, step + many - 1))
            step, due = step + many, due + 0.1
        pod.finish(opened, pod.value())


@dataclass(frozen=True)
class Heavy:
    """One kind of neighbour.

    Attributes:
        neighbour: its Studies, and the program of its pods.
        finished: how many trials its one Study has had before.
        needs: a package without which it is left out.
    """

    neighbour: Neighbour
    finished: int = 0
    needs: str = ""

    @property
    def name(self) -> str:
        return self.neighbour.name

    def missing(self) -> str:
        """Why it cannot be measured here; empty if it can."""
        return f"{self.needs} is not installed" if self.needs and not importlib.util.find_spec(self.needs) else ""

    async def move_in(self, place: Neighbourhood) -> None:
        """Create the Studies; of one with a history after its rows."""
        await place.move_in(self.neighbour)
        if self.finished:
            await _write_history(place, self.finished)
            path = f"/apis/study-operator.io/v1alpha1/namespaces/{place.neighbours.name}/studies/neighbour-0"
            await place.api.call("PATCH", path, json.dumps({"spec": {"suspend": False}}), content=MERGE)


async def _write_history(place: Neighbourhood, finished: int) -> None:
    """Wait until the operator has made the study's row, and write its trials."""
    deadline = time.monotonic() + 60
    while not (found := place.database.query("SELECT study_id FROM studies WHERE study_name LIKE 'a-neighbour/%%'")):
        if time.monotonic() > deadline:
            raise Failed("the operator has not made the row of a suspended study")
        await asyncio.sleep(0.1)
    distribution = {"name": "FloatDistribution", "attributes": {"step": None, "low": 0.0, "high": 1.0, "log": False}}
    given = {"study": found[-1][0], "finished": finished, "distribution": json.dumps(distribution)}
    await asyncio.to_thread(_write, place.database.url, given)


def _write(url: str, given: dict[str, Any]) -> None:
    with closing(psycopg2.connect(url)) as opened, opened, opened.cursor() as cursor:
        cursor.execute("SET LOCAL study_operator.own = 'on'")
        cursor.execute(_FILL, given)


_TEN_THOUSAND = {"maxTrials": 2 * _FINISHED, "suspend": True, "parameters": _PARAMETERS, "parallelism": 4}
HEAVY = (
    Heavy(Neighbour("TPE over 10,000 trials", one(**_TEN_THOUSAND), program=lasts(1)), finished=_FINISHED),
    Heavy(
        Neighbour("GP", one(sampler={"name": "GP"}, parameters=_PARAMETERS, parallelism=4), program=lasts(1)),
        needs="torch",
    ),
    Heavy(
        Neighbour(
            "a Grid of 10^6 cells",
            one(
                sampler={"name": "Grid"},
                parameters=[{"name": name, "int": {"low": 1, "high": 1000}} for name in "xy"],
                parallelism=4,
            ),
            program=lasts(1),
        )
    ),
    Heavy(
        Neighbour(
            "1,000 reports a second, and the pruner Median",
            one(pruner={"name": "Median"}, parallelism=_REPORTING),
            program=reports_every_moment,
        )
    ),
    Heavy(Neighbour("100 studies", several(100, parallelism=1), program=lasts(10))),
)

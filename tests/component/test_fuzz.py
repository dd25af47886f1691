"""Studies of every kind of nonsense: the API server refuses them, or the condition Accepted does, or they run."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections import Counter
from itertools import count
from typing import Any

import psycopg2
import pytest
from faults import Faults
from hostile import specs
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import seed as seeded
from world import World, study_manifest

from study_operator.kube.api_server import ApiError
from study_operator.reconcile import publisher
from study_operator.reconcile.reconciler import REFUSED_AGAIN_SECONDS

ALL = os.environ.get("FAULTS") == "all"
EXAMPLES = int(os.environ.get("EXAMPLES") or (2000 if ALL else 60))
MOST_LOOKS = 8  # until there is nothing more to be done about a Study whose pods do nothing


async def befalls(world: World, name: str, spec: dict[str, Any]) -> str:
    """Makes a Study and looks at it until nothing more comes of it. Returns what has become of it."""
    manifest = study_manifest(name, world.namespace) | {"spec": spec}
    try:
        await world.cluster._call("POST", world._path("studies"), {"fieldValidation": "Strict"}, manifest)
    except ApiError as refused:
        if refused.status not in (400, 422) or not re.search(r"spec|unknown field|json", refused.message):
            raise AssertionError(f"it names no field: {refused}") from None
        return "refused by the API server"
    await _comes_to_rest(world, name)
    conditions = {c["type"]: c for c in (await world.study(name))["status"]["conditions"]}
    accepted, progressing = conditions["Accepted"], conditions["Progressing"]
    for condition in (accepted, progressing):
        assert "" not in (condition["reason"], condition["message"]), condition
    if accepted["status"] != "True":
        assert world.rows(name) == [], "nothing is started of what is refused"
        return f"refused: {accepted['reason']}"
    jobs = await world.jobs(name)
    if not jobs:
        assert progressing["reason"] in ("Suspended", "TrialsCannotStart", "Finished"), progressing
        return f"does not run: {progressing['reason']}"
    await _ends_a_trial(world, name, spec)
    return "runs"


async def _ends_a_trial(world: World, name: str, spec: dict[str, Any]) -> None:
    """A trial ends with values, so that sampler and pruner have something to think about."""
    number = min(await world.active(name))
    pod = await world.pod(number, name)
    try:
        if len(spec["objectives"]) == 1:
            pod.call("report", 1, 0.5)
        pod.call("finish", [0.5] * len(spec["objectives"]))
    except psycopg2.Error as error:
        raise AssertionError(f"a pod cannot report: {error}") from None
    await world.end_job(number, study=name)
    await _comes_to_rest(world, name)
    assert dict(world.rows(name))[number] != "RUNNING" or spec.get("metrics"), "its end is told"


async def _comes_to_rest(world: World, name: str) -> None:
    for _ in range(MOST_LOOKS):
        faults = world.operators_cluster.faults = world.operators_database.faults = Faults()
        look = await world.look(name)
        await world.logs_are_read(name)
        # What the API server refuses is asked again, as a dry run, once a minute: a policy may have changed.
        # Nothing is held of a Study that is refused, so each look makes sure of its rows.
        writes = [write for write in faults.writes if write != "COMMIT Studies.ensure"]
        asks = look.again == REFUSED_AGAIN_SECONDS and all("(dry run)" in write for write in writes)
        if asks or not writes:
            if look.again is None or look.again > 0.1:
                return
            await asyncio.sleep(look.again)  # a deadline of a second may be about to be reached
        await world.remove_finalizers(name)
    raise AssertionError(f"no end after {MOST_LOOKS} looks: {faults.writes or 'it looks again at once, for nothing'}")


def test_whatever_a_study_says_it_is_refused_with_a_reason_or_runs(
    kubeconfig_of_studies, database, monkeypatch, caplog, record_property
):
    monkeypatch.setattr(publisher, "STATUS_INTERVAL_SECONDS", 0.0)
    became, numbers = Counter[str](), count()

    with asyncio.Runner() as runner:
        world = runner.run(World.create(kubeconfig_of_studies, database))

        @settings(
            max_examples=EXAMPLES,
            derandomize=not ALL,
            database=None,
            deadline=None,
            print_blob=True,
            phases=(Phase.generate, *((Phase.shrink,) if ALL else ())),
            suppress_health_check=list(HealthCheck),
        )
        @given(specs())
        def fuzz(spec: dict[str, Any]) -> None:
            note(f"spec: {spec}")
            caplog.clear()
            end = runner.run(befalls(world, f"fuzz{next(numbers)}", spec))
            became[end] += 1
            note(end)
            bad = [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR]
            assert not bad, f"the operator logs {bad[0].getMessage()}: {bad[0].exc_text or bad[0].exc_info}"

        try:
            seeded(int(os.environ["SEED"]))(fuzz)() if ALL and os.environ.get("SEED") else fuzz()
        finally:
            runner.run(world.leave())
    record_property("crash points", f"fuzz: {sum(became.values())} Studies: {dict(became.most_common())}")
    kinds = {end.partition(":")[0] for end in became}
    assert {"runs", "refused by the API server", "refused"} <= kinds, "each of the three happens"


@pytest.mark.parametrize("spec", [{}, {"objectives": []}])
def test_the_least(kubeconfig_of_studies, database, spec):
    with asyncio.Runner() as runner:
        world = runner.run(World.create(kubeconfig_of_studies, database))
        assert runner.run(befalls(world, "least", spec)) == "refused by the API server"
        runner.run(world.leave())

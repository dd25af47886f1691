"""Examples end as they say, with the programs themselves, a real API server and a real database."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import yaml
from world import World, has_ended, number_of

ROOT = Path(__file__).resolve().parents[2]
FAILED = "BackoffLimitExceeded"


async def _run_study(world: World, example: str) -> dict[str, Any]:
    """Applies an example and runs the program of each of its trials, those at the same time that the study has at the
    same time. Returns the status at its end."""
    manifest = yaml.safe_load((ROOT / "examples" / example / "study.yaml").read_text())
    await world.apply(**manifest["spec"])
    for _ in range(manifest["spec"]["maxTrials"] + 5):
        await world.settle()
        active = [number_of(job) for job in await world.jobs() if not has_ended(job)]
        going = [number_of(job) for job in await world.jobs() if "deletionTimestamp" in job["metadata"]]
        if not active:
            return (await world.study())["status"]
        codes = await asyncio.gather(*(_run_program(world, number) for number in active if number not in going))
        for number, code in codes:
            if code:
                await world.end_pod(number, "Error", code)
            await world.end_job(number, FAILED if code else None)
        await world.remove_finalizers()
    raise AssertionError(f"examples/{example} does not end")


async def _run_program(world: World, number: int) -> tuple[int, int]:
    """The trial's first container, as a process. Returns number and exit code."""
    container = (await world.job(number))["spec"]["template"]["spec"]["containers"][0]
    program, *arguments = [*(container.get("command") or ()), *(container.get("args") or ())]
    assert program == "python"
    paths = os.pathsep.join([str(ROOT / "trial-image"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, **await world.environment(number), "PYTHONPATH": paths}
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, env=environment)
    return number, await asyncio.wait_for(process.wait(), 180)


def _reason(status: dict[str, Any]) -> tuple[str, str]:
    (ended,) = [c for c in status["conditions"] if c["type"] in ("Complete", "Failed") and c["status"] == "True"]
    return ended["type"], ended["reason"]


async def test_objectives(world: World) -> None:
    status = await _run_study(world, "objectives")
    assert _reason(status) == ("Complete", "MaxTrialsReached")
    assert status["bestValue"] == f"pareto: {status['paretoFrontSize']}"
    assert status["paretoFrontSize"] == len(status["paretoFront"]) > 1
    assert status["trials"]["complete"] + status["trials"]["infeasible"] == status["trials"]["total"] == 12


async def test_ends(world: World) -> None:
    status = await _run_study(world, "ends")
    assert _reason(status)[0] == "Complete"
    assert _reason(status)[1] in ("GoalReached", "Converged")
    assert status["trials"]["total"] < 40


async def test_failures(world: World) -> None:
    status = await _run_study(world, "failures")
    assert _reason(status) == ("Complete", "MaxTrialsReached")
    assert status["trials"]["infeasible"] >= 1
    assert status["trials"]["failed"] <= 2
    assert {(failure["class"], failure.get("exitCode")) for failure in status["recentFailures"]} <= {
        ("Infeasible", 42),
        ("Program", 1),
    }


async def test_kueue(world: World) -> None:
    status = await _run_study(world, "kueue")
    assert _reason(status) == ("Complete", "MaxTrialsReached")
    assert status["trials"]["complete"] == status["trials"]["total"] == 6
